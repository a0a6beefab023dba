"""Example bundles in code: the phases are made up, judged and searched by the package itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_agentperf.bundle import (
    SCHEMA,
    Bundle,
    DatasetFacts,
    ModelRun,
    PhaseResult,
    Provenance,
)
from pytest_agentperf.conformance import PhaseFacts, conformance
from pytest_agentperf.explain import explain_capacity
from pytest_agentperf.metrics import Distribution, Metrics
from pytest_agentperf.normalize import Capacity, normalize
from pytest_agentperf.plan import Plan
from pytest_agentperf.power import Power
from pytest_agentperf.search import CapacitySearch
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier, judge
from pytest_agentperf.system import System
from pytest_agentperf.validity import Check

__all__ = ["SYSTEM", "example_bundle"]

GPT = ModelSpec(
    model="gpt-oss-120b",
    tiers=tuple(
        SLOTier(
            model="gpt-oss-120b",
            name=name,
            limits=(
                Limit(metric="output_speed_tok_per_s", statistic="p25", value=speed),
                Limit(metric="ttft_s", statistic="p95", value=ttft),
            ),
            min_agents=floor,
        )
        for name, speed, ttft, floor in (
            ("slo-1", 100.0, 5.0, 48),
            ("slo-2", 250.0, 3.0, 1),
            ("slo-3", 500.0, 2.0, 1),
            ("slo-4", 2000.0, 1.0, 1),
        )
    ),
    request={"temperature": 1.0, "top_p": 1.0, "reasoning_effort": "high"},
)
DEEPSEEK = ModelSpec(
    model="deepseek-v3.2",
    tiers=tuple(
        SLOTier(
            model="deepseek-v3.2",
            name=name,
            limits=(
                Limit(metric="output_speed_tok_per_s", statistic="p25", value=speed),
                Limit(metric="ttft_s", statistic="p95", value=15.0),
            ),
        )
        for name, speed in (("slo-1", 30.0), ("slo-2", 100.0), ("slo-3", 300.0))
    ),
    request={"temperature": 1.0, "top_p": 0.95},
)
SYSTEM = System(
    name="Example 8-GPU node",
    accelerator="NVIDIA H200 SXM",
    accelerators=8,
    tdp_w=700.0,
    memory_gib=141.0,
    systems=1,
    nodes=1,
    price_usd_per_hour=22.4,
    provider="Example Cloud",
    engine={"name": "vLLM", "version": "0.19.1", "tensor_parallel": 8, "kv_cache": "fp8"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    agents: int
    speed: float
    ttft_s: float
    power_w: float | None = None
    failed: int = 0
    bad: str | None = None


_GPT_SEEN = (
    _Seen(agents=8, speed=587.3141592653589, ttft_s=0.8123456789012345, power_w=2391.25),
    _Seen(agents=16, speed=402.71828182845905, ttft_s=1.2718281828459045, power_w=2987.5),
    _Seen(agents=32, speed=261.0404040404, ttft_s=2.1, power_w=3554.75, failed=3),
    _Seen(agents=64, speed=81.33333333333333, ttft_s=9.707, power_w=4212.125),
    _Seen(agents=48, speed=140.2, ttft_s=3.9, power_w=None, bad="client loop lag p95"),
    _Seen(agents=48, speed=138.95, ttft_s=4.02, power_w=3977.0),
    _Seen(agents=54, speed=109.5, ttft_s=4.93, power_w=4077.0),
    _Seen(agents=55, speed=99.9997, ttft_s=math.inf, power_w=4102.0, failed=190),
    _Seen(agents=36, speed=247.2, ttft_s=2.94, power_w=3650.0),
    _Seen(agents=35, speed=251.5, ttft_s=2.67, power_w=None),
    _Seen(agents=38, speed=253.9, ttft_s=2.71, power_w=3702.5),
    _Seen(agents=9, speed=496.2, ttft_s=0.89, power_w=2455.0),
    _Seen(agents=1, speed=1204.5, ttft_s=0.31, power_w=1120.5),
)
_DEEPSEEK_SEEN = (
    _Seen(agents=8, speed=91.25, ttft_s=4.5),
    _Seen(agents=4, speed=118.125, ttft_s=2.25),
    _Seen(agents=64, speed=33.5, ttft_s=9.75),
)


def example_bundle(
    *,
    mode: str = "exact",
    models: int = 1,
    dataset: str = "traces/tuning-500",
    error: str = "HTTP 503",
    system: System | None = SYSTEM,
) -> Bundle:
    """Return a finished run of `models` models (1 or 2) on an eight-GPU node.

    The first has 4 tiers and 13 phases: one invalid, one with an infinite P95 TTFT, one that passes
    ``slo-2`` above a failure; ``slo-4`` is not supported. The second has no power readings, reaches
    the search limit for ``slo-1`` and was interrupted in its other searches.
    """
    settings = make_settings(
        {"endpoint": "http://inference.example:8000/v1", "dataset": dataset, "mode": mode,
         "max_agents": 64}
    )  # fmt: skip
    cases = ((GPT, _GPT_SEEN), (DEEPSEEK, _DEEPSEEK_SEEN))[:models]
    runs: list[ModelRun] = []
    phases: list[PhaseResult] = []
    capacities: list[Capacity] = []
    for spec, seen in cases:
        own = tuple(_phase(spec, len(phases) + i, s, error) for i, s in enumerate(seen, 1))
        phases.extend(own)
        capacities.extend(_capacity(tier, own, system) for tier in spec.tiers)
        runs.append(_model_run(settings, spec, own))
    return Bundle(
        schema=SCHEMA,
        provenance=_provenance(tuple(spec.model for spec, _ in cases)),
        settings=settings,
        system=system,
        models=tuple(runs),
        phases=tuple(phases),
        capacities=tuple(capacities),
    )


def _provenance(served: tuple[str, ...]) -> Provenance:
    return Provenance(
        run="20261121-070000-a1b2c3",
        started_at="2026-11-21T07:00:00+00:00",
        ended_at="2026-11-21T09:21:07+00:00",
        versions={"pytest-agentperf": "0.1.0", "python": "3.11.7", "httpx": "0.28.1"},
        host={"system": "Linux 6.8.0", "machine": "x86_64", "cores": "32"},
        endpoint="http://inference.example:8000/v1",
        server="vLLM 0.19.1",
        served_models=served,
        meter="nvml",
        devices=tuple({"index": i, "name": "NVIDIA H200", "limit_w": 700} for i in range(8)),
    )


def _model_run(settings: Settings, spec: ModelSpec, phases: Sequence[PhaseResult]) -> ModelRun:
    plan = Plan(
        trajectories=(),
        prompts=18_997,
        cut_turns=212,
        dropped=1,
        estimated_isl=0,
        sampled_tools=431,
    )
    facts = [
        PhaseFacts(checks=p.checks, power=p.power, token_ratio=p.metrics.token_ratio)
        for p in phases
    ]
    return ModelRun(
        spec=spec,
        dataset=DatasetFacts(
            name=settings.dataset,
            sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            trajectories=499,
            prompts=plan.prompts,
            cut_turns=plan.cut_turns,
            dropped=plan.dropped,
            estimated_isl=plan.estimated_isl,
            sampled_tools=plan.sampled_tools,
            losses=("12 images replaced by a placeholder",),
        ),
        conformance=conformance(settings, spec, spec, plan, facts, simulated=False),
    )


def _phase(spec: ModelSpec, number: int, seen: _Seen, error: str) -> PhaseResult:
    metrics = _metrics(seen, error)
    checks = _checks(seen)
    invalid = [f"{c.name}: {c.text}" for c in checks if c.invalidates and not c.ok]
    return PhaseResult(
        number=number,
        model=spec.model,
        agents=seen.agents,
        started_s=(number - 1) * 705.0,
        duration_s=702.5,
        metrics=metrics,
        power=_power(seen, metrics.window_s),
        verdicts=tuple(judge(tier, metrics, invalid=invalid) for tier in spec.tiers),
        checks=checks,
    )


def _checks(seen: _Seen) -> tuple[Check, ...]:
    late = "the load generator was late itself: give it more cores or --agentperf-workers"
    return (
        Check(
            name="client loop lag p95",
            value=0.0041 if seen.bad else 0.0006,
            limit=0.003,
            ok=seen.bad is None,
            invalidates=True,
            text=late,
        ),
        Check(
            name="undefined speeds",
            value=0.061 if seen.failed else 0.012,
            limit=0.05,
            ok=not seen.failed,
            invalidates=False,
            text="many answers came in one piece or with one token: P25 speed leans on the rest",
        ),
    )


def _power(seen: _Seen, window_s: float) -> Power:
    if seen.power_w is None:
        reason = "readings cover 71% of the window, 95% are needed"
        return Power(
            mean_w=None, energy_j=None, devices=8, samples=3401, coverage=0.71, reason=reason
        )
    return Power(
        mean_w=seen.power_w,
        energy_j=seen.power_w * window_s,
        devices=8,
        samples=4808,
        coverage=0.998,
        reason=None,
    )


def _around(n: int, p25: float, p95: float) -> Distribution:
    middle = p25 if math.isinf(p95) else (p25 + p95) / 2
    return Distribution(
        n=n,
        mean=math.inf if math.isinf(p95) else middle,
        p05=p25 * 0.7,
        p10=p25 * 0.8,
        p25=p25,
        p50=middle,
        p75=middle,
        p90=middle,
        p95=p95,
        p99=p95,
    )


def _metrics(seen: _Seen, error: str) -> Metrics:
    requests = 61 * seen.agents
    answered = requests - seen.failed
    speed = _around(answered - 7, seen.speed, seen.speed * 1.5)
    timeouts = seen.failed // 3
    return Metrics(
        agents=seen.agents,
        window_s=600.25,
        requests=requests,
        failed=seen.failed,
        errors={error: seen.failed - timeouts, "timeout": timeouts} if seen.failed else {},
        error_ratio=seen.failed / requests,
        ttft_s=_around(requests, 0.4, seen.ttft_s),
        output_speed_tok_per_s=speed,
        usage_speed_tok_per_s=speed,
        uncounted_first_chunks=0,
        first_chunk_speed_tok_per_s=replace(speed, p25=seen.speed * 0.99),
        unbundled_speed_tok_per_s=replace(speed, n=answered - 40, p25=seen.speed * 0.97),
        e2e_s=_around(answered, 2.5, 21.75),
        isl_tokens=_around(answered, 11_204.0, 88_412.0),
        osl_tokens=_around(answered, 61.0, 2011.0),
        undefined_speed_ratio=0.061 if seen.failed else 0.012,
        bundled_ratio=0.02,
        hidden_reasoning_ratio=0.0,
        length_cut_ratio=0.001,
        throughput_tok_per_s=seen.agents * seen.speed * 0.4,
        cached_ratio=0.913,
        first_turn_cached_ratio=0.004,
        trajectories=max(30, 3 * seen.agents),
        in_flight=seen.agents * 0.62,
        slip_s=_around(requests, 0.0002, 0.0009),
        sends_in_10ms=3,
        token_ratio=1.0004,
        osl_vs_recorded=1.02,
        reconnects=2,
    )


def _capacity(tier: SLOTier, phases: Sequence[PhaseResult], system: System | None) -> Capacity:
    search = CapacitySearch(start_agents=8, max_agents=64, resolution=0.02)
    for phase in phases:
        search.record(phase.agents, phase.verdict(tier.name).outcome)  # pyright: ignore[reportArgumentType] one of the three words
    found = search.result()
    verdicts = {(p.agents, p.verdict(tier.name).outcome): p for p in phases}
    passing = verdicts.get((found.agents, "pass"))
    failing = verdicts.get((found.first_failing or 0, "fail"))
    missed = (f.limit for f in failing.verdict(tier.name).findings if not f.met) if failing else ()
    power_w = passing.power.mean_w if passing else None
    reason = passing.power.reason if passing else "no passing phase"
    throughput = passing.metrics.throughput_tok_per_s if passing else None
    capacity = Capacity(
        model=tier.model,
        tier=tier.name,
        agents=found.agents,
        status=found.status,
        first_failing=found.first_failing,
        limited_by=tuple(missed) or (("search limit",) if found.status == "at-limit" else ()),
        passing_phase=passing.number if passing else None,
        failing_phase=failing.number if failing else None,
        passes_above_failure=found.passes_above_failure,
        throughput_tok_per_s=throughput,
        mean_power_w=power_w,
        per=normalize(found.agents, system, mean_power_w=power_w, power_reason=reason),
        energy_j_per_output_token=power_w / throughput if power_w and throughput else None,
        throughput_per=normalize(
            throughput or 0.0, system, mean_power_w=power_w, power_reason=reason
        ),
    )
    text = explain_capacity(
        tier, capacity, passing=passing, failing=failing, invalid=[p for p in phases if p.invalid]
    )
    return replace(capacity, explanation=text)
