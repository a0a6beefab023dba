"""Several runs side by side: which of their answers may be ranked together, and in what order.

An answer is that of a model, a tier with its limits, a dataset and a procedure. Where any of these
differ the numbers mean different things: they stand in lists of their own. A simulated system, a
smoke run, or a search without an answer has no rank anywhere.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_agentperf import words
from pytest_agentperf.bundle import Bundle, ModelRun
from pytest_agentperf.conformance import is_conformant
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.settings import Settings, option_name
from pytest_agentperf.slo import SLOTier

__all__ = ["Entry", "Standing", "standings"]

_PROCEDURE = (
    "mode", "gate", "start_spread_s", "settle_s", "min_trajectories",
    "min_trajectories_per_agent", "min_steady_s", "request_timeout_s", "tool_delay", "max_tool_s",
    "salt", "output", "max_tokens", "speed", "client",
)  # fmt: skip
"""Settings that say what a phase measures; the others say where, with what, and which phases. Other
seeds make noise, which intervals are for."""
_NOT_RANKED = {
    "invalid": "invalid: the search has no answer",
    "open": "not finished",
    "below": "only one number was asked about",
    "unclear": "only one number was asked about",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run's answer for one tier."""

    bundle: Bundle
    run: ModelRun
    tier: SLOTier
    capacity: Capacity
    rank: int | None = None
    """Place in its list; entries whose intervals meet share one. ``None``: it has none."""
    reason: str = ""
    """Why it has none."""

    @property
    def label(self) -> str:
        """What the run calls the system."""
        bundle = self.bundle
        return bundle.system.name if bundle.system else "system not described"

    @property
    def conformant(self) -> bool:
        """Tell whether no rule of the methodology is known to be broken."""
        rules = self.run.conformance
        return bool(rules) and is_conformant(rules) and self.bundle.settings.mode == "exact"

    @property
    def not_met(self) -> int:
        """Rules that are not met."""
        return sum(rule.status == "not met" for rule in self.run.conformance)

    @property
    def phases(self) -> tuple[int, int]:
        """Phases of this model, and those of them that cannot be trusted."""
        own = [p for p in self.bundle.phases if p.model == self.run.spec.model]
        return len(own), sum(bool(p.invalid) for p in own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Answers that mean the same, best first."""

    model: str
    tier: SLOTier
    dataset: str
    sha256: str
    conditions: tuple[tuple[str, str], ...]
    """In what this list differs from the default procedure, or from other lists of this tier."""
    by: str
    """What it is ordered by: ``per_accelerator`` where all entries have it, else ``agents``."""
    entries: tuple[Entry, ...]


def standings(bundles: Sequence[Bundle]) -> tuple[Standing, ...]:
    """Return one list for every model, tier, dataset and procedure that occurs."""
    groups: dict[Any, list[Entry]] = {}
    for bundle in bundles:
        for entry in _entries(bundle):
            groups.setdefault(_key(entry), []).append(entry)
    ordered = sorted(groups.values(), key=lambda g: (g[0].tier.model, g[0].tier.name))
    return tuple(_standing(group) for group in ordered)


def _entries(bundle: Bundle) -> Iterator[Entry]:
    for run in bundle.models:
        tiers = {tier.name: tier for tier in run.spec.tiers}
        for capacity in bundle.capacities:
            if capacity.model == run.spec.model and capacity.tier in tiers:
                yield Entry(bundle=bundle, run=run, tier=tiers[capacity.tier], capacity=capacity)


def _key(entry: Entry) -> Any:
    tier, spec, data = entry.tier, entry.run.spec, entry.run.dataset
    return (
        tier.model,
        tier.name,
        frozenset((limit.name, limit.value) for limit in tier.limits),
        tier.max_error_ratio,
        data.sha256,
        data.prompts,
        spec.context_tokens,
        tuple(sorted((key, str(value)) for key, value in spec.request.items())),
        tuple(str(getattr(entry.bundle.settings, name)) for name in _PROCEDURE),
        entry.bundle.provenance.simulated,
    )


def _standing(group: Sequence[Entry]) -> Standing:
    first = group[0]
    can = [e for e in group if not _reason(e)]
    by_accelerator = bool(can) and all(e.capacity.per.per_accelerator is not None for e in can)
    by = "per_accelerator" if by_accelerator else "agents"
    ranked = _ranked(sorted(can, key=lambda e: -_value(e, by)), by)
    rest = [replace(e, reason=_reason(e)) for e in group if _reason(e)]
    return Standing(
        model=first.tier.model,
        tier=first.tier,
        dataset=first.run.dataset.name,
        sha256=first.run.dataset.sha256,
        conditions=tuple(_conditions(first)),
        by=by,
        entries=(*ranked, *rest),
    )


def _reason(entry: Entry) -> str:
    """Return why an answer has no rank; empty where it has one."""
    if entry.bundle.provenance.simulated:
        return "simulated: no measurement"
    if entry.bundle.settings.mode == "smoke":
        return "smoke run: no measurement"
    return _NOT_RANKED.get(entry.capacity.status, "")


def _ranked(ordered: Sequence[Entry], by: str) -> list[Entry]:
    """Give places; who may be as good as the first one of a place shares it."""
    found: list[Entry] = []
    place, least = 0, math.inf
    for number, entry in enumerate(ordered, 1):
        low, high = _ends(entry, by)
        if high < least or not place:
            place, least = number, low
        found.append(replace(entry, rank=place))
    return found


def _value(entry: Entry, by: str) -> float:
    agents = entry.capacity.agents
    return agents if by == "agents" else entry.capacity.per.per_accelerator or 0.0


def _ends(entry: Entry, by: str) -> tuple[float, float]:
    """Return the least and the greatest value that the phases of an answer allow."""
    found = entry.capacity
    low = found.agents if found.agents_low is None else found.agents_low
    high = found.agents if found.agents_high is None else found.agents_high
    scale = _value(entry, by) / found.agents if found.agents else 0.0
    return low * scale, math.inf if found.status == "at-limit" else high * scale


def _conditions(entry: Entry) -> Iterator[tuple[str, str]]:
    usual, own = Settings(), entry.bundle.settings
    for name in _PROCEDURE:
        if getattr(own, name) != getattr(usual, name):
            yield option_name(name), str(getattr(own, name))
    if entry.bundle.provenance.simulated:
        yield "endpoint", "simulated"
    data = entry.run.dataset
    yield "prompts", words.number(data.prompts)
    yield "context", f"{words.number(entry.run.spec.context_tokens)} tokens"
