"""One cause, one exit code, one line."""

import pytest

from pytest_agentperf.compare import compare
from pytest_agentperf.outcome import Facts, outcome
from tests.gated import run

LATE = "client loop lag p95: the load generator was late itself: give it more cores"
STOPPED = "phase complete: the endpoint stopped answering: 50 requests in a row failed"


@pytest.mark.parametrize(
    ("facts", "code", "line"),
    [
        (Facts(answers=1, phases=4), 0, "PASSED: every tier carries what was asked"),
        (Facts(phases=4), 0, "PASSED: no tier was asked about; phases measured: 4"),
        (Facts(), 0, "PASSED: nothing was measured"),
        (
            Facts(comparison=compare(run(), run("now"))),
            0,
            "PASSED: nothing regressed against baseline: 4 figures held",
        ),
        (
            Facts(comparison=compare(run(), run(speed=95.0)), missed=["slo-1"]),
            1,
            "SERVER REGRESSED: P25 speed at 35 agents 100 -> 95 tok/s (−5.0 %, ",
        ),
        (Facts(missed=["test_it[m-t]: 'm t' carries 3"]), 1, "SLO MISSED: test_it[m-t]: 'm t'"),
        (
            Facts(unmeasured=["INVALID"], invalid=[[LATE]]),
            10,
            f"CLIENT TOO SLOW: this says nothing of the server: {LATE}",
        ),
        (
            Facts(unmeasured=["INVALID"], invalid=[[STOPPED]]),
            11,
            "ENDPOINT DOWN: the endpoint stopped",
        ),
        (
            Facts(
                unmeasured=["t: INVALID, neither pass nor fail:\nmuch more"], invalid=[["c: why"]]
            ),
            10,
            "NO ANSWER: t: INVALID, neither pass nor fail: c: why",
        ),
        (Facts(unmeasured=["NOT FINISHED: go on"]), 10, "NO ANSWER: NOT FINISHED: go on"),
        (Facts(down="endpoint X does not answer"), 11, "ENDPOINT DOWN: endpoint X does not"),
        (Facts(down="X is another", is_other=True), 11, "SERVER CHANGED: X is another"),
        (Facts(lost="nothing was compared"), 10, "NOT COMPARABLE: nothing was compared"),
        (
            Facts(comparison=compare(run(), run(speed=None))),
            10,
            "NOT COMPARABLE: this run has no P25 speed at 35 agents",
        ),
        (
            Facts(comparison=compare(run(), run(status="below"))),
            1,
            "SERVER REGRESSED: capacity of slo-1 35 -> ",
        ),
    ],
    ids=[
        "no baseline",
        "phases alone",
        "nothing measured",
        "nothing regressed",
        "a regression before a missed test",
        "a missed tier",
        "a slow client",
        "a server that went away",
        "another reason why a phase is invalid",
        "not finished",
        "a dead endpoint",
        "another server",
        "no comparison",
        "a missing figure",
        "a capacity that does not hold",
    ],
)
def test_outcome(facts: Facts, code: int, line: str) -> None:
    found = outcome(facts)
    assert found.code == code
    assert found.line.startswith(line)
    assert "\n" not in found.line


def test_what_left_a_test_without_an_answer_came_last() -> None:
    gone, late = ["schedule slip p99: late", STOPPED], [LATE]
    assert outcome(Facts(unmeasured=["t"], invalid=[gone, late])).cause == "client too slow"
    assert outcome(Facts(unmeasured=["t"], invalid=[late, gone])).cause == "endpoint down"
    assert outcome(Facts(unmeasured=["t"], invalid=[gone, ["c: why"]])).cause == "endpoint down"


def test_unclear_alone_is_not_a_pass() -> None:
    compared = compare(run(sure=False), run(sure=False, capacity=(33, 20, 50)))
    found = outcome(Facts(comparison=compared))
    assert (found.cause, found.code) == ("unclear", 10)


def test_a_cache_that_lost_its_prefixes_is_named_before_what_that_does() -> None:
    found = outcome(Facts(comparison=compare(run(reuse=0.998), run(reuse=0.8, speed=60.0))))
    assert found.line.startswith("SERVER REGRESSED: prefix reuse at 35 agents 0.998 -> 0.8 of 1 (")
    assert found.line.endswith(", and 1 more figure")
