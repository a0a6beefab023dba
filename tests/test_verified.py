"""One number of agents instead of a search."""

from dataclasses import replace

import pytest

from pytest_agentperf.answers import verified
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.slo import judge
from tests.bundles import SYSTEM
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


@pytest.mark.parametrize(
    ("phase", "carried"),
    [
        (_phase(101), [True, True, None]),
        (_phase(90), [None, False, False]),
        (_phase(99, half_ratio=0.02), [None, None, None]),
        (_phase(101, invalid=True), [None, None, None]),
    ],
    ids=["carried", "missed", "unclear", "invalid"],
)
def test_one_number_says_nothing_of_others_beyond_it(
    phase: PhaseResult, carried: list[bool | None]
) -> None:
    found = verified([phase], TIER, AGENTS, None)
    assert [found.carries(AGENTS + by) for by in (-1, 0, 1)] == carried


def test_a_search_answers_for_every_number_up_to_its_limit() -> None:
    carried = verified([_phase(101)], TIER, AGENTS, None)
    found = replace(carried, status="found", first_failing=AGENTS + 2)
    assert [found.carries(AGENTS + by) for by in (-1, 0, 1, 2)] == [True, True, False, False]
    none = replace(carried, agents=0, status="unsupported")
    assert none.carries(1) is False


def test_what_is_not_certain_is_not_divided() -> None:
    found = verified([_phase(99, half_ratio=0.02)], TIER, AGENTS, SYSTEM)
    assert (found.status, found.per.per_accelerator) == ("unclear", None)
    assert found.throughput_per.per_usd_per_hour is None
    assert found.per.missing["per_accelerator"] == "no answer to divide"
    assert verified([_phase(101)], TIER, AGENTS, SYSTEM).per.per_accelerator == AGENTS / 8


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
