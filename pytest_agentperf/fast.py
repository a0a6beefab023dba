"""Which phase next, in ``fast`` mode? Short phases aim, full ones answer; no clock, no network.

A short phase begins where trajectories are in their middle, and sees a load that is stationary from
its first minute; the published rule begins at first turns, which flatters by some percent, and its
phases are long enough for a KV cache to thrash. So an answer is always a number that passed a full
phase. Short phases say where to measure it, and how steep the curve is there: with that slope one
full phase tells how far its own limit is away.

Invariants:
- The answer passed a full phase, and is below every number that failed one.
- No phase is asked for twice that has a verdict; every full phase narrows what is open.
"""

import math
from dataclasses import dataclass
from statistics import fmean

from pytest_agentperf.aim import Findings, crossings, strain, strain_between
from pytest_agentperf.early import clear_from
from pytest_agentperf.search import (
    ALIKE_RATIO,
    CapacitySearch,
    SearchResult,
    Status,
    Wanted,
    says_nothing,
)
from pytest_agentperf.slo import Outcome, Verdict

__all__ = ["FastSearch"]

_TRIES = 2
_COARSE = 0.06
"""Short phases bracket the answer so closely where no curve tells it."""
_NEAR = 3
"""Two phases that are no farther apart tell the curve between them."""
_NEAR_STEEP = 1.25
"""So near where a phase is unclear, or misses a time: that may rise from nothing to far beyond its
limit in a few agents."""
_FEW = 2
_WIDE = 1.2
"""Two that are nearer tell more of their noise than of its slope."""
_LAXER = 1.01
"""The published rule, which begins at first turns, carries more agents than a stationary load at
the same speed: by 0 to 4 %, the longer the trajectories the more."""
_FARTHEST = 1.25
"""While nothing has failed for sure, full phases go no farther in one step."""
_GUARD_RATIO, _GUARD_AGENTS = 0.005, 0.1
"""So near below the next number the curve is not trusted to say that it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Short:
    verdict: Verdict
    findings: Findings

    @property
    def met(self) -> bool:
        return self.verdict.outcome == "pass"

    @property
    def clean_pass(self) -> bool:
        return self.met and not self.verdict.doubts

    @property
    def tells(self) -> bool:
        """Tell whether it is as good as a full phase for a curve."""
        return self.verdict.evidence == "certain" and not self.verdict.doubts

    @property
    def is_late(self) -> bool:
        """Tell whether a time is missed.

        A cold cache makes a start in mid-trajectory the harder: near a cliff it may fall where the
        published start does not.
        """
        return any(finding.sign == "<=" and not finding.met for finding in self.findings.values())

    @property
    def clear_fail(self) -> bool:
        most = max((strain(f) for f in self.findings.values() if not f.met), default=0.0)
        sure = self.verdict.outcome == "fail" and self.verdict.evidence == "certain"
        return sure and most > clear_from(self.verdict.agents)


class FastSearch:
    """Find the greatest N that passes a full phase, with as few of them as can be."""

    def __init__(self, *, start_agents: int, max_agents: int, resolution: float) -> None:
        """Search from ``start_agents``; see `CapacitySearch`."""
        self._start = start_agents
        self._max = max_agents
        self._resolution = resolution
        self._short: dict[int, _Short] = {}
        self._passed: dict[int, Findings] = {}
        self._failed: dict[int, Findings] = {}
        self._invalid: dict[Wanted, int] = {}
        self._soft = self._aimed()

    def record(self, agents: int, verdict: Verdict, *, short: bool) -> bool:
        """Take the verdict of one phase.

        Returns:
            Whether this search needed the phase: it was asked for, or has narrowed the bracket.
        """
        wanted, before = self._wanted(), self._bracket()
        by_limit = {finding.limit: finding for finding in verdict.findings}
        if verdict.outcome == "invalid" or says_nothing(verdict, short=short):
            key = Wanted(agents, short)
            self._invalid[key] = self._invalid.get(key, 0) + 1
        elif short:
            self._short[agents] = _Short(verdict=verdict, findings=by_limit)
            self._soft = self._aimed()
        else:
            self._record_full(agents, verdict, by_limit)
        return Wanted(agents, short) == wanted or self._bracket() != before

    def _record_full(self, agents: int, verdict: Verdict, by_limit: Findings) -> None:
        if verdict.outcome == "fail":
            self._failed[agents] = by_limit
            self._passed.pop(agents, None)
        elif agents not in self._failed:
            self._passed[agents] = by_limit
            refuted = [n for n, short in self._short.items() if n <= agents and short.clear_fail]
            for n in refuted:
                del self._short[n]
        self._soft = self._aimed()

    def _aimed(self) -> CapacitySearch:
        """Return what all phases so far say together, short ones and full ones."""
        search = CapacitySearch(
            start_agents=self._start,
            max_agents=self._max,
            resolution=max(self._resolution, _COARSE),
        )
        floor, failed = self._full_bracket()
        for agents, short in self._short.items():
            told = agents == failed or (agents <= floor and not short.clean_pass)
            if not told:
                outcome: Outcome = "pass" if short.clean_pass else "fail"
                search.record(agents, outcome, tuple(short.findings.values()))
        full: tuple[tuple[Outcome, dict[int, Findings]], ...] = (
            ("pass", self._passed),
            ("fail", self._failed),
        )
        for outcome, phases in full:
            for agents, findings in phases.items():
                search.record(agents, outcome, tuple(findings.values()))
        return search

    def next_phase(self) -> Wanted | None:
        """Return the next phase; ``None`` when the search has ended."""
        wanted = self._wanted()
        return None if wanted is None or self._tried_enough(wanted) else wanted

    def is_open_at(self, agents: int) -> bool:
        """Tell whether a phase with so many agents can narrow what is open."""
        soft = self._soft.result()
        brackets = (self._bracket(), (soft.agents, soft.first_failing))
        return any(floor < agents and (top is None or agents < top) for floor, top in brackets)

    def result(self) -> SearchResult:
        """Return the answer so far."""
        floor, ceiling = self._bracket()
        above = (n for n in self._passed if ceiling is not None and n > ceiling)
        return SearchResult(
            agents=floor,
            first_failing=ceiling,
            status=self._status(floor, ceiling),
            passes_above_failure=tuple(sorted(above)),
            by_curve=self._is_by_curve(floor, ceiling),
        )

    def _is_by_curve(self, floor: int, ceiling: int | None) -> bool:
        """Tell whether nothing but the curve says that one agent more is too many."""
        if not floor or self._wanted() is not None or ceiling == floor + 1:
            return False
        aim = self._aim(1.0)
        return floor < self._max and aim is not None and aim < floor + 1

    def interval(self, doubt_ratio: float = ALIKE_RATIO) -> tuple[int, int | None]:
        """Return the least and the greatest N at limits that much stricter and looser."""
        floor, ceiling = self._bracket()
        below, above = self._aim(1 - doubt_ratio), self._aim(1 + doubt_ratio)
        if floor >= self._max and ceiling is None:
            above = None
        low = floor if below is None else min(floor, max(0, math.floor(below)))
        if above is None:
            return low, None if ceiling is None else ceiling - 1
        return low, max(floor, math.floor(above))

    def _status(self, floor: int, ceiling: int | None) -> Status:
        wanted = self._wanted()
        if wanted is not None:
            return "invalid" if self._tried_enough(wanted) else "open"
        if ceiling is None and floor >= self._max:
            return "at-limit"
        return "found" if floor else "unsupported"

    def _tried_enough(self, wanted: Wanted) -> bool:
        return self._invalid.get(wanted, 0) >= _TRIES

    def _bracket(self) -> tuple[int, int | None]:
        """Return the greatest N that passed in full, 0 for none, and the smallest clear failure."""
        floor, failed = self._full_bracket()
        clear = min((n for n, s in self._short.items() if s.clear_fail and n > floor), default=None)
        ceilings = [n for n in (failed, clear) if n is not None]
        return floor, min(ceilings, default=None)

    def _full_bracket(self) -> tuple[int, int | None]:
        failed = min(self._failed, default=None)
        return max((n for n in self._passed if failed is None or n < failed), default=0), failed

    def _wanted(self) -> Wanted | None:
        floor, ceiling = self._bracket()
        if ceiling is not None and ceiling - floor <= self._step(floor):
            alone = ceiling not in self._failed
            return Wanted(ceiling) if alone and self._short[ceiling].is_late else None
        if floor >= self._max:
            return None
        asked = None if self._has_aimed() else self._soft.next_phase()
        if asked is not None:
            # The last that may pass is measured in full at once: it would have to be anyhow.
            last = ceiling is not None and ceiling - asked <= self._step(asked)
            return Wanted(asked, short=not last)
        aim = self._aim(1.0)
        _, failed = self._full_bracket()
        if aim is not None and failed is not None and aim >= failed:
            aim = None  # refuted: something else than this curve's limit was missed there
        if floor and aim is not None and aim < floor + self._step(floor) - self._guard(floor):
            return None
        return Wanted(self._next(floor, ceiling, aim))

    def _has_aimed(self) -> bool:
        """Tell whether short phases around the answer tell the curve between them."""
        found = self._soft.result()
        few, many = found.agents, found.first_failing
        if not few or many is None:
            return False
        if many in self._short and self._short[many].verdict.doubts:
            return True  # from here on full phases alone can tell
        if many > _NEAR * few or self._soft.aim() is None:
            return False
        steep = any(x.sign == "<=" and strain(x) > 1 for x in self._known(many).values())
        sure = many in self._failed or self._short[many].tells
        return many <= _NEAR_STEEP * few or (sure and not steep)

    def _known(self, agents: int) -> Findings:
        full = self._passed.get(agents) or self._failed.get(agents)
        return full or self._short[agents].findings

    def _next(self, floor: int, ceiling: int | None, aim: float | None) -> int:
        """Return the next number for a full phase, inside the bracket."""
        least = floor + self._step(floor) if floor else 1
        most = max(least, self._most(floor, ceiling))
        doubtful = [n for n, s in self._short.items() if s.verdict.doubts and n > floor]
        if aim is not None:
            wanted = min(math.floor(aim), min(doubtful, default=most))
        else:
            hidden = min(doubtful, default=most)
            passed = [
                n
                for n, s in self._short.items()
                if (s.clean_pass or (s.met and n == hidden)) and floor < n <= most
            ]
            middle = (floor + min(hidden, most) + 1) // 2
            wanted = max(passed) if passed and not floor else middle
        return min(max(wanted, least), most, self._max)

    def _most(self, floor: int, ceiling: int | None) -> int:
        """Return the greatest number that a full phase may have next."""
        if ceiling is not None:
            return ceiling - 1
        soft = self._soft.result()
        if soft.first_failing is not None and soft.first_failing > floor:
            return soft.first_failing
        return max(soft.agents, math.ceil(_FARTHEST * floor))

    def _aim(self, level: float) -> float | None:
        """Return where the first limit's strain reaches a level; ``None`` where no curve tells.

        The slope is that of the short phases, the height that of the nearest full one; where two
        full phases lie around the crossing, theirs is both.
        """
        floor, ceiling = self._full_bracket()
        if floor and ceiling is not None and _are_near(floor, ceiling):
            return _least(
                crossings(floor, self._passed[floor], ceiling, self._failed[ceiling], level=level)
            )
        found = self._soft.result()
        pair = self._pair(floor or found.agents or found.first_failing or 1)
        if pair is None:
            return None
        few, many = pair
        low, high = self._short[few].findings, self._short[many].findings
        plain = _least(crossings(few, low, many, high, level=level))
        full = [n for n in (floor, ceiling) if n and plain is not None and _are_near(n, plain)]
        if plain is None:
            return None
        if not full:
            steep = any(high[name].sign == "<=" and strain(high[name]) > 1 for name in high)
            return plain if steep else plain * _LAXER
        at = full[0]
        heights = self._passed.get(at) or self._failed[at]
        return _least(
            [
                x
                for name in low.keys() & high.keys() & heights.keys()
                for x in _raised(name, (few, low), (many, high), (at, heights), level)
            ]
        )

    def _pair(self, at: int) -> tuple[int, int] | None:
        """Return two short phases around a number, or beside it, far enough apart for a slope."""
        below = [n for n in self._short if n <= at]
        above = [n for n in self._short if n > at]
        pairs = [(few, many) for few in below for many in above if many >= _WIDE * few]
        pairs = pairs or [
            (few, many) for few in self._short for many in self._short if many >= _WIDE * few
        ]
        # The narrowest around it, else the nearest beside it.
        return min(pairs, key=lambda p: (p[1] / p[0], abs(fmean(p) - at)), default=None)

    def _step(self, floor: int) -> int:
        return max(1, math.floor(self._resolution * floor))

    def _guard(self, floor: int) -> float:
        return _GUARD_RATIO * floor + _GUARD_AGENTS


def _are_near(one: float, other: float) -> bool:
    return abs(one - other) <= _FEW or max(one, other) <= _NEAR * min(one, other)


def _raised(
    name: str,
    few: tuple[int, Findings],
    many: tuple[int, Findings],
    full: tuple[int, Findings],
    level: float,
) -> list[float | None]:
    """Return where one limit's curve reaches a level when it is raised to a full phase's height."""
    (n, low), (m, high), (at, heights) = few, many, full
    between = strain_between(n, low[name], m, high[name], at)
    height = strain(heights[name])
    if between is None or not 0 < height < math.inf:
        return [None] if height > level else []
    one, other = {name: low[name]}, {name: high[name]}
    return crossings(n, one, m, other, level=level * between / height)


def _least(found: list[float | None]) -> float | None:
    at = [x for x in found if x is not None]
    return min(at) if at and len(at) == len(found) else None
