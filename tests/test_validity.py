from dataclasses import replace
from typing import Any

import pytest

from pytest_agentperf.metrics import Metrics, distribution
from pytest_agentperf.records import (
    ClientHealth,
    HostHealth,
    Measurement,
    Metered,
    ReadLag,
    Sample,
    TurnRecord,
)
from pytest_agentperf.validity import Check, Marks, check
from tests.phases import measurement, metrics, ns, request

MARKS = Marks(max_loop_lag_p95_s=0.003, max_loop_lag_p99_s=0.005, max_cpu_ratio=0.8)


def missed(phase: Measurement | None = None, found: Metrics | None = None) -> list[Check]:
    checks = check(phase or measurement([]), found or metrics(request()), MARKS)
    return [c for c in checks if not c.ok]


def by_client(**changes: Any) -> Measurement:
    healthy: dict[str, Any] = {"loop_lag_s": ((0.0,),), "cpu_ratio": 0.1, "first_sent_ns": (0,)}
    return measurement([], health=ClientHealth(**(healthy | changes)))


def on_nodes(*clock_error_s: float) -> Measurement:
    hosts = tuple(
        HostHealth(name=name, workers=1, clock_offset_s=9.0, clock_error_s=error, endpoint_s=0.02)
        for name, error in zip("abc", clock_error_s, strict=False)
    )
    return by_client(hosts=hosts)


@pytest.mark.parametrize(
    ("error_s", "invalidates"),
    [(0.006, False), (0.026, True)],
    ids=["doubtful", "not to be believed"],
)
def test_the_node_with_the_worst_clock_is_named(*, error_s: float, invalidates: bool):
    (found,) = missed(on_nodes(0.001, error_s, 0.004))
    assert (found.name, found.value, found.invalidates) == (
        "clock alignment", error_s, invalidates,
    )  # fmt: skip
    assert found.text.startswith(f"the clock of node b may have been {error_s * 1e3:.1f} ms off")


def test_clocks_that_agree_are_no_matter():
    assert missed(on_nodes(0.0049, 0.001)) == []


def read_lag(*, p95_s: float, unstamped: int = 0) -> ReadLag:
    return ReadLag(
        stamped=100, unstamped=unstamped, p50_s=0.0, p95_s=p95_s, p99_s=p95_s, most_s=p95_s
    )


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
         ("the load generator was late itself, and its times are its own: give it more cores or "
          "--agentperf-workers")),
        (by_client(loop_lag_s=((0.0,) * 97 + (0.011,) * 3, (0.0,) * 9900)), "client loop lag p99",
         ("the load generator was late itself, and its times are its own: give it more cores or "
          "--agentperf-workers")),
        (by_client(cpu_ratio=0.81), "client cpu",
         "the load generator was late itself: give it more cores or --agentperf-workers"),
        (by_client(read_lag=(read_lag(p95_s=0.0031, unstamped=2),)), "client read lag p95",
         ("the load generator was late itself, and its times are its own: give it more cores or "
          "--agentperf-workers")),
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
        "a client that reads late and stamps some reads itself",
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
    lag = (read_lag(p95_s=0.003, unstamped=2),)
    assert missed(by_client(loop_lag_s=((0.003,) * 100,), cpu_ratio=0.8, read_lag=lag)) == []


def late_client(*turns: TurnRecord, wait_s: float = 0.05, **changes: Any) -> Measurement:
    """A client that was late in all, over requests with 50 to 149 ms to their first token."""
    lag = read_lag(p95_s=wait_s, unstamped=changes.pop("unstamped", 0))
    late = by_client(loop_lag_s=((wait_s,) * 100,), read_lag=(lag,), **changes)
    rest = (request(ttft_s=0.05 + n / 1000) for n in range(100 - len(turns)))
    return replace(late, turns=(*rest, *turns))


def merged(ttft_s: float, **changes: Any) -> TurnRecord:
    return request(ttft_s=ttft_s, first_token_merged=True, **changes)


def late_of(phase: Measurement, marks: Marks = MARKS) -> list[Check]:
    checks = check(phase, metrics(request()), marks)
    found = [c for c in checks if not c.ok and c.name.startswith("client")]
    names = ["client loop lag p95", "client loop lag p99", "client read lag p95"]
    assert [c.name for c in found] == names
    return found


@pytest.mark.parametrize(
    "phase",
    [
        late_client(),
        late_client(*(merged(0.01) for _ in range(50))),
        late_client(*(merged(9.0) for _ in range(4))),
        late_client(*(merged(0.2) for _ in range(30)), wait_s=0.0099),
        late_client(request(ttft_s=0.08, written_ns=ns(100.07))),
        late_client(request(ttft_s=9.0, first_token_merged=True, error="lost")),
        late_client(stolen_ratio=0.02),
    ],
    ids=[
        "nothing was moved",
        "what was moved is far from the percentile",
        "few of those that were late for the server's part",
        "by less than 10 ms",
        "one that left late",
        "one that has failed has no time",
        "a machine that stood still for a moment",
    ],
)
def test_a_late_client_is_a_warning_where_what_is_judged_is_right_all_the_same(phase: Measurement):
    for found in late_of(phase):
        assert not found.invalidates
        assert found.text == (
            "the load generator was late itself, but its times are the kernel's and stand: give it "
            "more cores or --agentperf-workers"
        )


@pytest.mark.parametrize(
    ("phase", "why"),
    [
        (late_client(*(merged(0.16) for _ in range(20))),
         "and one TTFT in twenty may be 50 ms too long through it"),
        # Beyond the P95 lie true ones as well: few that were moved can be enough.
        (late_client(*(request(ttft_s=5.0) for _ in range(3)), *(merged(0.30) for _ in range(3)),
                     wait_s=0.25),
         "and ttft_s.p95 may be wrong by 159 ms through it"),
        (late_client(*(request(ttft_s=0.5, written_ns=ns(100.4)) for _ in range(6))),
         "and one TTFT in twenty may be 400 ms too long through it"),
        (late_client(*(merged(0.05, decode_s=0.4) for _ in range(90)), wait_s=0.0099),
         "and output_speed_tok_per_s.p25 may be wrong by 2.4% through it"),
        (late_client(unstamped=1), "and its times are its own"),
        (by_client(loop_lag_s=((0.05,) * 100,), read_lag=(read_lag(p95_s=0.05),)),
         "and no answer tells whether a time is right"),
        (late_client(stolen_ratio=0.021),
         "and its machine stood still for 2.1% of the time (steal)"),
    ],
    ids=[
        "first tokens merged", "few of them", "requests left late", "speeds", "stamps of ours",
        "no answer", "the machine stood still",
    ],
)  # fmt: skip
def test_a_late_client_invalidates_where_what_is_judged_may_be_wrong(phase: Measurement, why: str):
    for found in late_of(phase):
        assert found.invalidates
        assert found.text == (
            f"the load generator was late itself, {why}: give it more cores or --agentperf-workers"
        )


def test_all_that_is_judged_is_asked_for():
    phase = late_client(*(merged(5.0 + n) for n in range(2)), wait_s=3.0)
    assert not any(found.invalidates for found in late_of(phase))
    marks = replace(MARKS, judged=MARKS.judged | {("ttft_s", "p99")})
    assert all("ttft_s.p99" in found.text and found.invalidates for found in late_of(phase, marks))


def test_the_process_that_reads_last_is_the_one_that_counts():
    lags = (read_lag(p95_s=0.001), read_lag(p95_s=0.02))
    (found,) = missed(by_client(read_lag=lags))
    assert (found.name, found.value) == ("client read lag p95", 0.02)


def test_a_client_whose_reads_have_no_time_of_the_kernel_has_no_read_lag():
    only_ours = replace(read_lag(p95_s=0.0, unstamped=50), stamped=0)
    (check_of,) = (
        c
        for c in check(by_client(read_lag=(only_ours,)), metrics(request()), MARKS)
        if c.name == "client read lag p95"
    )
    assert (check_of.value, check_of.ok) == (None, True)


def test_load_over_httpx_is_a_warning():
    (found,) = missed(by_client(degraded="degraded (httpx client)"))
    assert (found.name, found.invalidates) == ("timing", False)
    assert found.text.startswith("timing: degraded (httpx client): ")


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


@pytest.mark.parametrize(
    ("salted", "invalidates"), [(True, True), (False, False)], ids=["salt", "no salt"]
)
def test_whole_first_prompts_in_the_cache_invalidate_under_a(
    salted: bool,  # noqa: FBT001 a parameter
    invalidates: bool,  # noqa: FBT001 a parameter
):
    # Two of three first prompts of 1,000 tokens came out of the cache but for their last block.
    first = [request(turn=0, cached_tokens=cached) for cached in (960, 960, 0)]
    found = metrics(*first, in_flight=0.5)
    checks = check(measurement([]), found, replace(MARKS, salted=salted))
    (known,) = (c for c in checks if not c.ok)
    assert (known.name, known.value, known.invalidates) == (
        "first-turn cached share",
        pytest.approx(0.64),
        invalidates,
    )
    assert known.text.startswith("the server knew 67% of the first prompts whole" if salted else "")


def test_tools_that_stand_before_the_salt_do_not_invalidate():
    # 600 of 1,000 tokens are the tools of every trajectory.
    first = [request(turn=0, cached_tokens=600) for _ in range(3)]
    assert [(c.name, c.invalidates) for c in missed(found=metrics(*first, in_flight=0.5))] == [
        ("first-turn cached share", False)
    ]


def test_a_shared_system_prompt_is_cached_on_purpose():
    found = metrics(request(), first_turn_cached_ratio=0.6)
    checks = check(measurement([]), found, replace(MARKS, shared_system_prompt=True))
    assert all(c.ok for c in checks)


OTHER_LENGTHS = (
    " the recorded ones: another model, reasoning effort or template; compare the request fields "
    "with the tier file's"
)
CUT = (
    "many answers ended at max_tokens and not by themselves: read a few, for a loop or an effort "
    "that is too high"
)
LOOPING = (
    "answers ended in one short piece, over and over: the server's sampling, quantisation or "
    "speculation is broken, and its speed is not that of a model at work"
)


@pytest.mark.parametrize(
    ("values", "name", "text"),
    [
        ({"first_turn_cached_ratio": 0.11}, "first-turn cached share",
         "the server knew first prompts already: the salt does not reach its prefix cache"),
        ({"osl_vs_recorded": 2.1}, "output length against recorded",
         "answers were 2.10 times as long as" + OTHER_LENGTHS),
        ({"osl_vs_recorded": 0.4}, "output length against recorded",
         "answers were 0.40 times as long as" + OTHER_LENGTHS),
        ({"length_cut_ratio": 0.051}, "cut by max_tokens",
         CUT),
        ({"looping_ratio": 0.011}, "looping answers",
         LOOPING),
        ({"undefined_speed_ratio": 0.051}, "undefined speeds",
         "many answers came in one piece or with one token: P25 speed leans on the rest"),
        ({"first_chunk_speed_tok_per_s": distribution([9.79])}, "bundled first chunk",
         "P25 speed parts from its first-chunk variant: the server bundles tokens"),
        ({"hidden_reasoning_ratio": 0.051}, "hidden reasoning",
         "reasoning tokens were counted but never streamed: TTFT is not comparable"),
    ],
    ids=[
        "first prompts that were cached",
        "answers twice as long",
        "answers half as long",
        "many answers that were cut",
        "loops",
        "many undefined speeds",
        "a first-chunk speed 2 % lower",
        "reasoning that was not streamed",
    ],
)  # fmt: skip
def test_is_only_warned_of(values: dict[str, Any], name: str, text: str):
    (found,) = missed(found=metrics(request(), **values))
    assert (found.name, found.text, found.invalidates) == (name, text, False)


@pytest.mark.parametrize(
    "values",
    [
        {"first_turn_cached_ratio": 0.1},
        {"osl_vs_recorded": 2.0},
        {"osl_vs_recorded": 0.5},
        {"length_cut_ratio": 0.05},
        {"looping_ratio": 0.01},
        {"undefined_speed_ratio": 0.05},
        {"first_chunk_speed_tok_per_s": distribution([9.9])},  # the judged one is 10
        {"hidden_reasoning_ratio": 0.05},
    ],
    ids=[
        "cached share",
        "long",
        "short",
        "cut",
        "loops",
        "undefined speeds",
        "bundling",
        "hidden reasoning",
    ],
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


def test_empty_answers_are_failures_and_told_apart():
    turns = [request(100 + i, error="empty answer" if i < 2 else None) for i in range(100)]
    (found,) = missed(found=metrics(*turns, in_flight=0.5))
    assert (found.name, found.value, found.invalidates) == ("empty answers", 0.02, False)


def _metered(last_s: int, *series: str) -> Measurement:
    joules = tuple(
        Sample(at_ns=ns(at_s), series="gpu0", unit="J", value=350.0 * at_s)
        for at_s in range(90, last_s)
    )
    own = Metered(
        meter="nvml",
        kind="nvml",
        role="accelerator",
        series=series or ("gpu0",),
        devices=1,
        samples=joules,
    )
    return measurement([], meters=(own,))


def test_power_that_is_metered_for_a_part_of_the_window_is_warned_of():
    assert missed(_metered(210)) == []
    # Readings up to 189 s cover 89 of 100 s.
    (found,) = missed(_metered(190))
    assert (found.name, found.value, found.invalidates) == ("power coverage", 0.89, False)
    assert found.text == (
        "nvml: readings of gpu0 cover 89% of the window, 95% are needed: the last came 11 s before "
        "its end: there is no figure per megawatt; look at the meter"
    )
    assert [c.name for c in missed(_metered(210, "gpu0", "gpu1"))] == ["power coverage"]


def test_a_phase_without_power_is_invalid_where_power_is_required():
    marks = replace(MARKS, power_required=True)
    (found,) = [c for c in check(_metered(190), metrics(), marks) if not c.ok]
    assert found.invalidates
    assert all(c.ok for c in check(_metered(210), metrics(), marks))


def test_requests_sent_late_against_their_schedule_invalidate():
    # A hundred requests, two of them sent 0.2 s after they were due: P99 is past 0.1 s.
    late = [
        request(100 + i / 10, scheduled_ns=ns(100 + i / 10 - 0.2 * (i < 2))) for i in range(100)
    ]
    assert [(c.name, c.invalidates) for c in missed(found=metrics(*late, in_flight=0.5))] == [
        ("schedule slip p99", True)
    ]
