"""What a tier's capacity says of the phases it was found by."""

from dataclasses import replace
from math import inf

import pytest

from pytest_agentperf.answers import capacity_of
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.evidence import Interval
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.power import MeterPower, Power
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, SLOTier, judge
from pytest_agentperf.system import System
from tests.phases import metrics, request

TIER = SLOTier(
    model="m", name="slo-1", limits=(Limit(metric="ttft_s", statistic="p95", value=2.0),)
)
SETTINGS = make_settings({"start_agents": 8, "max_agents": 64})
NO_POWER = Power(mean_w=None, energy_j=None, devices=0, samples=0, coverage=0.0, reason="no meter")


def phase(number: int, found: Metrics, *, invalid: tuple[str, ...] = ()) -> PhaseResult:
    return PhaseResult(
        number=number, model="m", agents=found.agents, started_s=0.0,
        duration_s=100.0 * found.agents, metrics=found, power=NO_POWER, checks=(),
        verdicts=(judge(TIER, found, invalid=invalid),),
    )  # fmt: skip


def late(agents: int, ttft_s: float) -> Metrics:
    return metrics(request(ttft_s=ttft_s), agents=agents)


def test_a_capacity_counts_what_its_search_needed():
    phases = (
        phase(1, late(8, 1.0)),
        phase(2, late(16, 3.0)),
        phase(3, late(32, 9.0)),  # above a failure: for another tier
        phase(4, late(11, 0.1), invalid=("too late",)),
        phase(5, late(11, 1.9)),
        phase(6, late(12, 2.1)),
    )
    found = capacity_of(phases, TIER, SETTINGS, None)
    assert (found.agents, found.first_failing, found.status) == (11, 12, "found")
    # TTFT goes from 0.5 to 1.5 of its limit for twice the agents: 1 at 8 × 2 ** (ln 2 / ln 3) =
    # 12.4, so that 12 would be next and the invalid phase was none of this search's.
    assert (found.phases_used, found.measured_s) == (4, 4700.0)


def test_a_capacity_has_the_interval_that_its_phases_allow():
    phases = (
        phase(1, late(8, 1.0)), phase(2, late(16, 4.0)), phase(3, late(11, 1.95)),
        phase(4, late(12, 2.1)),
    )  # fmt: skip
    found = capacity_of(phases, TIER, SETTINGS, None)
    # 0.5 at 8 and 0.975 at 11, 1.05 at 12: 0.98 at 11.07, 1.02 at 11.6.
    assert (found.agents_low, found.agents_high) == (11, 11)


def test_phases_that_are_unsure_of_what_binds_widen_the_interval():
    sure = phase(1, late(8, 1.0)), phase(2, late(16, 4.0)), phase(4, late(12, 2.1))
    # Half of 1.755 to 2.145 is 10 % of 1.95.
    wide = Interval(low=1.755, high=2.145, estimate=1.95, n=100, se=0.02)
    passing = replace(phase(3, late(11, 1.95)), intervals={"ttft_s.p95": wide})
    found = capacity_of((*sure, passing), TIER, SETTINGS, None)
    # 0.5 at 8 and 0.975 at 11: 0.9 at 8 × (11 / 8) ** (ln 1.8 / ln 1.95) = 10.6; 1.05 at 12 and 2
    # at 16: 1.1 at 12 × (16 / 12) ** (ln (1.1 / 1.05) / ln (2 / 1.05)) = 12.3.
    assert (found.agents, found.agents_low, found.agents_high) == (11, 10, 12)


@pytest.mark.parametrize("low", [2.0, inf], ids=["to infinity", "infinite"])
def test_a_figure_without_end_is_the_most_unsure(low: float):
    phases = phase(1, late(8, 1.0)), phase(2, late(16, 4.0)), phase(3, late(11, 1.95))
    boundless = Interval(low=low, high=inf, estimate=inf, n=100, se=0.02)
    failing = replace(phase(4, late(12, 2.1)), intervals={"ttft_s.p95": boundless})
    found = capacity_of((*phases, failing), TIER, SETTINGS, None)
    # Half of the limit at 8: anything down to there may be the greatest number.
    assert (found.agents, found.agents_low) == (11, 8)


def test_a_capacity_that_was_not_found_has_no_interval():
    found = capacity_of((phase(1, late(8, 1.0)),), TIER, SETTINGS, None)
    assert (found.status, found.agents_low, found.agents_high) == ("open", None, None)
    assert (found.phases_used, found.measured_s) == (1, 800.0)


def test_at_the_search_limit_there_is_no_greatest_number():
    found = capacity_of((phase(1, late(64, 1.0)),), TIER, SETTINGS, None)
    assert (found.status, found.agents_low, found.agents_high) == ("at-limit", 64, None)


def test_a_capacity_has_figures_at_the_wall_by_the_meters_of_the_chassis():
    draw = Power(mean_w=2500.0, energy_j=25_000.0, devices=1, samples=9, coverage=1.0, reason=None)
    wall = MeterPower(meter="ipmi", kind="ipmi", role="chassis", counted=True, power=draw)
    passes = replace(phase(1, late(8, 1.0)), meters=(wall,))
    found = capacity_of((passes, phase(2, late(9, 9.0))), TIER, SETTINGS, None)
    assert (found.agents, found.wall_power_w) == (8, 2500.0)
    assert found.per.per_megawatt_wall == 8 / 0.0025
    assert found.per.per_megawatt is None
    # Two nodes: half of their power would double their agents a megawatt.
    two = System(name="s", accelerator="a", accelerators=16, nodes=2)
    found = capacity_of((passes, phase(2, late(9, 9.0))), TIER, SETTINGS, two)
    assert (found.wall_power_w, found.per.per_megawatt_wall) == (None, None)
    assert "cover 1 of 2 nodes" in found.per.missing["per_megawatt_wall"]
