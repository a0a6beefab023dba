from dataclasses import replace
from typing import Any

import pytest

from pytest_agentperf.metrics import Metrics, distribution
from pytest_agentperf.records import ClientHealth, Measurement
from pytest_agentperf.validity import Check, Marks, check
from tests.phases import measurement, metrics, ns, request

MARKS = Marks(max_loop_lag_p95_s=0.003, max_loop_lag_p99_s=0.010, max_cpu_ratio=0.8)


def missed(phase: Measurement | None = None, found: Metrics | None = None) -> list[Check]:
    checks = check(phase or measurement([]), found or metrics(request()), MARKS)
    return [c for c in checks if not c.ok]


def by_client(**changes: Any) -> Measurement:
    healthy: dict[str, Any] = {"loop_lag_s": ((0.0,),), "cpu_ratio": 0.1, "first_sent_ns": (0,)}
    return measurement([], health=ClientHealth(**(healthy | changes)))


def test_a_sound_phase_misses_nothing():
    assert missed() == []


def test_every_check_says_what_to_do():
    checks = check(by_client(), metrics(request()), MARKS)
    assert [c.name for c in checks if not c.text] == ["phase complete"]
    assert len({c.name for c in checks}) == len(checks)


@pytest.mark.parametrize(
    ("phase", "name", "text"),
    [
        (by_client(loop_lag_s=((0.0031,) * 100,)), "client loop lag p95",
         "the load generator was late itself: give it more cores or --agentperf-workers"),
        (by_client(loop_lag_s=((0.0,) * 97 + (0.011,) * 3, (0.0,) * 9900)), "client loop lag p99",
         "the load generator was late itself: give it more cores or --agentperf-workers"),
        (by_client(cpu_ratio=0.81), "client cpu",
         "the load generator was late itself: give it more cores or --agentperf-workers"),
        (measurement([], broken="the endpoint stopped answering"), "phase complete",
         "the endpoint stopped answering"),
        (measurement([], floors_met=False), "floors met",
         "the phase ended before its floors; raise --agentperf-max-phase-s"),
        (measurement([], agents=2), "active agents", "1 of 2 agents ever sent a request"),
        (measurement([], cut=1), "members cut off",
         "requests of the window were still open when the phase was stopped"),
        (measurement([request(agent=1)]), "agents of another phase",
         "requests of agents that this phase has not were seen: two phases overlapped"),
    ],
    ids=[
        "a client that is late all the time",
        "one late process among idle ones",
        "a busy client",
        "a phase that was broken off",
        "a phase below its floors",
        "an agent that never sent",
        "a member that was cut off",
        "an agent of another phase",
    ],
)  # fmt: skip
def test_is_invalidated_by(phase: Measurement, name: str, text: str):
    (found,) = missed(phase)
    assert (found.name, found.text, found.invalidates) == (name, text, True)


LATE = (
    "the simulator's own process was too slow for its clock, so this is a busy CPU and not the "
    "simulated system: fewer agents, a larger stream_interval, or sim+virtual:"
)


def test_a_simulator_that_is_late_invalidates_but_not_where_it_only_has_to_work():
    late = measurement([], simulator_late_ratio=0.051)
    (found,) = missed(late)
    assert (found.name, found.text, found.invalidates) == ("simulator late steps", LATE, True)
    lenient = replace(MARKS, simulator_keeps_time=False)
    (found,) = (c for c in check(late, metrics(request()), lenient) if not c.ok)
    assert not found.invalidates
    assert missed(measurement([], simulator_late_ratio=0.05)) == []


def test_a_client_on_its_marks_is_trusted():
    assert missed(by_client(loop_lag_s=((0.003,) * 100,), cpu_ratio=0.8)) == []


def test_answers_without_a_count_invalidate():
    (found,) = missed(found=metrics(request(), request(osl_tokens=None), undefined_speed_ratio=0.0))
    assert (found.name, found.value, found.limit) == ("tokens counted", 1, 2)
    assert found.invalidates
    assert found.text == (
        "answers came without usage: serve with stream_options.include_usage, "
        "or give --agentperf-tokenizer"
    )


def test_failures_need_no_count():
    assert missed(found=metrics(request(), request(error="x", osl_tokens=None))) == []


def test_failures_that_decide_alone_need_no_floors():
    failed = metrics(request(), request(error="x"), in_flight=0.5)
    assert missed(measurement([], floors_met=False, failed_out=True), failed) == []


def test_failures_before_the_window_excuse_no_floors():
    (found,) = missed(measurement([], floors_met=False, failed_out=True))
    assert (found.name, found.invalidates) == ("floors met", True)


def test_more_requests_in_flight_than_agents_invalidate():
    assert [c.name for c in missed(found=metrics(request(), in_flight=1.1))] == [
        "requests in flight"
    ]


def test_dead_connections_are_warned_of():
    (found,) = missed(found=metrics(request(), request(reconnected=True), in_flight=0.5))
    assert (found.name, found.value, found.invalidates) == ("reconnected share", 0.5, False)


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
def test_a_judged_first_chunk_must_be(counted: bool):  # noqa: FBT001 a parameter
    found = metrics(request(first_chunk_tokens=1 if counted else None))
    checks = check(measurement([]), found, replace(MARKS, first_chunk_judged=True))
    assert [c.name for c in checks if not c.ok] == ([] if counted else ["first chunks not counted"])


def test_a_shared_system_prompt_is_cached_on_purpose():
    found = metrics(request(), first_turn_cached_ratio=0.6)
    checks = check(measurement([]), found, replace(MARKS, shared_system_prompt=True))
    assert all(c.ok for c in checks)


@pytest.mark.parametrize(
    ("values", "name", "text"),
    [
        ({"first_turn_cached_ratio": 0.11}, "first-turn cached share",
         "the server knew first prompts already: the salt does not reach its prefix cache"),
        ({"undefined_speed_ratio": 0.051}, "undefined speeds",
         "many answers came in one piece or with one token: P25 speed leans on the rest"),
        ({"first_chunk_speed_tok_per_s": distribution([9.79])}, "bundled first chunk",
         "P25 speed parts from its first-chunk variant: the server bundles tokens"),
        ({"hidden_reasoning_ratio": 0.051}, "hidden reasoning",
         "reasoning tokens were counted but never streamed: TTFT is not comparable"),
        ({"token_ratio": 1.021}, "usage against tokenizer",
         "the server's token counts part from the tokenizer's"),
        ({"token_ratio": 0.979}, "usage against tokenizer",
         "the server's token counts part from the tokenizer's"),
    ],
    ids=[
        "first prompts that were cached",
        "many undefined speeds",
        "a first-chunk speed 2 % lower",
        "reasoning that was not streamed",
        "usage above the tokenizer's count",
        "usage below the tokenizer's count",
    ],
)  # fmt: skip
def test_is_only_warned_of(values: dict[str, Any], name: str, text: str):
    (found,) = missed(found=metrics(request(), **values))
    assert (found.name, found.text, found.invalidates) == (name, text, False)


@pytest.mark.parametrize(
    "values",
    [
        {"first_turn_cached_ratio": 0.1},
        {"undefined_speed_ratio": 0.05},
        {"first_chunk_speed_tok_per_s": distribution([9.9])},  # the judged one is 10
        {"hidden_reasoning_ratio": 0.05},
        {"token_ratio": 1.019},
    ],
    ids=["cached share", "undefined speeds", "bundling", "hidden reasoning", "token ratio"],
)
def test_no_warning_on_the_mark_of(values: dict[str, Any]):
    assert missed(found=metrics(request(), **values)) == []


@pytest.mark.parametrize(
    "variant",
    [None, distribution([1.0, 1.0]), distribution([0.0])],
    ids=["is unknown", "is known for other requests", "is zero because all failed"],
)
def test_speeds_are_not_compared_when_the_first_chunk_variant(variant: Any):
    found = metrics(request(), first_chunk_speed_tok_per_s=variant)
    checks = {c.name: c for c in check(measurement([]), found, MARKS)}
    assert (checks["bundled first chunk"].value, checks["bundled first chunk"].ok) == (None, True)


def test_requests_sent_late_against_their_schedule_invalidate():
    # A hundred requests, two of them sent 0.2 s after they were due: P99 is past 0.1 s.
    late = [
        request(100 + i / 10, scheduled_ns=ns(100 + i / 10 - 0.2 * (i < 2))) for i in range(100)
    ]
    assert [(c.name, c.invalidates) for c in missed(found=metrics(*late, in_flight=0.5))] == [
        ("schedule slip p99", True)
    ]
