"""Which number of agents next? A ramp, then a bracket that closes; no clock, no network.

One search answers for one tier. Every phase that was measured, for whatever tier, is recorded in
every search, so that no phase is measured twice (METHODOLOGY, section 2).

A *guided* search reads more from a phase than its verdict. Of every limit a phase uses up a share,
its strain; the next phase is where the curve through two phases reaches 1. Curves only aim: what
passes and what fails is measured, and no bracket takes more than `_SLACK` phases beyond those of
its bisection, whatever the curve.

Invariants:
- ``floor`` is the greatest passing N below every failing N: a pass above a failure never counts.
- ``next_phase`` never names an N that has a verdict.
- An N that was invalid is asked for once more; invalid twice ends the search without an answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pytest_agentperf.aim import Findings, crossings, strain
from pytest_agentperf.slo import Finding, Outcome, Verdict

__all__ = [
    "ALIKE_RATIO",
    "CapacitySearch",
    "SearchResult",
    "Status",
    "Wanted",
    "says_nothing",
]

_TRIES = 2
_SLACK = 2
"""Phases that bad aims may cost. An aim that spares a phase earns one back."""
_FARTHEST = 4
"""A ramp goes no farther in one step, whatever the curve says."""
_OVERSHOOT = 1.04
"""A ramp aims to end: this far beyond the crossing."""
_APART = 1.25
"""Phases nearer to each other say more of their noise than of the curve outside them."""
ALIKE_RATIO = 0.02
"""Phases repeat no better: a capacity is told also for limits so much stricter and looser."""

Status = Literal["open", "found", "at-limit", "unsupported", "invalid"]
"""``at-limit``: the largest allowed N passed. ``unsupported``: one agent is too many."""
_Bracket = tuple[int, int | None]
"""Greatest N that counts as passing, 0 for none, and smallest that failed."""


class Wanted(NamedTuple):
    """A phase that a search asks for."""

    agents: int
    short: bool = False
    """It aims only; see `pytest_agentperf.procedure`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Where a search stands."""

    agents: int
    """Largest N found to pass, below every N that failed; 0 when none did."""
    first_failing: int | None
    """Smallest N found to fail; ``None`` when none did."""
    status: Status
    passes_above_failure: tuple[int, ...] = ()
    """Where the curve is not monotone: reported, never a capacity."""
    by_curve: bool = False
    """The next number was not measured: by the slope of short phases it fails."""


def says_nothing(verdict: Verdict, *, short: bool) -> bool:
    """Tell whether the miss of another tier has ended a full phase before this one was sure."""
    sure = verdict.outcome == "fail" and verdict.evidence == "certain"
    return not (short or sure or verdict.evidence == "floors")


class CapacitySearch:
    """Find the greatest N that passes."""

    def __init__(
        self, *, start_agents: int, max_agents: int, resolution: float, guided: bool = True
    ) -> None:
        """Search from ``start_agents``; where it is not guided, double, halve and bisect alone."""
        self._start = start_agents
        self._max = max_agents
        self._resolution = resolution
        self._guided = guided
        self._passed: dict[int, Findings] = {}
        self._failed: dict[int, Findings] = {}
        self._invalid: dict[int, int] = {}
        self._slack = _SLACK

    def record(self, agents: int, outcome: Outcome, findings: Sequence[Finding] = ()) -> bool:
        """Take the verdict of one phase. A failure outweighs a pass at the same N.

        Args:
            agents: agents of the phase.
            outcome: its verdict.
            findings: every limit against what was observed; without them the search cannot aim.

        Returns:
            Whether this search needed the phase: it was asked for, or has narrowed the bracket.
        """
        wanted, before = self._wanted(), self._bracket()
        by_limit = {finding.limit: finding for finding in findings}
        if outcome == "invalid":
            self._invalid[agents] = self._invalid.get(agents, 0) + 1
        elif outcome == "fail":
            self._failed[agents] = by_limit
            self._passed.pop(agents, None)
        elif agents not in self._failed:
            self._passed[agents] = by_limit
        if agents == wanted and outcome != "invalid":
            self._count_slack(agents, before)
        return agents == wanted or self._bracket() != before

    def next_phase(self) -> int | None:
        """Return the number of agents to measure next, or ``None`` when the search has ended."""
        wanted = self._wanted()
        if wanted is None or self._invalid.get(wanted, 0) >= _TRIES:
            return None
        return wanted

    def result(self) -> SearchResult:
        """Return the answer so far."""
        floor, ceiling = self._bracket()
        return SearchResult(
            agents=floor,
            first_failing=ceiling,
            status=self._status(floor, ceiling),
            passes_above_failure=tuple(
                sorted(n for n in self._passed if ceiling is not None and n > ceiling)
            ),
        )

    def aim(self) -> float | None:
        """Return at how many agents the first limit is reached, by the curve in the bracket.

        ``None`` while there is no bracket, or where a limit hides what it does inside.
        """
        floor, ceiling = self._bracket()
        return self._aim(floor or None, ceiling)

    def interval(self, doubt_ratio: float = ALIKE_RATIO) -> tuple[int, int | None]:
        """Return the least and the greatest N that the phases allow.

        They are the ends of the bracket or, where it lies farther out, N at limits that much
        stricter and looser, on the curve through the phases around it. The greatest is ``None``
        where no phase has missed the looser limits.

        Args:
            doubt_ratio: how unsure the phases beside the answer are of what binds there (0-1).
        """
        floor, ceiling = self._bracket()
        stricter = self._span_at(1 - doubt_ratio)
        looser = self._span_at(1 + doubt_ratio)
        low = floor if stricter is None else min(floor, stricter[0])
        if looser is None or ceiling is None:
            return low, None
        return low, max(ceiling - 1, looser[1])

    def _status(self, floor: int, ceiling: int | None) -> Status:
        wanted = self._wanted()
        if wanted is not None:
            return "invalid" if self._invalid.get(wanted, 0) >= _TRIES else "open"
        if ceiling is None:
            return "at-limit"
        return "found" if floor else "unsupported"

    def _bracket(self) -> _Bracket:
        ceiling = min(self._failed, default=None)
        floor = max((n for n in self._passed if ceiling is None or n < ceiling), default=0)
        return floor, ceiling

    def _wanted(self) -> int | None:
        floor, ceiling = self._bracket()
        if ceiling is None:
            if floor == 0:
                return self._start
            return min(self._above(floor), self._max) if floor < self._max else None
        if floor == 0:
            return self._below(ceiling) if ceiling > 1 else None
        return self._between(floor, ceiling) if ceiling - floor > self._step(floor) else None

    def _above(self, floor: int) -> int:
        """Return the next step of a ramp: doubled, or just beyond the crossing ahead."""
        before = max((n for n in self._passed if n * _APART <= floor), default=None)
        aim = self._aim(before, floor)
        if aim is None:
            return 2 * floor
        beyond = math.ceil(min(aim * _OVERSHOOT, _FARTHEST * floor))
        return max(beyond, floor + self._step(floor) if self._slack else 2 * floor)

    def _below(self, ceiling: int) -> int:
        """Return the next step down while nothing has passed: halved, or just below a crossing."""
        beyond = min((n for n in self._failed if n >= ceiling * _APART), default=None)
        aim = self._aim(ceiling, beyond)
        if aim is None or aim >= ceiling:
            return max(1, ceiling // 2)
        under = math.floor(max(aim / _OVERSHOOT, ceiling / _FARTHEST))
        return max(1, under if self._slack else min(under, ceiling // 2))

    def _between(self, floor: int, ceiling: int) -> int:
        """Return the next step inside a bracket: the middle, or the last N below the crossing.

        A step off the ends, so that the bracket closes; and no nearer to an end than leaves a part
        that the middle closes in time, with what slack there is.
        """
        middle = (floor + ceiling) // 2
        aim = self._aim(floor, ceiling)
        widest = self._step(floor) * 2 ** (self._bisections(floor, ceiling) - 1 + self._slack)
        off = min(self._step(floor), (ceiling - floor) // 2)
        least, most = max(floor + off, ceiling - widest), min(ceiling - off, floor + widest)
        return min(max(middle if aim is None else math.floor(aim), least), most)

    def _bisections(self, floor: int, ceiling: int) -> int:
        """Return how many phases close a bracket when each is in its middle."""
        return max(0, math.ceil(math.log2((ceiling - floor) / self._step(floor))))

    def _step(self, floor: int) -> int:
        return max(1, math.floor(self._resolution * floor))

    def _aim(self, few: int | None, many: int | None) -> float | None:
        """Return where the first limit is crossed, by two phases; ``None`` where one hides it.

        Behind a cliff the other limits' curves are not what they were before it.
        """
        if few is None or many is None or not self._guided:
            return None
        known = self._passed | self._failed
        found = crossings(few, known[few], many, known[many])
        at = [x for x in found if x is not None]
        return min(at) if at and len(at) == len(found) else None

    def _count_slack(self, agents: int, before: _Bracket) -> None:
        """Count what an aim has gained or lost against the step without one."""
        (floor, ceiling), (now_floor, now_ceiling) = before, self._bracket()
        if ceiling is None:
            ramping = floor and now_ceiling is None
            gained = math.floor(math.log2(agents / floor)) if ramping else 1
        elif floor == 0 or now_ceiling is None:
            gained = 1 if now_floor else math.floor(math.log2(ceiling / agents))
        else:
            gained = self._bisections(floor, ceiling) - self._bisections(now_floor, now_ceiling)
        self._slack = min(max(0, self._slack + gained - 1), _SLACK)

    def _span_at(self, level: float) -> tuple[int, int] | None:
        """Return between which N the first strain passes a level; ``None`` when none ever does."""
        known = self._passed | self._failed
        over = [n for n, found in known.items() if any(strain(f) > level for f in found.values())]
        if not over:
            return None
        beyond = min(over)
        within = max((n for n in known if n < beyond), default=0)
        farther = min((n for n in known if n >= beyond * _APART), default=0)
        few, many = (within, beyond) if within else (beyond, farther)
        if not (few and many):
            return 0, beyond - 1
        at = crossings(few, known[few], many, known[many], level=level)
        if not at or None in at:
            return within, beyond - 1
        exact = max(0, math.floor(min(x for x in at if x is not None)))
        return exact, exact
