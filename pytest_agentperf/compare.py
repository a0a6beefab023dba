"""Two runs of one thing, figure by figure: what regressed, what improved, what cannot be told.

A figure that the baseline has and this run lacks is *not comparable*, which is an error: what was
not measured has not passed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, geometric_mean
from typing import Any

from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.change import (
    CAPACITY,
    ENERGY,
    REUSE,
    SPEED,
    THROUGHPUT,
    TTFT,
    Change,
    Figure,
    Reading,
    Verdict,
    among,
    by_intervals,
    by_pairs,
    by_repeats,
    verdict_of,
)
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.spread import Noise

__all__ = ["Comparison", "Row", "compare", "compare_pairs", "reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of both runs."""

    model: str
    tiers: tuple[str, ...]
    """Whose capacity it is, or whose capacity it was measured beside."""
    figure: Figure
    agents: int | None
    """Equal on both sides; ``None`` for a capacity."""
    before: Reading | None
    now: Reading | None
    change: Change | None
    verdict: Verdict
    by: str
    """What its interval comes from."""
    reason: str = ""
    """Why it is not comparable, or what the two labels do not say."""
    labels: tuple[str, str] | None = None
    """Both capacities as printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that two runs have in common."""

    baseline: str
    run: str
    rows: tuple[Row, ...]
    differences: tuple[str, ...] = ()
    """In what they differ that should be equal, where they were compared anyway."""
    in_turns: bool = False
    """The baseline is an endpoint, which was measured in turns with this run's."""

    def of(self, *verdicts: Verdict) -> tuple[Row, ...]:
        """Return the rows with one of these verdicts."""
        return tuple(row for row in self.rows if row.verdict in verdicts)

    @property
    def verdict(self) -> Verdict:
        """The whole: a regression before a gap, and *unclear* only where all is."""
        if self.of("regressed"):
            return "regressed"
        if self.of("not comparable") or not self.rows:
            return "not comparable"
        if self.of("improved", "unchanged"):
            return "improved" if self.of("improved") else "unchanged"
        return "unclear"


def compare(
    before: Bundle, now: Bundle, *, noise: Noise | None = None, differences: Sequence[str] = ()
) -> Comparison:
    """Compare the capacities that a run was asked for, and what it measured at equal agents.

    Args:
        before: the baseline.
        now: this run.
        noise: measured spread of repeats; intervals inside the phases where there is none.
        differences: in what the two differ that should be equal.
    """
    rows = [_capacity_row(before, found) for found in now.capacities]
    beside = _beside(before, now)
    figures = sum(len(_figures(*pair)) for pair, _ in beside if None not in pair)
    for (then, here), tiers in beside:
        rows += _phase_rows(then, here, tiers, noise, figures)
    return Comparison(
        baseline=before.provenance.run,
        run=now.provenance.run,
        rows=tuple(rows),
        differences=tuple(differences),
    )


def compare_pairs(
    pairs: Sequence[tuple[PhaseResult, PhaseResult]],
    *,
    before: str,
    now: str,
    tiers: Mapping[tuple[str, int], tuple[str, ...]],
) -> Comparison:
    """Compare two endpoints by phases that were measured in turns, pair by pair.

    Args:
        pairs: of valid phases with equal models, agents and seeds; of each model and number of
            agents at least `settings.LEAST_PAIRS`.
        before: the endpoint of each pair's first phase.
        now: the run of its second.
        tiers: by model and agents, whose capacity that is.
    """
    loads = list(dict.fromkeys((a.model, a.agents) for a, _ in pairs))
    own = [[p for p in pairs if (p[0].model, p[0].agents) == load] for load in loads]
    figures = sum(len(_figures(*each[0])) for each in own)
    rows = [_pair_row(each, figure, figures) for each in own for figure in _figures(*each[0])]
    named = (replace(r, tiers=tiers.get((r.model, r.agents or 0), ())) for r in rows)
    return Comparison(baseline=before, run=now, rows=tuple(named), in_turns=True)


def _pair_row(
    pairs: Sequence[tuple[PhaseResult, PhaseResult]], figure: Figure, figures: int
) -> Row:
    read = [(reading(a, figure), reading(b, figure)) for a, b in pairs]
    known = [(a.value, b.value) for a, b in read if a is not None and b is not None]
    finite = [pair for pair in known if all(0 < value < math.inf for value in pair)]
    phase, _ = pairs[0]
    row = Row(
        model=phase.model,
        tiers=(),
        figure=figure,
        agents=phase.agents,
        before=None,
        now=None,
        change=None,
        verdict="not comparable",
        by="",
    )
    if len(finite) < len(pairs):
        gone = len(pairs) - len(finite)
        reason = f"{gone} of {len(pairs)} pairs have no {figure.title} at {phase.agents} agents"
        return replace(row, reason=reason)
    change = by_pairs(known, figures=figures)
    before, now = (Reading(value=fmean(values)) for values in zip(*known, strict=True))
    return replace(
        row,
        before=before,
        now=now,
        change=change,
        verdict=verdict_of(figure, change),
        by=f"{len(pairs)} pairs",
    )


def reading(phase: PhaseResult, figure: Figure) -> Reading | None:
    """Return one figure of a phase; ``None`` where it was not measured."""
    if figure is ENERGY:
        return _energy(phase)
    name, _, statistic = figure.name.partition(".")
    found: Any = getattr(phase.metrics, name)
    value = found.statistic(statistic) if statistic and found is not None else found
    if value is None or (figure is THROUGHPUT and not value):
        return None
    inside = phase.intervals.get(figure.name)
    n = found.n if statistic and found is not None else phase.metrics.requests
    if inside is None:
        return Reading(value=value, n=n)
    return Reading(value=value, low=inside.low, high=inside.high, n=n)


def _energy(phase: PhaseResult) -> Reading | None:
    tokens = reading(phase, THROUGHPUT)
    watts = phase.power.mean_w
    if tokens is None or watts is None:
        return None
    return Reading(
        value=watts / tokens.value,
        low=watts / tokens.high,
        high=watts / tokens.low if tokens.low else math.inf,
        n=tokens.n,
    )


def _capacity_row(before: Bundle, found: Capacity) -> Row:
    then = next(
        (c for c in before.capacities if (c.model, c.tier) == (found.model, found.tier)), None
    )
    row = Row(
        model=found.model,
        tiers=(found.tier,),
        figure=CAPACITY,
        agents=None,
        before=_carried(then),
        now=_carried(found),
        change=None,
        verdict="not comparable",
        by="the searches' intervals",
        labels=(then.label if then else "none", found.label),
    )
    if row.before is None:
        return replace(row, reason=f"the baseline has no answer for {found.tier}")
    if found.status in {"below", "unclear"} or _is_verified(found, row.before):
        return _verified_row(row, found)
    if row.now is None:
        return replace(row, reason=f"this run has no answer for {found.tier}: {found.label}")
    change = _apart(row.before, row.now)
    return replace(row, change=change, verdict=_capacity_verdict(row.before, row.now, change))


def _is_verified(found: Capacity, before: Reading) -> bool:
    """Tell whether no more than the baseline's capacity was asked about, and it was carried."""
    return found.status == "at-limit" and found.agents == before.value


def _verified_row(row: Row, found: Capacity) -> Row:
    by = replace(row, by="one phase at the baseline's capacity")
    if found.status == "at-limit":
        return replace(by, verdict="unchanged", reason="it is carried; more was not asked")
    missed = ", ".join(found.limited_by)
    if found.status == "below":
        return replace(by, verdict="regressed", reason=f"missed: {missed}")
    return replace(by, verdict="unclear", reason=f"missed by less than its noise: {missed}")


def _carried(found: Capacity | None) -> Reading | None:
    if found is None or found.status in {"open", "invalid", "below"}:
        return None
    high = found.agents_high
    open_above = found.status in {"at-limit", "unclear"} or high is None
    low = found.agents if found.agents_low is None else found.agents_low
    return Reading(value=found.agents, low=low, high=math.inf if open_above else float(high or 0))


def _apart(before: Reading, now: Reading) -> Change:
    """Return the change of a capacity, from end to end of both intervals."""

    def ratio(to: float, since: float) -> float:
        if not since or math.isinf(to):
            return math.inf if to else 0.0
        return -1.0 if math.isinf(since) else to / since - 1

    return Change(
        ratio=ratio(now.value, before.value),
        low=ratio(now.low, before.high),
        high=ratio(now.high, before.low),
    )


def _capacity_verdict(before: Reading, now: Reading, change: Change) -> Verdict:
    if now.high < before.low:
        return "regressed"
    if now.low > before.high:
        return "improved"
    if (before.value, before.high) == (now.value, now.high) == (0, 0):
        return "unchanged"
    return verdict_of(CAPACITY, change)


_Pair = tuple[PhaseResult | None, PhaseResult | None]


def _beside(before: Bundle, now: Bundle) -> list[tuple[_Pair, tuple[str, ...]]]:
    """Return, for every tier asked for, the phases with equal agents nearest to its capacity.

    The nearest is the largest that both measured and that the baseline carried; tiers that share
    one share its rows.
    """
    pairs: dict[tuple[str, int | None], tuple[_Pair, tuple[str, ...]]] = {}
    for found in now.capacities:
        then, here = (_full(bundle, found.model) for bundle in (before, now))
        both = sorted(then.keys() & here.keys())
        carried = [n for n in both if then[n].verdict(found.tier).outcome == "pass"]
        agents = max(carried) if carried else min(both, default=None)
        pair = (None, None) if agents is None else (then[agents], here[agents])
        _, tiers = pairs.get((found.model, agents), (pair, ()))
        pairs[found.model, agents] = pair, (*tiers, found.tier)
    return list(pairs.values())


def _full(bundle: Bundle, model: str) -> dict[int, PhaseResult]:
    """Return a model's valid full phases by agents, the last where there are several."""
    own = (p for p in bundle.phases if p.model == model)
    return {p.agents: p for p in own if not p.invalid and p.met_floors}


def _figures(before: PhaseResult | None, now: PhaseResult | None) -> tuple[Figure, ...]:
    """Return what is compared.

    Reuse where the baseline's server told of it: one that tells of it since is no gap. Energy where
    either of two could measure it.
    """
    told = before is not None and before.metrics.reused_ratio is not None
    power = (p.power.mean_w for p in (before, now) if p is not None)
    metered = any(watts is not None for watts in power)
    return (
        *(SPEED, TTFT, THROUGHPUT),
        *((REUSE,) if told else ()),
        *((ENERGY,) if metered else ()),
    )


def _phase_rows(
    before: PhaseResult | None,
    now: PhaseResult | None,
    tiers: tuple[str, ...],
    noise: Noise | None,
    figures: int,
) -> Iterator[Row]:
    for figure in _figures(before, now):
        if before is None or now is None:
            yield _nothing(figure, tiers)
        else:
            yield _phase_row(before, now, figure, tiers, noise, figures)


def _nothing(figure: Figure, tiers: tuple[str, ...]) -> Row:
    return Row(
        model="",
        tiers=tiers,
        figure=figure,
        agents=None,
        before=None,
        now=None,
        change=None,
        verdict="not comparable",
        by="",
        reason="the two runs have no valid full phase with equal agents",
    )


def _phase_row(
    before: PhaseResult,
    now: PhaseResult,
    figure: Figure,
    tiers: tuple[str, ...],
    noise: Noise | None,
    figures: int,
) -> Row:
    then, here = reading(before, figure), reading(now, figure)
    row = Row(
        model=now.model,
        tiers=tiers,
        figure=figure,
        agents=now.agents,
        before=then,
        now=here,
        change=None,
        verdict="not comparable",
        by="",
    )
    if then is None or here is None:
        whose = "the baseline" if then is None else "this run"
        return replace(row, reason=f"{whose} has no {figure.title} at {now.agents} agents")
    repeats = noise.repeats(now.model, now.agents, figure.name) if noise else None
    if repeats is None:
        change, by = by_intervals(then, here, figures=figures), "intervals inside the phases"
    else:
        alike = repeats.agents == now.agents
        change = by_repeats(figure, then, here, repeats.values, alike=alike, figures=figures)
        by = f"{len(repeats.values)} repeats with {repeats.agents} agents"
        known = among(then, repeats.values) if alike and then.value > 0 else ()
        if len(known) > 1:
            row = replace(row, before=replace(then, value=geometric_mean(known)))
            by += ", whose mean with the baseline stands before"
    return replace(row, change=change, verdict=verdict_of(figure, change), by=by)
