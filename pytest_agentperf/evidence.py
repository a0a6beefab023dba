"""How sure one phase is: errors of percentiles of correlated requests, and early verdicts.

All agents share one server, so that requests are correlated in time, and those of one trajectory
among themselves: taken as independent they look up to ten times surer than they are. A percentile
is tested as a share: P25 of speed is at least s when at most a quarter of the requests is slower.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from pytest_agentperf.cliff import cliff_signs
from pytest_agentperf.metrics import (
    e2e_s,
    first_chunk_speed_tok_per_s,
    members,
    output_speed_tok_per_s,
    quantile,
    ttft_s,
)
from pytest_agentperf.records import TurnRecord, Window
from pytest_agentperf.slo import Limit, SLOTier

__all__ = [
    "EarlyOutcome",
    "EarlyVerdict",
    "Interval",
    "Judgement",
    "certain_from",
    "judge_early",
    "percentile_interval",
    "settled_window",
    "share_error",
]

EarlyOutcome = Literal["pass", "fail", "unclear"]
Numbers = Sequence[float] | npt.NDArray[np.float64]
Labels = Sequence[int] | npt.NDArray[np.int64]

_BATCHES = 10
"""Spans of a minute in a window of ten. With 15 or 20, 93 % of the intervals of P25 held, with 10
95 % (`benchmarks.intervals`): spans that are shorter see too much of what their neighbours saw."""
_ALPHA = 0.05
_PRIOR_RUNS = 60
"""Shapes the sequential bound: 6.6 at 10 runs, 3.7 at 60, 3.04 at 490 where it is tightest."""

_METRICS: Mapping[str, Callable[[TurnRecord], float | None]] = {
    "output_speed_tok_per_s": output_speed_tok_per_s,
    "first_chunk_speed_tok_per_s": first_chunk_speed_tok_per_s,
    "ttft_s": ttft_s,
    "e2e_s": e2e_s,
}


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
class Judgement:
    """One limit, as far as the requests so far can tell."""

    limit: str
    outcome: EarlyOutcome
    """``pass`` and ``fail`` only when certain at every look, however often one looks."""
    share: float
    """Requests on the wrong side of the limit, over requests."""
    allowed: float
    """What the share may be."""
    se: float
    z: float
    """(share − allowed) / se, but never surer than as many independent requests."""
    observed: float
    """The percentile itself, and where it lies with 95 % confidence."""
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyVerdict:
    """What one tier's limits say of a phase that runs."""

    tier: str
    outcome: EarlyOutcome
    judgements: tuple[Judgement, ...]
    signs: tuple[str, ...]
    """Why no early pass can be trusted, in words: the system may stand before a cliff."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Values of one metric, in no particular order."""

    values: npt.NDArray[np.float64]
    runs: npt.NDArray[np.int64]
    """Which trajectory's run each belongs to."""
    at_ns: npt.NDArray[np.int64]
    window: Window

    @property
    def touched(self) -> int:
        return int(np.unique(self.runs).size)

    def error(self, marked: npt.NDArray[np.bool_]) -> tuple[float, int]:
        return share_error(marked, self.runs, self.at_ns, self.window)


def share_error(
    marked: Sequence[bool] | npt.NDArray[np.bool_], runs: Labels, at_ns: Labels, window: Window
) -> tuple[float, int]:
    """Return the standard error of the share of marked requests, and its degrees of freedom.

    The larger of two: clustered by trajectory run, and by equal spans of the window.

    Args:
        marked: which requests count.
        runs: which trajectory's run each belongs to.
        at_ns: when each was sent.
        window: the span to divide.
    """
    hits = np.asarray(marked, dtype=np.float64)
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
    sample = _Sample(
        values=np.asarray(values, dtype=np.float64),
        runs=np.asarray(clusters, dtype=np.int64),
        at_ns=np.asarray(at_ns, dtype=np.int64),
        window=window,
    )
    return _interval(sample, q)


def _interval(sample: _Sample, q: float) -> Interval:
    ordered = np.sort(sample.values)
    if not ordered.size:
        return Interval(low=0.0, high=math.inf, estimate=math.nan, n=0, se=math.inf)
    middle = math.floor((ordered.size - 1) * q)

    def holds(place: int) -> bool:
        below = sample.values <= (ordered[place] if place >= 0 else -math.inf)
        se, freedom = sample.error(below)
        return abs(_standard(float(below.mean()), q, se, below.size)) <= _student(freedom)

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


def _student(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t, by its expansion around the normal's."""
    z = NormalDist().inv_cdf(1 - _ALPHA / 2)
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


def judge_early(
    tier: SLOTier,
    turns: Sequence[TurnRecord],
    window: Window,
    *,
    speed: str = "usage",
    kv_capacity_tokens: int | None = None,
) -> EarlyVerdict:
    """Judge a running phase by one tier, as far as can be told.

    Every request that was sent inside the window must have ended, or the answers that take longest
    are missing: see `settled_window`.

    Args:
        tier: the limits.
        turns: requests of the phase that have ended, members or not.
        window: what to judge.
        speed: which output speed is the judged one, ``usage`` or ``first-chunk``.
        kv_capacity_tokens: room of the server's KV cache, all replicas together, where known.
    """
    inside = members(turns, window)
    judgements = (
        *(_judge(limit, inside, window, speed) for limit in tier.limits),
        _judge_errors(tier, inside, window),
    )
    signs = cliff_signs(turns, window, kv_capacity_tokens=kv_capacity_tokens)
    outcomes = {judgement.outcome for judgement in judgements}
    outcome: EarlyOutcome = "unclear"
    if "fail" in outcomes:
        outcome = "fail"
    elif outcomes == {"pass"} and not signs:
        outcome = "pass"
    return EarlyVerdict(tier=tier.name, outcome=outcome, judgements=judgements, signs=signs)


def _judge(limit: Limit, inside: Sequence[TurnRecord], window: Window, speed: str) -> Judgement:
    first_chunk = speed == "first-chunk" and limit.metric == "output_speed_tok_per_s"
    value_of = _METRICS["first_chunk_speed_tok_per_s" if first_chunk else limit.metric]
    sample = _sample(inside, value_of, window)
    if limit.statistic == "mean":
        return _unclear(limit.name, sample)  # no share says anything of a mean
    q = int(limit.statistic.removeprefix("p")) / 100
    interval = _interval(sample, q)
    if limit.higher_is_better:
        wrong, allowed = sample.values < limit.value, q
    else:
        wrong, allowed = sample.values > limit.value, 1 - q
    return _test(limit.name, sample, wrong, allowed, interval)


def _judge_errors(tier: SLOTier, inside: Sequence[TurnRecord], window: Window) -> Judgement:
    sample = _sample(inside, lambda turn: float(turn.error is not None), window)
    failed = sample.values > 0
    share = float(failed.mean()) if failed.size else math.nan
    se, freedom = sample.error(failed)
    reach = _student(freedom) * se
    interval = Interval(
        low=max(0.0, share - reach), high=min(1.0, share + reach), estimate=share, n=failed.size,
        se=se,
    )  # fmt: skip
    if failed.size and not failed.any():
        # A percent cannot be ruled out by a few hundred requests; the limits wait for more anyway.
        return _test("error_ratio", sample, failed, tier.max_error_ratio, interval, clean=True)
    return _test("error_ratio", sample, failed, tier.max_error_ratio, interval)


def _sample(
    inside: Sequence[TurnRecord], value_of: Callable[[TurnRecord], float | None], window: Window
) -> _Sample:
    rows = [
        (value, turn.agent << 32 | turn.ordinal, turn.sent_ns)
        for turn in inside
        if (value := value_of(turn)) is not None
    ]
    return _Sample(
        values=np.array([row[0] for row in rows], dtype=np.float64),
        runs=np.array([row[1] for row in rows], dtype=np.int64),
        at_ns=np.array([row[2] for row in rows], dtype=np.int64),
        window=window,
    )


def _test(
    name: str,
    sample: _Sample,
    wrong: npt.NDArray[np.bool_],
    allowed: float,
    interval: Interval,
    *,
    clean: bool = False,
) -> Judgement:
    if not wrong.size:
        return _unclear(name, sample)
    share = float(wrong.mean())
    se, _ = sample.error(wrong)
    z = _standard(share, allowed, se, wrong.size)
    outcome: EarlyOutcome = "unclear"
    if clean or abs(z) > certain_from(sample.touched):
        outcome = "fail" if share > allowed else "pass"
    return Judgement(
        limit=name,
        outcome=outcome,
        share=share,
        allowed=allowed,
        se=se,
        z=z,
        observed=interval.estimate,
        low=interval.low,
        high=interval.high,
        n=wrong.size,
    )


def _standard(share: float, allowed: float, se: float, n: int) -> float:
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


def _unclear(name: str, sample: _Sample) -> Judgement:
    return Judgement(
        limit=name,
        outcome="unclear",
        share=math.nan,
        allowed=math.nan,
        se=math.inf,
        z=0.0,
        observed=math.nan,
        low=0.0,
        high=math.inf,
        n=sample.values.size,
    )


def settled_window(turns: Sequence[TurnRecord], window: Window, *, agents: int) -> Window:
    """Return the part of a window of which every request has ended.

    An agent has one request open at a time, so all that it sent before its last answer ended have
    ended. Judged later than that, the requests that take longest are missing.

    Args:
        turns: requests of the phase that have ended, those before the window included.
        window: from its opening until now.
        agents: agents of the phase; while one has not ended a request, nothing has settled.
    """
    last: dict[int, int] = {}
    for turn in turns:
        last[turn.agent] = max(turn.end_ns, last.get(turn.agent, turn.end_ns))
    settled_ns = min(last.values()) if len(last) >= agents > 0 else window.start_ns
    return Window(
        start_ns=window.start_ns, end_ns=min(window.end_ns, max(window.start_ns, settled_ns))
    )
