"""Drift and level shifts in windows of 2,100 s: 21 spans of 100 s, a request every second."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_agentperf.drift import look_at
from pytest_agentperf.records import ClientHealth, Measurement, Window
from pytest_agentperf.validity import Check, Marks, check
from tests.phases import measurement, metrics, ns, request

WINDOW = Window(start_ns=ns(100), end_ns=ns(2200))


def wave(second: int) -> float:
    """Return 0.8, 0.9, 1.0, 1.1, 1.2 in turn: the scatter of every span is the same."""
    return 0.8 + 0.1 * (second % 5)


def course(
    speed: Callable[[int], float] = lambda _: 50.0,
    ttft_s: Callable[[int], float] = lambda _: 1.0,
    *,
    settled_s: int = 0,
) -> Measurement:
    """One agent that sends every second of the window; speed in tok/s and TTFT of each second.

    Its first trajectory ends with the opening of the window, or ``settled_s`` later.
    """
    turns = [
        request(
            100.0 + second,
            ttft_s=ttft_s(second) * wave(second),
            # 100 tokens after the first.
            decode_s=100 / (speed(second) * wave(second)),
            osl_tokens=101,
            ordinal=int(second >= settled_s),
        )
        for second in range(2100)
    ]
    return Measurement(
        agents=1,
        window=WINDOW,
        turns=tuple(turns),
        samples=(),
        health=ClientHealth(loop_lag_s=((0.0,),), cpu_ratio=0.1, first_sent_ns=(0,)),
        floors_met=True,
    )


def test_a_steady_course_has_neither():
    seen = look_at(course())
    assert seen.drift is not None
    assert seen.shift is not None
    assert not seen.drift.counts
    assert not seen.shift.counts
    assert seen.start_gain == 0


def test_a_step_is_found_where_it_is():
    # 50 tok/s for 1,200 s, then 40: of each five requests the second slowest has 0.9 of that,
    # and P25 lies on it.
    shift = look_at(course(lambda s: 50 if s < 1200 else 40)).shift
    assert shift is not None
    assert (shift.name, shift.counts, shift.at_s) == ("P25 output speed", True, 1200)
    assert (shift.before, shift.after) == (pytest.approx(45), pytest.approx(36))
    assert shift.size == pytest.approx(0.25)


def test_a_slow_decline_is_a_drift_and_no_step():
    # 50 tok/s and 30 % less at the end: the thirds differ by about 0.95 / 0.75.
    seen = look_at(course(lambda s: 50 * (1 - 0.3 * s / 2100)))
    assert seen.drift is not None
    assert seen.shift is not None
    assert seen.drift.counts
    assert not seen.shift.counts
    assert (seen.drift.name, seen.drift.at_s) == ("P25 output speed", 1400)
    assert 0.2 < seen.drift.size < 0.35


@pytest.mark.parametrize(("loss", "counts"), [(0.04, False), (0.15, True)], ids=["small", "large"])
def test_significance_alone_is_no_drift(loss: float, counts: bool):  # noqa: FBT001 a parameter
    # Without any other scatter between spans, 2 to 3 % from third to third is beyond all doubt.
    drift = look_at(course(lambda s: 50 * (1 - loss * s / 2100))).drift
    assert drift is not None
    assert (drift.significant, drift.counts) == (True, counts)


def test_size_alone_is_no_drift():
    # Spans of 100 s go up and down by a quarter, and the last is a slow one.
    seen = look_at(course(lambda s: 50 if s // 100 % 2 else 40))
    assert seen.drift is not None
    assert seen.shift is not None
    assert (seen.drift.counts, seen.shift.counts) == (False, False)


def test_late_first_tokens_drift_too():
    seen = look_at(course(ttft_s=lambda s: 1 + s / 1000))
    assert seen.drift is not None
    assert (seen.drift.name, seen.drift.counts) == ("P95 TTFT", True)
    assert seen.drift.after > seen.drift.before


def test_the_start_is_no_drift_but_is_told():
    # 700 s at 80 tok/s while the first trajectory lasts, then 50: P25 of all 2,100 is above that of
    # the last 1,400, which is 45.
    seen = look_at(course(lambda s: 80 if s < 700 else 50, settled_s=700))
    assert seen.drift is not None
    assert seen.shift is not None
    assert (seen.drift.counts, seen.shift.counts) == (False, False)
    assert seen.start_gain is not None
    # Slowest first: 280 requests of 40, then 280 of 45: the 525th, which is P25, is one of those.
    assert seen.start_gain == pytest.approx(0.0)
    faster = look_at(course(lambda s: 80 if s < 1700 else 50, settled_s=1700))
    # 80 of 40, 80 of 45, 80 of 50, 80 of 55, 80 of 60, then 340 of 64: the 525th is one of those.
    assert faster.start_gain == pytest.approx(64 / 45 - 1)


@pytest.mark.parametrize("settled_s", [1900, 2100], ids=["too late", "never"])
def test_too_short_a_settled_part_tells_nothing(settled_s: int):
    seen = look_at(course(settled_s=settled_s))
    assert (seen.drift, seen.shift, seen.start_gain) == (None, None, None)


def test_failures_alone_are_for_others_to_judge():
    failed = course()
    failed = Measurement(
        agents=1,
        window=failed.window,
        turns=tuple(request(100.0 + s, ordinal=1, error="x") for s in range(2100)),
        samples=(),
        health=failed.health,
        floors_met=True,
    )
    seen = look_at(failed)
    assert (seen.drift, seen.shift, seen.start_gain) == (None, None, None)


SHIFTED = (
    "P25 output speed went from 72.73 to 36.36 at once, 700 s into the window: no steady state; "
    "look at KV cache use, preemptions and clocks then"
)


def _missed(phase: Measurement) -> list[Check]:
    marks = Marks(max_loop_lag_p95_s=0.003, max_loop_lag_p99_s=0.010, max_cpu_ratio=0.8)
    return [c for c in check(phase, metrics(request()), marks) if not c.ok]


def _paced(speed: Callable[[int], float]) -> Measurement:
    """Return 2,100 s of one agent in its second trajectory; speed in tok/s of each second."""
    turns = [
        request(100.0 + s, ttft_s=0.1, decode_s=20 / speed(s) * (0.9 + s % 3 / 10), ordinal=1)
        for s in range(2100)
    ]
    return measurement(turns, window=Window(start_ns=ns(100), end_ns=ns(2200)))


def _at_once(second: int) -> float:
    return 80 if second < 700 else 40


def _slowly(second: int) -> float:
    return 80 - second // 100


@pytest.mark.parametrize(
    ("speed", "name", "text"),
    [
        (_at_once, "level shift",
         SHIFTED),
        (_slowly, "drift", None),
    ],
    ids=["falls at once", "falls slowly"],
)  # fmt: skip
def test_a_speed_that(speed: Callable[[int], float], name: str, text: str | None):
    (found,) = _missed(_paced(speed))
    assert (found.name, found.invalidates) == (name, False)
    assert text in {None, found.text}


def test_what_the_start_adds_is_told():
    # The first trajectory lasts 1,500 of 2,100 s and is twice as fast as what follows.
    paced = _paced(lambda s: 80 if s < 1500 else 40)
    turns = tuple(replace(t, ordinal=int(t.sent_ns >= ns(1600))) for t in paced.turns)
    (found,) = _missed(replace(paced, turns=turns))
    assert (found.name, found.invalidates) == ("start in the result", False)
