"""When a phase is steady, and when it may end (METHODOLOGY, section 2).

The window opens ``settle_s`` after the last agent sent its first request or, where agents begin in
the middle of trajectories, after the last one got its first token: until then the server computes
contexts that are new to it. It closes when all three floors are met at once. Trajectories count
from the start of the phase; the length is the window's.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_agentperf.records import Start, TurnRecord

__all__ = ["Floors", "PhaseState", "Reached"]

_CUT = ("connection:", "HTTP 502")
"""How requests fail when a server ends: on the wire, or at a gateway that has lost it."""
_CUT_WITHIN_NS = 5_000_000_000
_LEAST_CUT_AGENTS, _LEAST_CUTS = 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What a phase must reach, joined by AND."""

    min_trajectories: int
    min_trajectories_per_agent: int
    min_steady_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a phase is towards one floor."""

    floor: Literal["steady", "trajectories", "per agent"]
    done: float
    """Seconds of the window, or completed trajectories: of all agents, or of the slowest."""
    wanted: float

    @property
    def is_met(self) -> bool:
        """Tell whether this floor keeps no window open."""
        return self.done >= self.wanted

    def __str__(self) -> str:
        amount = f"{self.done:.0f} of {self.wanted:.0f}"
        if self.floor == "per agent":
            return f"slowest agent at {amount}"
        return f"{amount} {'s steady' if self.floor == 'steady' else self.floor}"


class PhaseState:
    """Follow one phase; told what happened, never asks a clock."""

    def __init__(
        self, *, agents: int, settle_s: float, floors: Floors, start: Start = "first"
    ) -> None:
        self._agents = agents
        self._start = start
        self._settle_ns = int(settle_s * 1e9)
        self._floors = floors
        self._first_sent: dict[int, int] = {}
        self._answering: dict[int, int] = {}
        self._completed: Counter[int] = Counter()
        self.ended = 0
        """Requests that have ended, failed ones included."""
        self.failed = 0
        self.ended_in_window = 0
        """Of those, the ones sent after the window opened: what was before decides nothing."""
        self.failed_in_window = 0
        self.failed_in_a_row = 0
        """Failures since the last answer; a timeout is slowness, and counts for neither."""
        self.last_error = ""
        """Why the last request that failed did."""
        self._began_ns: int | None = None
        self._failing: set[int] = set()
        """Agents that have failed since the last answer or other sign of life."""
        self._cuts = 0
        """Requests since then that were cut, or ended in silence."""
        self._cut_lately: deque[TurnRecord] = deque()
        """Requests that were cut, or refused by what stands before a server that is gone."""

    @property
    def agents(self) -> int:
        """Agents of the phase."""
        return self._agents

    @property
    def hopeless_run(self) -> int:
        """So many failures in a row mean that nothing answers any more."""
        return max(50, 3 * self._agents)

    def started(self, first_sent_ns: Mapping[int, int]) -> None:
        """These agents sent their first request, each at its instant."""
        for agent, sent_ns in first_sent_ns.items():
            self._first_sent.setdefault(agent, sent_ns)
        self._began_ns = min(self._first_sent.values(), default=None)

    def answering(self, since_ns: Mapping[int, int]) -> None:
        """The first answers of these agents have begun, each at its instant."""
        self._answering |= since_ns

    def turn(self, record: TurnRecord) -> None:
        """A request has ended."""
        self.ended += 1
        if self.opens_ns is not None and record.sent_ns >= self.opens_ns:
            self.ended_in_window += 1
            self.failed_in_window += record.error is not None
        if record.error is not None:
            self.failed += 1
            self.last_error = record.error
            self._fail(record, record.error)
            return
        self.failed_in_a_row = self._cuts = 0
        self._failing.clear()
        if record.completes:
            self._completed[record.agent] += 1

    def _fail(self, record: TurnRecord, error: str) -> None:
        timed_out, is_cut = error.startswith("timeout"), error.startswith(_CUT)
        self.failed_in_a_row += not timed_out
        if timed_out and not _was_silent(record):
            self._failing.clear()
            self._cuts = 0
            return
        self._failing.add(record.agent)
        self._cuts += timed_out or is_cut
        if is_cut:
            lately = self._cut_lately
            lately.append(record)
            while lately[0].end_ns < record.end_ns - _CUT_WITHIN_NS:
                lately.popleft()

    @property
    def stopped_answering(self) -> str | None:
        """Say, in words, why the endpoint is gone rather than slow; ``None`` while it is not.

        Every agent has failed since the last answer, and often enough: what sheds load serves
        somebody. Or half of the agents were cut at once, from requests that were open before the
        first cut: a restart, however short. Who is refused when he asks anew is not cut.
        """
        first_ns = min((record.end_ns for record in self._cut_lately), default=0)
        cut = len({record.agent for record in self._cut_lately if record.sent_ns < first_ns})
        if cut >= max(_LEAST_CUT_AGENTS, self._agents / 2):
            return f"{cut} of {self._agents} agents were cut off within 5 s"
        if len(self._failing) < self._agents:
            return None
        if self._cuts >= max(_LEAST_CUTS, self._agents):
            return f"{self._cuts} requests in a row were cut off or met silence"
        if self.failed_in_a_row >= self.hopeless_run:
            return f"{self.failed_in_a_row} requests in a row failed"
        return None

    @property
    def opens_ns(self) -> int | None:
        """When the window opens; ``None`` until every agent has sent, or is being answered."""
        ready = self._first_sent if self._start == "first" else self._answering
        if len(ready) < self._agents:
            return None
        return max(ready.values()) + self._settle_ns

    @property
    def first_sent_ns(self) -> tuple[int, ...]:
        """First sends in order of agent."""
        return tuple(at for _, at in sorted(self._first_sent.items()))

    def left_s(self, now_ns: int) -> float | None:
        """Estimate the seconds until the floors are met at the pace so far; ``None``: unknown."""
        opens = self.opens_ns
        if opens is None or self._began_ns is None:
            return None
        floors = self._floors
        left = max(0.0, floors.min_steady_s - (now_ns - opens) / 1e9)
        slowest = min(self._completed[a] for a in self._first_sent)
        pace = (
            (self._completed.total(), floors.min_trajectories),
            (slowest, floors.min_trajectories_per_agent),
        )
        for done, wanted in pace:
            if done < wanted:
                if not done:
                    return None
                left = max(left, (now_ns - self._began_ns) / 1e9 * (wanted / done - 1))
        return left

    def missing(self, now_ns: int) -> tuple[str, ...]:
        """Return what keeps the window open, in words; empty when it may close."""
        opens = self.opens_ns
        if opens is None:
            if (late := self._agents - len(self._first_sent)) > 0:
                return (f"{late} agents have not started",)
            return (f"{self._agents - len(self._answering)} agents wait for their first token",)
        return tuple(str(floor) for floor in self.reached(now_ns) if not floor.is_met)

    def reached(self, now_ns: int) -> tuple[Reached, ...]:
        """Return how far the phase is towards each floor that is asked for."""
        opens, floors = self.opens_ns, self._floors
        steady_s = 0.0 if opens is None else max(0.0, (now_ns - opens) / 1e9)
        slowest = min((self._completed[a] for a in self._first_sent), default=0)
        every = (
            Reached(floor="steady", done=steady_s, wanted=floors.min_steady_s),
            Reached(
                floor="trajectories",
                done=self._completed.total(),
                wanted=floors.min_trajectories,
            ),
            Reached(floor="per agent", done=slowest, wanted=floors.min_trajectories_per_agent),
        )
        return tuple(floor for floor in every if floor.wanted)


def _was_silent(record: TurnRecord) -> bool:
    """Tell whether nothing came in the second half of a request's time."""
    heard_ns = record.last_token_ns or record.first_byte_ns
    return heard_ns is None or heard_ns < (record.sent_ns + record.end_ns) / 2
