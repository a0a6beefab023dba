"""What has changed between two readings of one figure, and whether that is for the worse.

Changes are ratios, so that all is done in logarithms. An interval of a change combines those of its
two readings, or comes from the measured spread of repeats where that is known. One comparison
decides many figures at once: each gets its share of the 5 % by which all of them together may err.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from pytest_agentperf.evidence import student
from pytest_agentperf.inside import SPANS

__all__ = [
    "CAPACITY",
    "ENERGY",
    "FIGURES",
    "LEAST_RATIO",
    "SPEED",
    "THROUGHPUT",
    "TTFT",
    "Change",
    "Figure",
    "Reading",
    "Verdict",
    "by_both",
    "by_intervals",
    "by_pairs",
    "by_spread",
    "verdict_of",
]

Verdict = Literal["regressed", "improved", "unchanged", "unclear", "not comparable"]
"""*Unclear*: neither a change nor its absence can be told. *Not comparable* is an error."""

LEAST_RATIO = 0.01
"""Two runs of one system are a hundredth apart for many reasons: less is never a regression."""
_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What may be compared. The direction belongs to it and is nobody's to choose."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    visible_ratio: float
    """*Unchanged* is said only where a change of so much would have shown."""


CAPACITY = Figure(
    name="capacity", title="capacity", unit="agents", higher_is_better=True, visible_ratio=0.1
)
SPEED = Figure(
    name="output_speed_tok_per_s.p25",
    title="P25 speed",
    unit="tok/s",
    higher_is_better=True,
    visible_ratio=0.1,
)
TTFT = Figure(
    name="ttft_s.p95", title="P95 TTFT", unit="s", higher_is_better=False, visible_ratio=0.5
)
THROUGHPUT = Figure(
    name="throughput_tok_per_s",
    title="throughput",
    unit="tok/s",
    higher_is_better=True,
    visible_ratio=0.1,
)
ENERGY = Figure(
    name="energy_j_per_token",
    title="energy",
    unit="J/token",
    higher_is_better=False,
    visible_ratio=0.1,
)
FIGURES = (CAPACITY, SPEED, TTFT, THROUGHPUT, ENERGY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One figure of one run, and where it lies with 95 % confidence."""

    value: float
    low: float = 0.0
    high: float = math.inf
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Now over before, less 1; ``inf`` where now is infinite."""

    ratio: float
    low: float
    high: float


def by_intervals(before: Reading, now: Reading, *, figures: int = 1) -> Change:
    """Return a change with the interval that its readings' own intervals give.

    The distances to their ends are added as squares (the method of variance estimates recovery).

    Args:
        before: the baseline's.
        now: this run's.
        figures: how many are decided together.
    """
    extreme = _extreme(before, now)
    if extreme is not None:
        return extreme
    wider = student(SPANS - 1, alpha=_ALPHA / figures) / student(SPANS - 1)
    between = math.log(now.value / before.value)
    down = math.hypot(_far(now.value, now.low), _far(before.value, before.high))
    up = math.hypot(_far(now.value, now.high), _far(before.value, before.low))
    return _change(between, between - wider * down, between + wider * up)


def by_spread(
    before: Reading, now: Reading, repeats: Sequence[float], *, figures: int = 1
) -> Change:
    """Return a change with the interval that the spread of repeats gives to two single phases.

    Args:
        before: the baseline's.
        now: this run's.
        repeats: the figure in repeats of one phase, finite and above 0.
        figures: how many are decided together.
    """
    extreme = _extreme(before, now)
    if extreme is not None:
        return extreme
    spread = stdev(map(math.log, repeats)) * math.sqrt(2)
    half = student(len(repeats) - 1, alpha=_ALPHA / figures) * spread
    between = math.log(now.value / before.value)
    return _change(between, between - half, between + half)


def by_both(before: Reading, now: Reading, repeats: Sequence[float], *, figures: int = 1) -> Change:
    """Return a change with the wider of the two intervals, end by end.

    Ten repeats may lie close together by luck, and then every comparison with them is too sure; a
    phase that tells of a wider spread itself is believed. An end that it does not bound is left
    to the repeats.
    """
    spread = by_spread(before, now, repeats, figures=figures)
    inside = by_intervals(before, now, figures=figures)
    return Change(
        ratio=spread.ratio,
        low=min(spread.low, inside.low) if inside.low > -1 else spread.low,
        high=max(spread.high, inside.high) if math.isfinite(inside.high) else spread.high,
    )


def by_pairs(pairs: Sequence[tuple[float, float]], *, figures: int = 1) -> Change:
    """Return the change from the first to the second of each pair, with its interval.

    What both of a pair have in common (their work, the time of day) is not in it.

    Args:
        pairs: at least three, of positive numbers.
        figures: how many are decided together.
    """
    apart = [math.log(now / before) for before, now in pairs]
    half = student(len(apart) - 1, alpha=_ALPHA / figures) * stdev(apart) / math.sqrt(len(apart))
    return _change(fmean(apart), fmean(apart) - half, fmean(apart) + half)


def verdict_of(figure: Figure, change: Change) -> Verdict:
    """Return what a change says: it takes certainty and size, *unchanged* as well."""
    better, worse = (change.low > 0, change.high < 0)
    if not figure.higher_is_better:
        better, worse = worse, better
    large = abs(change.ratio) >= LEAST_RATIO
    if worse and large:
        return "regressed"
    if better and large:
        return "improved"
    seen = 1 + figure.visible_ratio
    alike = 1 + change.low >= 1 / seen and 1 + change.high <= seen
    return "unchanged" if alike else "unclear"


def _extreme(before: Reading, now: Reading) -> Change | None:
    """Return the change where one of two has no logarithm: failed requests, or nothing carried."""
    then, is_now = (math.isfinite(r.value) and r.value > 0 for r in (before, now))
    if then and is_now:
        return None
    if then == is_now:  # both: nothing can be told
        return Change(ratio=0.0, low=-1.0, high=math.inf)
    if then:
        to = now.value / before.value - 1
        return Change(ratio=to, low=to, high=to)
    to = -1.0 if math.isinf(before.value) else math.inf
    return Change(ratio=to, low=to, high=to)


def _far(value: float, end: float) -> float:
    return abs(math.log(end / value)) if 0 < end < math.inf else math.inf


def _change(between: float, low: float, high: float) -> Change:
    return Change(ratio=math.expm1(between), low=math.expm1(low), high=_expm1(high))


def _expm1(power: float) -> float:
    return math.expm1(power) if power < 50 else math.inf  # noqa: PLR2004 nothing real grows so much
