"""Two endpoints in turns, A B B A, with equal agents; what each pair of phases has apart.

Each pair has one seed, so that its work is the same, and the turns keep what drifts with the time
of day out of the difference.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from pytest_agentperf.answers import verified
from pytest_agentperf.asking import observe_models
from pytest_agentperf.bench import HoursOverError, Inputs, Models
from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.compare import Comparison, compare_pairs
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.events import Event
from pytest_agentperf.fixed import measure_fixed, valid_phases
from pytest_agentperf.gate import Gate
from pytest_agentperf.instruments import close_meters, open_meters
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.observed import Line
from pytest_agentperf.preflight import with_facts
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.settings import LEAST_PAIRS, Settings
from pytest_agentperf.slo import SLOTier
from pytest_agentperf.system import System

__all__ = ["Turns", "other_side"]

_Pair = tuple[PhaseResult, PhaseResult]


@asynccontextmanager
async def other_side(
    info: EndpointInfo,
    inputs: Inputs,
    models: Models,
    settings: Settings,
    *,
    system: System | None,
    tell: Callable[[str, Line], None],
) -> AsyncGenerator[Inputs]:
    """Give the inputs of endpoint B: those of A with an endpoint, meters and facts of its own.

    Args:
        info: endpoint B.
        inputs: of A.
        models: what is asked of both.
        settings: of both.
        system: what was declared of both; ``None``: an endpoint may know its own.
        tell: hears every line of B's preflight, with its model.

    Raises:
        ConfigError: power is required, and it tells none.
        EndpointError: it cannot be measured.
    """
    if info.meter is None and not info.simulated:
        # What this machine's accelerators draw may be A's.
        settings = replace(settings, meter=("none",))
    meters, ours = open_meters(settings, info)
    try:
        seen = await observe_models(info, models.specs, settings, inputs.dataset, tell=tell)
        told = Inputs(
            endpoint=seen,
            dataset=inputs.dataset,
            meters=meters,
            system=system or info.system,
            hosts=inputs.hosts,
        )
        yield with_facts(told)
    finally:
        close_meters(ours)


class Turns:
    """What the ``agentperf`` fixture gives in place of a `Bench` when two endpoints are compared.

    Its run is of endpoint B and holds B's phases; those of A stand in runs of their own.
    """

    revised: tuple[str, ...] = ()
    """No answer of its is ever revised."""

    def __init__(
        self,
        *,
        settings: Settings,
        models: Models,
        sides: tuple[Inputs, Inputs],
        gate: Gate,
        folder: RunFolder,
        on_event: Callable[[Event], None],
    ) -> None:
        """Prepare; nothing is measured yet.

        Args:
            settings: how many pairs, and what each phase is like.
            models: their ``verify`` says how many agents each tier is measured with.
            sides: A, which is the measure, and B, which is compared with it.
            gate: the baseline, of which only the numbers of agents count.
            folder: of the run of B.
            on_event: is told of progress.
        """
        self._settings = settings
        self._models = models
        if not all(side.meters for side in sides):  # energy is compared of both, or not at all
            sides = replace(sides[0], meters=()), replace(sides[1], meters=())
        self._a, self._b = sides
        self._gate = gate
        self._folder = folder
        self._on_event = on_event
        self._pairs: dict[tuple[str, int], list[_Pair]] = {}
        """By model and agents, all that were asked for: a part of them is no answer."""
        self._phases = 0
        """Of both endpoints: each has a number of its own, under which its folder knows it."""
        self._seed = settings.seed
        """Of the next pair. None serves twice: its prompts would be in the servers' caches."""
        self._busy_s = 0.0
        """Of all turns, those that broke off too, each in the time of its endpoint."""
        self._one_at_a_time = asyncio.Lock()

    @property
    def start_agents(self) -> int:
        """Agents of the first phase of a search."""
        return self._settings.start_agents

    async def measure(self, agents: int, *, model: str | None = None) -> Metrics:
        """Measure both endpoints in turns with so many agents; return the last phase of B.

        Raises:
            InvalidPhaseError: a phase cannot be trusted; says why.
        """
        name = model or next(iter(self._models.specs))
        async with self._one_at_a_time:
            await self._measure(name, (agents,))
        return self._pairs[name, agents][-1][1].metrics

    async def capacity(self, tier: SLOTier) -> Capacity:
        """Measure both in turns; return whether B carries what the baseline carried."""
        carried = self._models.verify[tier.model]
        async with self._one_at_a_time:
            await self._measure(tier.model, sorted(set(carried.values())))
            agents = carried[tier.name]
            phases = [b for _, b in self._pairs[tier.model, agents]]
            found = verified(phases, tier, agents, self._b.system)
            known = self._folder.bundle.capacities
            if found not in known:
                self._folder.update(capacities=(*known, found))
        return found

    def compare(self, now: Bundle) -> Comparison:
        """Compare B with A by the pairs so far."""
        tiers: dict[tuple[str, int], tuple[str, ...]] = {}
        for model, carried in self._models.verify.items():
            for tier, agents in carried.items():
                tiers[model, agents] = (*tiers.get((model, agents), ()), tier)
        found = compare_pairs(
            [p for own in self._pairs.values() if len(own) >= LEAST_PAIRS for p in own],
            before=self._a.endpoint.url,
            now=now.provenance.run,
            tiers=tiers,
        )
        return replace(found, differences=self._gate.differences)

    async def close(self) -> None:
        """End the run of B; what was measured is on disk already."""
        self._folder.close()

    async def _measure(self, model: str, asked: Sequence[int]) -> None:
        if any(agents < 1 for agents in asked):
            raise ConfigError(f"measure(agents={min(asked)}): at least 1 agent is needed")
        numbers = [agents for agents in asked if (model, agents) not in self._pairs]
        if not numbers:
            return
        pairs: dict[tuple[str, int], list[_Pair]] = {}
        for number in range(self._settings.pairs):
            found = await self._pair(number, model, numbers)
            self._keep(found["B"])
            for a, b in zip(*map(valid_phases, (found["A"], found["B"])), strict=True):
                pairs.setdefault((model, a.agents), []).append((a, b))
        self._pairs |= pairs  # only now: what stands there is not measured again

    async def _pair(self, number: int, model: str, numbers: Sequence[int]) -> Mapping[str, Bundle]:
        found: dict[str, Bundle] = {}
        try:
            for side in "AB" if number % 2 == 0 else "BA":
                self._say(model, f"pair {number + 1} of {self._settings.pairs}: {side}")
                found[side] = await self._turn(side, {model: numbers})
        finally:
            self._seed += 1
        return found

    async def _turn(self, side: str, asked: Mapping[str, Sequence[int]]) -> Bundle:
        limit_s = self._settings.max_hours * 3600
        if 0 < limit_s <= self._busy_s:
            hours = f"{self._settings.max_hours:g}"
            raise HoursOverError(f"no turn begins after --agentperf-max-hours {hours}: give more")
        inputs = self._a if side == "A" else self._b
        settings = replace(
            self._settings,
            endpoint=inputs.endpoint.url,
            seed=self._seed,
            baseline=None,
            gate="search",
            endpoint_b=None,
            max_hours=0.0,
        )
        plain = replace(self._models, verify={})
        place = inputs.endpoint.in_process
        clock = REAL_TIME if place is None else place.clock
        began_ns = clock.now_ns()
        try:
            return await measure_fixed(
                settings,
                plain,
                inputs,
                asked,
                on_event=self._heard,
                numbered_after=self._phases,
            )
        finally:  # one that broke off took its time as well
            self._busy_s += (clock.now_ns() - began_ns) / 1e9

    def _keep(self, run: Bundle) -> None:
        """Put the phases of a run of B into our own."""
        known = self._folder.bundle
        models = {m.spec.model: m for m in (*known.models, *run.models)}
        kept = [replace(phase, measured_in=run.provenance.run) for phase in run.phases]
        warm_ups = [replace(warm_up, sent_in=run.provenance.run) for warm_up in run.warm_ups]
        self._folder.update(
            models=tuple(models.values()),
            phases=(*known.phases, *kept),
            warm_ups=(*known.warm_ups, *warm_ups),
            idle=run.idle,
        )

    def _heard(self, event: Event) -> None:
        self._phases = max(self._phases, event.phase)
        if event.kind == "note":  # of the search that each run would be
            return
        self._on_event(event)

    def _say(self, model: str, text: str) -> None:
        self._on_event(Event(kind="note", model=model, phase=0, agents=0, text=text))
