"""SLO tiers: what a deployment must keep, and the judgement of one measurement."""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_agentperf.metrics import Distribution, Metrics

__all__ = [
    "HIGHER_IS_BETTER",
    "Evidence",
    "Finding",
    "Limit",
    "ModelSpec",
    "Outcome",
    "SLOTier",
    "Verdict",
    "judge",
]

Outcome = Literal["pass", "fail", "invalid"]
"""A number that cannot be trusted is *invalid*, never a pass and never a fail."""

_SURE = 0.999

Evidence = Literal["floors", "certain", "unclear"]
"""Of a phase that met its floors; of a shorter one, by a test or by its numbers alone."""

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "output_speed_tok_per_s": True,
    "first_chunk_speed_tok_per_s": True,
    "ttft_s": False,
    "e2e_s": False,
}
"""Metrics a limit may name. The direction belongs to the metric and is nobody's to choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One bound on one statistic of one metric."""

    metric: str
    statistic: str
    value: float

    @property
    def higher_is_better(self) -> bool:
        """Tell whether the value is a lower bound."""
        return HIGHER_IS_BETTER[self.metric]

    @property
    def name(self) -> str:
        """``ttft_s.p95``."""
        return f"{self.metric}.{self.statistic}"

    @property
    def sign(self) -> str:
        """``>=`` or ``<=``."""
        return ">=" if self.higher_is_better else "<="

    def met_by(self, observed: float) -> bool:
        """Tell whether a value is inside; a value on the limit is."""
        return (operator.ge if self.higher_is_better else operator.le)(observed, self.value)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SLOTier:
    """A named set of limits for one model; ``metrics in tier`` asks whether all are met."""

    model: str
    name: str
    limits: tuple[Limit, ...]
    max_error_ratio: float = 0.01
    min_agents: int = 1

    def __contains__(self, metrics: object) -> bool:
        return isinstance(metrics, Metrics) and judge(self, metrics).outcome == "pass"

    def __repr__(self) -> str:
        return (
            f"<SLOTier {self}: {', '.join(f'{x.name} {x.sign} {x.value:g}' for x in self.limits)}>"
        )

    def __str__(self) -> str:
        return f"{self.model} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model's tiers and what each of its requests must carry."""

    model: str
    tiers: tuple[SLOTier, ...]
    aliases: tuple[str, ...] = ()
    context_tokens: int = 131_072
    max_tokens: int | None = None
    request: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Body fields of every request: sampling, reasoning effort."""
    reasoning_field: str = "reasoning_content"
    """Message field in which recorded reasoning goes back to the server."""

    @property
    def limits_first_chunk(self) -> bool:
        """Tell whether any tier has a limit on the first-chunk speed."""
        names = {limit.metric for tier in self.tiers for limit in tier.limits}
        return "first_chunk_speed_tok_per_s" in names


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One limit against what was observed."""

    limit: str
    sign: str
    bound: float
    observed: float | None
    """``None``: nothing there to measure. ``inf``: failed requests reach into the percentile."""
    n: int
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of one phase by one tier."""

    tier: str
    agents: int
    outcome: Outcome
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...] = ()
    """Why it is invalid."""
    evidence: Evidence = "floors"
    doubts: tuple[str, ...] = ()
    """What says that a longer phase may come to another verdict."""


def judge(
    tier: SLOTier, metrics: Metrics, *, invalid: Sequence[str] = (), aims: bool = False
) -> Verdict:
    """Judge one phase by one tier.

    Args:
        tier: the limits.
        metrics: the phase.
        invalid: reasons, if any, why the phase cannot be trusted.
        aims: no answer rests on it, so that failures which may be chance count as they are.
    """
    findings = [_find(limit, metrics) for limit in tier.limits]
    errors = Finding(
        limit="error_ratio",
        sign="<=",
        bound=tier.max_error_ratio,
        observed=metrics.error_ratio,
        n=metrics.requests,
        met=metrics.error_ratio <= tier.max_error_ratio,
    )
    reasons = [*invalid, *(f"{f.limit}: no value" for f in findings if f.observed is None)]
    if not metrics.requests:
        reasons.append("no request was sent in the steady window")
    met = all(f.met for f in (*findings, errors))
    few = not (errors.met or aims) and all(f.met for f in findings)
    if few and not _surely_more(metrics.failed, metrics.requests, tier.max_error_ratio):
        reasons.append(_too_few(metrics, tier.max_error_ratio))
    return Verdict(
        tier=tier.name,
        agents=metrics.agents,
        outcome="invalid" if reasons else "pass" if met else "fail",
        findings=(*findings, errors),
        reasons=tuple(reasons),
    )


def _surely_more(failed: int, requests: int, allowed_ratio: float) -> bool:
    """Tell whether so many failures are more than chance makes of what is allowed.

    Where exactly so many fail as are allowed, this is said of one phase in a thousand.
    """
    if failed <= requests * allowed_ratio:
        return False
    if not 0 < allowed_ratio < 1:
        return True
    # P(fewer than that fail), term by term: all but one in a thousand phases see fewer.
    log_odds = math.log(allowed_ratio) - math.log1p(-allowed_ratio)
    log_term = requests * math.log1p(-allowed_ratio)
    fewer = 0.0
    for count in range(failed):
        fewer += math.exp(log_term)
        log_term += math.log(requests - count) - math.log(count + 1) + log_odds
    return fewer > _SURE


def _too_few(metrics: Metrics, allowed_ratio: float) -> str:
    often = max(metrics.errors, key=lambda reason: metrics.errors[reason], default="")
    return (
        f"error_ratio: {metrics.failed} of {metrics.requests} requests failed, which may be chance "
        f"where {allowed_ratio:.3g} are allowed, and is all that was missed; most often: {often!r}"
    )


def _find(limit: Limit, metrics: Metrics) -> Finding:
    values: Distribution | None = getattr(metrics, limit.metric)
    observed = None if values is None else values.statistic(limit.statistic)
    return Finding(
        limit=limit.name,
        sign=limit.sign,
        bound=limit.value,
        observed=observed,
        n=0 if values is None else values.n,
        met=observed is not None and limit.met_by(observed),
    )
