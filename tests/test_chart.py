"""Phases over agents: where marks and their intervals lie."""

import math
from dataclasses import replace

import pytest

from pytest_agentperf.chart import charts
from pytest_agentperf.evidence import Interval
from pytest_agentperf.slo import Limit
from tests.bundles import GPT, example_bundle

PHASES = example_bundle().phases


def test_without_a_phase_there_is_no_picture():
    assert charts(GPT.tiers, ()) == ()


def test_an_interval_reaches_from_its_low_to_its_high_end():
    likely = Interval(low=500.0, high=1000.0, estimate=587.3, n=400, se=0.1)
    first = replace(PHASES[0], intervals={"output_speed_tok_per_s.p25": likely})
    speed, ttft = charts(GPT.tiers, (first,))
    (mark,) = speed.marks
    # Limits at 100 and 2,000: from 100 / 1.3 to 2,600 tok/s. ln(2600 / 1000) / ln(26 * 1.3).
    height = math.log(2600 / (100 / 1.3))
    assert mark.span is not None
    assert [float(end) for end in mark.span] == pytest.approx(
        [100 * math.log(2600 / 1000) / height, 100 * math.log(2600 / 500) / height], abs=0.01
    )
    assert "95 % within 500 to 1,000 (n = 481)" in mark.title
    assert ttft.marks[0].span is None


def test_an_endless_interval_ends_at_the_edge_of_the_picture():
    likely = Interval(low=0.5, high=math.inf, estimate=0.81, n=400, se=0.1)
    first = replace(PHASES[0], intervals={"ttft_s.p95": likely})
    mark = charts(GPT.tiers, (first,))[1].marks[0]
    assert mark.span is not None
    assert mark.span[0] == "0.00"


def test_phases_that_cannot_be_trusted_are_marks_without_a_line():
    trusted = [p for p in PHASES if not p.invalid]
    for chart in charts(GPT.tiers, PHASES):
        assert len(chart.marks) == len(PHASES)
        endless = sum(mark.text == "∞" for mark in chart.marks)
        points = chart.lines[0].path.replace("L", "M").count("M")
        assert points == len(trusted) - endless


def test_a_phase_that_evidence_ended_early_is_hollow():
    said = PHASES[3].verdicts
    early = replace(PHASES[3], verdicts=(replace(said[0], evidence="certain"), *said[1:]))
    for chart in charts(GPT.tiers, (PHASES[0], early, replace(PHASES[1], short=True))):
        assert [(m.data["phase"], m.hollow) for m in chart.marks] == [
            ("1", False),
            ("2", True),
            ("4", True),
        ]
        assert "Phase 4, 64 agents, ended early\n" in chart.marks[2].title
        assert "Phase 2, 16 agents, short\n" in chart.marks[1].title


def test_limits_without_a_picture_are_named():
    assert [chart.note for chart in charts(GPT.tiers, PHASES)] == ["", ""]
    first = GPT.tiers[0]
    more = (
        Limit(metric="ttft_s", statistic="p90", value=3.0),
        Limit(metric="e2e_s", statistic="p95", value=60.0),
    )
    tiers = (replace(first, limits=(*first.limits, *more)),)
    speed, ttft = charts(tiers, PHASES)
    assert speed.note == (
        "limits that are judged and not drawn: slo-1 P90 TTFT ≤ 3 s, slo-1 P95 E2E latency ≤ 60 s"
    )
    assert ttft.note == ""
