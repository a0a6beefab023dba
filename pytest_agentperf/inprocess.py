"""Load in the event loop of an endpoint of our own process, in the endpoint's own time."""

import asyncio
import gc
from collections.abc import Callable, Sequence

from pytest_agentperf.crew import Crew, Place
from pytest_agentperf.errors import LoadError
from pytest_agentperf.orders import (
    Begin,
    Close,
    Command,
    Failed,
    Look,
    Prepare,
    Ready,
    Report,
    Setup,
    Stop,
)
from pytest_agentperf.pool import next_of
from pytest_agentperf.protocols import Connection, InProcess
from pytest_agentperf.records import HostHealth, Start

__all__ = ["InProcessPool"]

_TICK_S = 0.5


class InProcessPool:
    """One crew beside its coordinator; see `pytest_agentperf.pool.Pool`.

    All of it is to be used inside ``endpoint.run``.
    """

    def __init__(self, endpoint: InProcess) -> None:
        def connections(setup: Setup) -> Callable[[int], Connection]:
            return lambda _agent: endpoint.connect(timeout_s=setup.timeout_s)

        self._place = Place(
            clock=endpoint.clock,
            connections=connections,
            cpu_s=lambda: 0.0,
            # As in a load process; here it is for speed alone.
            load_begins=gc.disable,
            load_ended=gc.enable,
        )
        self._reports: asyncio.Queue[Report] = asyncio.Queue()
        self._setup: Setup | None = None
        self._crew: Crew | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._busy = 0

    @property
    def cores(self) -> int:
        """1: all of it is one event loop."""
        return 1

    @property
    def hosts(self) -> tuple[HostHealth, ...]:
        """None."""
        return ()

    @property
    def busy(self) -> int:
        """1 in a phase."""
        return self._busy

    async def set_up(self, setup: Setup) -> None:
        """Use this set-up from the next phase on."""
        if setup != self._setup:
            await self.close()
            self._setup = setup

    async def grow(self, workers: int) -> None:
        """Have a crew, set up and ready; there is never more than one."""
        del workers
        if self._setup is None:
            raise LoadError("load was asked for before any set-up")
        if self._crew is None:
            self._crew = Crew(self._place, send=self._hear)
            await self._obey(self._setup)
            self._ticking = asyncio.create_task(self._ticks(self._crew))
            self._ticking.add_done_callback(self._ended)

    async def prepare(
        self,
        *,
        workers: int,
        phase: int,
        agents: Sequence[int],
        offsets_ns: Sequence[int],
        start: Start,
    ) -> None:
        """Make all agents."""
        del workers
        await self._obey(
            Prepare(phase=phase, agents=list(agents), offsets_ns=list(offsets_ns), start=start)
        )
        self._busy = 1

    async def begin(self, at_ns: int) -> None:
        """Begin the prepared phase at an instant."""
        await self._obey(Begin(at_ns=at_ns))

    async def look(self) -> None:
        """Ask for what is open."""
        await self._obey(Look())

    async def close_window(self, at_ns: int) -> None:
        """Say that the window closed at an instant: no request sent later is a member."""
        await self._obey(Close(at_ns=at_ns))

    async def stop(self) -> None:
        """End the phase."""
        await self._obey(Stop())

    async def report(self, *, timeout_s: float) -> Report | None:
        """Return the next report, or ``None`` when none came in time.

        Raises:
            LoadError: the crew has failed.
        """
        heard = await next_of(self._reports, timeout_s)
        return None if heard is None else _checked(heard)

    def report_nowait(self) -> Report | None:
        """Return a report that is there already, or ``None``.

        Raises:
            LoadError: the crew has failed.
        """
        return None if self._reports.empty() else _checked(self._reports.get_nowait())

    async def close(self) -> None:
        """Dismiss the crew, with whatever it does."""
        crew, self._crew, self._busy = self._crew, None, 0
        ticking, self._ticking = self._ticking, None
        if ticking is not None:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
        if crew is not None:
            await crew.dismiss()
        self._reports = asyncio.Queue()

    async def _hear(self, report: Report) -> None:
        if not isinstance(report, Ready):  # here it is ready when it has obeyed
            self._reports.put_nowait(report)

    async def _obey(self, command: Command) -> None:
        if self._crew is None:
            raise LoadError(f"{type(command).__name__} without a crew")
        try:
            await self._crew.obey(command)
        except Exception as fault:
            raise LoadError(f"load: {type(fault).__name__}: {fault}") from fault

    async def _ticks(self, crew: Crew) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            await crew.tick()

    def _ended(self, ticking: "asyncio.Task[None]") -> None:
        if not ticking.cancelled() and (fault := ticking.exception()):
            self._reports.put_nowait(Failed(text=f"{type(fault).__name__}: {fault}"))


def _checked(report: Report) -> Report:
    if isinstance(report, Failed):
        raise LoadError(f"load: {report.text}")
    return report
