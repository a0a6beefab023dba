from dataclasses import replace
from typing import Any

import pytest

from pytest_agentperf.bundle import ClientCheck, PhaseResult
from pytest_agentperf.explain import client_said, explain_capacity, explain_metrics
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.normalize import Capacity, normalize
from pytest_agentperf.power import Power
from pytest_agentperf.serving import Late, Level, ServerMetrics
from pytest_agentperf.slo import Limit, SLOTier, judge
from pytest_agentperf.validity import Check
from tests.phases import metrics, request

TIER = SLOTier(
    model="m",
    name="slo-2",
    limits=(
        Limit(metric="ttft_s", statistic="p95", value=3.0),
        Limit(metric="output_speed_tok_per_s", statistic="p25", value=5.0),
    ),
    min_agents=4,
)
NO_POWER = Power(mean_w=None, energy_j=None, devices=0, samples=0, coverage=0.0, reason="no meter")
NOTHING = normalize(0, None, mean_power_w=None, power_reason=None)


def phase(number: int, found: Metrics, *checks: Check) -> PhaseResult:
    invalid = [f"{c.name}: {c.text}" for c in checks]
    return PhaseResult(
        number=number, model="m", agents=found.agents, started_s=0.0, duration_s=1.0,
        metrics=found, power=NO_POWER, checks=checks,
        verdicts=(judge(TIER, found, invalid=invalid),),
    )  # fmt: skip


def capacity(**changes: Any) -> Capacity:
    found = Capacity(
        model="m", tier="slo-2", agents=8, status="found", first_failing=9,
        limited_by=("ttft_s.p95",), passing_phase=1, failing_phase=2, passes_above_failure=(),
        throughput_tok_per_s=None, mean_power_w=None, per=NOTHING, throughput_per=NOTHING,
    )  # fmt: skip
    return replace(found, **changes)


GOOD = metrics(request(ttft_s=1.5), agents=8)
LATE = metrics(request(ttft_s=3.41), agents=9)


def explain(found: Capacity, **phases: Any) -> list[str]:
    known: dict[str, Any] = {"passing": None, "failing": None, "invalid": ()}
    return explain_capacity(TIER, found, **(known | phases)).splitlines()


def test_a_miss_shows_every_limit():
    lines = explain_metrics(TIER, LATE)
    assert lines[0] == "9 agents are outside 'm slo-2': 1 of 3 limits missed"
    assert [line.split() for line in lines[1:]] == [
        ["ttft_s.p95", "3.41", "<=", "3", "missed", "n=1"],
        ["output_speed_tok_per_s.p25", "10", ">=", "5", "met", "n=1"],
        ["error_ratio", "0", "<=", "0.01", "met", "n=1"],
    ]


def test_a_hit_shows_them_too():
    lines = explain_metrics(TIER, GOOD)
    assert lines[0] == "8 agents are within 'm slo-2': 0 of 3 limits missed"
    assert len(lines) == 4


def test_columns_stand_below_each_other():
    rows = explain_metrics(TIER, LATE)[1:]
    assert len({row.index("n=") for row in rows}) == 1


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (metrics(agents=8), "no value"),
        (metrics(request(error="x"), agents=8), "∞"),
    ],
    ids=["nothing was measured", "failures reach into it"],
)
def test_a_percentile_without_a_number_says_so_when(found: Metrics, shown: str):
    assert f" {shown} <= 3 " in explain_metrics(TIER, found)[1]


def test_a_capacity_names_its_limit_and_both_phases():
    lines = explain(capacity(), passing=phase(3, GOOD), failing=phase(4, LATE))
    assert lines[:3] == [
        "'m slo-2' carries 8 agents; asked for at least 4",
        "limited by: ttft_s.p95",
        "largest passing phase: number 3, 8 agents",
    ]
    assert lines[6] == "smallest failing phase: number 4, 9 agents"
    assert "3.41" in lines[7]


def test_a_capacity_without_phases_says_so():
    lines = explain(capacity(agents=0, status="unsupported", limited_by=()))
    assert lines == [
        "'m slo-2' carries 0 (not supported) agents; asked for at least 4",
        "limited by: nothing that was measured",
        "largest passing phase: none",
        "smallest failing phase: none",
    ]


def test_invalid_phases_say_why():
    late = Check(name="client cpu", value=1, limit=0, ok=False, invalidates=True, text="too slow")
    lines = explain(capacity(), invalid=[phase(5, LATE, late)])
    assert lines[-1] == "invalid phase 5, 9 agents: client cpu: too slow"


def test_a_curve_that_is_not_monotone_is_reported():
    lines = explain(capacity(passes_above_failure=(12, 16)))
    assert lines[-1] == "not monotone: 12, 16 agents passed above a failure and do not count"


@pytest.mark.parametrize(
    ("high", "span"), [(10, "7 to 10 agents"), (None, "7 or more agents")], ids=["both", "open"]
)
def test_a_capacity_says_what_else_the_phases_allow(high: int | None, span: str):
    lines = explain(capacity(agents_low=7, agents_high=high))
    assert lines[1] == f"the phases, as unsure as they are, allow {span}"


def test_a_capacity_says_what_it_took():
    lines = explain(capacity(phases_used=5, measured_s=3300.0))
    assert lines[-1] == "needed 5 phases, 55 min"


def client(**changes: Any) -> ClientCheck:
    found: dict[str, Any] = {
        "streams": 64, "tok_per_s": 3200.0, "cpu_us_per_token": 16.0, "ttft_error_p95_s": 0.0003,
        "processes": 3,
    }  # fmt: skip
    return ClientCheck(**(found | changes))


def test_what_the_client_carries_by_hand():
    # 0.8 s of CPU at 16 µs a token are 50,000 tokens, in each of three processes.
    assert client_said(client()) == (
        "the load client's self-check: 16 µs of CPU a token, P95 TTFT right to 0.3 ms at 3,200 "
        "tok/s; about 150,000 tok/s in 3 processes"
    )


def test_a_machine_that_is_too_busy_is_told_before_the_run():
    assert "WARNING: this machine is so busy" in client_said(client(ttft_error_p95_s=0.011))
    assert "WARNING" not in client_said(client(ttft_error_p95_s=0.010, processes=1))


def test_a_bracket_is_explained_by_what_the_server_counted():
    full = Late(
        limit_s=3.0, late=40, others=60, kv_use_late_ratio=0.98, kv_use_others_ratio=0.7,
        waiting_late=5.0, waiting_others=0.0,
    )  # fmt: skip
    calm = ServerMetrics(samples=9, kv_use_ratio=Level(mean=0.4, most=0.6))
    crowded = ServerMetrics(samples=9, kv_use_ratio=Level(mean=0.9, most=1.0), late=(full,))
    lines = explain(
        capacity(),
        passing=replace(phase(3, GOOD), server=calm),
        failing=replace(phase(4, LATE), server=crowded),
    )
    assert lines[10:] == [
        (
            "P95 TTFT broke when KV use reached 98 %: half of the 40 late requests met that or "
            "more, the others 70 %"
        ),
        "at 9 agents most KV use went from 60 % to 100 %",
        "the server, 9 agents: KV use 90 % (most 100 %)",
    ]


def test_a_servers_own_words_are_written_out_and_not_obeyed():
    said = Check(
        name="phase complete", value=None, limit=None, ok=False, invalidates=True, text="\x1b[2J"
    )
    lines = explain(capacity(), invalid=[phase(5, LATE, said)])
    assert lines[-1] == r"invalid phase 5, 9 agents: phase complete: \x1b[2J"
