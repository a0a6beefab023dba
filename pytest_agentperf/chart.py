"""P25 speed and P95 TTFT over agents: every phase, its interval, and every tier's limit."""

import math
from collections.abc import Sequence

from pytest_agentperf import words
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.metrics import Distribution
from pytest_agentperf.plots import Line, Mark, Plot, Scale, limits, nice_ticks, path, ticks
from pytest_agentperf.slo import SLOTier

__all__ = ["charts", "mark_of"]

_PANELS = (("output_speed_tok_per_s", "p25"), ("ttft_s", "p95"))
_MOST_TICKS = 7


def charts(tiers: Sequence[SLOTier], phases: Sequence[PhaseResult]) -> tuple[Plot, ...]:
    """Return both pictures; none without a phase."""
    if not phases:
        return ()
    ordered = sorted(phases, key=lambda p: (p.agents, p.number))
    return tuple(_chart(*panel, tiers, ordered) for panel in _PANELS)


def _limits_of(name: str, tiers: Sequence[SLOTier]) -> dict[float, list[str]]:
    """Return the limits on one statistic of one metric, and whose they are."""
    found: dict[float, list[str]] = {}
    for tier in tiers:
        for limit in tier.limits:
            if limit.name == name:
                found.setdefault(limit.value, []).append(tier.name)
    return found


def mark_of(phase: PhaseResult) -> str:
    """Return how a phase is marked: ``pass``, ``fail``, ``some`` (tiers only) or ``invalid``."""
    outcomes = {v.outcome for v in phase.verdicts}
    if phase.invalid or "invalid" in outcomes:
        return "invalid"
    return outcomes.pop() if len(outcomes) == 1 else "some"


def _chart(
    metric: str, statistic: str, tiers: Sequence[SLOTier], phases: Sequence[PhaseResult]
) -> Plot:
    name = f"{metric}.{statistic}"
    named = _limits_of(name, tiers)
    found = [(p, _value(p, metric, statistic)) for p in phases]
    points = [(p, v) for p, v in found if v is not None]
    x = Scale(low=phases[0].agents / 1.15, high=phases[-1].agents * 1.15, log=True)
    y = _height(name, [v for _, v in points], [*named], [p for p, _ in points])
    trusted = [(p, v) for p, v in points if not (p.invalid or p.short)]
    title, unit = words.metric(name), words.unit(name)
    return Plot(
        name=name,
        title=f"{title}, {unit}",
        told=_told(title, unit, trusted),
        tall=True,
        x_title="agents",
        x_ticks=ticks(_agent_ticks(phases), x),
        y_ticks=ticks(nice_ticks(y), y, down=True),
        lines=(
            Line(
                name="measured",
                style="quiet",
                path=path(
                    [p.agents for p, _ in trusted],
                    [v if y.holds(v) else None for _, v in trusted],
                    x,
                    y,
                ),
            ),
        ),
        marks=tuple(_mark(p, v, name, x, y) for p, v in points),
        limits=limits(named, unit, y, line=_ends(trusted or points, y)),
        note=_not_drawn(metric, tiers),
    )


def _not_drawn(metric: str, tiers: Sequence[SLOTier]) -> str:
    """Name the limits that have no picture, of every metric: beside the first picture."""
    drawn = [f"{name}.{statistic}" for name, statistic in _PANELS]
    if metric != _PANELS[0][0]:
        return ""
    missing = [
        f"{tier.name} {words.bound(limit)}"
        for tier in tiers
        for limit in tier.limits
        if limit.name not in drawn
    ]
    return f"limits that are judged and not drawn: {', '.join(missing)}" if missing else ""


def _value(phase: PhaseResult, metric: str, statistic: str) -> float | None:
    values: Distribution | None = getattr(phase.metrics, metric)
    return None if values is None else values.statistic(statistic)


def _ends(points: Sequence[tuple[PhaseResult, float]], y: Scale) -> tuple[float, float]:
    """Return how high the first and the last point lie, 0-1; the edges for what has no place."""
    shares = [y.share(v) if y.holds(v) else float(v > 0) for _, v in points]
    return (shares[0], shares[-1]) if shares else (0.0, 0.0)


def _height(
    name: str, values: Sequence[float], bounds: Sequence[float], phases: Sequence[PhaseResult]
) -> Scale:
    spans = [p.intervals[name] for p in phases if name in p.intervals]
    ends = [end for span in spans for end in (span.low, span.high)]
    # The axis is logarithmic: neither infinity nor zero has a place on it.
    heights = [v for v in (*values, *bounds, *ends) if 0 < v < math.inf] or [1.0]
    return Scale(low=min(heights) / 1.3, high=max(heights) * 1.3, log=True)


def _mark(phase: PhaseResult, value: float, name: str, x: Scale, y: Scale) -> Mark:
    at_edge = not y.holds(value)
    interval = phase.intervals.get(name)
    span = None
    if interval is not None and not at_edge and interval.low > 0:
        span = (y.down(min(interval.high, y.high)), y.down(interval.low))
    return Mark(
        x=x.across(phase.agents),
        y=("0" if value > 0 else "100") if at_edge else y.down(value),
        kind=mark_of(phase),
        hollow=not phase.met_floors,
        title=_title(phase, value, name),
        data={
            "phase": str(phase.number),
            "agents": str(phase.agents),
            "value": words.exact(value),
            "outcome": mark_of(phase),
        },
        text=words.number(value) if at_edge else "",
        span=span,
    )


def _title(phase: PhaseResult, value: float, name: str) -> str:
    values: Distribution | None = getattr(phase.metrics, name.partition(".")[0])
    unit, interval = words.unit(name), phase.intervals.get(name)
    likely = ""
    if interval is not None:
        likely = f", 95 % within {words.number(interval.low)} to {words.number(interval.high)}"
    count = f"n = {values.n if values else 0:,}"
    lines = (
        f"Phase {phase.number}, {phase.agents} agents{f', {phase.cut}' if phase.cut else ''}",
        f"{words.metric(name)} {words.number(value)} {unit}{likely} ({count})",
        *(f"{v.tier}: {v.outcome}" for v in phase.verdicts),
    )
    return "\n".join(lines)


def _told(title: str, unit: str, points: Sequence[tuple[PhaseResult, float]]) -> str:
    if not points:
        return f"{title} over agents: no phase can be trusted"
    (first, since), (last, to) = points[0], points[-1]
    return (
        f"{title} over agents: {words.number(since)} {unit} with {first.agents} agents, "
        f"{words.number(to)} {unit} with {last.agents}; the table of phases has every value"
    )


def _agent_ticks(phases: Sequence[PhaseResult]) -> list[int]:
    agents = sorted({p.agents for p in phases})
    powers = [2**i for i in range(24) if agents[0] <= 2**i <= agents[-1]]
    values = powers if len(powers) > 2 else agents  # noqa: PLR2004 too few to read an axis by
    return values[:: math.ceil(len(values) / _MOST_TICKS)]
