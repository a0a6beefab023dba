"""What the phases so far say of a tier: which to measure next, and the capacity found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from pytest_agentperf.aim import strain
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.explain import explain_capacity
from pytest_agentperf.modes import Search, make_search
from pytest_agentperf.normalize import (
    Capacity,
    Normalized,
    declared_power,
    declared_wall,
    joules_per_token,
    normalize,
)
from pytest_agentperf.search import ALIKE_RATIO, SearchResult
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import Finding, SLOTier
from pytest_agentperf.system import System

__all__ = ["capacity_of", "contradicts", "search_of", "verified"]

_TRIES = 2
_MOST_DOUBT = 0.5

_NO_PASS = "no passing phase"


def search_of(phases: Sequence[PhaseResult], tier: SLOTier, settings: Settings) -> Search:
    """Return a search that knows every phase, for whatever tier it was measured."""
    search, _ = _replay(phases, tier, settings)
    return search


def capacity_of(
    phases: Sequence[PhaseResult], tier: SLOTier, settings: Settings, system: System | None
) -> Capacity:
    """Return what a tier carries by these phases, normalised and explained.

    Args:
        phases: all phases of the tier's model.
        tier: the tier.
        settings: where the search starts and ends.
        system: what was measured, as declared; ``None`` when it was not.
    """
    search, needed = _replay(phases, tier, settings)
    found = search.result()
    passing = _phase_of(phases, tier, found.agents, "pass")
    failing = _phase_of(phases, tier, found.first_failing, "fail")
    doubt_ratio = _doubt_ratio(tier, [phase for phase in (passing, failing) if phase])
    answered = found.status not in {"invalid", "open"}
    return _answer(
        tier,
        system,
        _Found(
            agents=found.agents,
            status=found.status,
            first_failing=found.first_failing,
            limited_by=_limited_by(found, failing, tier),
            passing=passing,
            failing=failing,
            passes_above_failure=found.passes_above_failure,
            by_curve=found.by_curve,
            interval=search.interval(doubt_ratio) if answered else (None, None),
            needed=needed,
            invalid=[p for p in phases if p.verdict(tier.name).outcome == "invalid"],
        ),
    )


def verified(
    phases: Sequence[PhaseResult], tier: SLOTier, agents: int, system: System | None
) -> Capacity:
    """Return whether a tier carries one number of agents, which is all that was asked.

    The status is ``at-limit`` where it does, ``below`` where it does not, ``unclear`` where a limit
    is missed by no more than the phase itself is unsure, ``open`` before it was measured, and
    ``invalid`` where two phases could not be trusted. An invalid one is measured once more.

    Args:
        phases: all phases of the tier's model.
        tier: the tier.
        agents: how many are asked about.
        system: what was measured, as declared; ``None`` when it was not.
    """
    asked = [p for p in phases if p.agents == agents and p.met_floors]
    measured = [p for p in phases if p.agents == agents]
    phase = next((p for p in asked if not p.invalid), None)
    status = "invalid" if len(measured) >= _TRIES else "open"
    if phase is not None:
        status = _carried(phase, tier)
    missed = phase if phase is not None and status in {"below", "unclear"} else None
    return _answer(
        tier,
        system,
        _Found(
            agents=agents if status in {"at-limit", "unclear"} else 0,
            status=status,
            first_failing=agents if status == "below" else None,
            limited_by=_missed_by(missed, tier),
            passing=phase if status in {"at-limit", "unclear"} else None,
            failing=missed,
            passes_above_failure=(),
            by_curve=False,
            interval=(None, None),
            needed=measured,
            invalid=[p for p in measured if p.invalid],
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a search, or a look at one number, has found."""

    agents: int
    status: str
    first_failing: int | None
    limited_by: tuple[str, ...]
    passing: PhaseResult | None
    """Whose figures are those of the answer."""
    failing: PhaseResult | None
    passes_above_failure: tuple[int, ...]
    by_curve: bool
    interval: tuple[int | None, int | None]
    needed: Sequence[PhaseResult]
    invalid: Sequence[PhaseResult]


def _answer(tier: SLOTier, system: System | None, found: _Found) -> Capacity:
    """Return what was found, normalised and explained."""
    passing = found.passing
    throughput = passing.metrics.throughput_tok_per_s if passing else None
    mean_w, reason = declared_power(passing.power, system) if passing else (None, _NO_PASS)
    wall_w, no_wall = declared_wall(passing.wall, system) if passing else (None, _NO_PASS)
    # An unclear one has the figures of a phase that failed.
    answered = found.status not in {"invalid", "open", "below", "unclear"}
    energy_j, no_energy = joules_per_token(
        throughput if answered else None, mean_power_w=mean_w, power_reason=reason
    )

    def per(value: float | None) -> Normalized:
        return normalize(
            value if answered else None,
            system,
            mean_power_w=mean_w,
            power_reason=reason,
            wall_power_w=wall_w,
            wall_reason=no_wall,
        )

    low, high = found.interval
    capacity = Capacity(
        model=tier.model,
        tier=tier.name,
        agents=found.agents,
        status=found.status,
        first_failing=found.first_failing,
        limited_by=found.limited_by,
        passing_phase=passing.number if passing else None,
        failing_phase=found.failing.number if found.failing else None,
        passes_above_failure=found.passes_above_failure,
        by_curve=found.by_curve,
        throughput_tok_per_s=throughput,
        mean_power_w=mean_w,
        wall_power_w=wall_w,
        per=per(found.agents),
        throughput_per=_with_reason(per(throughput), "energy_j_per_output_token", no_energy),
        energy_j_per_output_token=energy_j,
        agents_low=low,
        agents_high=high,
        phases_used=len(found.needed),
        measured_s=sum(phase.duration_s for phase in found.needed),
    )
    text = explain_capacity(
        tier, capacity, passing=passing, failing=found.failing, invalid=found.invalid
    )
    return replace(capacity, explanation=text)


def _carried(phase: PhaseResult, tier: SLOTier) -> str:
    verdict = phase.verdict(tier.name)
    if verdict.outcome != "fail":
        return "at-limit" if verdict.outcome == "pass" else "invalid"
    unsure = all(_within_doubt(phase, f) for f in verdict.findings if not f.met)
    return "unclear" if unsure else "below"


def _doubt_ratio(tier: SLOTier, beside: Sequence[PhaseResult]) -> float:
    """Return how unsure the phases beside an answer are of the limit that binds in each (0-1).

    It is half the width of their 95 % interval, over the figure; 2 % at least, by which any two
    phases differ, and half at most.
    """
    ratios = [ALIKE_RATIO]
    for phase in beside:
        findings = phase.verdict(tier.name).findings
        binding = max(findings, key=strain, default=None)
        interval = phase.intervals.get(binding.limit) if binding is not None else None
        if interval is not None and interval.estimate > 0:
            half = (interval.high - interval.low) / 2 / interval.estimate
            # Where answers are missing a percentile has no end: then least is known.
            ratios.append(min(half, _MOST_DOUBT) if isfinite(half) else _MOST_DOUBT)
    return max(ratios)


def _within_doubt(phase: PhaseResult, finding: Finding) -> bool:
    """Tell whether the interval of what missed a limit reaches the limit."""
    interval = phase.intervals.get(finding.limit)
    return interval is not None and interval.low <= finding.bound <= interval.high


def contradicts(now: Capacity, given: Capacity) -> bool:
    """Tell whether a number that was given as carried, or a smaller one, has failed since."""
    return now.first_failing is not None and now.first_failing <= given.agents


def _replay(
    phases: Sequence[PhaseResult], tier: SLOTier, settings: Settings
) -> tuple[Search, list[PhaseResult]]:
    """Return a search that knows every phase, and those that it needed."""
    search = make_search(settings)
    needed = [
        phase
        for phase in phases
        if search.record(phase.agents, phase.verdict(tier.name), short=phase.short)
    ]
    return search, needed


def _limited_by(found: SearchResult, failing: PhaseResult | None, tier: SLOTier) -> tuple[str, ...]:
    if failing is not None:
        return _missed_by(failing, tier)
    return ("search limit",) if found.status == "at-limit" else ()


def _missed_by(failing: PhaseResult | None, tier: SLOTier) -> tuple[str, ...]:
    findings = failing.verdict(tier.name).findings if failing is not None else ()
    return tuple(f.limit for f in findings if not f.met)


def _with_reason(per: Normalized, name: str, reason: str | None) -> Normalized:
    return per if reason is None else replace(per, missing={**per.missing, name: reason})


def _phase_of(
    phases: Sequence[PhaseResult], tier: SLOTier, agents: int | None, outcome: str
) -> PhaseResult | None:
    found = [p for p in phases if p.agents == agents and p.verdict(tier.name).outcome == outcome]
    return min(found, key=lambda p: p.short, default=None)
