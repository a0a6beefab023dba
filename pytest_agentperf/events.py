"""What is told of a run while it goes on, as values: a terminal shows them, a test reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pytest_agentperf.evidence import Interval
from pytest_agentperf.forecast import Forecast
from pytest_agentperf.slo import SLOTier
from pytest_agentperf.steady import Reached

__all__ = ["Event", "Kind", "Progress", "Stage", "Standing", "TierStanding"]

Kind = Literal["phase-start", "progress", "phase-end", "phase-broken", "note"]
Stage = Literal["starting", "settling", "steady window", "last answers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A phase that runs."""

    stage: Stage
    elapsed_s: float
    left_s: float | None
    """Seconds until its floors are met at the pace so far; ``None``: nothing tells."""
    waits_for: str = ""
    """What keeps its window from opening, in words; empty once it is open."""
    reached: tuple[Reached, ...] = ()
    figures: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    """By name of a limit: of the requests of the window that have ended, with a 95 % interval.

    It flatters while the slowest have not: a verdict is made of all of them."""
    ended: int = 0
    """Requests that have ended, failed ones included."""
    failed: int = 0
    last_error: str = ""
    """In the server's words: nothing that a terminal may be given as it is."""
    power_w: float | None = None
    """Mean of the accelerators over the last readings; ``None``: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStanding:
    """How far the search of one tier is."""

    tier: SLOTier
    passed: int
    """Greatest number of agents that counts as carried; 0 for none."""
    failed: int | None
    """Smallest number that is too many."""
    status: str
    """As in `normalize.Capacity`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far the searches of one model are."""

    tiers: tuple[TierStanding, ...]
    left: Forecast | None = None
    """What they still take; ``None`` where nothing is searched any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, or how far a phase is."""

    kind: Kind
    model: str
    phase: int
    """0 where no phase runs."""
    agents: int
    text: str = ""
    progress: Progress | None = None
    """Of kind ``progress`` only."""
    standing: Standing | None = None
    """Where it has changed."""
