"""Pictures as values: scales, ticks, lines and marks, in percent of a plot that has any width.

Templates draw them as SVG without a script: text and marks keep their size at every width, and only
lines are stretched.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pytest_agentperf import words

__all__ = [
    "Limit",
    "Line",
    "Mark",
    "Plot",
    "Scale",
    "Tick",
    "apart",
    "bars",
    "limits",
    "nice_ticks",
    "path",
    "ticks",
]

_BOX = 1000
"""Lines are drawn in a box of so many units, which is stretched."""
_FEW = 2
_MOST_TICKS = 7
_LABEL = 5.5
"""Height of a label, percent of the plot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis from one value to another."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high one."""
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def holds(self, value: float) -> bool:
        """Tell whether a value has a place on the axis."""
        return math.isfinite(value) and self.low <= value <= self.high

    def across(self, value: float) -> str:
        """Return a place from the left, percent."""
        return f"{100 * self.share(value):.2f}"

    def down(self, value: float) -> str:
        """Return a place from the top, percent."""
        return f"{100 * (1 - self.share(value)):.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A labelled place on an axis."""

    at: str
    """Percent, from the left or from the top."""
    text: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line, and what the legend says of it."""

    name: str
    style: str
    """Class of its colour and dashes: ``a`` to ``d``."""
    path: str
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One measured value."""

    x: str
    y: str
    kind: str
    """Its symbol: ``pass``, ``some``, ``fail`` or ``invalid``."""
    hollow: bool
    title: str
    data: Mapping[str, str]
    """What a test or a script may read: exact values by the end of the attribute's name."""
    text: str = ""
    """Drawn instead of a symbol, at an edge: ``∞``."""
    span: tuple[str, str] | None = None
    """Both ends of its interval, percent from the top."""

    @property
    def on_top(self) -> bool:
        """Tell whether it is drawn over others."""
        return self.kind == "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A line across the plot at a limit of tiers."""

    at: str
    label_at: str
    text: str
    value: float
    right: bool = False
    """Its label stands at the right end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One picture."""

    name: str
    title: str
    told: str
    """What it shows, in words, for those who do not see it."""
    x_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    tall: bool = False
    band: tuple[str, str] | None = None
    """Where the steady window begins, and how wide it is; percent."""
    lines: Sequence[Line] = ()
    bars: str = ""
    marks: Sequence[Mark] = ()
    limits: Sequence[Limit] = ()
    verticals: Sequence[Limit] = ()
    note: str = ""
    legend: bool = field(default=False)


def path(xs: Sequence[float], ys: Sequence[float | None], x: Scale, y: Scale) -> str:
    """Return a line through points as the ``d`` of an SVG path; ``None`` interrupts it."""
    said: list[str] = []
    broken = True
    for at, value in zip(xs, ys, strict=True):
        if value is None:
            broken = True
            continue
        said.append(
            f"{'M' if broken else 'L'}{_BOX * x.share(at):.0f} {_BOX * (1 - y.share(value)):.0f}"
        )
        broken = False
    return "".join(said)


def bars(counts: Sequence[int], low: float, high: float) -> str:
    """Return bars of a histogram as the ``d`` of an SVG path.

    Args:
        counts: values in each of the bins.
        low: where the first bin begins, 0-1 of the plot.
        high: where the last one ends.
    """
    most = max(counts, default=0) or 1
    edges = [_BOX * (low + (high - low) * i / len(counts)) for i in range(len(counts) + 1)]
    return "".join(
        f"M{left:.1f} {_BOX}V{_BOX * (1 - count / most):.0f}H{right:.1f}V{_BOX}Z"
        for count, (left, right) in zip(counts, pairwise(edges), strict=True)
        if count
    )


def nice_ticks(scale: Scale, most: int = _MOST_TICKS) -> list[float]:
    """Return round values on an axis: 1, 2 and 5 times powers of ten."""
    if scale.log:
        exponents = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        ticks = [float(f"{m}e{e}") for e in exponents for m in (1, 2, 5)]
        inside = [t for t in ticks if scale.low <= t <= scale.high]
        if len(inside) > _FEW:
            tens = [t for t in inside if f"{t:e}"[0] == "1"]
            return inside if len(inside) <= most + _FEW or len(tens) <= _FEW else tens
    span = scale.high - scale.low
    if span <= 0:
        return [scale.low]
    exponent = math.floor(math.log10(span / most))
    step = next(
        float(f"{m}e{e}")
        for e in (exponent, exponent + 1)
        for m in (1, 2, 5)
        if span / float(f"{m}e{e}") <= most
    )
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def limits(
    named: Mapping[float, Sequence[str]], unit: str, y: Scale, *, line: tuple[float, float]
) -> tuple[Limit, ...]:
    """Return the limits of tiers as lines across.

    Args:
        named: limits, and whose they are.
        unit: of the values.
        y: the axis.
        line: where the measured line begins and ends, 0-1 of the axis. Labels stand at the side
            where it is farther away, and keep off one another.
    """
    values = sorted((v for v in named if y.holds(v)), key=y.share, reverse=True)
    at = [100 * (1 - y.share(v)) for v in values]
    return tuple(
        Limit(
            at=f"{place:.2f}",
            label_at=f"{label:.2f}",
            text=f"{', '.join(named[value])}: {words.short(value)} {unit}",
            value=value,
            right=abs(y.share(value) - line[1]) > abs(y.share(value) - line[0]),
        )
        for value, place, label in zip(values, at, apart(at), strict=True)
    )


def apart(places: Sequence[float], least: float = _LABEL) -> list[float]:
    """Move places (percent, from the top down) so far apart that labels do not meet."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + least) if moved else max(place, least))
    return moved


def ticks(values: Iterable[float], scale: Scale, *, down: bool = False) -> tuple[Tick, ...]:
    """Return values as labelled places on an axis."""
    return tuple(
        Tick(
            at=scale.down(value) if down else scale.across(value),
            text=words.short(value),
            value=value,
        )
        for value in values
    )
