"""`Bench`: measure one number of agents, or find the greatest that meets a tier.

Phases are kept in a ledger: each is measured once and judged by every tier of its model.
"""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pytest_agentperf import words
from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.early import EarlyVerdict
from pytest_agentperf.encoded import write_trajectories
from pytest_agentperf.errors import (
    ConfigError,
    HoursOverError,
    InvalidPhaseError,
    did_you_mean,
)
from pytest_agentperf.events import Event, Kind
from pytest_agentperf.explain import explain_phase
from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.inputs import Inputs, Models
from pytest_agentperf.judged import judge_phase
from pytest_agentperf.ledger import Ledger, make_ledger, setup_of, taken_over
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.places import parse_places
from pytest_agentperf.pool import Pool
from pytest_agentperf.presence import Presence
from pytest_agentperf.procedure import Procedure, full_phase
from pytest_agentperf.profile import profile
from pytest_agentperf.readiness import Readiness
from pytest_agentperf.readings import Metering, make_readings
from pytest_agentperf.records import Measurement
from pytest_agentperf.room import worker_count
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import SLOTier
from pytest_agentperf.timeline import timeline
from pytest_agentperf.workers import WorkerPool

__all__ = ["Bench", "Inputs", "Models"]

T = TypeVar("T")


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
        numbered_after: int = 0,
    ) -> None:
        self._settings = settings
        self._models = models
        self._endpoint = inputs.endpoint
        self._dataset = inputs.dataset
        self._sha256 = inputs.dataset.sha256
        self._system = inputs.system
        self._folder = folder
        self._on_event = on_event
        place = inputs.endpoint.in_process
        self._in_process = place
        self._late_steps = inputs.endpoint.late_steps
        self._clock = REAL_TIME if place is None else place.clock
        self._metering = Metering(inputs.meters, self._clock)
        beside_us = WorkerPool() if place is None else InProcessPool(place)
        self._pool: Pool = inputs.hosts or beside_us
        self._began_ns = self._clock.now_ns()
        self._ledgers: dict[str, Ledger] = {}
        self._one_at_a_time = asyncio.Lock()
        self._phases = numbered_after
        self._went_away = False
        """In the last phase."""
        self._resumed_s = 0.0
        """Where time jumps, the end of the earlier run that this one goes on with."""
        self._scratch = tempfile.TemporaryDirectory(prefix="agentperf-")
        self._presence = Presence(
            inputs.endpoint, settings, go_on=folder.how_to_go_on, tell=self._say
        )
        self._readiness = Readiness(
            inputs.endpoint, settings, folder=Path(self._scratch.name), tell=self._say
        )

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
            EndpointError: the endpoint went away for good, or another server has its place.
        """
        if agents < 1:
            raise ConfigError(f"measure(agents={agents}): at least 1 agent is needed")
        async with self._one_at_a_time:
            ledger = self._ledger(model or next(iter(self._models.specs)))
            phase = ledger.known(agents)
            if phase is None and self._hours_over:
                raise HoursOverError(f"{agents} agents were not measured: {self.how_to_go_on}")
            procedure = full_phase(ledger.spec, self._settings)
            phase = phase or await self._phase(ledger, procedure, agents)
            if phase.invalid and self._went_away:
                phase = await self._phase(ledger, procedure, agents)
        if phase.invalid:
            raise InvalidPhaseError(phase.number, phase.invalid)
        return phase.metrics

    async def capacity(self, tier: SLOTier) -> Capacity:
        """Find the greatest number of agents that meets a tier.

        The answer has status ``open`` where the run's hours are over before the search has ended.

        Raises:
            EndpointError: the endpoint went away for good, or another server has its place.
        """
        async with self._one_at_a_time:
            ledger = self._ledger(tier.model)
            if tier.name not in ledger.given:
                ledger.begun.add(tier.name)
                await self._search(ledger, tier)
                found = ledger.capacity(tier)
                self._save()
                if found.status == "open":
                    return found
                ledger.given[tier.name] = found
            return ledger.given[tier.name]

    def take_over(self, run: Bundle) -> None:
        """Put the valid phases of an earlier run into the ledger; numbers go on after its last.

        Args:
            run: measured what this run would measure; see `pytest_agentperf.resume`.
        """
        for model in dict.fromkeys(p.model for p in run.phases if not p.invalid):
            own = taken_over(run, model)
            self._ledger(model).phases += own
            self._say(
                model,
                f"{len(own)} valid phases of run {run.provenance.run} are taken over, "
                f"{words.span(sum(p.duration_s for p in own))} on the system",
            )
        self._readiness.warm_ups = tuple(
            replace(w, sent_in=w.sent_in or run.provenance.run) for w in run.warm_ups
        )
        self._folder.update(idle=run.idle)
        self._phases = max((p.number for p in run.phases), default=0)
        if self._clock.jumps:
            self._resumed_s = max((p.started_s + p.duration_s for p in run.phases), default=0.0)
        self._save()

    @property
    def how_to_go_on(self) -> str:
        """Return, in words, why nothing more is measured and what to do."""
        return (
            f"no phase begins after --agentperf-max-hours {self._settings.max_hours:g}; "
            f"{self._folder.how_to_go_on}"
        )

    @property
    def revised(self) -> tuple[str, ...]:
        """Return, in words, every answer that a later phase has contradicted."""
        return tuple(said for ledger in self._ledgers.values() for said in ledger.revised())

    async def close(self) -> None:
        """End the load; what was measured is on disk already."""
        with ExitStack() as ends:  # each whatever becomes of the others, the last one first
            ends.callback(self._folder.close)
            ends.callback(self._scratch.cleanup)
            ends.callback(self._save)
            await self._run(self._pool.close)
            await self._metering.stop()

    def _ledger(self, model: str) -> Ledger:
        if model not in self._models.specs:
            raise ConfigError(
                f"no model of this run is called {model!r}{did_you_mean(model, self._models.specs)}"
            )
        if model not in self._ledgers:
            ledger = self._ledgers[model] = make_ledger(
                self._models.specs[model],
                self._dataset,
                sha256=self._sha256,
                settings=self._settings,
                system=self._system,
                verify=self._models.verify.get(model, {}),
            )
            for note in ledger.notes():
                self._say(model, note)
            self._stand(ledger)
        return self._ledgers[model]

    async def _search(self, ledger: Ledger, tier: SLOTier) -> None:
        while (wanted := ledger.next_phase(tier)) is not None:
            if self._hours_over:
                self._say(tier.model, f"{tier.name} is not finished: {self.how_to_go_on}")
                return
            await self._phase(ledger, ledger.procedure(wanted), wanted.agents)
            self._stand(ledger, ledger.left_text())

    @property
    def _hours_over(self) -> bool:
        limit_s = self._settings.max_hours * 3600
        return 0 < limit_s <= self._elapsed_s() - self._resumed_s

    async def _phase(self, ledger: Ledger, procedure: Procedure, agents: int) -> PhaseResult:
        self._presence.check()
        if self._folder.bundle.idle is None:
            idle = await self._run(lambda: self._metering.idle(for_s=self._settings.idle_s))
            self._folder.update(idle=idle)
        rest = None
        if not self._clock.jumps:
            rest = await self._readiness.before_phase(ledger, self._setup(ledger))
        self._phases += 1
        number, model = self._phases, ledger.spec.model
        if self._clock.jumps:
            await self._run(lambda: _sleep_until_s(self._next_whole_s()))
        began_s = self._elapsed_s()
        await asyncio.to_thread(self._late_steps)  # those before this phase are none of its own
        measurement, early = await self._run(
            lambda: self._measure(ledger, number, agents, procedure)
        )
        late_ratio = await asyncio.to_thread(self._late_steps)
        measurement = replace(measurement, simulator_late_ratio=late_ratio)
        if not measurement.endpoint_gone and (other := await self._presence.look(ledger.spec)):
            ended = f"it ended on another server: {other}"
            broken = f"{measurement.broken}; {ended}" if measurement.broken else ended
            measurement = replace(measurement, broken=broken)
        self._folder.timeline(number, await asyncio.to_thread(timeline, measurement))
        # Percentiles of a long phase take seconds of CPU: not on the loop that samples power.
        seen = await asyncio.to_thread(
            profile, measurement, ledger.labels, speed=self._settings.speed
        )
        self._folder.profile(number, seen)
        phase = await asyncio.to_thread(
            judge_phase,
            measurement,
            ledger.spec,
            self._settings,
            early=early,
        )
        phase = replace(
            phase,
            number=number,
            started_s=began_s,
            duration_s=self._elapsed_s() - began_s,
            short=procedure.is_short,
            hosts=measurement.health.hosts,
            rest=rest,
        )
        ledger.phases.append(phase)
        self._save()
        self._tell("phase-end", model, number, agents, text=explain_phase(phase))
        self._went_away = measurement.endpoint_gone
        if measurement.endpoint_gone:
            await self._presence.await_return(ledger.spec)
            await self._presence.look(ledger.spec)
        self._presence.check()
        return phase

    async def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what touches the load, in the time in which the endpoint answers."""
        if self._in_process is None:
            return await work()
        return await self._in_process.run(work)

    def _next_whole_s(self) -> int:
        """Return the second of virtual time at which a phase begins.

        It is a whole one, and after an earlier run the one at which that run would have gone on:
        then equal phases see equal stamps, to the last bit.
        """
        resumed_ns = self._began_ns + round(self._resumed_s * 1e9)
        return max(self._clock.now_ns(), resumed_ns) // 1_000_000_000 + 1

    def _elapsed_s(self) -> float:
        return (self._clock.now_ns() - self._began_ns) / 1e9

    async def _measure(
        self, ledger: Ledger, number: int, agents: int, procedure: Procedure
    ) -> tuple[Measurement, tuple[EarlyVerdict, ...]]:
        asked = parse_places(str(self._settings.workers)).workers
        workers = worker_count(asked, agents=agents, cores=self._pool.cores)
        try:
            await self._pool.set_up(self._setup(ledger))
            await self._pool.grow(workers)
            run = self._phase_run(ledger, number, agents, procedure)
            return await run.measure(number=number, agents=agents, workers=workers), run.early
        except BaseException as broke:
            # Broken off, by whatever: what is left of this load must not meet the next phase.
            stopped = isinstance(broke, asyncio.CancelledError | KeyboardInterrupt)
            said = f"broken off: {'interrupted' if stopped else str(broke) or type(broke).__name__}"
            self._tell("phase-broken", ledger.spec.model, number, agents, text=said)
            await self._pool.close()
            raise

    def _phase_run(
        self, ledger: Ledger, number: int, agents: int, procedure: Procedure
    ) -> PhaseRun:
        tell = partial(self._tell, model=ledger.spec.model, phase=number, agents=agents)
        return PhaseRun(
            pool=self._pool,
            settings=self._settings,
            procedure=procedure,
            readings=make_readings(self._clock, gauges=self._endpoint.gauges),
            metering=self._metering,
            clock=self._clock,
            tell=Listeners(
                turns=lambda turns: self._folder.turns(number, turns),
                counts=lambda rows: self._folder.token_counts(number, rows),
                progress=lambda kind, text: tell(kind, text=text),
                watch=lambda progress: tell("progress", progress=progress),
            ),
        )

    def _setup(self, ledger: Ledger) -> Setup:
        path = Path(self._scratch.name) / f"{ledger.dataset.sha256[:16]}-{id(ledger)}"
        if not path.exists():
            field = self._endpoint.history_field(ledger.spec)
            write_trajectories(path, ledger.plan.trajectories, reasoning_field=field)
        return setup_of(ledger, self._endpoint, trajectories=str(path), run=self._salted_run())

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
            models=tuple(
                ledger.model_run(
                    self._models.published.get(name), simulated=self._endpoint.simulated
                )
                for name, ledger in self._ledgers.items()
            ),
            phases=tuple(sorted((p for x in ledgers for p in x.phases), key=lambda p: p.number)),
            capacities=tuple(answer for x in ledgers for answer in x.answers()),
            warm_ups=self._readiness.warm_ups,
        )

    def _say(self, model: str, text: str) -> None:
        self._tell("note", model, text=text)

    def _stand(self, ledger: Ledger, text: str | None = None) -> None:
        """Tell how far the searches of a model are, in words where there is something new."""
        self._tell("note", ledger.spec.model, text=text or "", standing=ledger.standing())

    def _tell(self, kind: Kind, model: str, phase: int = 0, agents: int = 0, **more: Any) -> None:
        self._on_event(Event(kind=kind, model=model, phase=phase, agents=agents, **more))


async def _sleep_until_s(at_s: int) -> None:
    """Sleep to a whole second of the running loop, exactly: a float holds every one of them."""
    await asyncio.sleep(at_s - asyncio.get_running_loop().time())
