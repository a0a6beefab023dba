"""How sure one phase is: errors of percentiles of correlated requests.

All agents share one server, so that requests are correlated in time, and those of one trajectory
among themselves: taken as independent they look up to ten times surer than they are. A percentile
is tested as a share: P25 of speed is at least s when at most a quarter of the requests is slower.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pytest_agentperf.metrics import quantile
from pytest_agentperf.records import Window

__all__ = [
    "Interval",
    "Sample",
    "certain_from",
    "mean_error",
    "percentile_interval",
    "share_error",
    "standardized",
    "student",
]

Numbers = Sequence[float] | npt.NDArray[np.float64]
Labels = Sequence[int] | npt.NDArray[np.int64]

_BATCHES = 10
"""Spans of a minute in a window of ten. With 15 or 20, 93 % of the intervals of P25 held, with 10
95 % (`benchmarks.intervals`): spans that are shorter see too much of what their neighbours saw."""
_ALPHA = 0.05
_PRIOR_RUNS = 60
"""Shapes the sequential bound: 6.6 at 10 runs, 3.7 at 60, 3.04 at 490 where it is tightest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A percentile and where it lies with 95 % confidence."""

    low: float
    """0 where the requests do not bound it: no metric is negative."""
    high: float
    """``inf`` where the requests do not bound it, or failed ones reach into it."""
    estimate: float
    n: int
    se: float
    """Standard error of the share (0-1) of requests below the percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Values of one metric, in no particular order."""

    values: npt.NDArray[np.float64]
    runs: npt.NDArray[np.int64]
    """Which trajectory's run each belongs to."""
    at_ns: npt.NDArray[np.int64]
    """When each was sent."""
    window: Window

    @property
    def touched(self) -> int:
        """How many trajectories' runs they belong to."""
        return int(np.unique(self.runs).size)

    def error(self, marked: npt.NDArray[np.bool_]) -> tuple[float, int]:
        """Return the standard error of the share of marked requests, and degrees of freedom."""
        return share_error(marked, self.runs, self.at_ns, self.window)

    def interval(self, q: float) -> Interval:
        """Return a percentile (0-1) with its 95 % interval."""
        return _interval(self, q)


def share_error(
    marked: Sequence[bool] | npt.NDArray[np.bool_], runs: Labels, at_ns: Labels, window: Window
) -> tuple[float, int]:
    """Return the standard error of the share of marked requests, and its degrees of freedom.

    Args:
        marked: which requests count.
        runs: which trajectory's run each belongs to.
        at_ns: when each was sent.
        window: the span to divide.
    """
    return mean_error(np.asarray(marked, dtype=np.float64), runs, at_ns, window)


def mean_error(values: Numbers, runs: Labels, at_ns: Labels, window: Window) -> tuple[float, int]:
    """Return the standard error of a mean over requests, and its degrees of freedom.

    The larger of two: clustered by trajectory run, and by equal spans of the window.

    Args:
        values: one for each request, finite.
        runs: which trajectory's run each belongs to.
        at_ns: when each was sent.
        window: the span to divide.
    """
    hits = np.asarray(values, dtype=np.float64)
    since = np.asarray(at_ns, dtype=np.int64) - window.start_ns
    length_ns = max(1, window.end_ns - window.start_ns)
    return max(
        _clustered(hits, np.asarray(runs, dtype=np.int64)),
        _clustered(hits, since * _BATCHES // length_ns),
    )


def _clustered(hits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> tuple[float, int]:
    """Return the error of a ratio of cluster sums; infinite where one cluster is all there is."""
    names, place = np.unique(labels, return_inverse=True)
    if names.size < 2:  # noqa: PLR2004 one cluster cannot differ from itself
        return math.inf, 1
    apart = np.bincount(place, weights=hits) - np.bincount(place) * hits.mean()
    clusters = int(names.size)
    variance = clusters / (clusters - 1) * float(apart @ apart) / hits.size**2
    return math.sqrt(variance), clusters - 1


def percentile_interval(
    values: Numbers, clusters: Labels, at_ns: Labels, window: Window, q: float
) -> Interval:
    """Return a percentile with its 95 % interval, by inverting the test of the share.

    Args:
        values: one for each request, ``inf`` and 0 for failed ones as in `metrics`.
        clusters: which trajectory's run each belongs to.
        at_ns: when each was sent.
        window: the span that holds them.
        q: which percentile, as a share (0-1).
    """
    sample = Sample(
        values=np.asarray(values, dtype=np.float64),
        runs=np.asarray(clusters, dtype=np.int64),
        at_ns=np.asarray(at_ns, dtype=np.int64),
        window=window,
    )
    return sample.interval(q)


def _interval(sample: Sample, q: float) -> Interval:
    ordered = np.sort(sample.values)
    if not ordered.size:
        return Interval(low=0.0, high=math.inf, estimate=math.nan, n=0, se=math.inf)
    middle = math.floor((ordered.size - 1) * q)

    def holds(place: int) -> bool:
        below = sample.values <= (ordered[place] if place >= 0 else -math.inf)
        se, freedom = sample.error(below)
        return abs(standardized(float(below.mean()), q, se, below.size)) <= student(freedom)

    lowest = _last_that(holds, middle, -2)
    highest = _last_that(holds, middle, ordered.size)
    estimate = quantile(ordered, 100 * q)
    return Interval(
        low=float(ordered[lowest]) if lowest >= 0 else 0.0,
        high=float(ordered[highest + 1]) if highest + 1 < ordered.size else math.inf,
        estimate=estimate,
        n=ordered.size,
        se=sample.error(sample.values <= estimate)[0],
    )


def _last_that(holds: Callable[[int], bool], inside: int, outside: int) -> int:
    """Return the place furthest from the one towards the other for which something holds."""
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside


def student(freedom: int, *, alpha: float = _ALPHA) -> float:
    """Return the two-sided quantile of Student's t, by its expansion around the normal's.

    Args:
        freedom: degrees of freedom; below 3 the expansion is too small.
        alpha: what lies outside on both sides together; 0.05 for 95 %.
    """
    z = NormalDist().inv_cdf(1 - alpha / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def certain_from(runs: int) -> float:
    """Return what |z| must pass to be certain, whenever and however often one looks.

    An always-valid bound at 5 % (a mixture of normals), by trajectory runs touched.
    """
    if runs < 1:
        return math.inf
    grown = (runs + _PRIOR_RUNS) / (_PRIOR_RUNS * _ALPHA**2)
    return math.sqrt((1 + _PRIOR_RUNS / runs) * math.log(grown))


def standardized(share: float, allowed: float, se: float, n: int) -> float:
    """Return how far a share is from what is allowed, in standard errors.

    Requests that nearly all agree show too little spread: they are never surer than as many
    independent ones, by the root of the binomial's deviance, which holds for rare events too.
    """
    apart = abs(share - allowed)
    by_error = apart / se if se else math.inf
    deviance = 2 * n * (_information(share, allowed) + _information(1 - share, 1 - allowed))
    return math.copysign(min(by_error, math.sqrt(max(0.0, deviance))), share - allowed)


def _information(share: float, allowed: float) -> float:
    if share <= 0:
        return 0.0
    return share * math.log(share / allowed) if allowed > 0 else math.inf
