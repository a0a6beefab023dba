"""Can this phase be trusted? Each check with its pass mark; *invalid* is never a pass or a fail."""

from dataclasses import dataclass

import numpy as np

from pytest_agentperf.metrics import Metrics
from pytest_agentperf.records import Measurement

__all__ = ["Check", "Marks", "check"]


_MOST_SLIP_S = 0.1
_MOST_LATE_STEPS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What a phase is held to."""

    max_loop_lag_p95_s: float
    max_loop_lag_p99_s: float
    max_cpu_ratio: float
    max_error_ratio: float = 0.01
    """The greatest of the tiers': above it, failures alone decide."""
    first_chunk_judged: bool = False
    """A tier is judged by the first-chunk speed, so it must be known for every answer."""
    simulator_keeps_time: bool = True
    """A simulator that its own machine slows down makes the phase invalid, not only suspect."""
    shared_system_prompt: bool = False
    """The salt leaves the first message shared: first prompts are cached on purpose."""


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
        *_phase(measurement, metrics.error_ratio > marks.max_error_ratio),
        _at_most(
            "simulator late steps",
            measurement.simulator_late_ratio,
            _MOST_LATE_STEPS,
            "the simulator's own process was too slow for its clock, so this is a busy CPU and not "
            "the simulated system: fewer agents, a larger stream_interval, or sim+virtual:",
            warning=not marks.simulator_keeps_time,
        ),
        *_load(measurement, metrics, marks),
        *_counts(metrics, marks),
        *_answers(metrics, marks),
    )


def _client(measurement: Measurement, marks: Marks) -> tuple[Check, ...]:
    health = measurement.health
    # The worst process decides: one that stalls must not hide behind many that idle.
    lags = [lag for lag in health.loop_lag_s if lag] or [(0.0,)]
    p95, p99 = (max(float(np.percentile(lag, q)) for lag in lags) for q in (95, 99))
    late = "the load generator was late itself: give it more cores or --agentperf-workers"
    return (
        _at_most("client loop lag p95", p95, marks.max_loop_lag_p95_s, late),
        _at_most("client loop lag p99", p99, marks.max_loop_lag_p99_s, late),
        _at_most("client cpu", health.cpu_ratio, marks.max_cpu_ratio, late),
    )


def _phase(measurement: Measurement, every_tier_fails: bool) -> tuple[Check, ...]:  # noqa: FBT001 reads as a statement at the call
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
            ok=measurement.floors_met or (measurement.failed_out and every_tier_fails),
            invalidates=True,
            text="the phase ended before its floors; raise --agentperf-max-phase-s",
        ),
        _at_most(
            "members cut off",
            measurement.cut,
            0,
            "requests of the window were still open when the phase was stopped",
        ),
    )


def _load(measurement: Measurement, metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    active = len(measurement.health.first_sent_ns)
    strangers = {t.agent for t in measurement.turns if t.agent >= measurement.agents}
    return (
        _at_most(
            "schedule slip p99",
            metrics.slip_s.p99 if metrics.slip_s else None,
            max(_MOST_SLIP_S, marks.max_loop_lag_p99_s),
            "requests were sent later than the agents meant to: the load generator, or connecting, "
            "was slow",
        ),
        _at_most(
            "agents of another phase",
            len(strangers),
            0,
            "requests of agents that this phase has not were seen: two phases overlapped",
        ),
        _at_most(
            "requests in flight",
            metrics.in_flight,
            measurement.agents + 1e-6,
            "more requests were open than there are agents: two phases overlapped",
        ),
        _at_most(
            "reconnected share",
            metrics.reconnects / metrics.requests if metrics.requests else None,
            0.05,
            "many reused connections had died before the request: the server or a proxy closes "
            "idle ones early",
            warning=True,
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


def _counts(metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    answered = metrics.requests - metrics.failed
    counted = metrics.osl_tokens.n if metrics.osl_tokens else 0
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
            "first chunks not counted",
            metrics.uncounted_first_chunks if marks.first_chunk_judged else None,
            0,
            "a tier is judged by first-chunk speed, and not every first chunk could be counted: "
            "give --agentperf-tokenizer, or serve with usage on every chunk",
        ),
    )


def _answers(metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    speed, by_first_chunk = metrics.usage_speed_tok_per_s, metrics.first_chunk_speed_tok_per_s
    parted = None
    # Percentiles of different requests must not be compared: not every first chunk can be counted.
    if speed and by_first_chunk and speed.n == by_first_chunk.n and by_first_chunk.p25:
        parted = abs(speed.p25 / by_first_chunk.p25 - 1)
    off = abs(metrics.token_ratio - 1) if metrics.token_ratio is not None else None
    return (
        _at_most(
            "first-turn cached share",
            None if marks.shared_system_prompt else metrics.first_turn_cached_ratio,
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
