"""What is known of a phase while it runs, in numbers worked by hand."""

import math

import pytest

from pytest_agentperf import live
from pytest_agentperf.events import Progress
from pytest_agentperf.live import Live
from pytest_agentperf.procedure import Procedure
from pytest_agentperf.slo import Limit, SLOTier
from pytest_agentperf.steady import Floors, PhaseState
from tests.phases import ns, request

FLOORS = Floors(min_trajectories=1, min_trajectories_per_agent=1, min_steady_s=600.0)
SLOW_MEAN = SLOTier(
    model="m",
    name="t",
    limits=(
        Limit(metric="e2e_s", statistic="p50", value=9.0),
        Limit(metric="e2e_s", statistic="mean", value=9.0),
    ),
)


def state() -> PhaseState:
    """One agent that sent at 10 s; its window opens at 40 s."""
    made = PhaseState(agents=1, settle_s=30.0, floors=FLOORS)
    made.started({0: ns(10)})
    made.turn(request(50.0, last_turn=True))
    made.turn(request(60.0, error="HTTP 503"))
    return made


def told(*tiers: SLOTier, speed: str = "usage", heard: list[Progress] | None = None) -> Live:
    """What follows a phase that began at 10 s."""
    procedure = Procedure(
        tiers=tiers, asked=set(), start="first", floors=FLOORS, ends="floors", speed=speed
    )
    made = Live(procedure, tell=(heard if heard is not None else []).append, power_w=lambda: 700.0)
    made.begin(ns(10))
    return made


def test_a_phase_that_starts_says_what_it_waits_for() -> None:
    early = PhaseState(agents=1, settle_s=30.0, floors=FLOORS)
    seen = told().progress(early, ns(15))
    assert (seen.stage, seen.elapsed_s, seen.left_s) == ("starting", 5.0, None)
    assert seen.waits_for == "1 agents have not started"
    assert not seen.figures
    early.started({0: ns(20)})
    seen = told().progress(early, ns(25))
    assert (seen.stage, seen.waits_for) == ("settling", "")


def test_how_far_each_floor_is_and_how_long_it_takes() -> None:
    seen = told().progress(state(), ns(130))
    assert (seen.stage, seen.elapsed_s) == ("steady window", 120.0)
    # Open since 40 s: of 600 s 90 are over.
    assert seen.left_s == 510.0
    assert [(r.floor, r.done, r.wanted, r.is_met) for r in seen.reached] == [
        ("steady", 90.0, 600.0, False),
        ("trajectories", 1, 1, True),
        ("per agent", 1, 1, True),
    ]
    assert (seen.ended, seen.failed, seen.last_error) == (2, 1, "HTTP 503")
    assert seen.power_w == 700.0


def test_the_speed_that_three_of_four_have_and_the_ttft_that_one_of_twenty_passes() -> None:
    live = told(SLOW_MEAN)
    for i in range(21):
        # 20 tokens in 2 s are 10 tok/s, in 1 s 20. TTFT of 1.0, 1.1 ... 3.0 s.
        live.add(request(50.0 + i, ttft_s=1 + i / 10, decode_s=2.0 if i < 6 else 1.0, ordinal=i))
    figures = live.progress(state(), ns(130)).figures
    # A mean has no interval, and so no place here.
    assert list(figures) == ["output_speed_tok_per_s.p25", "ttft_s.p95", "e2e_s.p50"]
    # 6 of 21 are slow: the 6th of 21, 0.25 x 20 steps from the first, is. TTFT: the 20th.
    assert figures["output_speed_tok_per_s.p25"].estimate == 10.0
    assert figures["ttft_s.p95"].estimate == pytest.approx(2.9)
    speed = figures["output_speed_tok_per_s.p25"]
    assert (speed.low, speed.high, speed.n) == (10.0, 20.0, 21)


def test_a_failed_request_is_as_slow_and_as_late_as_can_be() -> None:
    live = told()
    live.add(request(50.0, error="HTTP 503"))
    figures = live.progress(state(), ns(130)).figures
    assert figures["output_speed_tok_per_s.p25"].estimate == 0
    assert math.isinf(figures["ttft_s.p95"].estimate)


def test_an_answer_of_one_token_has_a_ttft_and_no_speed() -> None:
    live = told()
    live.add(request(50.0, osl_tokens=1, tokens_at_s=[1.0]))
    assert list(live.progress(state(), ns(130)).figures) == ["ttft_s.p95"]


def test_the_judged_speed_is_the_one_that_is_shown() -> None:
    live = told(speed="first-chunk")
    # 21 tokens, 11 of them in the first chunk: 10 in 2 s.
    live.add(request(50.0, first_chunk_tokens=11))
    assert live.progress(state(), ns(130)).figures["output_speed_tok_per_s.p25"].estimate == 5.0


def test_after_the_window_last_answers_are_waited_for() -> None:
    live = told()
    live.close(ns(100))
    assert live.progress(state(), ns(130)).stage == "last answers"


def test_tells_once_a_second_and_no_more_often_than_a_look_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = [0]
    monkeypatch.setattr(live.time, "perf_counter_ns", lambda: now_ns[0])
    heard: list[Progress] = []
    following = told(heard=heard)

    def looks(*at_s: float) -> list[int]:
        counts: list[int] = []
        for at in at_s:
            now_ns[0] = ns(at)
            following.look(state(), ns(130))
            counts.append(len(heard))
        return counts

    assert looks(0.5, 1.0, 1.1, 1.2, 2.0, 2.2) == [0, 0, 1, 1, 1, 2]
    # A look of 0.2 s is not repeated for 4 s.
    slow = iter([ns(4), ns(4.2)])
    monkeypatch.setattr(live.time, "perf_counter_ns", lambda: next(slow))
    following.look(state(), ns(130))
    monkeypatch.setattr(live.time, "perf_counter_ns", lambda: now_ns[0])
    assert looks(6.0, 8.1, 8.3) == [3, 3, 4]
