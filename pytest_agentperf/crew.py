"""A crew: obeys the coordinator's orders, runs agents, and reports; it knows not where it works.

The coordinator decides when a phase begins, closes and stops. Reports are made at every `tick`, off
the path of the agents' reads.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_agentperf.answer import Answer
from pytest_agentperf.clients import degraded_by
from pytest_agentperf.clock import Clock
from pytest_agentperf.encoded import map_trajectories
from pytest_agentperf.load import Load, Workload
from pytest_agentperf.orders import (
    Begin,
    Close,
    Command,
    Counted,
    Drained,
    Ended,
    Failed,
    Look,
    Opened,
    Prepare,
    Ready,
    Report,
    Setup,
    Started,
    Stop,
    Stopped,
)
from pytest_agentperf.protocols import Connection
from pytest_agentperf.records import ReadLag, TurnRecord
from pytest_agentperf.recount import Recount
from pytest_agentperf.tokens import LocalTokenizer
from pytest_agentperf.wire import ChatEncoder

__all__ = ["Crew", "Place"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a crew works: in a process of its own, or among others."""

    clock: Clock
    connections: Callable[[Setup], Callable[[int], Connection]]
    """What makes the connections of agents, by the set-up and the number of the agent."""
    cpu_s: Callable[[], float]
    """CPU time that the place has used, in seconds; 0 where that is not measured."""
    equipped: Callable[[], None] = _nothing
    """Called when everything that lives through all phases has been made."""
    load_begins: Callable[[], None] = _nothing
    load_ended: Callable[[], None] = _nothing
    reads: Callable[[], ReadLag | None] = lambda: None
    """How late the connections read since it was asked last; ``None`` where they do not tell."""
    stolen_ratio: Callable[[], float] = lambda: 0.0
    """Share of the time that the cores were somebody else's since it was asked last."""
    gc_pause_s: Callable[[], float] = lambda: 0.0
    """The longest collection of garbage since it was asked last."""


@dataclass(slots=True, kw_only=True)
class _Phase:
    number: int
    load: Load
    began_ns: int = 0
    cpu_s: float = 0.0
    turns: list[TurnRecord] = field(default_factory=list[TurnRecord])
    texts: list[tuple[TurnRecord, Answer]] = field(default_factory=list[tuple[TurnRecord, Answer]])
    """Answers to count after the phase; empty without a tokenizer."""
    close_ns: int | None = None
    drained: bool = False


class Crew:
    """The agents of one place, through all phases."""

    def __init__(self, place: Place, *, send: Callable[[Report], Awaitable[None]]) -> None:
        self._place = place
        self._send = send
        self._workload: Workload | None = None
        self._phase: _Phase | None = None
        self._recount: Recount | None = None
        self._degraded: str | None = None

    async def obey(self, command: Command) -> None:
        """Do what the coordinator says, and report what it waits for."""
        match command:
            case Setup():
                self._set_up(command)
                await self._send(Ready())
            case Prepare():
                self._prepare(command)
                await self._send(Ready())
            case Stop():
                await self._stop()
            case Look():
                await self._look()
            case Begin() | Close():
                self._direct(command)

    async def tick(self) -> None:
        """Report what has happened since the last tick."""
        phase = self._phase
        if phase is None:
            return
        if fault := phase.load.fault():
            await self._send(Failed(text=f"{type(fault).__name__}: {fault}"))
        first, answering = phase.load.first_sent(), phase.load.answering()
        if first or answering:
            await self._send(Started(first_sent_ns=first, answering_ns=answering))
        if phase.turns:
            turns, phase.turns[:] = list(phase.turns), []
            await self._send(Ended(turns=turns))
        if phase is self._phase and phase.close_ns is not None and not phase.drained:
            phase.drained = phase.load.open_before(phase.close_ns) == 0
            if phase.drained:
                await self._send(Drained())

    async def dismiss(self) -> None:
        """Drop the phase that runs, if one does, without a report."""
        if self._phase is not None:
            await self._end(self._phase)

    async def _look(self) -> None:
        """Report what is open, after all that has ended: no request is missing from both."""
        still_open = self._phase.load.open_requests() if self._phase is not None else []
        await self.tick()
        await self._send(Opened(requests=still_open))

    def _set_up(self, command: Setup) -> None:
        workload = self._workload = _workload(command, self._place)
        self._degraded = None if self._place.clock.jumps else degraded_by(command.client)
        if command.tokenizer is not None:
            self._recount = Recount(
                LocalTokenizer(command.tokenizer),
                trajectories=workload.trajectories,
                encoder=workload.encoder,
                salt=workload.salt,
                run=workload.run,
            )
        self._place.equipped()

    def _direct(self, command: Begin | Close) -> None:
        phase = self._phase
        if phase is None:
            raise RuntimeError(f"{type(command).__name__} without a phase")
        if isinstance(command, Close):
            phase.close_ns = command.at_ns
            return
        self._place.load_begins()
        self._place.reads()  # what was before the phase is not of it
        self._place.gc_pause_s()
        self._place.stolen_ratio()
        phase.began_ns = self._place.clock.now_ns()
        phase.cpu_s = self._place.cpu_s()
        phase.load.start(command.at_ns)

    def _prepare(self, command: Prepare) -> None:
        if self._workload is None or self._phase is not None:
            raise RuntimeError("Prepare before Setup, or while a phase runs")
        load = Load(
            self._workload,
            phase=command.phase,
            agents=command.agents,
            offsets_ns=command.offsets_ns,
            start=command.start,
            emit=self._emit,
        )
        self._phase = _Phase(number=command.phase, load=load)

    def _emit(self, turn: TurnRecord, answer: Answer) -> None:
        if self._phase is None:
            return
        self._phase.turns.append(turn)
        if self._recount is not None and turn.error is None:
            self._phase.texts.append((turn, answer))

    async def _stop(self) -> None:
        phase = self._phase
        if phase is None:
            return
        await self.tick()
        wall_s = (self._place.clock.now_ns() - phase.began_ns) / 1e9
        cpu_s = self._place.cpu_s() - phase.cpu_s
        read_lag, gc_pause_s = self._place.reads(), self._place.gc_pause_s()
        stolen_ratio = self._place.stolen_ratio()
        open_members = phase.load.open_before(phase.close_ns or 0)
        lag_s = await self._end(phase)
        if self._recount is not None and phase.texts:
            await self._send(Counted(rows=self._recount.counts(phase.number, phase.texts)))
        await self._send(
            Stopped(
                lag_s=list(lag_s),
                cpu_ratio=cpu_s / wall_s if wall_s else 0.0,
                open_members=open_members,
                read_lag=read_lag,
                stolen_ratio=stolen_ratio,
                gc_pause_s=gc_pause_s,
                degraded=self._degraded,
            )
        )

    async def _end(self, phase: _Phase) -> tuple[float, ...]:
        lag_s = await phase.load.stop()
        self._phase = None
        self._place.load_ended()
        return lag_s


def _workload(command: Setup, place: Place) -> Workload:
    return Workload(
        trajectories=map_trajectories(Path(command.trajectories)),
        encoder=ChatEncoder(
            model=command.model,
            request=command.request,
            max_tokens=command.max_tokens,
            output=command.output,
            max_tokens_field=command.max_tokens_field,
        ),
        seed=command.seed,
        run=command.run,
        salt=command.salt,
        clock=place.clock,
        connect=place.connections(command),
    )
