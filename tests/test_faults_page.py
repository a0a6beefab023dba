"""docs/faults.md holds the rows of the fault tests; `python -m tests.test_faults_page` makes it."""

from pathlib import Path

from tests.faults import FAULTS, HEAVY, Fault

PAGE = Path(__file__).resolve().parents[1] / "docs" / "faults.md"
HEAD = """# Faults

What servers do wrong, and what is made of it: {rows} rows. Each is a test against a real server
on a real socket that does the same to every request (`tests/faults.py`,
`tests/e2e/test_faults.py`). `*` stands for what differs from run to run.

## A phase of each

*Recorded* is what `requests.jsonl` says of each request; a failed one has an infinite TTFT and a
speed of 0, and nothing is sent twice, but for one new connection where a reused one had died
unanswered. *Verdict* is that of the phase, by a tier of at least 20 tok/s with at most 1 %
failures. Invalid is neither pass nor fail: the search waits for the endpoint and measures the
phase once more. Before any load a first small request is sent: a server that fails there ends the
session with exit code 11 and `a first small request to 'MODEL' failed:` before what is recorded
here.

| fault | recorded | verdict | the user reads |
|---|---|---|---|"""
MIDDLE = """
## As much as can be sent

One request of each, beside the memory and the time that it takes: no more than 400 MB, and
seconds.

| fault | recorded |
|---|---|"""
TAIL = """
## Limits

An answer is given up after 64 MB, a head after 64 KB, whatever its sender says; a request after
`--agentperf-request-timeout-s`. Where a server holds a stream open and says nothing, that is what
ends it. Text of a server is escaped before it is kept, so that no terminal obeys it.

## Gone, or slow?

When does an endpoint count as gone, and not as slow? When half of the agents (at least 3) were
cut off within 5 seconds, on the wire or by a gateway's 502, from requests that were open before the
first cut: a restart, however short, spoils its
phase. Or when every agent has failed since the last answer, by as many requests as there are
agents (at least 5) that were cut off or met silence in the second half of their time, or by 3
failures of any kind per agent (at least 50). A server that sheds load with 429 or 503 serves
somebody meanwhile, and is slow; so is one whose tokens come, but too late.

## Another server in its place

After every phase, and when an endpoint that went away answers again, the server is asked once
more for what it told of itself before the run: version, context, flags, as far as it tells them.
Where one differs, the phase that ended then is invalid (`it ended on another server:`), nothing
more is measured, and the session ends with exit code 11 and what has changed: numbers of two
servers make no capacity. What is told only once says nothing, and what a server finds by its free
memory (blocks and tokens of the KV cache, contexts, requests at once) may differ by 2 %. A server
that differs is asked up to seven times more: where the first one answers as well, several stand
behind one address, a line says so, and the run goes on. A run is gone on with only on the server
that it began with.

## Kills, failures, restarts

`python -m benchmarks.kills --kills 200`: a search in virtual time is killed (SIGKILL) at a random
moment, and gone on with. Of 200, none ended with another capacity, other phases or another
request log than the run that was not disturbed: 67 before its first phase had ended, 27, 31 and
75 after one, two and three phases. One left half a line in its log.

`python -m benchmarks.flaky --seeds 8 --allowed 0.05`: one request in a hundred fails at random,
and the server restarts once, for 1 to 60 s, in a search that finds 15 agents undisturbed. Found
were 14 agents seven times and 15 once, with one phase void in each: a failed request counts with
a speed of 0 and ends its trajectory, so that one agent fewer is carried. Where no more than
that hundredth is allowed, as by default, a search may have no answer, and says why: of the same
8, 4 were right, and 4 had no answer since what was missed may have been chance.
"""


def _cell(text: str) -> str:
    shown = text.replace("[[]", "[").replace("|", "\\|")
    return f"`{shown}`" if shown else ""


def _row(fault: Fault) -> str:
    recorded = _cell(fault.recorded) if fault.recorded else "an answer"
    return f"| {fault.name} | {recorded} | {fault.verdict} | {_cell(fault.reads)} |"


def page() -> str:
    heavy = [f"| {fault.name} | {_cell(fault.recorded or '') or 'an answer'} |" for fault in HEAVY]
    head = HEAD.format(rows=len(FAULTS) + len(HEAVY))
    return head + "\n".join([*map(_row, FAULTS), MIDDLE, *heavy, TAIL])


def test_the_page_of_faults_is_true() -> None:
    assert PAGE.read_text("utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
