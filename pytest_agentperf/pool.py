"""What a pool of load is to whoever directs a phase: orders go in, reports come out."""

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeVar

from pytest_agentperf.orders import Report, Setup
from pytest_agentperf.records import HostHealth, Start

__all__ = ["Pool", "next_of"]

T = TypeVar("T")


async def next_of(queue: asyncio.Queue[T], timeout_s: float) -> T | None:
    """Return what comes next, or ``None`` when nothing came in time; never lose a Ctrl-C.

    `asyncio.wait_for` forgets, in Python 3.11, one that comes with a report; `asyncio.timeout`
    takes one that came before it began, and was not told yet, for its own when time is up at once.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await queue.get()
    except TimeoutError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        return None


class Pool(Protocol):
    """Places that run load and live through all phases; one set-up serves one model.

    Every method raises `LoadError` when load cannot go on.
    """

    @property
    def cores(self) -> int:
        """Number of cores that there are for load and, one of them, for the coordinator."""
        ...

    @property
    def hosts(self) -> tuple[HostHealth, ...]:
        """Other machines in the running phase; none where load runs on this one."""
        ...

    @property
    def busy(self) -> int:
        """Number of places in the running phase."""
        ...

    async def set_up(self, setup: Setup) -> None:
        """Use this set-up from the next phase on."""
        ...

    async def grow(self, workers: int) -> None:
        """Have at least this many places, set up and ready."""
        ...

    async def prepare(
        self,
        *,
        workers: int,
        phase: int,
        agents: Sequence[int],
        offsets_ns: Sequence[int],
        start: Start,
    ) -> None:
        """Deal agents over places, and wait until all are made."""
        ...

    async def begin(self, at_ns: int) -> None:
        """Begin the prepared phase at an instant."""
        ...

    async def look(self) -> None:
        """Ask for what is open: every place reports `Opened`, after all that has ended."""
        ...

    async def close_window(self, at_ns: int) -> None:
        """Say that the window closed at an instant: no request sent later is a member."""
        ...

    async def stop(self) -> None:
        """End the phase; every place reports that it has stopped."""
        ...

    async def report(self, *, timeout_s: float) -> Report | None:
        """Return the next report, or ``None`` when none came in time."""
        ...

    def report_nowait(self) -> Report | None:
        """Return a report that is there already, or ``None``."""
        ...

    async def close(self) -> None:
        """End all places, with whatever they do."""
        ...
