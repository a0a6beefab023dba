"""Several runs side by side: which of their answers may be ranked together, and in what order.

An answer is that of a model, a tier with its limits, a dataset and a procedure. Where any of these
differ the numbers mean different things: they stand in lists of their own. What was not measured,
not searched or not answered, or stands on hardware that is in doubt, has no rank anywhere.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from pytest_agentperf import words
from pytest_agentperf.bundle import Bundle, ModelRun
from pytest_agentperf.conformance import is_conformant
from pytest_agentperf.ledger import max_tokens
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.settings import Settings, compared, option_name
from pytest_agentperf.slo import ModelSpec, SLOTier

__all__ = ["Entry", "Standing", "standings"]

_SETTINGS = ("mode", *(name for name in compared() if name != "max_tokens"))
"""Settings that say what a phase measures; `max_tokens` counts by what it comes to."""
_VERIFIED = "verified only"
_NOT_RANKED = {
    "invalid": "invalid: the search has no answer",
    "open": "not finished",
    "unsupported": "not even one agent",
    "below": _VERIFIED,
    "unclear": _VERIFIED,
}
_COUNT = "declares accelerators.count:"
"""What a contradiction of the number of accelerators says."""
_UNDECLARED = "accelerators not declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run's answer for one tier."""

    bundle: Bundle
    run: ModelRun
    tier: SLOTier
    capacity: Capacity
    rank: int | None = None
    """One more than the entries that are better for certain; ``None``: it has none."""
    reason: str = ""
    """Why it has none."""

    @property
    def label(self) -> str:
        """What the run calls the system."""
        bundle = self.bundle
        return bundle.system.name if bundle.system else "system not described"

    @property
    def accelerators(self) -> int | None:
        """How many are declared; ``None``: the run declares no system."""
        return self.bundle.system.accelerators if self.bundle.system else None

    @property
    def client(self) -> str:
        """Version of this package that made the load."""
        return self.bundle.provenance.versions.get("pytest-agentperf", "of unknown version")

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
    """In what this list differs from the default procedure, or may differ from other lists."""
    by: str
    """What it is ordered by: ``agents`` where no entry declares accelerators, else
    ``per_accelerator``."""
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
    settings, facts = entry.bundle.settings, entry.bundle.provenance
    return (
        tier.model,
        tier.name,
        frozenset((limit.name, limit.value) for limit in tier.limits),
        tier.max_error_ratio,
        data.sha256,
        data.prompts,
        spec.context_tokens,
        max_tokens(spec, settings),
        spec.reasoning_field,
        _request(spec),
        tuple(getattr(settings, name) for name in _SETTINGS),
        entry.client,
        facts.simulated,
    )


def _request(spec: ModelSpec) -> tuple[tuple[str, str], ...]:
    """Return the fields of every request, their values as JSON; 1 and 1.0 are one value."""
    fields = sorted(spec.request.items())
    whole = ((k, int(v) if isinstance(v, float) and v.is_integer() else v) for k, v in fields)
    return tuple((k, msgspec.json.encode(v, order="sorted").decode()) for k, v in whole)


def _standing(group: Sequence[Entry]) -> Standing:
    first = group[0]
    by = "per_accelerator" if any(e.accelerators and not _reason(e) for e in group) else "agents"
    lacking = _UNDECLARED if by == "per_accelerator" else ""
    judged = [replace(e, reason=_reason(e) or ("" if e.accelerators else lacking)) for e in group]
    ranked = _ranked([e for e in judged if not e.reason], by)
    return Standing(
        model=first.tier.model,
        tier=first.tier,
        dataset=first.run.dataset.name,
        sha256=first.run.dataset.sha256,
        conditions=tuple(_conditions(first)),
        by=by,
        entries=(*ranked, *(e for e in judged if e.reason)),
    )


def _reason(entry: Entry) -> str:
    """Return why an answer has no rank in any list; empty where it may have one."""
    bundle = entry.bundle
    doubts = [line for line in bundle.contradictions if _COUNT in line]
    reasons = (
        "simulated: no measurement" if bundle.provenance.simulated else "",
        "judged again: no measurement" if bundle.rescored is not None else "",
        "smoke run: no measurement" if bundle.settings.mode == "smoke" else "",
        _VERIFIED if bundle.settings.gate != "search" else "",
        _NOT_RANKED.get(entry.capacity.status, ""),
        *doubts,
    )
    return next((reason for reason in reasons if reason), "")


def _ranked(entries: Sequence[Entry], by: str) -> list[Entry]:
    """Give every entry a rank: one more than there are whose least lies above its greatest."""
    lows = [_ends(e, by)[0] for e in entries]
    found = [replace(e, rank=1 + sum(low > _ends(e, by)[1] for low in lows)) for e in entries]
    return sorted(found, key=lambda e: (e.rank or 0, -e.capacity.agents / _divisor(e, by)))


def _divisor(entry: Entry, by: str) -> int:
    return entry.accelerators or 1 if by == "per_accelerator" else 1


def _ends(entry: Entry, by: str) -> tuple[float, float]:
    """Return the least and the greatest value that the phases of an answer allow.

    A greatest that is not known has no end. One quotient each, so that equal
    ratios of different systems are equal numbers.
    """
    found = entry.capacity
    low = found.agents if found.agents_low is None else found.agents_low
    high = found.agents_high
    if high is None or found.status == "at-limit":
        high = math.inf
    divisor = _divisor(entry, by)
    return low / divisor, high / divisor


def _conditions(entry: Entry) -> Iterator[tuple[str, str]]:
    usual, own, spec = Settings(), entry.bundle.settings, entry.run.spec
    for name in _SETTINGS:
        if getattr(own, name) != getattr(usual, name):
            yield option_name(name), str(getattr(own, name))
    if entry.bundle.provenance.simulated:
        yield "endpoint", "simulated"
    yield "prompts", words.number(entry.run.dataset.prompts)
    yield "context", f"{words.number(spec.context_tokens)} tokens"
    yield "answers up to", f"{words.number(max_tokens(spec, own))} tokens"
    for name, value in _request(spec):
        yield "request field", f"{name} = {value}"
    yield "reasoning in", spec.reasoning_field
    yield "pytest-agentperf", entry.client
