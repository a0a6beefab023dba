"""Were the agents there, and did their requests arrive? Two agents over a window of 100 s."""

from dataclasses import replace
from typing import Any

import pytest

from pytest_agentperf.metrics import Metrics
from pytest_agentperf.records import ClientHealth, Measurement, Sample, TurnRecord
from pytest_agentperf.validity import Check, Marks, check
from tests.phases import measurement, metrics, ns, request

MARKS = Marks(max_loop_lag_p95_s=0.003, max_loop_lag_p99_s=0.010, max_cpu_ratio=0.8)


def missed(phase: Measurement, found: Metrics | None = None) -> list[Check]:
    checks = check(phase, found or metrics(request()), MARKS)
    return [c for c in checks if not c.ok]


def _busy(agent: int, spans: list[tuple[int, int]]) -> list[TurnRecord]:
    """Return requests of one agent that are open from second to second, due when they are sent."""
    return [
        request(start, ttft_s=1.0, decode_s=end - start - 1.0, agent=agent) for start, end in spans
    ]


def _two_agents(second: list[TurnRecord], **changes: Any) -> Measurement:
    health = ClientHealth(loop_lag_s=((0.0,),), cpu_ratio=0.1, first_sent_ns=(0, 1))
    return measurement([*_busy(0, [(90, 210)]), *second], agents=2, health=health, **changes)


def test_agents_that_wait_for_a_tool_are_active():
    # A tool of 20 s, of which the next request knows, and one of up to 5 s at the end.
    assert missed(_two_agents(_busy(1, [(90, 120), (140, 196)]))) == []


@pytest.mark.parametrize(
    ("second", "at_s"),
    [
        # Due 1 s after its last answer at 120 s, and sent 20 s after that: missing from 122 s on.
        ([*_busy(1, [(90, 120)]),
          *(replace(t, scheduled_ns=ns(121)) for t in _busy(1, [(141, 210)]))], 22),
        # Its last answer ends at 150 s; 5 s for a tool and 1 s of slack later it is missing.
        (_busy(1, [(90, 150)]), 56),
        # Its first request comes 10 s late.
        (_busy(1, [(110, 210)]), 0),
    ],
    ids=["pauses", "vanishes", "comes late"],
)  # fmt: skip
def test_an_agent_is_missed_that(second: list[TurnRecord], at_s: int):
    (found,) = missed(_two_agents(second))
    assert (found.name, found.value, found.limit, found.invalidates) == (
        "active agents",
        1,
        2,
        True,
    )
    assert found.text == (
        f"{at_s} s into the window only 1 of 2 agents were at work: the load generator lost the "
        "others, so it measured fewer than it says"
    )


def test_a_phase_that_was_broken_off_does_not_know_who_was_active():
    broken = _two_agents(_busy(1, [(90, 150)]), broken="gone")
    assert [c.name for c in missed(broken)] == ["phase complete"]


def _gauges(running: float, waiting: float) -> tuple[Sample, ...]:
    return tuple(
        Sample(at_ns=ns(100 + second), series=series, unit="1", value=value)
        for second in range(100)
        for series, value in (("running", running), ("waiting", waiting))
    )


@pytest.mark.parametrize(
    ("running", "waiting", "says"),
    [
        (1.0, 0.0, "a proxy or pool before it holds requests back; raise its limit"),
        (2.0, 1.0, "somebody else uses it, or it still works for an earlier phase"),
    ],
    ids=["too few", "too many"],
)
def test_a_server_that_knows_of(running: float, waiting: float, says: str):
    # Two requests are in flight all the time, one of them sent inside the window.
    phase = _two_agents(_busy(1, [(90, 120), (120, 210)]), samples=_gauges(running, waiting))
    (found,) = missed(phase)
    assert (found.name, found.value, found.invalidates) == ("requests at the server", 0.5, True)
    assert found.text == (
        f"2.0 requests were in flight, and the server counted {running + waiting:.1f}: {says}"
    )


def test_a_server_that_knows_of_all_requests():
    phase = _two_agents(_busy(1, [(90, 120), (120, 210)]), samples=_gauges(1, 1))
    assert missed(phase) == []


def test_short_requests_are_on_their_way_for_long():
    # 1,000 requests of 0.1 s, one after the other: half of that away from the server is 0.05 s.
    short = [request(100 + i / 10, ttft_s=0.05, decode_s=0.05) for i in range(1000)]
    assert missed(measurement(short, samples=_gauges(0.5, 0))) == []


def test_agents_that_are_never_answered_while_others_are():
    starved = [replace(t, error="timeout after 60 s") for t in _busy(1, [(90, 150), (150, 210)])]
    (found,) = missed(_two_agents(starved))
    assert (found.name, found.value, found.invalidates) == ("starved agents", 1, True)
    # A server that counts them has them, and is as slow as it seems.
    assert missed(_two_agents(starved, samples=_gauges(1, 1))) == []
    # One that fails for everybody has failed.
    failing = measurement([replace(t, error="timeout after 60 s") for t in _busy(0, [(90, 210)])])
    assert missed(failing) == []
