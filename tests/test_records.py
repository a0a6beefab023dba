import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.records import RawAnswer, Window

WINDOW = Window(start_ns=10, end_ns=20)


@pytest.mark.parametrize(
    ("at_ns", "held"),
    [(9, False), (10, True), (19, True), (20, False)],
    ids=["before", "its start", "its last instant", "its end"],
)
def test_a_window_holds(at_ns: int, *, held: bool):
    assert WINDOW.holds(at_ns) is held


def test_a_length_is_in_seconds():
    assert Window(start_ns=500_000_000, end_ns=2_000_000_000).length_s == 1.5


@given(cut=st.integers(10, 20), at_ns=st.integers(0, 30))
def test_two_windows_side_by_side_hold_each_instant_once(cut: int, at_ns: int):
    parts = Window(start_ns=10, end_ns=cut), Window(start_ns=cut, end_ns=20)
    assert sum(part.holds(at_ns) for part in parts) == WINDOW.holds(at_ns)


def test_answers_share_no_reads():
    RawAnswer().reads.append((1, b"x"))
    assert RawAnswer().reads == []
