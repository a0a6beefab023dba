"""Can this phase be trusted? Each check with its pass mark; *invalid* is never a pass or a fail."""

from dataclasses import dataclass

import numpy as np

from pytest_agentperf.metrics import Metrics
from pytest_agentperf.records import Measurement

__all__ = ["Check", "Marks", "check"]


_MOST_SLIP_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Where a client is too slow for its numbers to be the server's."""

    max_loop_lag_p95_s: float
    max_loop_lag_p99_s: float
    max_cpu_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one phase."""

    name: str
    value: float | None
    limit: float | None
    ok: bool
    invalidates: bool
    """A miss makes the phase invalid; else it is a warning beside the number."""
    text: str
    """What it means and what to do, in one sentence; shown when it is missed."""


def check(measurement: Measurement, metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    """Run every check on one phase."""
    return (
        *_client(measurement, marks),
        *_phase(measurement, metrics, marks.max_loop_lag_p99_s),
        *_answers(metrics),
    )


def _client(measurement: Measurement, marks: Marks) -> tuple[Check, ...]:
    health = measurement.health
    lag = np.asarray(health.loop_lag_s or (0.0,))
    late = "the load generator was late itself: give it more cores or --agentperf-workers"
    return (
        _at_most(
            "client loop lag p95", float(np.percentile(lag, 95)), marks.max_loop_lag_p95_s, late
        ),
        _at_most(
            "client loop lag p99", float(np.percentile(lag, 99)), marks.max_loop_lag_p99_s, late
        ),
        _at_most("client cpu", health.cpu_ratio, marks.max_cpu_ratio, late),
    )


def _phase(
    measurement: Measurement, metrics: Metrics, max_loop_lag_p99_s: float
) -> tuple[Check, ...]:
    active = len(measurement.health.first_sent_ns)
    return (
        Check(
            name="phase complete",
            value=None,
            limit=None,
            ok=measurement.broken is None,
            invalidates=True,
            text=measurement.broken or "",
        ),
        Check(
            name="floors met",
            value=None,
            limit=None,
            # A phase that fails by its errors needs no floors to be believed.
            ok=measurement.floors_met or metrics.error_ratio > 0.2,  # noqa: PLR2004 as in bench
            invalidates=True,
            text="the phase ended before its floors; raise --agentperf-max-phase-s",
        ),
        _at_most(
            "schedule slip p99",
            metrics.slip_s.p99 if metrics.slip_s else None,
            max(_MOST_SLIP_S, max_loop_lag_p99_s),
            "requests were sent later than the agents meant to: the load generator, or connecting, "
            "was slow",
        ),
        Check(
            name="active agents",
            value=active,
            limit=measurement.agents,
            ok=active == measurement.agents,
            invalidates=True,
            text=f"{active} of {measurement.agents} agents ever sent a request",
        ),
    )


def _answers(metrics: Metrics) -> tuple[Check, ...]:
    answered = metrics.requests - metrics.failed
    counted = metrics.osl_tokens.n if metrics.osl_tokens else 0
    speed, by_first_chunk = metrics.usage_speed_tok_per_s, metrics.first_chunk_speed_tok_per_s
    parted = None
    # Percentiles of different requests must not be compared: not every first chunk can be counted.
    if speed and by_first_chunk and speed.n == by_first_chunk.n and by_first_chunk.p25:
        parted = abs(speed.p25 / by_first_chunk.p25 - 1)
    off = abs(metrics.token_ratio - 1) if metrics.token_ratio is not None else None
    return (
        Check(
            name="tokens counted",
            value=counted,
            limit=answered,
            ok=counted == answered,
            invalidates=True,
            text="answers came without usage: serve with stream_options.include_usage, "
            "or give --agentperf-tokenizer",
        ),
        _at_most(
            "first-turn cached share",
            metrics.first_turn_cached_ratio,
            0.1,
            "the server knew first prompts already: the salt does not reach its prefix cache",
            warning=True,
        ),
        _at_most(
            "undefined speeds",
            metrics.undefined_speed_ratio,
            0.05,
            "many answers came in one piece or with one token: P25 speed leans on the rest",
            warning=True,
        ),
        _at_most(
            "bundled first chunk",
            parted,
            0.02,
            "P25 speed parts from its first-chunk variant: the server bundles tokens",
            warning=True,
        ),
        _at_most(
            "hidden reasoning",
            metrics.hidden_reasoning_ratio,
            0.05,
            "reasoning tokens were counted but never streamed: TTFT is not comparable",
            warning=True,
        ),
        _at_most(
            "usage against tokenizer",
            off,
            0.02,
            "the server's token counts part from the tokenizer's",
            warning=True,
        ),
    )


def _at_most(
    name: str, value: float | None, limit: float, text: str, *, warning: bool = False
) -> Check:
    return Check(
        name=name,
        value=value,
        limit=limit,
        ok=value is None or value <= limit,
        invalidates=not warning,
        text=text,
    )
