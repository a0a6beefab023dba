"""How many phases and hours a search of all tiers takes: before its first phase, and on its way.

What the tiers carry is not known, so the answer is a range over what they may carry. Before
anything is measured, every agent is taken to be answered at its tier's own speed.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pytest_agentperf import words
from pytest_agentperf.modes import Search
from pytest_agentperf.plan import Assignment, Plan, start_offsets_s
from pytest_agentperf.search import Wanted
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import Evidence, Finding, SLOTier, Verdict
from pytest_agentperf.trajectory import Turn

__all__ = [
    "Case",
    "Duration",
    "Forecast",
    "Pace",
    "Replays",
    "Span",
    "cases",
    "forecast",
    "forecast_text",
    "hours_left_text",
    "left_text",
    "measured_duration",
    "paces",
    "planned_duration",
]

_FALLBACK_TOK_PER_S = 50.0
_FALLBACK_OSL_TOKENS = 500
_MEAN_OVER_P95 = 1 / 3
"""Of an exponential distribution, -1 / ln 0.05, rounded: a tier limits the P95 of TTFT."""
_MOST_OVER_START = 16
"""A tier is supposed to carry up to so many times the agents of the first phase."""
_SPEEDS = ("output_speed_tok_per_s", "first_chunk_speed_tok_per_s")
_HOURS_FROM_S = 6000

_UNCLEAR = 0.05
"""Nearer to a limit than this share of it, a short phase takes all the time it may."""

Span = tuple[float, float]
"""Least and most seconds."""
Duration = Callable[[SLOTier, Wanted], Span]
"""Of a phase, by the tier that asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a search is expected to take."""

    least_phases: int
    most_phases: int
    least_s: float
    """Time on the system, seconds; a phase ends at the latest when it is given up."""
    most_s: float
    least_agents: int
    """What each tier is supposed to carry, where nothing is known of it."""
    most_agents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What would be asked for if each tier carried so much."""

    carried: Mapping[str, int]
    """Agents, by tier."""
    asked: Mapping[Wanted, SLOTier]
    """Every phase in order, with the tier that asks for it first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How every request is supposed to be answered."""

    speed_tok_per_s: float
    ttft_s: float

    def request_s(self, turn: Turn, otherwise_tokens: float) -> float:
        """Return how long one answer takes: TTFT + OSL / speed."""
        return self.ttft_s + (turn.recorded_osl_tokens or otherwise_tokens) / self.speed_tok_per_s


class Replays:
    """A plan as agents replay it, so that the length of a phase can be worked out."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._turns = [t.turns for t in plan.trajectories]
        self._settings = settings
        self._assignments: list[Assignment] = []
        told = [t.recorded_osl_tokens for turns in self._turns for t in turns]
        known = [osl for osl in told if osl]
        self._osl_tokens = fmean(known) if known else _FALLBACK_OSL_TOKENS

    def phase_s(self, agents: int, pace: Pace) -> float:
        """Return how long a phase runs until its window closes: until its last floor is met."""
        settings = self._settings
        offsets_s = start_offsets_s(agents, settings.start_spread_s)
        opens_s = offsets_s[-1] + settings.settle_s
        floors_s = self._floors_s(offsets_s, self._trajectories_s(pace))
        return min(max(floors_s, opens_s + settings.min_steady_s), settings.max_phase_s)

    def short_s(self, pace: Pace) -> float:
        """Return how long a phase runs that only aims, as long as it may."""
        settings = self._settings
        opens_s = settings.start_spread_s + pace.ttft_s + settings.settle_s
        return min(opens_s + settings.min_steady_s, settings.max_phase_s)

    def requests(self, agents: int, phase_s: float, pace: Pace) -> float:
        """Return how many requests agents send in a phase of so many seconds."""
        turns = sum(map(len, self._turns))
        each_s = sum(self._trajectories_s(pace)) / max(1, turns)
        offsets_s = start_offsets_s(agents, self._settings.start_spread_s)
        return sum(max(0.0, phase_s - offset_s) for offset_s in offsets_s) / each_s

    @property
    def osl_tokens(self) -> float:
        """Mean output tokens of an answer as recorded, or as supposed."""
        return self._osl_tokens

    def drain_s(self, pace: Pace, of: Callable[[list[float]], float]) -> float:
        """Return a statistic of how long answers take, none longer than the timeout."""
        answers_s = [pace.request_s(t, self._osl_tokens) for turns in self._turns for t in turns]
        return min(of(answers_s), self._settings.request_timeout_s)

    def _floors_s(self, offsets_s: Sequence[float], trajectories_s: Sequence[float]) -> float:
        """Return when enough trajectories are complete, in all and by the slowest agent."""
        each = self._settings.min_trajectories_per_agent
        behind, done, now_s = len(offsets_s) if each else 0, 0, 0.0
        ends = [(s + self._next_s(a, 0, trajectories_s), a, 1) for a, s in enumerate(offsets_s)]
        heapq.heapify(ends)
        while behind or done < self._settings.min_trajectories:
            now_s, agent, count = ends[0]
            done += 1
            behind -= count == each
            next_s = now_s + self._next_s(agent, count, trajectories_s)
            heapq.heapreplace(ends, (next_s, agent, count + 1))
        return now_s

    def _next_s(self, agent: int, ordinal: int, trajectories_s: Sequence[float]) -> float:
        while len(self._assignments) <= agent:
            self._assignments.append(
                Assignment(
                    seed=self._settings.seed,
                    agent=len(self._assignments),
                    trajectories=len(self._turns),
                )
            )
        return trajectories_s[self._assignments[agent].index(ordinal)]

    def _trajectories_s(self, pace: Pace) -> list[float]:
        return [
            # Never 0, so that a phase of empty trajectories comes to an end too.
            max(1e-3, sum(pace.request_s(t, self._osl_tokens) + (t.tool_s or 0) for t in turns))
            for turns in self._turns
        ]


def planned_duration(replays: Replays) -> Duration:
    """Return what tells a phase's length from the plan: agents at a tier's own speed.

    The least has a TTFT of 0, and the requests that are open at the end take as long as the mean
    one; the most has a third of the tier's limit as every TTFT, and the longest answer to wait for.
    """
    known: dict[tuple[str, Wanted], Span] = {}

    def duration(tier: SLOTier, wanted: Wanted) -> Span:
        key = (tier.name, wanted)
        if key not in known:
            quick, slow = paces(tier)
            if wanted.short:
                known[key] = replays.short_s(quick), replays.short_s(slow)
            else:
                known[key] = (
                    replays.phase_s(wanted.agents, quick) + replays.drain_s(quick, fmean),
                    replays.phase_s(wanted.agents, slow) + replays.drain_s(slow, max),
                )
        return known[key]

    return duration


def measured_duration(measured: Sequence[tuple[Wanted, float]], otherwise: Duration) -> Duration:
    """Return what tells a phase's length from the measured one with the most similar agents.

    Args:
        measured: each phase, as it was asked for, and its seconds.
        otherwise: tells the length of a phase of a kind that has not been measured.
    """

    def duration(tier: SLOTier, wanted: Wanted) -> Span:
        alike = [(was.agents, s) for was, s in measured if was.short == wanted.short]
        if not alike:
            return otherwise(tier, wanted)
        _, nearest_s = min(alike, key=lambda each: _apart(each[0], wanted.agents))
        return nearest_s, nearest_s

    return duration


def _apart(one: int, other: int) -> float:
    return max(one / other, other / one)


def forecast(
    tiers: Sequence[SLOTier],
    search: Callable[[SLOTier], Search],
    duration: Duration,
    settings: Settings,
) -> Forecast:
    """Return what the searches of these tiers still take.

    Args:
        tiers: those that are searched; a phase that several ask for is measured once.
        search: makes a search that knows what has been measured, anew at every call.
        duration: least and most seconds of a phase.
        settings: where searches start and end.
    """
    asked = [case.asked for case in cases(tiers, search, settings)]
    spans = [[duration(tier, phase) for phase, tier in case.items()] for case in asked]
    return Forecast(
        least_phases=min(map(len, asked)),
        most_phases=max(map(len, asked)),
        least_s=min(sum(low for low, _ in case) for case in spans),
        most_s=max(sum(high for _, high in case) for case in spans),
        least_agents=settings.start_agents,
        most_agents=_most_agents(settings),
    )


def cases(
    tiers: Sequence[SLOTier], search: Callable[[SLOTier], Search], settings: Settings
) -> tuple[Case, Case]:
    """Return which phases are asked for where tiers carry little, and where they carry much.

    Args:
        tiers: those that are searched.
        search: makes a search that knows what has been measured, anew at every call.
        settings: where searches start and end.
    """
    start, most = settings.start_agents, _most_agents(settings)
    found = [search(tier).result() for tier in tiers]
    bottom = [r.agents or (start if r.first_failing is None else 0) for r in found]
    top = [
        # A limit that is reached itself saves the bisection; each tier has an octave of its own.
        max(r.agents, (most >> i) - 1) if r.first_failing is None else r.first_failing - 1
        for i, r in enumerate(found)
    ]
    little, much = (
        Case(
            carried={t.name: n for t, n in zip(tiers, carried, strict=True)},
            asked=_asked(tiers, search, carried),
        )
        for carried in (bottom, top)
    )
    return little, much


def _most_agents(settings: Settings) -> int:
    return min(settings.max_agents, _MOST_OVER_START * settings.start_agents)


def forecast_text(expected: Forecast, tiers: Sequence[SLOTier], *, minutes: bool) -> str:
    """Say what a search takes, and on which assumptions."""
    unnamed = any(_speed(tier) is None for tier in tiers)
    speed = f" ({_FALLBACK_TOK_PER_S:g} tok/s where it names none)" if unnamed else ""
    agents = _range(expected.least_agents, expected.most_agents, " to ")
    of_all = words.count(len(tiers), "tier")
    return (
        f"a search of {of_all} takes {_amount(expected, minutes=minutes)} on the system, if each "
        f"carries {agents} agents that are answered at its own speed{speed} and within its TTFT"
    )


def left_text(left: Forecast, *, minutes: bool) -> str:
    """Say what is left of a search."""
    return f"about {_amount(left, minutes=minutes)} to go"


def hours_left_text(left: Forecast, elapsed_s: float, phase_left_s: float) -> str:
    """Say what is left of a search while a phase of it runs.

    Args:
        left: what was left when the phase began, it included.
        elapsed_s: how long it has run.
        phase_left_s: what it still takes at its own pace; 0 where nothing tells.
    """
    now = replace(
        left,
        least_s=max(left.least_s - elapsed_s, phase_left_s),
        most_s=max(left.most_s - elapsed_s, phase_left_s),
    )
    return f"to go: {_amount(now, minutes=left.most_s < _HOURS_FROM_S)}"


def _asked(
    tiers: Sequence[SLOTier], search: Callable[[SLOTier], Search], carried: Sequence[int]
) -> dict[Wanted, SLOTier]:
    """Return every phase, with the tier that asks for it first."""
    asked: dict[Wanted, SLOTier] = {}
    for tier, capacity in zip(tiers, carried, strict=True):
        going = search(tier)
        for known in asked:
            going.record(known.agents, _supposed(tier, known, capacity), short=known.short)
        while (wanted := going.next_phase()) is not None:
            asked[wanted] = tier
            going.record(wanted.agents, _supposed(tier, wanted, capacity), short=wanted.short)
    return asked


def _supposed(tier: SLOTier, phase: Wanted, capacity: int) -> Verdict:
    """Return what a phase says where a tier carries so many agents, and strain grows with N."""
    strain = phase.agents / (capacity + 0.5)
    findings = tuple(
        Finding(
            limit=limit.name,
            sign=limit.sign,
            bound=limit.value,
            observed=limit.value / strain if limit.higher_is_better else limit.value * strain,
            n=1,
            met=strain <= 1,
        )
        for limit in tier.limits[:1]
    )
    sure: Evidence = "certain" if abs(strain - 1) > _UNCLEAR else "unclear"
    return Verdict(
        tier=tier.name,
        agents=phase.agents,
        outcome="pass" if strain <= 1 else "fail",
        findings=findings,
        evidence=sure if phase.short else "floors",
    )


def paces(tier: SLOTier) -> tuple[Pace, Pace]:
    """Return how a tier's agents are answered at best, and at worst, while it is kept."""
    ttft_s = max((x.value for x in tier.limits if x.metric == "ttft_s"), default=0.0)
    speed = _speed(tier) or _FALLBACK_TOK_PER_S
    return (
        Pace(speed_tok_per_s=speed, ttft_s=0.0),
        Pace(speed_tok_per_s=speed, ttft_s=ttft_s * _MEAN_OVER_P95),
    )


def _speed(tier: SLOTier) -> float | None:
    return min((x.value for x in tier.limits if x.metric in _SPEEDS and x.value), default=None)


def _amount(expected: Forecast, *, minutes: bool) -> str:
    phases = _range(expected.least_phases, expected.most_phases, "-")
    plural = "" if expected.most_phases == 1 else "s"
    in_minutes = minutes or expected.most_s < _HOURS_FROM_S
    unit, seconds = ("min", 60) if in_minutes else ("h", 3600)
    time = _range(expected.least_s / seconds, expected.most_s / seconds, "-")
    return f"{phases} phase{plural}, {time} {unit}"


def _range(least: float, most: float, to: str) -> str:
    low, high = _rounded(least), _rounded(most)
    return low if low == high else f"{low}{to}{high}"


def _rounded(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:,.0f}"  # noqa: PLR2004 two digits
