"""Which search a mode runs, and what all searches are to those who run them."""

from typing import Protocol

from pytest_agentperf.fast import FastSearch
from pytest_agentperf.search import (
    ALIKE_RATIO,
    CapacitySearch,
    SearchResult,
    Wanted,
    says_nothing,
)
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import Outcome, Verdict

__all__ = ["Exact", "Search", "make_search"]


class Search(Protocol):
    """A search of one tier, whichever phases it may ask for."""

    def next_phase(self) -> Wanted | None:
        """Return the next phase; ``None`` when the search has ended."""
        ...

    def record(self, agents: int, verdict: Verdict, *, short: bool) -> bool:
        """Take the verdict of one phase; return whether this search needed it."""
        ...

    def is_open_at(self, agents: int) -> bool:
        """Tell whether a phase with so many agents can narrow what is open."""
        ...

    def result(self) -> SearchResult:
        """Return the answer so far."""
        ...

    def interval(self, doubt_ratio: float = ALIKE_RATIO) -> tuple[int, int | None]:
        """Return the least and the greatest N that phases so unsure allow."""
        ...


class Exact:
    """A search whose every phase is a full one."""

    def __init__(self, search: CapacitySearch) -> None:
        self._search = search
        self.result = search.result
        self.interval = search.interval

    def is_open_at(self, agents: int) -> bool:
        """Tell that every phase is of use: it ends by its floors alone."""
        del agents
        return True

    def next_phase(self) -> Wanted | None:
        """Return what `CapacitySearch.next_phase` does; never a short phase."""
        agents = self._search.next_phase()
        return None if agents is None else Wanted(agents)

    def record(self, agents: int, verdict: Verdict, *, short: bool) -> bool:
        """Take the verdict of one phase; a short one of another mode says nothing here."""
        if short:
            return False
        nothing = says_nothing(verdict, short=False)
        outcome: Outcome = "invalid" if nothing else verdict.outcome
        return self._search.record(agents, outcome, verdict.findings)


def make_search(settings: Settings) -> Search:
    """Return the search of a mode, at its beginning."""
    if settings.mode == "fast":
        return FastSearch(
            start_agents=settings.start_agents,
            max_agents=settings.max_agents,
            resolution=settings.resolution,
        )
    return Exact(
        CapacitySearch(
            start_agents=settings.start_agents,
            max_agents=settings.max_agents,
            resolution=settings.resolution,
        )
    )
