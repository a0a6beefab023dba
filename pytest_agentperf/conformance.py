"""Which rules of AA-AgentPerf a run keeps: every rule with met, not met, or not checkable."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from pytest_agentperf.power import Power
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec, SLOTier
from pytest_agentperf.validity import Check

__all__ = ["PhaseFacts", "Planned", "Rule", "conformance", "is_conformant"]

Status = Literal["met", "not met", "not checkable"]

_OFFICIAL = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the methodology."""

    name: str
    status: Status
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFacts:
    """What conformance asks of a phase."""

    checks: tuple[Check, ...]
    power: Power
    token_ratio: float | None


class Planned(Protocol):
    """What conformance asks of what was replayed."""

    @property
    def prompts(self) -> int:
        """Prompts of all trajectories."""
        ...

    @property
    def cut_turns(self) -> int:
        """Turns that did not fit the context."""
        ...

    @property
    def dropped(self) -> int:
        """Trajectories of which nothing fitted."""
        ...

    @property
    def estimated_isl(self) -> int:
        """Prompts whose length was estimated."""
        ...

    @property
    def sampled_tools(self) -> int:
        """Tool times that were drawn."""
        ...


def is_conformant(rules: Sequence[Rule]) -> bool:
    """Tell whether no rule is broken; rules that cannot be checked do not break it."""
    return all(rule.status != "not met" for rule in rules)


def conformance(
    settings: Settings,
    spec: ModelSpec,
    published: ModelSpec | None,
    plan: Planned,
    phases: Sequence[PhaseFacts],
    *,
    simulated: bool,
) -> tuple[Rule, ...]:
    """Hold one model's run against every rule.

    Args:
        settings: what was asked for.
        spec: the tiers and request fields that were used.
        published: the entry that ships for this model; ``None`` when there is none.
        plan: what was replayed.
        phases: every phase that was measured.
        simulated: what answered was a model of a system.
    """
    return (
        *_workload(settings, spec, published, plan),
        *_procedure(settings),
        *_results(settings, spec, published, phases),
        _rule(
            "measured on a real system",
            not simulated,
            "simulated: a plan, not a measurement"
            if simulated
            else "the endpoint does not call itself simulated",
        ),
    )


def _workload(
    settings: Settings, spec: ModelSpec, published: ModelSpec | None, plan: Planned
) -> tuple[Rule, ...]:
    synthetic = settings.dataset.startswith("synthetic:")
    same = published is not None and dict(spec.request) == dict(published.request)
    other_context = published is not None and spec.context_tokens != published.context_tokens
    max_tokens = min(settings.max_tokens, spec.max_tokens or settings.max_tokens)
    return (
        Rule(
            name="real coding-agent trajectories",
            status="not met" if synthetic else "not checkable",
            detail=f"dataset {settings.dataset}; the published test set is private, so results are "
            "not comparable with the published leaderboard",
        ),
        _rule(
            "cut to the model's context",
            plan.estimated_isl == 0 and published is not None and not other_context,
            f"context {spec.context_tokens} tokens: {plan.cut_turns} turns cut, {plan.dropped} "
            f"trajectories dropped, {plan.estimated_isl} lengths estimated",
            otherwise="not met" if other_context else "not checkable",
        ),
        _rule(
            "tool delays",
            settings.tool_delay != "none" and settings.max_tool_s == _OFFICIAL.max_tool_s,
            f"{settings.tool_delay}, clipped at {settings.max_tool_s:g} s, "
            f"{plan.sampled_tools} of {plan.prompts} drawn",
        ),
        Rule(name="recorded history", status="met", detail="every request as recorded"),
        _rule(
            "answers end by themselves, at most 16,384 tokens",
            settings.output == "natural" and max_tokens == _OFFICIAL.max_tokens,
            f"output {settings.output}, max_tokens {max_tokens}",
        ),
        _rule(
            "sampling and reasoning effort as the model's creator recommends",
            same,
            f"request fields {dict(spec.request)}",
            otherwise="not checkable" if published is None else "not met",
        ),
        _rule(
            "salt before every trajectory",
            settings.salt == "trajectory",
            f"salt {settings.salt}",
        ),
        Rule(
            name="same assignment in every phase",
            status="met",
            detail=f"by seed {settings.seed} and agent",
        ),
    )


def _procedure(settings: Settings) -> tuple[Rule, ...]:
    return (
        _rule(
            "exponential ramp, then binary search",
            settings.gate == _OFFICIAL.gate
            and settings.start_agents == _OFFICIAL.start_agents
            and settings.resolution <= _OFFICIAL.resolution,
            f"ramp from {settings.start_agents} agents and bracket, guided by the curve so far, "
            f"resolution {settings.resolution:.0%}, never finer than 1 agent"
            if settings.gate == _OFFICIAL.gate
            else f"gate {settings.gate}: no search, given numbers of agents alone were measured",
        ),
        _rule(
            "30 trajectories, 3 per agent, 10 minutes steady",
            settings.mode == "exact"
            and settings.min_trajectories >= _OFFICIAL.min_trajectories
            and settings.min_trajectories_per_agent >= _OFFICIAL.min_trajectories_per_agent
            and settings.min_steady_s >= _OFFICIAL.min_steady_s,
            f"{settings.min_trajectories} trajectories, {settings.min_trajectories_per_agent} per "
            f"agent, {settings.min_steady_s:g} s",
        ),
        _rule(
            "all agents active for 30 s before the window",
            settings.settle_s >= _OFFICIAL.settle_s
            and 0 < settings.start_spread_s <= _OFFICIAL.start_spread_s,
            f"{settings.settle_s:g} s, starts spread over {settings.start_spread_s:g} s",
        ),
        _rule(
            "speed by usage, requests time out after 300 s",
            settings.speed == "usage" and settings.request_timeout_s == _OFFICIAL.request_timeout_s,
            f"speed {settings.speed}, timeout {settings.request_timeout_s:g} s",
        ),
        _rule(
            "client's marks",
            settings.max_loop_lag_p95_s <= _OFFICIAL.max_loop_lag_p95_s
            and settings.max_loop_lag_p99_s <= _OFFICIAL.max_loop_lag_p99_s
            and settings.max_cpu_ratio <= _OFFICIAL.max_cpu_ratio,
            f"loop lag p95 {settings.max_loop_lag_p95_s * 1e3:g} ms, p99 "
            f"{settings.max_loop_lag_p99_s * 1e3:g} ms, CPU {settings.max_cpu_ratio:.0%}",
        ),
    )


def _results(
    settings: Settings,
    spec: ModelSpec,
    published: ModelSpec | None,
    phases: Sequence[PhaseFacts],
) -> tuple[Rule, ...]:
    bad = sum(any(not c.ok and c.invalidates for c in phase.checks) for phase in phases)
    cached = [c for p in phases for c in p.checks if c.name == "first-turn cached share"]
    leaks = sum(not c.ok for c in cached)
    told = bool(cached) and all(c.value is not None for c in cached)
    ratios = [phase.token_ratio for phase in phases if phase.token_ratio is not None]
    metered = sum(phase.power.mean_w is not None for phase in phases)
    return (
        _rule(
            "tiers as published",
            published is not None and _limits(spec) <= _limits(published),
            ", ".join(t.name for t in spec.tiers),
            otherwise="not checkable" if published is None else "not met",
        ),
        _rule(
            "every phase can be trusted",
            bad == 0 and bool(phases),
            f"{bad} of {len(phases)} phases invalid",
        ),
        _rule(
            "no cache survives between phases",
            leaks == 0 and told,
            f"{leaks} of {len(phases)} phases found first prompts cached",
            otherwise="not met" if leaks else "not checkable",
        ),
        _rule(
            "token counts verified with the model's tokenizer",
            bool(ratios) and all(abs(r - 1) <= 0.02 for r in ratios),  # noqa: PLR2004 METHODOLOGY §3
            f"tokenizer {settings.tokenizer or 'not given'}",
            otherwise="not met" if ratios else "not checkable",
        ),
        _rule(
            "power measured at the accelerators",
            bool(phases) and metered == len(phases),
            f"{metered} of {len(phases)} phases metered",
            otherwise="not checkable" if not metered else "not met",
        ),
    )


def _limits(spec: ModelSpec) -> set[SLOTier]:
    # How many agents a test asks for is no limit of the tier.
    return {replace(tier, min_agents=1) for tier in spec.tiers}


def _rule(name: str, met: bool, detail: str, *, otherwise: Status = "not met") -> Rule:  # noqa: FBT001 reads as a statement at the call
    return Rule(name=name, status="met" if met else otherwise, detail=detail)
