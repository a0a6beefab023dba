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
    "LEAST_RATIO",
    "REUSE",
    "SPEED",
    "THROUGHPUT",
    "TTFT",
    "Change",
    "Figure",
    "Reading",
    "Verdict",
    "among",
    "by_intervals",
    "by_pairs",
    "by_repeats",
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
    least_ratio: float = LEAST_RATIO
    """A change of less is neither a regression nor an improvement."""
    in_bursts: bool = False
    """It is lost in bursts, of which one phase sees too few to be sure of its mean. A baseline that
    has none is sure: this run's phase is held against that, and not excused by its bursts."""


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
REUSE = Figure(
    name="reused_ratio",
    title="prefix reuse",
    unit="of 1",
    higher_is_better=True,
    visible_ratio=0.1,
    least_ratio=0.05,
    in_bursts=True,
)
ENERGY = Figure(
    name="energy_j_per_token",
    title="energy",
    unit="J/token",
    higher_is_better=False,
    visible_ratio=0.1,
)


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


def by_repeats(
    figure: Figure,
    before: Reading,
    now: Reading,
    repeats: Sequence[float],
    *,
    alike: bool,
    figures: int = 1,
) -> Change:
    """Return a change with the interval that the spread of repeats gives to a single phase.

    Ten repeats may lie close together by luck, and then every comparison with them is too sure:
    phases that tell of a wider spread themselves are believed, as far as they bound the figure.

    Args:
        figure: what it is.
        before: the baseline's.
        now: this run's.
        repeats: the figure in repeats of one phase, finite and above 0.
        alike: they repeat the baseline's very phase: all of them say what it was before.
        figures: how many are decided together.
    """
    extreme = _extreme(before, now)
    if extreme is not None:
        return extreme
    known = among(before, repeats) if alike else (before.value,)
    between = math.log(now.value) - fmean(map(math.log, known))
    wider = student(SPANS - 1, alpha=_ALPHA / figures) / student(SPANS - 1)
    ends = (_far(before.value, before.low), _far(before.value, before.high))
    own = wider * math.hypot(*ends) / math.sqrt(2)
    spread = student(len(repeats) - 1, alpha=_ALPHA / figures) * stdev(map(math.log, repeats))
    one = max(spread, own) if math.isfinite(own) else spread
    of_known = one / math.sqrt(len(known))

    def half(end: float) -> float:
        far = wider * _far(now.value, end)
        if figure.in_bursts or not math.isfinite(far):
            far = one
        return math.hypot(max(one, far), of_known)

    return _change(between, between - half(now.low), between + half(now.high))


def among(before: Reading, repeats: Sequence[float]) -> tuple[float, ...]:
    """Return what is known of a figure before: the baseline and its repeats, where they agree.

    Repeats that the baseline lies apart from were measured on something else, or on another day:
    only their spread is taken.
    """
    logs = [math.log(value) for value in repeats]
    many = len(logs)
    apart = abs(math.log(before.value) - fmean(logs))
    if apart > student(many - 1) * stdev(logs) * math.sqrt(1 + 1 / many):
        return (before.value,)
    return (before.value, *repeats)


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
    large = abs(change.ratio) >= figure.least_ratio
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
