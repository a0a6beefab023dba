"""The ledger of one model: its plan, its phases, and what they say of every tier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_agentperf.answers import capacity_of, contradicts, search_of, verified
from pytest_agentperf.bundle import Bundle, DatasetFacts, ModelRun, PhaseResult
from pytest_agentperf.conformance import conformance
from pytest_agentperf.events import Standing, TierStanding
from pytest_agentperf.forecast import (
    Case,
    Duration,
    Forecast,
    Replays,
    cases,
    forecast,
    forecast_text,
    left_text,
    measured_duration,
    planned_duration,
)
from pytest_agentperf.judged import facts_of
from pytest_agentperf.labels import Labels, labels
from pytest_agentperf.modes import Search
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.orders import Setup
from pytest_agentperf.plan import Plan, make_plan
from pytest_agentperf.procedure import Procedure, full_phase, short_phase
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.search import Wanted
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec, SLOTier
from pytest_agentperf.system import System
from pytest_agentperf.trajectory import WITHHELD, Dataset

__all__ = ["Ledger", "make_ledger", "max_tokens", "setup_of", "shown", "taken_over"]


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Everything that is known of one model, phase by phase."""

    settings: Settings
    system: System | None
    spec: ModelSpec
    plan: Plan
    dataset: DatasetFacts
    forecast: Forecast
    planned: Duration
    """What tells a phase's length before any was measured."""
    labels: Labels = field(default_factory=Labels)
    """What the requests of the plan are about."""
    verify: Mapping[str, int] = field(default_factory=dict[str, int])
    """By tier: the number of agents that alone is asked about, instead of a search."""
    phases: list[PhaseResult] = field(default_factory=list[PhaseResult])
    begun: set[str] = field(default_factory=set[str])
    """Tiers whose search has begun."""
    given: dict[str, Capacity] = field(default_factory=dict[str, Capacity])
    """Answers that were given to a test, by tier."""

    def known(self, agents: int) -> PhaseResult | None:
        """Return a phase with so many agents that met its floors and can be trusted."""
        return next(
            (p for p in self.phases if p.agents == agents and not p.invalid and p.met_floors), None
        )

    def next_phase(self, tier: SLOTier) -> Wanted | None:
        """Return what a tier's search asks for; ``None``: it has ended."""
        if (agents := self.verify.get(tier.name)) is not None:
            return Wanted(agents) if self.capacity(tier).status == "open" else None
        return search_of(self.phases, tier, self.settings).next_phase()

    def procedure(self, wanted: Wanted) -> Procedure:
        """Return the phase that a search asks for.

        Only the tiers whose answer it can narrow may end it.
        """
        if wanted.short:
            procedure = short_phase(self.spec, self.settings)
        else:
            may_end_missed = self.settings.mode == "fast" and not self.verify
            procedure = full_phase(self.spec, self.settings, may_end_missed=may_end_missed)
        if self.verify:
            return procedure
        searches = {t.name: search_of(self.phases, t, self.settings) for t in self.spec.tiers}
        asked = {name for name, search in searches.items() if search.is_open_at(wanted.agents)}
        return replace(procedure, asked=asked or procedure.asked)

    def capacity(self, tier: SLOTier) -> Capacity:
        """Return what the phases so far say."""
        if (agents := self.verify.get(tier.name)) is not None:
            return verified(self.phases, tier, agents, self.system)
        return capacity_of(self.phases, tier, self.settings, self.system)

    def answers(self) -> Sequence[Capacity]:
        """Return, for each tier that was asked for, what its test was told or how far we are.

        An answer that a later phase contradicts is replaced.
        """
        return [self._answer(t) for t in self.spec.tiers if t.name in self.begun]

    def revised(self) -> Sequence[str]:
        """Return, in words, every answer that a later phase has contradicted."""
        return [
            f"'{tier}' was answered with {given.agents} agents, but {now.first_failing} failed in "
            f"a later phase: {now.label} now"
            for tier in self.spec.tiers
            if (given := self.given.get(tier.name)) is not None
            and contradicts(now := self.capacity(tier), given)
        ]

    def model_run(self, published: ModelSpec | None, *, simulated: bool) -> ModelRun:
        """Return what a bundle says of this model."""
        facts = facts_of(self.phases)
        rules = conformance(
            self.settings, self.spec, published, self.plan, facts, simulated=simulated
        )
        return ModelRun(
            spec=self.spec, dataset=self.dataset, conformance=rules, forecast=self.forecast
        )

    def notes(self) -> Sequence[str]:
        """Return what is to be told before the first phase."""
        notes = [f"dataset: {loss}" for loss in self.dataset.losses]
        if self.plan.cut_turns:
            notes.append(
                f"{self.plan.cut_turns} turns cut and {self.plan.dropped} trajectories dropped to "
                f"fit {self.spec.context_tokens} tokens"
            )
        if self.verify:
            asked = ", ".join(f"{tier} with {agents}" for tier, agents in self.verify.items())
            return [*notes, f"verifies the baseline's capacities, no search: {asked} agents"]
        said = forecast_text(self.forecast, self.spec.tiers, minutes=self._in_minutes)
        return [*notes, said]

    def standing(self) -> Standing:
        """Return how far the search of every tier is, and what is left."""
        found = {t.name: self.capacity(t) for t in self.spec.tiers}
        return Standing(
            tiers=tuple(
                TierStanding(
                    tier=tier,
                    passed=found[tier.name].agents,
                    failed=found[tier.name].first_failing,
                    status=found[tier.name].status,
                )
                for tier in self.spec.tiers
            ),
            left=self.left(),
        )

    def left_text(self) -> str | None:
        """Say what all tiers' searches still take, by the phases so far; ``None`` when nothing."""
        left = self.left()
        return None if left is None else left_text(left, minutes=self._in_minutes)

    def left(self) -> Forecast | None:
        """Return what all tiers' searches still take, by the phases so far; ``None``: nothing."""
        if self.verify:
            return None
        left = forecast(self.spec.tiers, self._known_search, self.duration, self.settings)
        return left if left.most_phases else None

    def cases(self) -> Sequence[Case]:
        """Return which phases are still asked for, where tiers carry little and where much."""
        if self.verify:
            tiers = [t for t in self.spec.tiers if t.name in self.verify]
            asked = {Wanted(self.verify[t.name]): t for t in reversed(tiers)}
            return [Case(carried=self.verify, asked=asked)]
        return cases(self.spec.tiers, self._known_search, self.settings)

    @property
    def duration(self) -> Duration:
        """Return what tells a phase's length, by the phases so far and by the plan."""
        measured = [(Wanted(p.agents, p.short), p.duration_s) for p in self.phases]
        return measured_duration(measured, self.planned)

    def _known_search(self, tier: SLOTier) -> Search:
        return search_of(self.phases, tier, self.settings)

    @property
    def _in_minutes(self) -> bool:
        return self.settings.mode == "smoke"

    def _answer(self, tier: SLOTier) -> Capacity:
        given, now = self.given.get(tier.name), self.capacity(tier)
        return now if given is None or contradicts(now, given) else given


def make_ledger(
    spec: ModelSpec,
    dataset: Dataset,
    *,
    sha256: str,
    settings: Settings,
    system: System | None,
    verify: Mapping[str, int],
) -> Ledger:
    """Plan what a model will be asked to replay, and what a search of its tiers will take.

    Args:
        spec: the model.
        dataset: what is replayed.
        sha256: the dataset's digest, which takes seconds to find.
        settings: what the run was asked to do.
        system: what is measured, as declared.
        verify: by tier, the number of agents that alone is asked about; empty for a search.

    Raises:
        ConfigError: nothing of the dataset fits the model's context.
    """
    plan = make_plan(
        dataset,
        context_tokens=spec.context_tokens,
        max_tokens=max_tokens(spec, settings),
        tool_delay=settings.tool_delay,
        max_tool_s=settings.max_tool_s,
        salted=settings.salt != "none",
        seed=settings.seed,
    )
    if dataset.private:
        plan = _nameless(plan)
    planned = planned_duration(Replays(plan, settings))
    return Ledger(
        settings=shown(settings, dataset),
        system=system,
        spec=spec,
        plan=plan,
        dataset=DatasetFacts(
            name=WITHHELD if dataset.private else dataset.name,
            sha256=sha256,
            trajectories=len(plan.trajectories),
            prompts=plan.prompts,
            cut_turns=plan.cut_turns,
            dropped=plan.dropped,
            estimated_isl=plan.estimated_isl,
            sampled_tools=plan.sampled_tools,
            losses=() if dataset.private else dataset.losses,
        ),
        forecast=forecast(
            spec.tiers,
            lambda tier: search_of((), tier, settings),
            planned,
            settings,
        ),
        planned=planned,
        labels=Labels() if dataset.private else labels(plan.trajectories),
        verify=verify,
    )


def taken_over(run: Bundle, model: str) -> list[PhaseResult]:
    """Return the phases of an earlier run that need not be measured again: its valid ones."""
    return [
        replace(phase, measured_in=phase.measured_in or run.provenance.run)
        for phase in run.phases
        if phase.model == model and not phase.invalid
    ]


def setup_of(ledger: Ledger, endpoint: EndpointInfo, *, trajectories: str, run: str) -> Setup:
    """Return what those who run a model's load are set up with.

    Args:
        ledger: of the model.
        endpoint: where load goes, and how it speaks.
        trajectories: path of what is replayed.
        run: tells this run's prompts and agents from those of every other run.
    """
    settings, spec = ledger.settings, ledger.spec
    return Setup(
        trajectories=trajectories,
        url=endpoint.url,
        headers=dict(endpoint.headers),
        osl_header=endpoint.osl_header,
        model=spec.model,
        request=dict(spec.request),
        max_tokens=max_tokens(spec, settings),
        max_tokens_field=endpoint.dialect(spec.model).max_tokens_field,
        output=settings.output,
        salt=settings.salt,
        seed=settings.seed,
        run=run,
        timeout_s=settings.request_timeout_s,
        client=settings.client,
        tokenizer=settings.tokenizer,
        affinity_header=settings.affinity_header,
    )


def shown(settings: Settings, dataset: Dataset) -> Settings:
    """Return settings as results may show them: where a private dataset lies is left out."""
    return replace(settings, dataset=WITHHELD) if dataset.private else settings


def _nameless(plan: Plan) -> Plan:
    """Return a plan whose trajectories are numbered: their ids stand in the request log."""
    numbered = (replace(t, id=f"private-{i}") for i, t in enumerate(plan.trajectories, 1))
    return replace(plan, trajectories=tuple(numbered))


def max_tokens(spec: ModelSpec, settings: Settings) -> int:
    """Return the cap on output tokens of one request to a model."""
    return min(settings.max_tokens, spec.max_tokens or settings.max_tokens)
