"""Which number of agents next? Ramp, then bisection; no clock, no network.

One search answers for one tier. Every phase that was measured, for whatever tier, is recorded in
every search, so that no phase is measured twice (METHODOLOGY, section 2).

Invariants:
- ``floor`` is the greatest passing N below every failing N: a pass above a failure never counts.
- ``next_phase`` never names an N that has a verdict.
- An N that was invalid is asked for once more; invalid twice ends the search without an answer.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pytest_agentperf.slo import Outcome

__all__ = ["CapacitySearch", "SearchResult"]

_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Where a search stands."""

    agents: int
    """Largest N found to pass, below every N that failed; 0 when none did."""
    first_failing: int | None
    """Smallest N found to fail; ``None`` when none did."""
    status: Literal["open", "found", "at-limit", "unsupported", "invalid"]
    """``at-limit``: the largest allowed N passed. ``unsupported``: one agent is too many."""
    passes_above_failure: tuple[int, ...] = ()
    """Where the curve is not monotone: reported, never a capacity."""


class CapacitySearch:
    """Find the greatest N that passes."""

    def __init__(self, *, start_agents: int, max_agents: int, resolution: float) -> None:
        self._start = start_agents
        self._max = max_agents
        self._resolution = resolution
        self._passed: set[int] = set()
        self._failed: set[int] = set()
        self._invalid: dict[int, int] = {}

    def record(self, agents: int, outcome: Outcome) -> None:
        """Take the verdict of one phase. A failure outweighs a pass at the same N."""
        if outcome == "invalid":
            self._invalid[agents] = self._invalid.get(agents, 0) + 1
        elif outcome == "fail":
            self._failed.add(agents)
            self._passed.discard(agents)
        elif agents not in self._failed:
            self._passed.add(agents)

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

    def _status(
        self, floor: int, ceiling: int | None
    ) -> Literal["open", "found", "at-limit", "unsupported", "invalid"]:
        wanted = self._wanted()
        if wanted is not None:
            return "invalid" if self._invalid.get(wanted, 0) >= _TRIES else "open"
        if ceiling is None:
            return "at-limit"
        return "found" if floor else "unsupported"

    def _bracket(self) -> tuple[int, int | None]:
        ceiling = min(self._failed, default=None)
        floor = max((n for n in self._passed if ceiling is None or n < ceiling), default=0)
        return floor, ceiling

    def _wanted(self) -> int | None:
        floor, ceiling = self._bracket()
        if ceiling is None:
            if floor == 0:
                return self._start
            return min(2 * floor, self._max) if floor < self._max else None
        if floor == 0:
            return max(1, ceiling // 2) if ceiling > 1 else None
        return (floor + ceiling) // 2 if ceiling - floor > self._step(floor) else None

    def _step(self, floor: int) -> int:
        return max(1, math.floor(self._resolution * floor))
