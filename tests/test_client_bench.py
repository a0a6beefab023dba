"""docs/client.md shows what `make bench` has written, and what it shows is worked out rightly."""

import json
from typing import Any

import pytest

from benchmarks.client.__main__ import next_step
from benchmarks.client.analysis import carries, cell, figures, goals, is_disturbed, ladder_top
from benchmarks.client.loads import LADDER, LOADS, turns
from benchmarks.client.tables import DATA, PAGE, page
from benchmarks.client.watch import Moment, Watched
from tests.test_options_page import PAGE as OPTIONS

_ROOT = OPTIONS.parent.parent


def _truth(stream: int, read_ms: float, first_ms: float, **changes: Any) -> dict[str, Any]:
    true: dict[str, Any] = {
        "stream": stream,
        "read_ns": round(read_ms * 1e6),
        "first_ns": round(first_ms * 1e6),
        "last_ns": round(first_ms * 1e6) + 40_000_000,
        "lag_ns": 2_000_000,
        "tokens": 3,
        "chars": 12,
        "whole": True,
    }
    return true | changes


_WARM_UP = [_truth(7, 0, 1, tokens=1, chars=4), _truth(8, 0, 1, tokens=1, chars=4)]
# Stream 7 sends at 100 ms; the origin has read at 101 and sends the first token at 301: the true
# TTFT is 200 ms. Seen at 303: TTFT 203, 3 ms too much, of which 2 on the receive side.
_TOLD: dict[str, Any] = {
    "cpu_s": 0.003,
    "wall_s": 0.5,
    "waited_s": 0.01,
    "rss_mb": 30.0,
    "lag_ns": [1_000_000] * 100,
    "rows": [[7, 100_000_000, 303_000_000, 346_000_000, 3, 12]],
    "truth": [*_WARM_UP, _truth(7, 101, 301)],
}


def test_the_tables_are_those_of_the_data() -> None:
    text = (_ROOT / PAGE).read_text("utf-8")
    assert "| goal | demanded | measured | |" in text
    assert page(text, json.loads((_ROOT / DATA).read_text("utf-8"))) == text


def test_errors_are_those_against_the_truth() -> None:
    found = figures(_TOLD, requests=2)
    assert found["ttft_error_s"]["p95"] == pytest.approx(0.003)
    assert found["receive_error_s"]["p99"] == pytest.approx(0.002)
    assert found["last_token_error_s"]["p50"] == pytest.approx(0.005)  # 346 - (301 + 40)
    assert found["loop_lag_s"]["p50"] == pytest.approx(0.001)


def test_cpu_is_shared_by_events_and_by_requests() -> None:
    found = figures(_TOLD, requests=2)
    assert found["cpu_s_per_event"] == pytest.approx(0.001)  # 3 ms, 3 events
    assert found["cpu_s_per_request"] == pytest.approx(0.003)
    assert (found["cpu_ratio"], found["done_ratio"]) == (pytest.approx(0.006), 0.5)


def test_answers_are_joined_stream_by_stream_in_their_order() -> None:
    told = {
        **_TOLD,
        "rows": [
            [8, 100_000_000, 310_000_000, 0, 3, 12],
            [7, 100_000_000, 303_000_000, 0, 3, 12],
            [7, 500_000_000, 704_000_000, 0, 3, 12],
        ],
        "truth": [*_WARM_UP, _truth(7, 101, 301), _truth(8, 101, 309), _truth(7, 501, 701)],
    }
    # 2 ms, 1 ms and 3 ms: the middle one is 2
    assert figures(told, requests=3)["receive_error_s"]["p50"] == pytest.approx(0.002)


def test_quantiles_lie_between_neighbours() -> None:
    rows = [[n, 0, (10 + n) * 1_000_000, 0, 3, 12] for n in range(101)]
    truth = [_truth(n, 0, 10) for n in range(101)]
    found = figures({**_TOLD, "rows": rows, "truth": [*truth, *truth]}, requests=101)
    assert found["ttft_error_s"] == pytest.approx({"p50": 0.050, "p95": 0.095, "p99": 0.099})


@pytest.mark.parametrize(("place", "name"), [(4, "lost_tokens"), (5, "lost_chars")])
def test_what_is_lost_is_counted_and_no_such_load_is_carried(place: int, name: str) -> None:
    row = list(_TOLD["rows"][0])
    row[place] -= 1
    found = figures({**_TOLD, "rows": [row]}, requests=1)
    assert found[name] == 1
    assert not carries(found)
    assert carries(figures(_TOLD, requests=1))


def _trial(**changes: Any) -> dict[str, Any]:
    return figures(_TOLD, requests=1) | changes


def _late(p95_s: float) -> dict[str, float]:
    return {"p50": 0.0, "p95": p95_s, "p99": 1.0}


def test_a_load_is_carried_with_an_error_of_ten_milliseconds() -> None:
    assert carries(_trial(ttft_error_s=_late(0.010)))
    assert not carries(_trial(ttft_error_s=_late(0.011)))
    assert not carries(_trial(done_ratio=0.99))
    assert not carries({"failed": "no such file"})


def test_only_undisturbed_trials_count() -> None:
    late = _trial(origin_lag_s=0.016, rss_mb=90.0)
    trials = [_trial(rss_mb=10.0), late, _trial(rss_mb=30.0), {"failed": "not done after 60 s"}]
    found = cell(trials)
    assert found is not None
    assert (found["trials"], found["rss_mb"], found["disturbed"]) == (2, 20.0, False)
    assert is_disturbed(late)


def test_a_client_that_waited_for_its_core_was_disturbed_unless_that_was_meant() -> None:
    told = {**_TOLD, "waited_s": 0.03}  # 6 % of half a second
    assert is_disturbed(figures(told, requests=1))
    assert not is_disturbed(figures(told, requests=1, hog=True))


def test_where_all_were_disturbed_their_median_is_marked() -> None:
    found = cell([_trial(origin_lag_s=0.016)])
    assert found is not None
    assert found["disturbed"]
    assert cell([{"failed": "not done after 60 s"}]) is None


_DATA: dict[str, Any] = {
    "loads": {
        "500 x 50": {
            "limit": [_trial(cpu_s_per_event=10e-6)],
            "engine": [_trial(cpu_s_per_event=15e-6, ttft_error_s=_late(0.0004))],
            "naive": [_trial(cpu_s_per_event=45e-6)],
        },
        "requests, 500 open": {"engine": [_trial(cpu_s_per_request=100e-6)]},
        "requests, 2000 open": {"engine": [_trial(cpu_s_per_request=110e-6)]},
        "1000 x 50, hog": {"engine": [_trial(receive_error_s={"p99": 0.00005})]},
    },
    "ladder": {
        "limit": {"2000": True, "2500": False},
        "engine": {"1600": False, "1250": True},
        "naive": {"400": True, "500": False},
    },
    "peers": {
        "ours": {"cpu_s_per_event": 20e-6},
        "aiperf": {"cpu_s_per_event": 120e-6},
        "guidellm": {"failed": "no such option"},
    },
}


@pytest.mark.parametrize(
    ("words", "value", "is_met"),
    [
        ("ours to the C client's", 1.5, True),
        ("ours to the naive loop's", 1 / 3, True),
        ("2,000 open connections", 1.1, True),
        ("10 ms: ours to the C client's", 0.625, True),
        ("10 ms: ours to the naive loop's", 3.125, False),
        ("p95 TTFT error at 500", 0.4, False),
        ("CPU hog", 0.05, True),
        ("lost", 0, True),
        ("aiperf", 6, True),
        ("guidellm", None, None),
        ("httpx over our engine", None, None),
        ("tick together", None, None),
    ],
)
def test_a_goal_is_met_missed_or_not_measured(
    words: str,
    value: float | None,
    is_met: bool | None,  # noqa: FBT001 a case
) -> None:
    goal = next(each for each in goals(_DATA) if words in each.text)
    assert goal.value == (None if value is None else pytest.approx(value))
    assert goal.is_met is is_met


def test_nothing_measured_meets_no_goal() -> None:
    assert {goal.is_met for goal in goals({})} == {None}


def test_the_ladder_is_climbed_while_it_carries() -> None:
    assert next_step(400, {}) == 400
    assert next_step(400, {"400": True}) == 500
    assert next_step(400, {"400": True, "500": False}) is None
    assert next_step(400, {"400": False}) == 200
    assert next_step(400, {"400": False, "200": True}) == 250
    assert next_step(400, {"400": False, "320": True}) is None
    assert next_step(64, {"64": False}) == 50
    assert next_step(50, {"50": False}) is None
    assert next_step(4000, {"4000": True}) is None
    assert ladder_top({"400": True, "500": False, "320": True}) == 400
    assert ladder_top({"50": False}) == 0


def test_clients_take_turns() -> None:
    loads = [load for load in LOADS if load.name in {"500 x 50", "1000 x 50"}]
    seen = [(load.name, client) for load, client in turns(loads, ["limit", "naive"])]
    once = [(load.name, client) for load in loads for client in ("limit", "naive")]
    assert seen == [*once, *once, *once[:2]]  # three times 500, twice 1,000


def test_what_the_goals_need_is_measured() -> None:
    by_name = {load.name: load for load in LOADS}
    assert {"limit", "engine", "adapter", "naive"} <= set(by_name["500 x 50"].clients)
    assert {"limit", "engine", "naive"} <= set(LADDER)
    assert by_name["1000 x 50, hog"].hog


def test_cpu_until_an_instant_lies_between_samples() -> None:
    seen = Watched(
        began_ns=0,
        ended_ns=10,
        code=0,
        output="",
        cpu_s=9.0,
        moments=(
            Moment(at_ns=4, cpu_s=2.0, pss_mb={"1 a": 10.0}),
            Moment(at_ns=8, cpu_s=6.0, pss_mb={"1 a": 5.0, "2 b": 7.0}),
        ),
    )
    assert seen.cpu_until_s(2) == 1.0
    assert seen.cpu_until_s(6) == 4.0
    assert (seen.pss_mb, seen.processes) == (12.0, 2)
