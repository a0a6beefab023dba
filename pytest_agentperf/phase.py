"""One phase, directed: start, settle, steady window, drain, stop (METHODOLOGY, section 2).

The window opens when every agent has been active for the settle time and closes when the floors are
met. Its members are followed to their end while all agents go on with requests that do not count,
so that the last answers see the same load as the first. Where a procedure lets evidence end a
phase, its window closes at the last instant before which every request has ended.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pytest_agentperf import words
from pytest_agentperf.clock import Clock
from pytest_agentperf.early import EarlyVerdict, Running, judge_running
from pytest_agentperf.errors import HostLostError, LoadError
from pytest_agentperf.events import Kind, Progress
from pytest_agentperf.live import Live
from pytest_agentperf.orders import (
    Counted,
    Drained,
    Ended,
    Opened,
    Report,
    Started,
    Stopped,
)
from pytest_agentperf.plan import start_offsets_s
from pytest_agentperf.pool import Pool
from pytest_agentperf.procedure import Procedure
from pytest_agentperf.readings import Metering, Readings
from pytest_agentperf.records import (
    ClientHealth,
    Measurement,
    Metered,
    TokenCount,
    TurnRecord,
    Window,
)
from pytest_agentperf.settings import Settings
from pytest_agentperf.steady import PhaseState

__all__ = ["Listeners", "PhaseRun"]

_PERIOD_S = 0.1
"""Look for reports as often as this."""
_JUMPING_PERIOD_S = 1.0
"""Where time jumps nothing is gained by looking often, and every look takes real time."""
_HEAD_START_NS = 100_000_000
"""The first agent starts this long after the command, so that every process has heard it."""
_GRACE_S = 30.0
_STOP_S = 600.0
"""Counting a long phase's tokens with a tokenizer takes minutes."""
_FIRST_LOOK_NS, _LOOK_NS = 180_000_000_000, 60_000_000_000
"""The evidence of a running phase is asked so long after its window opened, and then so often."""
_RECENT = 4
"""Requests of an agent that may have ended while it was asked what it has open."""
_MANY_FAILED = 0.2
_LEAST_FAILED = 50


def _nobody(*_heard: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Who hears of a phase while it runs."""

    turns: Callable[[Sequence[TurnRecord]], None] = _nobody
    """Requests that have ended."""
    counts: Callable[[Sequence[TokenCount]], None] = _nobody
    """Local token counts, after the load."""
    progress: Callable[[Kind, str], None] = _nobody
    """Kind of event, and its text."""
    watch: Callable[[Progress], None] = _nobody
    """How far it is, about once a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How the window came to close."""

    at_ns: int
    floors_met: bool = False
    failed_out: bool = False
    early: tuple[EarlyVerdict, ...] = ()
    """What was certain, where that or the shortness of the phase has ended it."""
    broken: str | None = None


class PhaseRun:
    """Runs one phase."""

    def __init__(
        self,
        *,
        pool: Pool,
        settings: Settings,
        procedure: Procedure,
        readings: Sequence[Readings],
        metering: Metering | None = None,
        clock: Clock,
        tell: Listeners,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._procedure = procedure
        self._clock = clock
        self._period_s = _JUMPING_PERIOD_S if clock.jumps else _PERIOD_S
        self._tell = tell
        self._turns: list[TurnRecord] = []
        self._counts: dict[tuple[int, int, int], TokenCount] = {}
        self._readings = readings
        self._metering = metering or Metering()
        self._stopped: list[Stopped] = []
        self._drained = 0
        self._closed_ns: int | None = None
        self._gone = False
        self._live = Live(procedure, tell=tell.watch, power_w=self._metering.power_w)
        self._opened: list[Opened] = []
        self._looked_ns: int | None = None
        self.early: tuple[EarlyVerdict, ...] = ()
        """What was certain when the phase ended, where its evidence was asked."""

    async def measure(self, *, number: int, agents: int, workers: int) -> Measurement:
        """Run the phase and return what was seen; one that a machine was lost in is broken.

        Raises:
            LoadError: a load process has died.
        """
        state = self._new_state(agents)
        loading = words.count(workers, "load process", "load processes")
        place = "in virtual time" if self._clock.jumps else f"on {loading}"
        kind = ", a short phase" if self._procedure.is_short else ""
        self._tell.progress("phase-start", f"{words.count(agents, 'agent')} {place}{kind}")
        self._metering.begin()
        sampling = [asyncio.create_task(each.go_on()) for each in self._readings]
        try:
            await self._pool.prepare(
                workers=workers,
                phase=number,
                agents=range(agents),
                offsets_ns=[
                    int(s * 1e9) for s in start_offsets_s(agents, self._settings.start_spread_s)
                ],
                start=self._procedure.start,
            )
            for host in self._pool.hosts:
                self._tell.progress("note", words.host(host))
            end = await self._direct(state)
        except HostLostError as lost:
            end = _End(at_ns=self._clock.now_ns(), broken=str(lost))
            await self._pool.close()
        finally:
            for task in sampling:
                task.cancel()
            for ended in await asyncio.gather(*sampling, return_exceptions=True):
                if isinstance(ended, Exception):  # counts are missing then; latencies are not
                    said = f"{type(ended).__name__}: {ended}"
                    self._tell.progress("note", f"the server's counts cannot be read: {said}")
            await self._metering.end(self._closed_ns or self._clock.now_ns())
        return self._measurement(agents, state, end)

    def _new_state(self, agents: int) -> PhaseState:
        return PhaseState(
            agents=agents,
            settle_s=self._settings.settle_s,
            floors=self._procedure.floors,
            start=self._procedure.start,
        )

    async def _direct(self, state: PhaseState) -> _End:
        """Lead a prepared phase from its beginning until all load has stopped."""
        began_ns = self._clock.now_ns() + _HEAD_START_NS
        self._live.begin(began_ns)
        await self._pool.begin(began_ns)
        end = await self._until_closed(state, began_ns)
        self._closed_ns = end.at_ns
        self._live.close(end.at_ns)
        await self._pool.close_window(end.at_ns)
        broken = end.broken
        if not (broken or end.early):  # by its evidence it ends where nothing is open any more
            broken = await self._until_drained(state)
        await self._pool.stop()
        await self._until_stopped(state)
        if self._clock.jumps:
            for readings in self._readings:
                await readings.take()  # the window may have closed since the last reading
        return replace(end, broken=broken)

    def _measurement(self, agents: int, state: PhaseState, end: _End) -> Measurement:
        opens_ns = state.opens_ns
        return Measurement(
            agents=agents,
            window=Window(start_ns=min(opens_ns or end.at_ns, end.at_ns), end_ns=end.at_ns),
            turns=self._counted_turns(),
            samples=tuple(sample for each in self._readings for sample in each.samples),
            health=ClientHealth(
                loop_lag_s=tuple(tuple(s.lag_s) for s in self._stopped),
                cpu_ratio=max((s.cpu_ratio for s in self._stopped), default=0.0),
                first_sent_ns=state.first_sent_ns,
                hosts=self._pool.hosts,
                read_lag=tuple(s.read_lag for s in self._stopped if s.read_lag is not None),
                stolen_ratio=max((s.stolen_ratio for s in self._stopped), default=0.0),
                gc_pause_s=max((s.gc_pause_s for s in self._stopped), default=0.0),
                degraded=next((s.degraded for s in self._stopped if s.degraded), None),
            ),
            floors_met=end.floors_met,
            meters=self._metered(),
            decided=bool(end.early),
            failed_out=end.failed_out,
            cut=0 if end.early else sum(s.open_members for s in self._stopped),
            broken=end.broken,
            endpoint_gone=self._gone,
        )

    def _metered(self) -> tuple[Metered, ...]:
        metered = self._metering.metered()
        for each in metered:
            if each.trouble is not None:  # power may be missing then; latencies are not
                self._tell.progress("note", f"meter {each.meter!r}: {each.trouble}")
        return metered

    async def _until_closed(self, state: PhaseState, began_ns: int) -> _End:
        end: _End | None = None
        while end is None:
            await self._hear(state)
            now_ns = self._clock.now_ns()
            missing = state.missing(now_ns)
            elapsed_s = (now_ns - began_ns) / 1e9
            self._live.look(state, self._clock.now_ns())
            overdue = elapsed_s > self._settings.max_phase_s
            if (broken := self._broken(state)) is not None:
                end = _End(at_ns=now_ns, broken=broken)
            elif self._is_time_to_look(state, now_ns, last=not missing, overdue=overdue):
                end = await self._look(state, last=not missing)
            end = end or self._without_evidence(state, now_ns, last=not missing, overdue=overdue)
        return end

    def _without_evidence(
        self, state: PhaseState, now_ns: int, *, last: bool, overdue: bool
    ) -> _End | None:
        if last:
            return _End(at_ns=now_ns, floors_met=True)
        if self._failed_out(state, now_ns, overdue=overdue):
            return _End(at_ns=now_ns, failed_out=True)
        if overdue:
            late = None if state.opens_ns else "not every agent could start"
            return _End(at_ns=now_ns, broken=late)
        return None

    def _is_time_to_look(
        self, state: PhaseState, now_ns: int, *, last: bool, overdue: bool
    ) -> bool:
        """Tell whether the evidence is asked: now and then, and where the phase ends anyhow."""
        opens_ns, ends = state.opens_ns, self._procedure.ends
        if opens_ns is None or (last and ends != "certain"):
            return False  # floors that are met need no evidence
        if last or overdue:
            return True
        looked_ns = self._looked_ns
        if looked_ns is None:
            return ends != "floors" and now_ns - opens_ns >= _FIRST_LOOK_NS
        return now_ns - looked_ns >= _LOOK_NS

    async def _look(self, state: PhaseState, *, last: bool) -> _End | None:
        """Judge what is known; return how the phase ends by it, or ``None`` when it goes on.

        Args:
            state: the phase so far.
            last: its window is as long as it may be, whatever is certain.
        """
        opens_ns = state.opens_ns
        if opens_ns is None:
            return None
        self._looked_ns = self._clock.now_ns()
        running = await self._running(state, opens_ns)
        early = await self._judged(running)
        asked = [each for each in early if each.tier in self._procedure.asked]
        ends = all(each.is_clear_miss(state.agents) for each in asked)
        if self._procedure.ends == "certain":
            ends = last or all(each.outcome != "unclear" for each in asked)
        if not ends:
            return None
        self.early = early
        return _End(at_ns=running.settled.end_ns, early=early)

    async def _running(self, state: PhaseState, opens_ns: int) -> Running:
        self._opened.clear()
        await self._pool.look()
        while len(self._opened) < self._pool.busy:
            await self._hear(state)
        ended = {(t.agent, t.sent_ns) for t in self._turns[-_RECENT * state.agents :]}
        return Running(
            agents=state.agents,
            turns=tuple(self._turns),
            open_requests=[
                r for o in self._opened for r in o.requests if (r.agent, r.sent_ns) not in ended
            ],
            opens_ns=opens_ns,
            now_ns=self._clock.now_ns(),
        )

    async def _judged(self, running: Running) -> tuple[EarlyVerdict, ...]:
        tiers, speed = self._procedure.tiers, self._procedure.speed
        if self._clock.jumps:  # a thread would let time jump meanwhile
            return judge_running(tiers, running, speed=speed)
        return await asyncio.to_thread(judge_running, tiers, running, speed=speed)

    async def _until_drained(self, state: PhaseState) -> str | None:
        limit_ns = self._clock.now_ns() + int((self._settings.request_timeout_s + _GRACE_S) * 1e9)
        while self._drained < self._pool.busy:
            await self._hear(state)
            now_ns = self._clock.now_ns()
            if now_ns > limit_ns:
                return "requests of the window outlived their own timeout"
            if (broken := self._broken(state)) is not None:
                return broken
            self._live.look(state, self._clock.now_ns())
        return None

    async def _until_stopped(self, state: PhaseState) -> None:
        limit_ns = self._clock.now_ns() + int(_STOP_S * 1e9)
        while len(self._stopped) < self._pool.busy:
            await self._hear(state)
            self._live.look(state, self._clock.now_ns())
            if self._clock.now_ns() > limit_ns:
                raise LoadError(f"a load process did not stop within {_STOP_S:.0f} s")

    async def _hear(self, state: PhaseState) -> None:
        """Take every report that is there, waiting a moment for the first."""
        report = await self._pool.report(timeout_s=self._period_s)
        while report is not None:
            self._take(report, state)
            report = self._pool.report_nowait()

    def _take(self, report: Report, state: PhaseState) -> None:
        match report:
            case Started():
                state.started(report.first_sent_ns)
                state.answering(report.answering_ns)
            case Opened():
                self._opened.append(report)
            case Ended():
                self._tell.turns(report.turns)
                self._end(report.turns, state)
            case Drained():
                self._drained += 1
            case Counted():
                self._counts |= {row.request: row for row in report.rows}
                self._tell.counts(report.rows)
            case Stopped():
                self._stopped.append(report)
            case _:
                pass

    def _end(self, turns: Sequence[TurnRecord], state: PhaseState) -> None:
        self._turns += turns
        for turn in turns:
            state.turn(turn)
            if self._is_member(turn, state):
                self._live.add(turn)

    def _is_member(self, turn: TurnRecord, state: PhaseState) -> bool:
        opens_ns, closed_ns = state.opens_ns, self._closed_ns
        if opens_ns is None or turn.sent_ns < opens_ns:
            return False
        return closed_ns is None or turn.sent_ns < closed_ns

    def _broken(self, state: PhaseState) -> str | None:
        said = state.stopped_answering
        if said is None:
            return None
        self._gone = True
        return f"the endpoint stopped answering: {said}, the last with {state.last_error!r}"

    def _failed_out(self, state: PhaseState, now_ns: int, *, overdue: bool) -> bool:
        """Tell whether failures alone decide: trajectories that fail never meet the floors.

        At any time after the least window where a fifth has failed, and at the phase's limit where
        twice as many have as any tier allows.
        """
        opens_ns = state.opens_ns
        share = 2 * self._procedure.max_error_ratio
        return (
            opens_ns is not None
            and (now_ns - opens_ns) / 1e9 >= self._settings.min_steady_s
            and state.failed_in_window >= _LEAST_FAILED
            and state.failed_in_window
            > (share if overdue else max(share, _MANY_FAILED)) * state.ended_in_window
        )

    def _counted_turns(self) -> tuple[TurnRecord, ...]:
        if not self._counts:
            return tuple(self._turns)
        return tuple(map(self._with_count, self._turns))

    def _with_count(self, turn: TurnRecord) -> TurnRecord:
        return turn.counted(self._counts.get((turn.agent, turn.ordinal, turn.turn)))
