"""Pictures of one phase: what went on second by second, and how its requests were spread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_agentperf import words
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.plots import Limit, Line, Plot, Scale, Tick, bars, nice_ticks, path, ticks
from pytest_agentperf.profile import Histogram, PhaseProfile
from pytest_agentperf.serving import COUNTS
from pytest_agentperf.slo import SLOTier
from pytest_agentperf.timeline import Timeline

__all__ = ["phase_charts"]

_MOST_POINTS = 150
_MINUTES_FROM_S = 600
_STYLES = "abcdef"
_MOST_NAMED = 6
_NEAR = 1.6
"""A limit that is farther than this factor outside of all values is not drawn beside them."""
_ROLES = {"accelerator": "accelerators", "chassis": "at the wall", "cpu": "processors"}

_Seconds = Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """Values second by second, and what they are; over a span, their mean."""

    name: str
    values: _Seconds

    def over(self, start: int, end: int) -> float | None:
        """Return the value of the seconds from ``start`` to before ``end``."""
        known = [v for v in self.values[start:end] if v is not None]
        return float(np.mean(known)) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share(_Series):
    """A share in percent: over a span the sum of its parts over the sum of its wholes.

    A second in which a server counted much weighs more than one in which it counted little.
    """

    part: _Seconds
    whole: _Seconds

    def over(self, start: int, end: int) -> float | None:
        pairs = zip(self.part[start:end], self.whole[start:end], strict=True)
        known = [(p, w) for p, w in pairs if p is not None and w is not None]
        counted = sum(w for _, w in known)
        return 100 * sum(p for p, _ in known) / counted if counted else None


def _share(name: str, part: _Seconds, whole: _Seconds) -> _Share:
    values = [
        100 * p / w if p is not None and w else None for p, w in zip(part, whole, strict=True)
    ]
    return _Share(name=name, values=values, part=part, whole=whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told(_Series):
    """A share as the server told it: without its counts it has no mean over a span to be named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """A limit, and which tiers have it."""

    value: float
    who: str
    what: str
    """``P90 ≤ 5``."""


def phase_charts(
    phase: PhaseResult,
    tiers: Sequence[SLOTier],
    timeline: Timeline | None,
    profile: PhaseProfile | None,
) -> tuple[Plot, ...]:
    """Return what can be drawn of a phase."""
    spread = _histograms(tiers, profile) if profile is not None else ()
    over_time = _over_time(phase, timeline) if timeline is not None else ()
    return (*spread, *over_time)


def _histograms(tiers: Sequence[SLOTier], profile: PhaseProfile) -> Iterator[Plot]:
    for metric in ("ttft_s", "output_speed_tok_per_s"):
        histogram: Histogram | None = getattr(profile, metric)
        if histogram is not None and histogram.counts:
            yield _histogram(metric, histogram, tiers)


def _bounds(metric: str, tiers: Sequence[SLOTier]) -> Sequence[_Bound]:
    """Return every limit on a metric once, whichever percentile or mean it judges."""
    named: dict[tuple[float, str], list[str]] = {}
    for tier in tiers:
        for limit in tier.limits:
            if limit.metric == metric:
                sign = "≥" if limit.higher_is_better else "≤"
                of = limit.statistic.replace("p", "P")
                named.setdefault((limit.value, f"{of} {sign}"), []).append(tier.name)
    return [
        _Bound(value=value, who=", ".join(names), what=f"{what} {words.short(value)}")
        for (value, what), names in named.items()
    ]


def _histogram(metric: str, histogram: Histogram, tiers: Sequence[SLOTier]) -> Plot:
    bounds = _bounds(metric, tiers)
    near = [b for b in bounds if histogram.low / _NEAR <= b.value <= histogram.high * _NEAR]
    far = [f"{b.who} {b.what}" for b in bounds if b not in near]
    edges = [histogram.low, histogram.high, *(b.value for b in near)]
    x = Scale(low=min(edges) / 1.05, high=max(edges) * 1.05, log=True)
    y = Scale(low=0, high=max(histogram.counts))
    unit, apart = words.unit(metric), histogram.apart
    notes = [f"n = {histogram.n:,}"]
    if apart:
        what = "∞" if metric == "ttft_s" else "0"
        who = "1 failed request counts" if apart == 1 else f"{apart:,} failed requests count"
        notes.append(f"{who} as {what}, which has no place in the picture")
    if far:
        notes.append(f"limits outside it: {', '.join(far)} {unit}")
    title = words.metric(metric)
    title = title[0].upper() + title[1:]
    return Plot(
        name=f"histogram.{metric}",
        title=f"{title}, requests per bin",
        told=f"{title}: {sum(histogram.counts):,} requests between {words.number(histogram.low)} "
        f"and {words.number(histogram.high)} {unit}",
        x_title=unit,
        x_ticks=ticks(nice_ticks(x, 5), x),
        y_ticks=ticks([v for v in nice_ticks(y, 4) if v == int(v)], y, down=True),
        bars=bars(histogram.counts, x.share(histogram.low), x.share(histogram.high)),
        verticals=_verticals(near, x),
        note="; ".join(notes),
    )


def _verticals(near: Sequence[_Bound], x: Scale) -> tuple[Limit, ...]:
    return tuple(
        Limit(
            at=x.across(bound.value),
            label_at=f"{12 + 13 * place}",
            text=f"{bound.who}: {bound.what}",
            value=bound.value,
        )
        for place, bound in enumerate(sorted(near, key=lambda bound: bound.value))
    )


def _over_time(phase: PhaseResult, seen: Timeline) -> Iterator[Plot]:
    load = (
        _Series(name="agents started", values=seen.started),
        _Series(name="requests in flight", values=seen.in_flight),
        _Series(name="waiting for a first token", values=seen.waiting),
    )
    yield from _plot("load", "Agents and requests", "", load, seen)
    tokens = (_Series(name="output tokens", values=seen.output_tokens),)
    yield from _plot("tokens", "Output tokens, tok/s", "tok/s", tokens, seen)
    roles = {each.meter: _ROLES[each.role] for each in phase.meters}
    power = [
        _Series(name=f"{roles.get(meter, 'power')}: {meter}", values=values)
        for meter, values in seen.power_w.items()
    ]
    yield from _plot("power", "Power, W", "W", power, seen)
    yield from _server(seen)


def _server(seen: Timeline) -> Iterator[Plot]:
    told = dict(seen.server)
    requests = [
        _Series(name=name, values=told.pop(name)) for name in ("running", "waiting") if name in told
    ]
    yield from _plot("server", "Requests at the server, by its own count", "", requests, seen)
    ratios: list[_Series] = []
    if "kv_use_ratio" in told:
        ratios.append(_Series(name="KV cache in use", values=_percent(told.pop("kv_use_ratio"))))
    for text, gauge, part, whole in (
        ("prefix-cache hits", "prefix_hit_ratio", "prefix_hits", "prefix_queries"),
        ("drafts accepted", "accepted_ratio", "accepted", "drafted"),
    ):
        level = told.pop(gauge, None)
        if part in told and whole in told:
            ratios.append(_share(text, told[part], told[whole]))
        elif level is not None:
            ratios.append(_Told(name=text, values=_percent(level)))
    yield from _plot("caches", "Caches and drafts at the server, %", "%", ratios, seen)
    lost = (
        [_Series(name="preemptions", values=told["preemptions"])] if "preemptions" in told else []
    )
    if any(value for each in lost for value in each.values if value is not None):
        yield from _plot("preemptions", "Preemptions per second", "", lost, seen)
    others = [name for name in told if name not in COUNTS]
    for place, name in enumerate(others[:_MOST_NAMED], 1):
        named = (_Series(name=name, values=told[name]),)
        rest = len(others) - place if place == _MOST_NAMED else 0
        yield from _plot(f"server.{name}", name, "", named, seen, rest=rest)


def _percent(values: _Seconds) -> _Seconds:
    return [None if v is None else 100 * v for v in values]


def _plot(
    name: str, title: str, unit: str, series: Sequence[_Series], seen: Timeline, *, rest: int = 0
) -> Iterator[Plot]:
    """Draw what has values; ``rest`` further series are told by the server and have no picture."""
    series = [each for each in series if any(v is not None for v in each.values)]
    if not series:
        return
    seconds = len(seen.started)
    step = max(1, -(-seconds // _MOST_POINTS))
    left_out = rest + len(series[len(_STYLES) :])
    series = series[: len(_STYLES)]
    drawn = [_coarser(each, step) for each in series]
    highest = max(v for values in drawn for v in values if v is not None)
    x = Scale(low=0, high=seconds)
    y = Scale(low=0, high=highest * 1.08 or 1.0)
    lines = tuple(
        Line(
            name=each.name,
            style=style,
            path=path([step * (i + 0.5) for i in range(len(values))], values, x, y),
            told=_in_window(each, seen.window_s, unit),
        )
        for each, values, style in zip(series, drawn, _STYLES, strict=False)
    )
    opens, closes = (min(max(0.0, edge), seconds) for edge in seen.window_s)
    yield Plot(
        name=name,
        title=title,
        told=f"{title} over time; in the steady window "
        + "; ".join(f"{line.name}: {line.told}" for line in lines),
        x_title="min" if seconds > _MINUTES_FROM_S else "s",
        x_ticks=_time_ticks(x),
        y_ticks=ticks(nice_ticks(y, 4), y, down=True),
        band=(x.across(opens), f"{100 * (closes - opens) / seconds:.2f}"),
        lines=lines,
        note="; ".join(_notes(step, left_out)),
        legend=True,
    )


def _notes(step: int, left_out: int) -> Iterator[str]:
    if step > 1:
        yield f"a point is the mean of {step} s"
    if left_out:
        yield f"{left_out} more not drawn"


def _coarser(series: _Series, step: int) -> list[float | None]:
    """Return the values of so many seconds each; ``None`` where nothing is known in any."""
    return [series.over(start, start + step) for start in range(0, len(series.values), step)]


def _in_window(series: _Series, window_s: tuple[float, float], unit: str) -> str:
    """Say mean and most of the whole seconds inside the window, and of how many."""
    opens, closes = int(-(-window_s[0] // 1)), int(window_s[1])
    known = [v for v in series.values[opens:closes] if v is not None]
    mean = series.over(opens, closes)
    if not known or mean is None:
        return "no value"
    of = f" {unit}" if unit else ""
    named = "" if isinstance(series, _Told) else f"mean {words.number(mean)}{of}, "
    return f"{named}most {words.number(max(known))}{of} (n = {len(known):,} s)"


def _time_ticks(x: Scale) -> tuple[Tick, ...]:
    per = 60 if x.high > _MINUTES_FROM_S else 1
    whole = Scale(low=0, high=x.high / per)
    return ticks(nice_ticks(whole, 6), whole)
