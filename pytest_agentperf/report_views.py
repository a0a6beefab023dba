"""A run as the report shows it: bundle and records joined for the templates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_agentperf.bundle import Bundle, ModelRun, PhaseResult
from pytest_agentperf.chart import charts
from pytest_agentperf.conformance import is_conformant
from pytest_agentperf.metrics import OTHER_REASONS
from pytest_agentperf.normalize import PER, Capacity, declared_power, joules_per_token
from pytest_agentperf.phase_charts import phase_charts
from pytest_agentperf.plots import Plot
from pytest_agentperf.profile import MOST_REASONS, Group, PhaseProfile
from pytest_agentperf.records import ClockOffset
from pytest_agentperf.run_records import RunRecords
from pytest_agentperf.settings import Settings, knobs, option_name
from pytest_agentperf.slo import SLOTier

__all__ = [
    "UNFINISHED",
    "FailureView",
    "MeterView",
    "ModelView",
    "PhaseView",
    "PowerRow",
    "meter_views",
    "model_view",
    "power_rows",
    "setting_rows",
]

UNFINISHED = {"open": "the search has not finished", "invalid": "the search ended invalid"}
_ENERGY = "energy_j_per_output_token"
_BY = {
    "isl": "By input length, tokens",
    "turn": "By turn of the trajectory",
    "tool": "By the tool whose result it brings",
    "language": "By language of the session",
}
_ROLES = {"accelerator": "accelerators", "chassis": "the wall", "cpu": "processors"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureView:
    """One reason of failure in a phase; times are unknown where only the bundle is there."""

    reason: str
    requests: int
    agents: int | None = None
    first_s: float | None = None
    last_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseView:
    """One phase with what was recorded beside the bundle."""

    phase: PhaseResult
    charts: tuple[Plot, ...]
    profile: PhaseProfile | None
    brackets: bool
    """An answer rests on it: it is printed in full."""
    failures: tuple[FailureView, ...]
    other_reasons: str
    """How many further reasons there are; empty: none."""
    other_failed: int

    @property
    def outcomes(self) -> Mapping[str, Sequence[str]]:
        """Return the tiers by outcome."""
        found: dict[str, list[str]] = {}
        for verdict in self.phase.verdicts:
            found.setdefault(verdict.outcome, []).append(verdict.tier)
        return found

    @property
    def has_band(self) -> bool:
        """Tell whether any picture shows the steady window."""
        return any(chart.band for chart in self.charts)

    @property
    def groups(self) -> Sequence[tuple[str, str, Sequence[Group], int]]:
        """Return title, key, kinds of requests, and how many kinds the last one holds."""
        if self.profile is None:
            return ()
        together, by = self.profile.taken_together, self.profile.by
        return [(_BY[key], key, by[key], together.get(key, 0)) for key in _BY if by.get(key)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model, joined for the templates."""

    run: ModelRun
    phases: tuple[PhaseView, ...]
    tiers: tuple[tuple[SLOTier, Capacity | None], ...]
    conformant: bool
    counts: Mapping[str, int]
    """Rules by status."""
    notes: Mapping[str, int]
    """Footnotes of the normalised table: text and number."""
    not_counted: frozenset[tuple[int, str]]
    """Agents and tier of passes above a failure."""
    charts: tuple[Plot, ...]
    failures: tuple[tuple[str, int, Sequence[int]], ...]
    """The most frequent reasons of all phases, how many requests, and the phases."""
    other_reasons: str
    other_failed: int

    @property
    def any_normalised(self) -> bool:
        """Tell whether any capacity could be divided by anything."""
        return any(
            c is not None and getattr(c.per, name) is not None
            for _, c in self.tiers
            for name in PER
        )

    @property
    def cuts(self) -> Sequence[str]:
        """Return what made phases shorter than an answer needs: ``short``, ``ended early``."""
        return sorted({view.phase.cut for view in self.phases} - {""}, reverse=True)

    @property
    def any_interval(self) -> bool:
        """Tell whether a phase says how sure it is."""
        return any(view.phase.intervals for view in self.phases)

    @property
    def requests(self) -> int:
        """Requests of all steady windows."""
        return sum(view.phase.metrics.requests for view in self.phases)

    @property
    def failed(self) -> int:
        """Failed requests of all steady windows."""
        return sum(view.phase.metrics.failed for view in self.phases)

    def note(self, capacity: Capacity, name: str) -> int:
        """Return the number of the footnote on one normalised value."""
        return self.notes[_note(capacity, name)]

    def phase(self, number: int | None) -> PhaseResult | None:
        """Return a phase of this model by number."""
        return next((v.phase for v in self.phases if v.phase.number == number), None)


def model_view(run: ModelRun, bundle: Bundle, records: RunRecords) -> ModelView:
    """Join what is known of one model."""
    model = run.spec.model
    phases = tuple(p for p in bundle.phases if p.model == model)
    capacities = {c.tier: c for c in bundle.capacities if c.model == model}
    statuses = [rule.status for rule in run.conformance]
    bracketing = {n for c in capacities.values() for n in (c.passing_phase, c.failing_phase)}
    reasons, folded = _reasons(phases)
    return ModelView(
        run=run,
        phases=tuple(
            _phase_view(p, run.spec.tiers, records, brackets=p.number in bracketing) for p in phases
        ),
        tiers=tuple((tier, capacities.get(tier.name)) for tier in run.spec.tiers),
        conformant=is_conformant(run.conformance) and bundle.settings.mode != "smoke",
        counts={s: statuses.count(s) for s in ("met", "not met", "not checkable")},
        notes=_notes(capacities.values()),
        not_counted=frozenset(
            (agents, c.tier) for c in capacities.values() for agents in c.passes_above_failure
        ),
        charts=charts(run.spec.tiers, phases),
        failures=tuple(reasons[:MOST_REASONS]),
        other_reasons=_others(len(reasons[MOST_REASONS:]), folded),
        other_failed=sum(count for _, count, _ in reasons[MOST_REASONS:]) + folded,
    )


def _phase_view(
    phase: PhaseResult, tiers: Sequence[SLOTier], records: RunRecords, *, brackets: bool
) -> PhaseView:
    profile = records.profile(phase)
    errors = dict(phase.metrics.errors)
    folded = errors.pop(OTHER_REASONS, 0)
    ordered = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    known = {f.reason: f for f in profile.failures} if profile else {}
    rest = ordered[MOST_REASONS:]
    return PhaseView(
        phase=phase,
        charts=phase_charts(phase, tiers, records.timeline(phase), profile),
        profile=profile,
        brackets=brackets,
        failures=tuple(
            FailureView(
                reason=reason,
                requests=count,
                agents=known[reason].agents if reason in known else None,
                first_s=known[reason].first_s if reason in known else None,
                last_s=known[reason].last_s if reason in known else None,
            )
            for reason, count in ordered[:MOST_REASONS]
        ),
        other_reasons=_others(len(rest), folded),
        other_failed=sum(count for _, count in rest) + folded,
    )


def _others(reasons: int, folded: int) -> str:
    """Say how many reasons are not listed; requests that were counted without theirs have some."""
    if folded:
        return f"at least {reasons + 1:,} other reasons"
    return f"{reasons:,} other reason{'s' if reasons > 1 else ''}" if reasons else ""


def _reasons(
    phases: Iterable[PhaseResult],
) -> tuple[list[tuple[str, int, Sequence[int]]], int]:
    """Return reasons, the most frequent first, and how many requests have one without a name."""
    folded = 0
    counts: dict[str, int] = {}
    numbers: dict[str, list[int]] = {}
    for phase in phases:
        for reason, count in phase.metrics.errors.items():
            if reason == OTHER_REASONS:
                folded += count
                continue
            counts[reason] = counts.get(reason, 0) + count
            numbers.setdefault(reason, []).append(phase.number)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(reason, count, numbers[reason]) for reason, count in ordered], folded


def _notes(capacities: Iterable[Capacity]) -> Mapping[str, int]:
    texts = [
        _note(c, name)
        for c in capacities
        for name in (*PER, _ENERGY)
        if c.status in UNFINISHED or getattr(c if name == _ENERGY else c.per, name) is None
    ]
    return {text: number for number, text in enumerate(dict.fromkeys(texts), 1)}


def _note(capacity: Capacity, name: str) -> str:
    if capacity.status in UNFINISHED:
        return f"{capacity.tier}: {UNFINISHED[capacity.status]}"
    missing = capacity.throughput_per.missing if name == _ENERGY else capacity.per.missing
    reason = missing.get(name, "not known")
    if name == _ENERGY:
        return f"J per token: {reason}"
    if name in {"per_megawatt", "per_megawatt_wall"}:
        return f"per {PER[name]}: {reason}"
    return f"not given: {reason}" if reason.startswith("system.yaml") else reason


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterView:
    """One meter over the whole run."""

    name: str
    reads: str
    devices: int
    idle_w: float | None
    idle_reason: str | None
    coverage: float | None
    """The least of all phases."""
    gap_s: float | None
    """The largest of all phases."""
    clock: ClockOffset | None


def meter_views(bundle: Bundle) -> Sequence[MeterView]:
    """Return what every meter said of idleness and of all phases."""
    idle = {each.meter: each for each in bundle.idle or ()}
    seen = {each.meter: each for phase in bundle.phases for each in phase.meters}
    return [_meter_view(name, idle, seen, bundle) for name in dict.fromkeys((*idle, *seen))]


def _meter_view(
    name: str, idle: Mapping[str, Any], seen: Mapping[str, Any], bundle: Bundle
) -> MeterView:
    told = seen.get(name) or idle[name]
    powers = [m.power for phase in bundle.phases for m in phase.meters if m.meter == name]
    gaps = [p.largest_gap_s for p in powers if p.largest_gap_s is not None]
    before = idle[name].power if name in idle else None
    return MeterView(
        name=name,
        reads=_ROLES[told.role] + ("" if told.counted else ", read once more: not counted"),
        devices=told.power.devices,
        idle_w=before.mean_w if before else None,
        idle_reason=before.reason if before else "not measured",
        coverage=min((p.coverage for p in powers), default=None),
        gap_s=max(gaps, default=None),
        clock=told.clock,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRow:
    """What one phase drew."""

    phase: PhaseResult
    state: str
    """Why its figures are none of an answer: ``invalid``, ``short``, ``ended early``; or empty."""
    energy_j_per_output_token: float | None
    reason: str | None
    """Why a figure is not given."""


def power_rows(bundle: Bundle) -> Sequence[PowerRow]:
    """Return what every phase drew, by the rule that capacities are normalised by."""
    return [_power_row(phase, bundle) for phase in bundle.phases]


def _power_row(phase: PhaseResult, bundle: Bundle) -> PowerRow:
    mean_w, no_power = declared_power(phase.power, bundle.system)
    energy_j, reason = joules_per_token(
        phase.metrics.throughput_tok_per_s, mean_power_w=mean_w, power_reason=no_power
    )
    return PowerRow(
        phase=phase,
        state="invalid" if phase.invalid else phase.cut,
        energy_j_per_output_token=energy_j,
        reason=reason,
    )


def setting_rows(settings: Settings) -> list[dict[str, Any]]:
    """Return a row per knob, those that are not at their default first."""
    rows: list[dict[str, Any]] = []
    for knob in knobs():
        value, default = getattr(settings, knob.name), getattr(Settings(), knob.name)
        rows.append(
            {
                "option": option_name(knob.name),
                "name": knob.name,
                "value": value,
                "default": default,
                "changed": value != default,
                "help": knob.metadata["help"],
            }
        )
    return sorted(rows, key=lambda row: not row["changed"])
