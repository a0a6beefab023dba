"""What was seen of a phase → what a bundle says of it: metrics, power, checks, verdicts."""

from collections.abc import Iterable, Sequence

from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.checks import PUBLISHED, invalid_by
from pytest_agentperf.conformance import PhaseFacts
from pytest_agentperf.early import EarlyVerdict, verdicts_by
from pytest_agentperf.inside import intervals
from pytest_agentperf.metrics import summarize
from pytest_agentperf.power import measure_meters, role_power
from pytest_agentperf.records import Measurement
from pytest_agentperf.serving import serve
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.validity import Marks, check

__all__ = ["facts_of", "judge_phase", "marks_of", "ttft_limits_s"]


def judge_phase(
    measurement: Measurement,
    spec: ModelSpec,
    settings: Settings,
    *,
    early: Sequence[EarlyVerdict] = (),
) -> PhaseResult:
    """Judge a phase by every tier of its model.

    Args:
        measurement: what was seen.
        spec: the model.
        settings: what the run was asked to do.
        early: what was certain when the phase ended, where its evidence was asked.

    Returns:
        The phase, without what only the run knows: its number and its times are 0.
    """
    metrics = summarize(measurement, speed=settings.speed)
    powers = measure_meters(measurement.meters, measurement.window)
    checks = check(measurement, metrics, marks_of(spec, settings))
    return PhaseResult(
        number=0,
        model=spec.model,
        agents=measurement.agents,
        started_s=0.0,
        duration_s=0.0,
        metrics=metrics,
        power=role_power(powers, "accelerator"),
        meters=powers,
        verdicts=verdicts_by(tuple(early), spec.tiers, metrics, invalid=invalid_by(checks)),
        checks=checks,
        server=serve(measurement, ttft_limits_s(spec)),
        intervals=intervals(measurement, speed=settings.speed),
    )


def facts_of(phases: Iterable[PhaseResult]) -> list[PhaseFacts]:
    """Return what the conformance of a model asks of its phases."""
    return [
        PhaseFacts(checks=p.checks, power=p.power, token_ratio=p.metrics.token_ratio)
        for p in phases
    ]


def ttft_limits_s(spec: ModelSpec) -> Sequence[float]:
    """Return every bound on TTFT that a model's tiers have, seconds, ascending."""
    limits = (limit for tier in spec.tiers for limit in tier.limits)
    return sorted({limit.value for limit in limits if limit.metric == "ttft_s"})


def marks_of(spec: ModelSpec, settings: Settings) -> Marks:
    """Return what a model's phases are held to."""
    return Marks(
        judged=PUBLISHED
        | {(limit.metric, limit.statistic) for t in spec.tiers for limit in t.limits},
        max_error_ratio=max(t.max_error_ratio for t in spec.tiers),
        first_chunk_judged=settings.speed == "first-chunk" or spec.limits_first_chunk,
        simulator_keeps_time=settings.mode != "smoke",
        shared_system_prompt=settings.salt == "two-level",
        salted=settings.salt != "none",
        max_tool_s=settings.max_tool_s,
        power_required=settings.require_power,
        max_loop_lag_p95_s=settings.max_loop_lag_p95_s,
        max_loop_lag_p99_s=settings.max_loop_lag_p99_s,
        max_cpu_ratio=settings.max_cpu_ratio,
    )
