"""Another machine's clock, from bounds that its answers give."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.meters.clocks import RemoteClock, wall_s

S = 1_000_000_000


def hear(clock: RemoteClock, sent_s: float, received_s: float, told_s: float, unit_s: float = 1.0):
    clock.hear(round(sent_s * S), round(received_s * S), told_s, resolution_s=unit_s, by="Date")


def test_one_answer_bounds_the_offset_by_its_way_and_its_unit() -> None:
    clock = RemoteClock()
    hear(clock, 10.0, 10.2, 1000.0)
    # Theirs is 1000 to 1001 somewhere from 10.0 to 10.2 of ours: ahead by 989.8 to 991.0.
    assert clock.uncertainty_s == pytest.approx(0.6)
    assert clock.at_ns(1000.4) == 10 * S


def test_answers_around_a_tick_tell_more_than_their_unit() -> None:
    clock = RemoteClock()
    hear(clock, 10.0, 10.0, 1000.0)  # ahead by 990 to 991
    hear(clock, 10.9, 10.9, 1000.0)  # by 989.1 to 990.1
    assert clock.uncertainty_s == pytest.approx(0.05, abs=1e-3)
    assert clock.at_ns(1000.05) == pytest.approx(10 * S, abs=S // 1000)


def test_a_clock_that_was_set_is_believed_anew() -> None:
    clock = RemoteClock()
    hear(clock, 10.0, 10.0, 1000.0, 0.001)
    hear(clock, 11.0, 11.0, 5000.0, 0.001)
    assert clock.at_ns(5000.0005) == 11 * S


@given(ahead_s=st.floats(-1e6, 1e6), ways_s=st.lists(st.floats(0, 2), min_size=1, max_size=20))
def test_the_truth_lies_within_the_uncertainty(ahead_s: float, ways_s: list[float]) -> None:
    clock = RemoteClock()
    for i, way_s in enumerate(ways_s):
        sent_s = 3.0 * i
        there_s = sent_s + way_s / 3
        hear(clock, sent_s, sent_s + way_s, (1e9 + ahead_s + there_s) // 1)
    found_s = 1e9 + ahead_s - clock.at_ns(1e9 + ahead_s) / S  # ours at their instant, ours 0
    assert abs(found_s - 1e9 - ahead_s) <= clock.uncertainty_s + 1e-3


def test_the_offset_is_of_wall_clocks() -> None:
    clock = RemoteClock()
    assert clock.offset().offset_s is None
    now_ns, now_s = time.perf_counter_ns(), wall_s()
    clock.hear(now_ns, now_ns, now_s + 7, resolution_s=0.0, by="Date")
    told = clock.offset()
    assert told.offset_s == pytest.approx(7, abs=0.1)
    assert (told.by, told.uncertainty_s) == ("Date", 0.0)
