"""`Bench`: measure one number of agents, or find the greatest that meets a tier.

Phases are kept in a ledger: each is measured once and judged by every tier of its model.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_agentperf.answers import capacity_of, contradicts, search_of
from pytest_agentperf.bundle import DatasetFacts, ModelRun, PhaseResult, RunFolder
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.conformance import PhaseFacts, conformance
from pytest_agentperf.errors import AgentPerfError, ConfigError, did_you_mean
from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.metrics import Metrics, summarize
from pytest_agentperf.normalize import Capacity, System
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.plan import Plan, make_plan
from pytest_agentperf.pool import Pool
from pytest_agentperf.power import measure_power
from pytest_agentperf.protocols import EndpointInfo, Meter
from pytest_agentperf.records import Event, Measurement
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec, SLOTier, judge
from pytest_agentperf.trajectory import Dataset
from pytest_agentperf.validity import Marks, check
from pytest_agentperf.workers import WorkerPool, worker_count

__all__ = ["Bench", "Inputs", "InvalidPhaseError", "Models"]

T = TypeVar("T")


class InvalidPhaseError(AgentPerfError):
    """A phase that was asked for by name cannot be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a run, and the entries that ship for them."""

    specs: Mapping[str, ModelSpec]
    """By the name that requests carry."""
    published: Mapping[str, ModelSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is measured, with what, by what."""

    endpoint: EndpointInfo
    dataset: Dataset
    meter: Meter | None
    system: System | None


@dataclass(slots=True, kw_only=True)
class _Ledger:
    spec: ModelSpec
    plan: Plan
    dataset: DatasetFacts
    phases: list[PhaseResult] = field(default_factory=list[PhaseResult])
    begun: set[str] = field(default_factory=set[str])
    """Tiers whose search has begun."""
    given: dict[str, Capacity] = field(default_factory=dict[str, Capacity])
    """Answers that were given to a test, by tier."""


class Bench:
    """Measures phases on one endpoint; made by the ``agentperf`` fixture."""

    def __init__(
        self,
        *,
        settings: Settings,
        models: Models,
        inputs: Inputs,
        folder: RunFolder,
        on_event: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._models = models
        self._endpoint = inputs.endpoint
        self._dataset = inputs.dataset
        self._sha256 = inputs.dataset.sha256
        self._meter = inputs.meter
        self._system = inputs.system
        self._folder = folder
        self._on_event = on_event
        place = inputs.endpoint.in_process
        self._in_process = place
        self._late_steps = inputs.endpoint.late_steps
        self._clock = REAL_TIME if place is None else place.clock
        self._pool: Pool = WorkerPool() if place is None else InProcessPool(place)
        self._began_ns = self._clock.now_ns()
        self._ledgers: dict[str, _Ledger] = {}
        self._one_at_a_time = asyncio.Lock()
        self._phases = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="agentperf-")

    @property
    def start_agents(self) -> int:
        """Agents of the first phase of a search."""
        return self._settings.start_agents

    async def measure(self, agents: int, *, model: str | None = None) -> Metrics:
        """Measure ``agents`` agents, or return what an earlier phase with as many found.

        Args:
            agents: agents active at once, at least 1.
            model: name of the model; the run's first when left out.

        Raises:
            InvalidPhaseError: the phase cannot be trusted; says why.
        """
        if agents < 1:
            raise ConfigError(f"measure(agents={agents}): at least 1 agent is needed")
        async with self._one_at_a_time:
            ledger = self._ledger(model or next(iter(self._models.specs)))
            known = (p for p in ledger.phases if p.agents == agents and not p.invalid)
            phase = next(known, None) or await self._phase(ledger, agents)
        if phase.invalid:
            raise InvalidPhaseError(f"phase {phase.number}: {'; '.join(phase.invalid)}")
        return phase.metrics

    async def capacity(self, tier: SLOTier) -> Capacity:
        """Find the greatest number of agents that meets a tier."""
        async with self._one_at_a_time:
            ledger = self._ledger(tier.model)
            if tier.name not in ledger.given:
                ledger.begun.add(tier.name)
                while (agents := self._next_phase(ledger, tier)) is not None:
                    await self._phase(ledger, agents)
                ledger.given[tier.name] = self._capacity(ledger, tier)
                self._save()
            return ledger.given[tier.name]

    @property
    def revised(self) -> tuple[str, ...]:
        """Return, in words, every answer that a later phase has contradicted."""
        return tuple(
            f"'{tier}' was answered with {given.agents} agents, but {now.first_failing} failed in "
            f"a later phase: {now.label} now"
            for ledger in self._ledgers.values()
            for tier in ledger.spec.tiers
            if (given := ledger.given.get(tier.name)) is not None
            and contradicts(now := self._capacity(ledger, tier), given)
        )

    def _next_phase(self, ledger: _Ledger, tier: SLOTier) -> int | None:
        return search_of(ledger.phases, tier, self._settings).next_phase()

    def _capacity(self, ledger: _Ledger, tier: SLOTier) -> Capacity:
        return capacity_of(ledger.phases, tier, self._settings, self._system)

    def _answer(self, ledger: _Ledger, tier: SLOTier) -> Capacity:
        """Return what a test was told, unless a later phase contradicts it, or how far we are."""
        given, now = ledger.given.get(tier.name), self._capacity(ledger, tier)
        return now if given is None or contradicts(now, given) else given

    async def close(self) -> None:
        """End the load; what was measured is on disk already."""
        await self._run(self._pool.close)
        self._save()
        self._scratch.cleanup()
        self._folder.close()

    def _ledger(self, model: str) -> _Ledger:
        if model not in self._models.specs:
            raise ConfigError(
                f"no model of this run is called {model!r}{did_you_mean(model, self._models.specs)}"
            )
        if model not in self._ledgers:
            spec = self._models.specs[model]
            plan = make_plan(
                self._dataset,
                context_tokens=spec.context_tokens,
                max_tokens=self._max_tokens(spec),
                tool_delay=self._settings.tool_delay,
                max_tool_s=self._settings.max_tool_s,
                salted=self._settings.salt != "none",
                seed=self._settings.seed,
            )
            dataset = DatasetFacts(
                name=self._dataset.name,
                sha256=self._sha256,
                trajectories=len(plan.trajectories),
                prompts=plan.prompts,
                cut_turns=plan.cut_turns,
                dropped=plan.dropped,
                estimated_isl=plan.estimated_isl,
                sampled_tools=plan.sampled_tools,
                losses=self._dataset.losses,
            )
            self._ledgers[model] = _Ledger(spec=spec, plan=plan, dataset=dataset)
            for loss in self._dataset.losses:
                self._say(model, f"dataset: {loss}")
            if plan.cut_turns:
                self._say(
                    model,
                    f"{plan.cut_turns} turns cut and {plan.dropped} trajectories dropped to fit "
                    f"{spec.context_tokens} tokens",
                )
        return self._ledgers[model]

    def _max_tokens(self, spec: ModelSpec) -> int:
        return min(self._settings.max_tokens, spec.max_tokens or self._settings.max_tokens)

    async def _phase(self, ledger: _Ledger, agents: int) -> PhaseResult:
        self._phases += 1
        number, model = self._phases, ledger.spec.model
        began_s = self._elapsed_s()
        await asyncio.to_thread(self._late_steps)  # those before this phase are none of its own
        measurement = await self._run(lambda: self._measure(ledger, number, agents))
        late_ratio = await asyncio.to_thread(self._late_steps)
        measurement = replace(measurement, simulator_late_ratio=late_ratio)
        # Percentiles of a long phase take seconds of CPU: not on the loop that samples power.
        metrics = await asyncio.to_thread(summarize, measurement, speed=self._settings.speed)
        checks = check(measurement, metrics, self._marks(ledger.spec))
        invalid = [f"{c.name}: {c.text}" for c in checks if c.invalidates and not c.ok]
        phase = PhaseResult(
            number=number,
            model=model,
            agents=agents,
            started_s=began_s,
            duration_s=self._elapsed_s() - began_s,
            metrics=metrics,
            power=measure_power(
                measurement.samples,
                measurement.window,
                devices=len(self._meter.devices) if self._meter else 0,
            ),
            verdicts=tuple(judge(t, metrics, invalid=invalid) for t in ledger.spec.tiers),
            checks=checks,
        )
        ledger.phases.append(phase)
        self._save()
        self._on_event(
            Event(kind="phase-end", model=model, phase=number, agents=agents, text=_outcome(phase))
        )
        return phase

    async def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what touches the load, in the time in which the endpoint answers."""
        if self._in_process is None:
            return await work()
        return await self._in_process.run(work)

    def _elapsed_s(self) -> float:
        return (self._clock.now_ns() - self._began_ns) / 1e9

    async def _measure(self, ledger: _Ledger, number: int, agents: int) -> Measurement:
        workers = worker_count(self._settings.workers, agents=agents, cores=_cores())
        try:
            await self._pool.set_up(self._setup(ledger))
            await self._pool.grow(workers)
            run = self._phase_run(ledger, number, agents)
            return await run.measure(number=number, agents=agents, workers=workers)
        except BaseException:
            # Broken off, by whatever: what is left of this load must not meet the next phase.
            await self._pool.close()
            raise

    def _phase_run(self, ledger: _Ledger, number: int, agents: int) -> PhaseRun:
        return PhaseRun(
            pool=self._pool,
            settings=self._settings,
            meter=self._meter,
            max_error_ratio=max(t.max_error_ratio for t in ledger.spec.tiers),
            clock=self._clock,
            tell=Listeners(
                turns=lambda turns: self._folder.turns(number, turns),
                counts=lambda rows: self._folder.token_counts(number, rows),
                progress=lambda kind, text: self._on_event(
                    Event(
                        kind=kind, model=ledger.spec.model, phase=number, agents=agents, text=text
                    )
                ),
            ),
        )

    def _marks(self, spec: ModelSpec) -> Marks:
        return Marks(
            max_error_ratio=max(t.max_error_ratio for t in spec.tiers),
            first_chunk_judged=self._settings.speed == "first-chunk" or spec.limits_first_chunk,
            simulator_keeps_time=self._settings.mode != "smoke",
            shared_system_prompt=self._settings.salt == "two-level",
            max_loop_lag_p95_s=self._settings.max_loop_lag_p95_s,
            max_loop_lag_p99_s=self._settings.max_loop_lag_p99_s,
            max_cpu_ratio=self._settings.max_cpu_ratio,
        )

    def _setup(self, ledger: _Ledger) -> Setup:
        path = Path(self._scratch.name) / f"{ledger.dataset.sha256[:16]}-{id(ledger)}.msgpack"
        if not path.exists():
            path.write_bytes(msgspec.msgpack.encode(ledger.plan.trajectories))
        return Setup(
            trajectories=str(path),
            url=self._endpoint.url,
            headers=dict(self._endpoint.headers),
            osl_header=self._endpoint.osl_header,
            model=ledger.spec.model,
            request=dict(ledger.spec.request),
            reasoning_field=ledger.spec.reasoning_field,
            max_tokens=self._max_tokens(ledger.spec),
            output=self._settings.output,
            salt=self._settings.salt,
            seed=self._settings.seed,
            run=self._salted_run(),
            timeout_s=self._settings.request_timeout_s,
            tokenizer=self._settings.tokenizer,
        )

    def _salted_run(self) -> str:
        """Return what tells this run's prompts from those of every other run.

        An endpoint of our own process has seen no other run, and must answer the same every time.
        """
        if self._in_process is not None:
            return f"seed-{self._settings.seed}"
        return self._folder.bundle.provenance.run

    def _save(self) -> None:
        ledgers = self._ledgers.values()
        self._folder.update(
            models=tuple(self._model_run(ledger) for ledger in ledgers),
            phases=tuple(sorted((p for x in ledgers for p in x.phases), key=lambda p: p.number)),
            capacities=tuple(
                self._answer(x, t) for x in ledgers for t in x.spec.tiers if t.name in x.begun
            ),
        )

    def _model_run(self, ledger: _Ledger) -> ModelRun:
        facts = [
            PhaseFacts(checks=p.checks, power=p.power, token_ratio=p.metrics.token_ratio)
            for p in ledger.phases
        ]
        published = self._models.published.get(ledger.spec.model)
        rules = conformance(
            self._settings,
            ledger.spec,
            published,
            ledger.plan,
            facts,
            simulated=self._endpoint.simulated,
        )
        return ModelRun(spec=ledger.spec, dataset=ledger.dataset, conformance=rules)

    def _say(self, model: str, text: str) -> None:
        self._on_event(Event(kind="note", model=model, phase=0, agents=0, text=text))


def _outcome(phase: PhaseResult) -> str:
    if phase.invalid:
        return f"INVALID: {phase.invalid[0]}"
    return ", ".join(
        " ".join((v.tier, v.outcome, *(f"({reason})" for reason in v.reasons)))
        for v in phase.verdicts
    )


def _cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
