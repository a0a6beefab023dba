"""Clocks of two machines: whatever the way takes, the true offset lies within the error told."""

from collections.abc import Sequence
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.alignment import Exchange, HostClock, shifted
from pytest_agentperf.orders import Drained, Ended, Opened, Started
from pytest_agentperf.records import OpenRequest, TurnRecord
from tests.phases import request

MS = 1_000_000
SECOND = 1_000_000_000
DELAYS = st.lists(
    st.tuples(st.integers(0, 50 * MS), st.integers(0, 50 * MS)), min_size=1, max_size=20
)
"""How long questions and answers were on their way."""


def exchanges(
    delays: Sequence[tuple[int, int]], *, offset_ns: int, at_ns: int = 0
) -> list[Exchange]:
    """Ask a clock that is so much ahead, one question after the other."""
    made: list[Exchange] = []
    for there_ns, back_ns in delays:
        theirs_ns = at_ns + there_ns + offset_ns
        made.append(
            Exchange(asked_ns=at_ns, theirs_ns=theirs_ns, heard_ns=at_ns + there_ns + back_ns)
        )
        at_ns = made[-1].heard_ns
    return made


def test_an_even_way_shows_the_offset_and_half_the_round_trip_as_error():
    clock = HostClock()
    clock.begin_phase(exchanges([(2 * MS, 2 * MS)], offset_ns=50 * MS))
    assert clock.offset_ns == 50 * MS
    assert clock.error_s == 0.002


def test_the_shortest_ways_in_both_directions_tell_most():
    # From the first the offset is at most 50 + 1, from the second at least 50 - 2: 49.5 ± 1.5.
    clock = HostClock()
    clock.begin_phase(exchanges([(1 * MS, 9 * MS), (9 * MS, 2 * MS)], offset_ns=50 * MS))
    assert clock.offset_ns == 49.5 * MS
    assert clock.error_s == 0.0015


@given(DELAYS, st.integers(-(10**15), 10**15))
def test_the_true_offset_lies_within_the_error(delays: list[tuple[int, int]], offset_ns: int):
    clock = HostClock()
    clock.begin_phase(exchanges(delays, offset_ns=offset_ns))
    assert abs(clock.offset_ns - offset_ns) <= clock.error_s * 1e9 + 1


@given(st.lists(DELAYS, min_size=2, max_size=6), st.integers(-80, 80), st.booleans())
def test_it_does_so_while_the_clocks_drift(
    rounds: list[list[tuple[int, int]]],
    ppm: int,
    is_held: bool,  # noqa: FBT001 drawn
):
    clock = HostClock()
    for number, delays in enumerate(rounds):
        at_ns = number * 10 * SECOND
        # A clock that stands still for the second of a round, and drifts between rounds.
        offset_ns = 50 * MS + number * ppm * 10_000
        used_ns = clock.offset_ns
        learn = clock.feed if number else clock.begin_phase
        learn(exchanges(delays, offset_ns=offset_ns, at_ns=at_ns))
        assert abs(clock.offset_ns - offset_ns) <= clock.error_s * 1e9 + 1
        if number:
            assert abs(used_ns - offset_ns) <= clock.error_s * 1e9 + 1
        if is_held:
            clock.hold()


def test_a_held_offset_stays_and_what_speaks_against_it_is_its_error():
    clock = HostClock()
    clock.begin_phase(exchanges([(MS, MS)], offset_ns=0))
    clock.hold()
    clock.feed(exchanges([(MS, MS)], offset_ns=30 * MS, at_ns=SECOND))
    assert clock.offset_ns == 0
    assert clock.error_s == 0.031


def test_a_clock_that_was_set_in_a_phase_is_followed_and_told():
    clock = HostClock()
    clock.begin_phase(exchanges([(MS, MS)], offset_ns=0))
    clock.feed(exchanges([(MS, MS)], offset_ns=30 * MS, at_ns=SECOND))
    assert clock.offset_ns == 30 * MS
    assert clock.error_s == 0.031


def test_the_next_phase_answers_for_itself_alone():
    clock = HostClock()
    clock.begin_phase(exchanges([(MS, MS)], offset_ns=0))
    clock.hold()
    clock.feed(exchanges([(MS, MS)], offset_ns=30 * MS, at_ns=SECOND))
    clock.begin_phase(exchanges([(MS, MS)], offset_ns=30 * MS, at_ns=2 * SECOND))
    assert clock.offset_ns == 30 * MS
    assert clock.error_s == 0.001


def test_a_quiet_look_improves_what_a_busy_one_left_open():
    clock = HostClock()
    clock.begin_phase(exchanges([(MS, MS)], offset_ns=0))
    clock.feed(exchanges([(40 * MS, 40 * MS)], offset_ns=0, at_ns=SECOND))
    # 1 ms, and what two clocks drift apart in the 1.078 s between: 0.1 ms a second.
    assert clock.error_s == pytest.approx(0.0011078, abs=1e-8)


def test_every_stamp_of_a_request_is_moved_and_nothing_else():
    turn = request(first_byte_ns=7, connect_ns=5, written_ns=9)
    (moved,) = _turns(shifted(Ended(turns=[turn]), 1000))
    changed = {
        f.name: getattr(moved, f.name) - getattr(turn, f.name)
        for f in fields(TurnRecord)
        if getattr(moved, f.name) != getattr(turn, f.name)
    }
    stamps = {f.name for f in fields(TurnRecord) if f.name.endswith("_ns")} - {"connect_ns"}
    assert changed == dict.fromkeys(stamps, 1000)


def test_what_has_not_happened_has_no_stamp_to_move():
    turn = request(first_byte_ns=None, first_token_ns=None, last_token_ns=None)
    (moved,) = _turns(shifted(Ended(turns=[turn]), 1000))
    assert (moved.first_byte_ns, moved.first_token_ns, moved.last_token_ns) == (None, None, None)


def test_stamps_of_starts_and_open_requests_are_moved():
    started = Started(first_sent_ns={1: 10}, answering_ns={2: 20})
    assert shifted(started, 5) == Started(first_sent_ns={1: 15}, answering_ns={2: 25})
    opened = Opened(
        requests=[
            OpenRequest(agent=1, sent_ns=10, first_read_ns=None),
            OpenRequest(agent=2, sent_ns=10, first_read_ns=12),
        ]
    )
    assert shifted(opened, 5) == Opened(
        requests=[
            OpenRequest(agent=1, sent_ns=15, first_read_ns=None),
            OpenRequest(agent=2, sent_ns=15, first_read_ns=17),
        ]
    )


def test_a_report_without_stamps_stays_as_it_is():
    assert shifted(Drained(), 5) == Drained()


def _turns(report: object) -> list[TurnRecord]:
    assert isinstance(report, Ended)
    return report.turns
