"""Verdicts of a phase before its floors: only what is certain however often one looks.

A running phase knows less of its requests the later they were sent, since those that take longest
have not ended. So only the part of it is judged in which all have, with one exception: that a first
token comes too late is known as soon as it is late.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from pytest_agentperf.cliff import cliff_signs
from pytest_agentperf.evidence import Interval, Sample, certain_from, standardized, student
from pytest_agentperf.metrics import (
    Metrics,
    e2e_s,
    first_chunk_speed_tok_per_s,
    members,
    output_speed_tok_per_s,
    ttft_s,
)
from pytest_agentperf.records import OpenRequest, TurnRecord, Window
from pytest_agentperf.slo import Limit, SLOTier, Verdict, judge

__all__ = [
    "EarlyOutcome",
    "EarlyVerdict",
    "Judgement",
    "Running",
    "clear_from",
    "judge_early",
    "judge_running",
    "settled_window",
    "verdicts_by",
]

EarlyOutcome = Literal["pass", "fail", "unclear"]

_OPEN = 2**31
"""Stands for the trajectory of a request that has not told which it is of."""
_METRICS: Mapping[str, Callable[[TurnRecord], float | None]] = {
    "output_speed_tok_per_s": output_speed_tok_per_s,
    "first_chunk_speed_tok_per_s": first_chunk_speed_tok_per_s,
    "ttft_s": ttft_s,
    "e2e_s": e2e_s,
}


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
    over: float
    """Observed over bound, or the other way round where more is better: above 1 is a miss."""

    def is_clear_miss(self, agents: int) -> bool:
        """Tell whether a phase of another start or length would miss the limit as well."""
        return self.outcome == "fail" and self.over > clear_from(agents)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyVerdict:
    """What one tier's limits say of a phase that runs."""

    tier: str
    outcome: EarlyOutcome
    judgements: tuple[Judgement, ...]
    signs: tuple[str, ...]
    """Why no early pass can be trusted, in words: the system may stand before a cliff."""

    def is_clear_miss(self, agents: int) -> bool:
        """Tell whether a phase of another start or length would miss the tier as well."""
        return any(judgement.is_clear_miss(agents) for judgement in self.judgements)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A phase as it is seen while it runs."""

    agents: int
    turns: Sequence[TurnRecord] = field(repr=False)
    """Requests that have ended, since the phase began."""
    open_requests: Sequence[OpenRequest]
    opens_ns: int
    """When the window opened."""
    now_ns: int

    @property
    def settled(self) -> Window:
        """The part of the window of which every request has ended."""
        window = Window(start_ns=self.opens_ns, end_ns=max(self.opens_ns, self.now_ns))
        return settled_window(self.turns, window, agents=self.agents)


def clear_from(agents: int) -> float:
    """Return from which strain on a certain miss is one whatever a phase begins with.

    The published rule starts at first turns, which is up to a tenth of a limit off. Few agents
    complete many trajectories each until the floors are met, so that their start matters less.
    """
    return 1.03 + 0.07 * min(1.0, (agents - 1) / 9)


def judge_running(
    tiers: Sequence[SLOTier], running: Running, *, speed: str = "usage"
) -> tuple[EarlyVerdict, ...]:
    """Judge a running phase by every tier, as far as can be told.

    Beyond `judge_early`, a limit on TTFT is missed as soon as too many requests are known to be
    late, ended or not: an overloaded system ends none.

    Args:
        tiers: the limits.
        running: what is known of the phase.
        speed: which output speed is the judged one, ``usage`` or ``first-chunk``.
    """
    return tuple(
        _with_known_late(
            judge_early(tier, running.turns, running.settled, speed=speed), tier, running
        )
        for tier in tiers
    )


def verdicts_by(
    early: Sequence[EarlyVerdict],
    tiers: Sequence[SLOTier],
    metrics: Metrics,
    *,
    invalid: Sequence[str] = (),
) -> tuple[Verdict, ...]:
    """Judge a phase by every tier.

    Args:
        early: what was certain when its evidence ended it; empty where its floors did.
        tiers: the limits.
        metrics: the phase; where evidence ended it, the part of which all requests had ended.
        invalid: reasons, if any, why the phase cannot be trusted.
    """
    if invalid or not early:
        return tuple(judge(tier, metrics, invalid=invalid) for tier in tiers)
    return tuple(_verdict(each, t, metrics) for each, t in zip(early, tiers, strict=True))


def _verdict(early: EarlyVerdict, tier: SLOTier, metrics: Metrics) -> Verdict:
    verdict = judge(tier, metrics, aims=True)
    if early.outcome == "fail":
        missed = {j.limit: j for j in early.judgements if j.outcome == "fail"}
        findings = tuple(
            replace(f, observed=missed[f.limit].observed, n=missed[f.limit].n, met=False)
            if f.limit in missed and (f.met or f.observed is None)
            else f
            for f in verdict.findings
            # What nothing is known of was not missed.
            if f.observed is not None or f.limit in missed
        )
        return replace(verdict, outcome="fail", findings=findings, reasons=(), evidence="certain")
    sure = early.outcome == verdict.outcome
    return replace(verdict, evidence="certain" if sure else "unclear", doubts=early.signs)


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
    return _judge_percentile(limit, sample)


def _judge_percentile(limit: Limit, sample: Sample) -> Judgement:
    q = int(limit.statistic.removeprefix("p")) / 100
    interval = sample.interval(q)
    observed = interval.estimate
    if limit.higher_is_better:
        wrong, allowed, over = sample.values < limit.value, q, _over(limit.value, observed)
    else:
        wrong, allowed, over = sample.values > limit.value, 1 - q, _over(observed, limit.value)
    return replace(_test(limit.name, sample, wrong, allowed, interval), over=over)


def _with_known_late(early: EarlyVerdict, tier: SLOTier, running: Running) -> EarlyVerdict:
    limits = {x.name: x for x in tier.limits if x.metric == "ttft_s" and x.statistic != "mean"}
    judgements = tuple(
        _known_late(limits[j.limit], running) if j.limit in limits and j.outcome != "fail" else j
        for j in early.judgements
    )
    if all(j.outcome != "fail" for j in judgements):
        return early
    return replace(early, outcome="fail", judgements=judgements)


def _known_late(limit: Limit, running: Running) -> Judgement:
    """Judge all requests that were sent so long ago that a late first token shows.

    What has not come yet counts with the time it has taken so far; an answer that has begun, with
    its first bytes.
    """
    window = Window(
        start_ns=running.opens_ns,
        end_ns=max(running.opens_ns, running.now_ns - int(limit.value * 1e9)),
    )
    rows = [
        (ttft_s(turn), turn.agent << 32 | turn.ordinal, turn.sent_ns)
        for turn in members(running.turns, window)
    ]
    rows += [
        (((r.first_read_ns or running.now_ns) - r.sent_ns) / 1e9, r.agent << 32 | _OPEN, r.sent_ns)
        for r in running.open_requests
        if window.holds(r.sent_ns)
    ]
    return _judge_percentile(limit, _columns(rows, window))


def _judge_errors(tier: SLOTier, inside: Sequence[TurnRecord], window: Window) -> Judgement:
    sample = _sample(inside, lambda turn: float(turn.error is not None), window)
    failed = sample.values > 0
    share = float(failed.mean()) if failed.size else math.nan
    se, freedom = sample.error(failed)
    reach = student(freedom) * se
    interval = Interval(
        low=max(0.0, share - reach), high=min(1.0, share + reach), estimate=share, n=failed.size,
        se=se,
    )  # fmt: skip
    # A percent cannot be ruled out by a few hundred requests; the limits wait for more anyway.
    clean = bool(failed.size) and not failed.any()
    allowed = tier.max_error_ratio
    judged = _test("error_ratio", sample, failed, allowed, interval, clean=clean)
    return replace(judged, over=_over(share, allowed))


def _sample(
    inside: Sequence[TurnRecord], value_of: Callable[[TurnRecord], float | None], window: Window
) -> Sample:
    rows = [
        (value, turn.agent << 32 | turn.ordinal, turn.sent_ns)
        for turn in inside
        if (value := value_of(turn)) is not None
    ]
    return _columns(rows, window)


def _columns(rows: Sequence[tuple[float, int, int]], window: Window) -> Sample:
    return Sample(
        values=np.array([row[0] for row in rows], dtype=np.float64),
        runs=np.array([row[1] for row in rows], dtype=np.int64),
        at_ns=np.array([row[2] for row in rows], dtype=np.int64),
        window=window,
    )


def _test(
    name: str,
    sample: Sample,
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
    z = standardized(share, allowed, se, wrong.size)
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
        over=math.nan,
    )


def _over(more: float, less: float) -> float:
    return more / less if less else math.inf


def _unclear(name: str, sample: Sample) -> Judgement:
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
        over=math.nan,
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
