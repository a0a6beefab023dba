import pytest

from pytest_agentperf.cliff import cliff_signs
from pytest_agentperf.records import TurnRecord
from tests.phases import WINDOW, request


def turns(
    count: int, *, cached_tokens: int | None = 1000, isl_tokens: int = 1200, turn: int = 1
) -> list[TurnRecord]:
    """A first turn of 1,000 tokens before the window, and second turns of 1,200 by as many agents.

    The last agent's second turn finds ``cached_tokens``; the others find all of the first.
    """
    first = [request(50.0, agent=i, turn=0, cached_tokens=0) for i in range(count)]
    second = [request(100.0, agent=i, cached_tokens=1000, isl_tokens=1200) for i in range(count)]
    last = request(
        100.0,
        agent=count - 1,
        cached_tokens=cached_tokens,
        isl_tokens=isl_tokens,
        turn=turn,
    )
    return [*first, *second[:-1], last]


@pytest.mark.parametrize(
    ("count", "cached_tokens", "up"),
    [(100, 1000, False), (100, 950, False), (100, 949, True), (100, None, True), (1000, 0, False)],
    ids=["all found", "95 %", "less", "vLLM leaves 0 out", "0.1 % lost"],
)
def test_requests_that_find_less_than_was_held(count: int, cached_tokens: int | None, up: bool):  # noqa: FBT001
    assert bool(cliff_signs(turns(count, cached_tokens=cached_tokens), WINDOW)) is up


def test_the_sign_counts():
    assert cliff_signs(turns(100, cached_tokens=0), WINDOW) == (
        "1 of 100 requests found their previous turn gone from the cache",
    )


def test_a_prompt_that_was_compacted_lost_nothing():
    assert cliff_signs(turns(100, cached_tokens=0, isl_tokens=900), WINDOW) == ()


def test_a_first_turn_and_one_after_an_unknown_turn_are_not_judged():
    assert cliff_signs(turns(100, cached_tokens=0, turn=0), WINDOW) == ()
    assert cliff_signs(turns(100, cached_tokens=0, turn=5), WINDOW) == ()


def test_a_server_that_reports_no_cache_shows_no_sign():
    silent = [request(100.0, turn=n, cached_tokens=None) for n in range(9)]
    assert cliff_signs(silent, WINDOW) == ()


def test_contexts_that_fill_the_cache():
    # 4 agents, contexts ISL + OSL/2 of 900 and 1100 + 10: mean 1010, deviation 100.
    # 4 x 1010 + 2 x 100 x sqrt(4) = 4440.
    two = [
        request(100.0 + n, agent=n, isl_tokens=isl, osl_tokens=20)
        for n, isl in enumerate((900, 1100, 900, 1100))
    ]
    assert cliff_signs(two, WINDOW, kv_capacity_tokens=4441) == ()
    assert cliff_signs(two, WINDOW, kv_capacity_tokens=4440) == (
        "4 agents' contexts need 4,440 of 4,440 KV tokens",
    )
    assert cliff_signs([], WINDOW, kv_capacity_tokens=1) == ()
