"""Phases over agents: where marks and their intervals lie."""

import math
from dataclasses import replace

import pytest

from pytest_agentperf.chart import charts
from pytest_agentperf.evidence import Interval
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
