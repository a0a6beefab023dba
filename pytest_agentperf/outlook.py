"""What a run would ask of a system, worked out before anything is sent."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_agentperf import words
from pytest_agentperf.forecast import Case, Replays, Span, paces
from pytest_agentperf.foreign import printable
from pytest_agentperf.judged import judge_phase
from pytest_agentperf.ledger import Ledger
from pytest_agentperf.plan import mean_isl_tokens
from pytest_agentperf.records import ClientHealth, Measurement, Window
from pytest_agentperf.search import Wanted
from pytest_agentperf.tables import table

__all__ = ["PlannedPhase", "outlook", "planned_phases"]

_TIMES = ((6000.0, 3600.0, " h"), (100.0, 60.0, " min"), (0.0, 1.0, " s"))
"""From which on, its size and its name."""
_COUNTS = ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e3, 1e3, " k"), (0.0, 1.0, ""))
_HEADS = ("Phase", "Agents", "Tier", "Time", "Requests", "Input tokens", "Output tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPhase:
    """One phase that a search would ask for; ranges run from the least to the most."""

    wanted: Wanted
    tier: str
    """Which asks for it first."""
    seconds: Span
    requests: Span
    input_tokens: Span
    output_tokens: Span


def planned_phases(ledger: Ledger, case: Case) -> Sequence[PlannedPhase]:
    """Return the phases of one case, each with its time and its work.

    Agents that are answered at their tier's speed at once send the most requests an hour; those
    whose first tokens come as late as the tier allows take the longest.
    """
    replays = Replays(ledger.plan, ledger.settings)
    isl_tokens = mean_isl_tokens(ledger.plan.trajectories)
    duration = ledger.duration
    planned: list[PlannedPhase] = []
    for wanted, tier in case.asked.items():
        seconds = duration(tier, wanted)
        sent = [
            replays.requests(wanted.agents, phase_s, pace)
            for phase_s, pace in zip(seconds, paces(tier), strict=True)
        ]
        requests = min(sent), max(sent)
        planned.append(
            PlannedPhase(
                wanted=wanted,
                tier=tier.name,
                seconds=seconds,
                requests=requests,
                input_tokens=_times(requests, isl_tokens),
                output_tokens=_times(requests, replays.osl_tokens),
            )
        )
    return planned


def outlook(ledger: Ledger, width: int) -> str:
    """Return in words and tables what a model's tiers would ask for."""
    spec = ledger.spec
    lines = [
        f"{printable(spec.model)}, mode {ledger.settings.mode}",
        *(f"{t.name}: {', '.join(words.bound(limit) for limit in t.limits)}" for t in spec.tiers),
        f"dataset {printable(ledger.dataset.name)}: {_size(ledger)}",
        *ledger.notes(),
        "",
        *_cases(ledger, width),
        *_assumed(ledger),
        *_checks(ledger),
    ]
    return "\n".join(lines)


def _size(ledger: Ledger) -> str:
    plan = ledger.plan
    isl_tokens = mean_isl_tokens(plan.trajectories)
    osl_tokens = Replays(plan, ledger.settings).osl_tokens
    estimated = f" ({plan.estimated_isl:,} of them estimated)" if plan.estimated_isl else ""
    return (
        f"{len(plan.trajectories):,} trajectories, {plan.prompts:,} prompts of {isl_tokens:,.0f} "
        f"tokens on average{estimated}, answers of {osl_tokens:,.0f}"
    )


def _cases(ledger: Ledger, width: int) -> Iterator[str]:
    cases = ledger.cases()
    if not any(case.asked for case in cases):
        yield "Every tier is answered: no phase is left.\n"
        return
    for place, case in enumerate(cases):
        if case not in cases[:place]:
            yield _case(ledger, case, width)


def _case(ledger: Ledger, case: Case, width: int) -> str:
    phases = planned_phases(ledger, case)
    carried = ", ".join(f"{tier} {agents}" for tier, agents in case.carried.items())
    title = f"if these agents are carried: {carried}"
    rows = [
        (
            f"{place} short" if phase.wanted.short else str(place),
            str(phase.wanted.agents),
            phase.tier,
            *_amounts([phase]),
        )
        for place, phase in enumerate(phases, 1)
    ]
    price = ledger.system.price_usd_per_hour if ledger.system is not None else None
    cost = ""
    if price is not None:
        least, most = (sum(p.seconds[end] for p in phases) * price / 3600 for end in (0, 1))
        cost = f"at the declared price: {_range((least, most), _COUNTS)} $\n"
    return table(title, _HEADS, [*rows, ("all", "", "", *_amounts(phases))], width) + cost


def _amounts(phases: Sequence[PlannedPhase]) -> Iterator[str]:
    """Yield time, requests and tokens of phases, added up."""
    yield _range(_sum(p.seconds for p in phases), _TIMES)
    yield _range(_sum(p.requests for p in phases), _COUNTS)
    yield _range(_sum(p.input_tokens for p in phases), _COUNTS)
    yield _range(_sum(p.output_tokens for p in phases), _COUNTS)


def _sum(spans: Iterable[Span]) -> Span:
    listed = list(spans)
    return sum(low for low, _ in listed), sum(high for _, high in listed)


def _range(amount: Span, units: Sequence[tuple[float, float, str]]) -> str:
    """Write a range with two digits, both ends in the unit of the greater."""
    _, size, name = next(unit for unit in units if amount[1] >= unit[0])
    low, high = (_rounded(value / size) for value in amount)
    return f"{low}{name}" if low == high else f"{low}-{high}{name}"


def _rounded(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"  # noqa: PLR2004 two digits


def _times(requests: Span, tokens: float) -> Span:
    return requests[0] * tokens, requests[1] * tokens


def _assumed(ledger: Ledger) -> Iterator[str]:
    settings = ledger.settings
    yield (
        "Assumed: every agent is answered at its tier's own speed, with a mean TTFT between 0 and "
        "a third of its limit; limits are used up in proportion to the agents; answers are as long "
        "as recorded. Not in it: an overloaded server, failed requests, phases that are invalid "
        "and measured twice, counting tokens after a phase."
    )
    if ledger.phases:
        runs = dict.fromkeys(str(p.measured_in) for p in ledger.phases)
        yield (
            f"Taken over: {len(ledger.phases)} valid phases of run {', '.join(runs)}; whether it "
            "measured the same is checked when it is gone on with."
        )
    yield (
        f"Floors of a phase: {settings.min_trajectories} trajectories, "
        f"{settings.min_trajectories_per_agent} of every agent, "
        f"{words.span(settings.min_steady_s)} steady; given up after "
        f"{words.span(settings.max_phase_s)}."
    )
    if settings.max_hours:
        yield f"No phase begins after {settings.max_hours:g} h (--agentperf-max-hours)."


def _checks(ledger: Ledger) -> Iterator[str]:
    settings = ledger.settings
    first = [
        f"files and ports for {settings.max_agents:,} agents",
        "memory and disk for the phases of these tables",
        "the endpoint answers and serves the model",
        "one request of 16 tokens, whose usage is reported",
        *([f"the load client for {settings.client_check_s:g} s"] * bool(settings.client_check_s)),
        f"meters for {settings.idle_s:g} s without load",
        *(
            ["the baseline is of the same model, dataset, system and settings"]
            * bool(ledger.verify)
        ),
    ]
    yield f"Checked before the first phase: {'; '.join(first)}."
    yield f"Checked of every phase: {', '.join(_check_names(ledger))}."


def _check_names(ledger: Ledger) -> Sequence[str]:
    """Return what a phase is checked for, by the name that a bundle has it under."""
    nothing = Measurement(
        agents=1,
        window=Window(start_ns=0, end_ns=1_000_000_000),
        turns=(),
        samples=(),
        health=ClientHealth(loop_lag_s=(), cpu_ratio=0.0, first_sent_ns=(0,)),
        floors_met=False,
    )
    return [check.name for check in judge_phase(nothing, ledger.spec, ledger.settings).checks]
