"""What the recorder adds to answers, and how true the pauses are that it records.

First the same requests go to the simulator straight, through a proxy that does nothing
(``benchmarks/pipe.py``) and through the recorder, in turn, request by request, so that a machine
whose speed drifts treats all alike. What the second adds is the price of any proxy.

Then agents ask one request after the other through the recorder, with pauses of their own between,
and what is recorded of those is compared with what the agents saw.

    python -m benchmarks.recorder --requests 200 --prompt-tokens 30000
"""

import argparse
import asyncio
import random
import re
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil

from pytest_agentperf.endpoint import HttpConnection
from pytest_agentperf.importers.recording import load
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.sim.launch import connect
from pytest_agentperf.trajectory import Trajectory

_ADDRESS = "sim:?acceptance=&flops_per_token=1"
_LIMIT_MS = 1.0
_PAUSE_LIMIT_MS = 5.0
_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_LINE = "A line of a file that an agent has read.\n"


def _connection(url: str) -> HttpConnection:
    info = EndpointInfo(url=url, osl_header="x-agentperf-osl")
    return HttpConnection(info, timeout_s=60, tls=ssl.create_default_context())


async def _ask(connection: HttpConnection, body: bytes, osl_tokens: int) -> RawAnswer:
    answer = RawAnswer()
    await connection.chat(body, answer, osl_tokens=osl_tokens)
    if answer.error or answer.status != 200:
        raise SystemExit(f"a request failed: {answer.status} {answer.error}")
    return answer


def _latency_ms(answer: RawAnswer) -> tuple[float, float]:
    """Return TTFT and E2E latency."""
    first_ns = answer.reads[0][0] - answer.sent_ns
    return first_ns / 1e6, (answer.end_ns - answer.sent_ns) / 1e6


async def _compare(
    urls: Sequence[str], given: argparse.Namespace
) -> list[list[tuple[float, float]]]:
    ways = [_connection(url) for url in urls]
    seen: list[list[tuple[float, float]]] = [[] for _ in urls]
    text = _LINE * (given.prompt_tokens // 10)
    for number in range(given.warm_up + given.requests):
        messages = [{"role": "user", "content": text}, {"role": "user", "content": f"{number}"}]
        body = msgspec.json.encode({"model": "m", "messages": messages, "stream": True})
        # The way that goes first takes turns too: the server has the prompt cached for the others.
        for way in ((number + place) % len(ways) for place in range(len(ways))):
            times = _latency_ms(await _ask(ways[way], body, given.osl_tokens))
            if number >= given.warm_up:
                seen[way].append(times)
            await asyncio.sleep(given.pause_s)
    for way in ways:
        await way.close()
    return seen


async def _session(url: str, agent: int, given: argparse.Namespace) -> list[float]:
    """Ask again and again with a growing history; return the pauses between, in seconds."""
    dice = random.Random(agent)
    connection = _connection(url)
    text = f"Agent {agent}.\n{_LINE * (given.prompt_tokens // 10)}"
    messages = [{"role": "user", "content": text}]
    pauses_s: list[float] = []
    ended_ns = 0
    for number in range(given.turns):
        body = msgspec.json.encode({"model": "m", "messages": messages, "stream": True})
        answer = await _ask(connection, body, given.osl_tokens)
        if ended_ns:
            pauses_s.append((answer.sent_ns - ended_ns) / 1e9)
        ended_ns = answer.end_ns
        messages.append({"role": "assistant", "content": f"Look at {number}."})
        messages.append({"role": "user", "content": f"There is nothing at {number}."})
        await asyncio.sleep(dice.choice(_PAUSES_S))
    await connection.close()
    return pauses_s


async def _sessions(url: str, given: argparse.Namespace) -> list[list[float]]:
    return await asyncio.gather(*(_session(url, agent, given) for agent in range(given.agents)))


@contextmanager
def _proxy(module: str, *options: str) -> Generator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", module, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"point the agent at (\S+)", process.stdout.readline())
        if found is None:
            raise SystemExit(f"{module} did not start")
        yield found[1], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate()


def _recorder(upstream: str, out: Path) -> AbstractContextManager[tuple[str, psutil.Process]]:
    options = f"--upstream={upstream}", f"--out={out}", "--port=0"
    return _proxy("pytest_agentperf.record", *options)


def _cpu_ms(process: psutil.Process) -> float:
    times = process.cpu_times()
    return (times.user + times.system) * 1e3


def _latencies(sim: str, out: Path, given: argparse.Namespace) -> bool:
    with _proxy("benchmarks.pipe", sim) as (pipe, _), _recorder(sim, out) as (url, process):
        before_ms = _cpu_ms(process)
        ways = [np.array(way) for way in asyncio.run(_compare((sim, pipe, url), given))]
        cpu_ms = (_cpu_ms(process) - before_ms) / (given.warm_up + given.requests)
    print(f"{given.requests} pairs, prompts of {given.prompt_tokens} tokens, times in ms")
    print(f"  {'':<16}{'direct':>10}{'piped':>10}{'recorded':>10}{'added':>10}{'of it own':>11}")
    added: list[float] = []
    for column, name in enumerate(("TTFT", "E2E")):
        for quantile in (10, 50, 95):
            a, b, c = (float(np.percentile(way[:, column], quantile)) for way in ways)
            added.append(c - a)
            told = f"{a:>10.2f}{b:>10.2f}{c:>10.2f}{c - a:>10.2f}{c - b:>11.2f}"
            print(f"  {f'{name} p{quantile}':<16}{told}")
        direct, piped, recorded = (way[:, column] for way in ways)
        paired = [float(np.median(recorded - other)) for other in (direct, piped)]
        print(f"  {f'{name}, median of pairs':<46}{paired[0]:>10.2f}{paired[1]:>11.2f}")
    print(f"  CPU time of the recorder a request: {cpu_ms:.2f}")
    near = added[1] < _LIMIT_MS and added[4] < _LIMIT_MS
    print(f"  medians within {_LIMIT_MS:g} ms: {'yes' if near else 'NO'}")
    return near


def _pauses(sim: str, out: Path, given: argparse.Namespace) -> bool:
    with _recorder(sim, out) as (url, _):
        seen = asyncio.run(_sessions(url, given))
    dataset = load(str(out), strict=True)
    assert dataset is not None
    recorded = {
        _agent(one): [turn.tool_s for turn in one.turns[:-1]] for one in dataset.trajectories
    }
    pairs = [
        (was, told)
        for agent, pauses_s in enumerate(seen)
        for was, told in zip(pauses_s, recorded[agent], strict=True)
    ]
    off_ms = abs(np.array([(told or 0) - was for was, told in pairs])) * 1e3
    p50, p95, p99 = (float(np.percentile(off_ms, quantile)) for quantile in (50, 95, 99))
    within = float(np.mean(off_ms < _PAUSE_LIMIT_MS))
    print(f"{len(pairs)} pauses of {given.agents} agents, recorded less true, absolute, ms")
    print(f"  p50 {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f}, most {off_ms.max():.2f}")
    near = p95 < _PAUSE_LIMIT_MS
    print(f"  within {_PAUSE_LIMIT_MS:g} ms: {within:.1%}, P95 is: {'yes' if near else 'NO'}")
    return near


def _agent(trajectory: Trajectory) -> int:
    """Return which agent's session it is, by its first words."""
    content = trajectory.turns[0].appended[0].content
    assert isinstance(content, str)
    return int(content.partition(".")[0].removeprefix("Agent "))


def main() -> None:
    """Print quantiles; exit 1 when 1 ms or more is added, or pauses are off by 5 ms or more."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--prompt-tokens", type=int, default=30_000)
    parser.add_argument("--osl-tokens", type=int, default=20)
    parser.add_argument("--pause-s", type=float, default=0.01)
    parser.add_argument("--agents", type=int, default=4, help="that pause; 0 leaves this part out")
    parser.add_argument("--turns", type=int, default=50, help="of each of them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, closing(connect(_ADDRESS, models=["m"])) as sim:
        near = _latencies(sim.url, Path(folder) / "pairs.jsonl", given)
        true = not given.agents or _pauses(sim.url, Path(folder) / "pauses.jsonl", given)
    raise SystemExit(0 if near and true else 1)


if __name__ == "__main__":
    main()
