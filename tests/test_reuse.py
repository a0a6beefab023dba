"""What requests find again of what their session had put into the prefix cache."""

import pytest

from pytest_agentperf.inside import intervals
from pytest_agentperf.metrics import summarize
from pytest_agentperf.records import TurnRecord
from pytest_agentperf.reuse import reused
from tests.phases import measurement, request


def _session(agent: int, *found: int | None, sent_s: float = 100.0) -> list[TurnRecord]:
    """Prompts of 1,000, 2,000, 3,000 ... tokens, and how many of each were cached."""
    return [
        request(
            sent_s + turn,
            agent=agent,
            turn=turn,
            isl_tokens=1000 * (turn + 1),
            cached_tokens=tokens,
        )
        for turn, tokens in enumerate(found)
    ]


def test_what_could_be_found_is_the_prompt_before() -> None:
    turns = _session(0, 0, 1000, 1500)
    held = [(each.held_tokens, each.found_tokens) for each in reused(turns, turns)]
    assert held == [(1000, 1000), (2000, 1500)]
    # 2,500 of 3,000 tokens; of all 6,000 prompt tokens 2,500 were cached.
    found = summarize(measurement(turns))
    assert found.reused_ratio == pytest.approx(2500 / 3000)
    assert found.cached_ratio == pytest.approx(2500 / 6000)


def test_more_than_the_own_session_left_there_is_no_reuse() -> None:
    # The whole prompt was cached: another session had the same.
    (each,) = reused(turns := _session(0, 0, 2000), turns)
    assert each.found_tokens == 1000


def test_the_prompt_before_may_lie_before_the_window() -> None:
    early, late = _session(0, 0, 900, sent_s=99.5)
    assert summarize(measurement([early, late])).reused_ratio == 0.9


@pytest.mark.parametrize(
    "turns",
    [
        _session(0, None, None),
        _session(0, 0),
        [_session(0, 0)[0], request(101.0, turn=1, isl_tokens=900, cached_tokens=0)],
        [_session(0, 0)[0], request(101.0, turn=5, isl_tokens=9000, cached_tokens=0)],
        [_session(0, 0)[0], request(101.0, agent=1, isl_tokens=9000, cached_tokens=0)],
    ],
    ids=["not told", "a first prompt", "compacted", "after an unknown turn", "another agent"],
)
def test_nothing_to_find(turns: list[TurnRecord]) -> None:
    found = measurement(turns)
    assert summarize(found).reused_ratio is None
    assert "reused_ratio" not in intervals(found)


def test_silence_is_none_found_once_any_answer_tells() -> None:
    # vLLM leaves the field out where nothing was cached.
    assert summarize(measurement(_session(0, None, 1000, None))).reused_ratio == 1000 / 3000


def test_a_cache_that_keeps_all_is_sure_of_it() -> None:
    turns = [turn for i in range(9) for turn in _session(i, 0, 1000, 2000, sent_s=100.0 + 10 * i)]
    found = intervals(measurement(turns))["reused_ratio"]
    assert (found.low, found.estimate, found.high, found.n) == (1, 1, 1, 18)


def test_a_cache_that_was_lost_for_a_while_is_unsure_of_it() -> None:
    # Ten sessions of two turns, one in each tenth of the window; two found nothing: 0.8.
    lost = {3, 4}
    turns = [
        turn
        for i in range(10)
        for turn in _session(i, 0, 0 if i in lost else 1000, sent_s=100.0 + 10 * i)
    ]
    found = intervals(measurement(turns))["reused_ratio"]
    assert found.estimate == 0.8
    # Each tenth is 0.2 above or 0.8 below: sqrt(10 / 9 x (8 x 0.04 + 2 x 0.64)) / 10 = 0.1333.
    assert found.se == pytest.approx(0.1333, rel=1e-3)
    # Student's t of 9 degrees of freedom: 2.262.
    assert found.low == pytest.approx(0.8 - 2.262 * 0.1333, rel=1e-3)
    assert found.high == 1.0
