"""One number of agents instead of a search."""

from dataclasses import replace

import pytest

from pytest_agentperf.answers import verified
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.slo import judge
from tests.gated import AGENTS, run

TIER = run().models[0].spec.tiers[0]  # P25 speed of 100 tok/s


def _phase(speed: float, *, invalid: bool = False, half_ratio: float = 0.005) -> PhaseResult:
    phase = run(speed=speed, half_ratio=half_ratio, invalid=invalid).phases[0]
    said = judge(TIER, phase.metrics, invalid=phase.invalid)
    return replace(phase, verdicts=(said,))


@pytest.mark.parametrize(
    ("phases", "status", "label"),
    [
        ([], "open", "not finished (0 passed)"),
        ([_phase(101)], "at-limit", "≥ 35"),
        ([_phase(90)], "below", "< 35"),
        ([_phase(99, half_ratio=0.02)], "unclear", "about 35"),
        ([_phase(99, half_ratio=0.005)], "below", "< 35"),
        ([_phase(101, invalid=True)], "open", "not finished (0 passed)"),
        ([_phase(101, invalid=True)] * 2, "invalid", "invalid"),
        ([_phase(101, invalid=True), _phase(101)], "at-limit", "≥ 35"),
        ([replace(_phase(101), agents=34)], "open", "not finished (0 passed)"),
        ([replace(_phase(101), short=True)], "open", "not finished (0 passed)"),
    ],
    ids=[
        "not measured",
        "carried",
        "missed",
        "missed by less than its noise",
        "missed by more than its noise",
        "invalid once",
        "invalid twice",
        "invalid and then carried",
        "other agents",
        "a short phase",
    ],
)
def test_verified(phases: list[PhaseResult], status: str, label: str) -> None:
    found = verified(phases, TIER, AGENTS, None)
    assert (found.status, found.label) == (status, label)


def test_what_was_missed_is_named() -> None:
    found = verified([_phase(90)], TIER, AGENTS, None)
    assert (found.agents, found.first_failing) == (0, AGENTS)
    assert found.limited_by == ("output_speed_tok_per_s.p25",)
    assert "carries < 35 agents; asked for at least 48" in found.explanation
    assert found.per.per_accelerator is None


def test_what_is_carried_counts_as_so_many() -> None:
    found = verified([_phase(101)], TIER, AGENTS, run().system)
    assert (found.agents, found.passing_phase, found.limited_by) == (AGENTS, 1, ())
    assert found.per.per_accelerator == 35 / 8
