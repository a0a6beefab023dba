"""What the phases so far say of a tier: which to measure next, and the capacity found."""

from collections.abc import Sequence
from dataclasses import replace

from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.explain import explain_capacity
from pytest_agentperf.modes import Search, make_search
from pytest_agentperf.normalize import Capacity, Normalized, joules_per_token, normalize
from pytest_agentperf.power import Power
from pytest_agentperf.search import SearchResult
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import SLOTier
from pytest_agentperf.system import System

__all__ = ["capacity_of", "contradicts", "search_of"]

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
    throughput = passing.metrics.throughput_tok_per_s if passing else None
    mean_w, reason = _mean_power(passing.power if passing else None, system)
    wall = passing.wall if passing else None
    wall_w, no_wall = (wall.mean_w, wall.reason) if wall else (None, _NO_PASS)
    answered = found.status not in {"invalid", "open"}
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

    low, high = search.interval() if answered else (None, None)
    capacity = Capacity(
        model=tier.model,
        tier=tier.name,
        agents=found.agents,
        status=found.status,
        first_failing=found.first_failing,
        limited_by=_limited_by(found, failing, tier),
        passing_phase=passing.number if passing else None,
        failing_phase=failing.number if failing else None,
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
        phases_used=len(needed),
        measured_s=sum(phase.duration_s for phase in needed),
    )
    invalid = [p for p in phases if p.verdict(tier.name).outcome == "invalid"]
    text = explain_capacity(tier, capacity, passing=passing, failing=failing, invalid=invalid)
    return replace(capacity, explanation=text)


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
        return tuple(f.limit for f in failing.verdict(tier.name).findings if not f.met)
    return ("search limit",) if found.status == "at-limit" else ()


def _with_reason(per: Normalized, name: str, reason: str | None) -> Normalized:
    return per if reason is None else replace(per, missing={**per.missing, name: reason})


def _mean_power(power: Power | None, system: System | None) -> tuple[float | None, str | None]:
    """Return watts, or why there are none: other devices than the declared are no answer."""
    if power is None:
        return None, _NO_PASS
    declared = system.accelerators if system else None
    if power.mean_w is not None and declared not in {None, power.devices}:
        return None, f"the meter reads {power.devices} devices, {declared} are declared"
    return power.mean_w, power.reason


def _phase_of(
    phases: Sequence[PhaseResult], tier: SLOTier, agents: int | None, outcome: str
) -> PhaseResult | None:
    found = [p for p in phases if p.agents == agents and p.verdict(tier.name).outcome == outcome]
    return min(found, key=lambda p: p.short, default=None)
