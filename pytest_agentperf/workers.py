"""The coordinator's side of the load processes: start them, deal agents, hear their reports."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

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
from pytest_agentperf.records import HostHealth, Start
from pytest_agentperf.room import cores
from pytest_agentperf.worker import pack, read_frames

__all__ = ["WorkerPool"]

_GRACE_S = 5.0
_READY_S = 120.0
"""Encoding a large dataset takes a while."""


@dataclass(slots=True, kw_only=True)
class _Child:
    process: Process
    listening: "asyncio.Task[None]"


class WorkerPool:
    """Load processes that live through all phases; one set-up serves one model."""

    def __init__(self) -> None:
        self._children: list[_Child] = []
        self._reports: asyncio.Queue[tuple[int, Report]] = asyncio.Queue()
        self._setup: Setup | None = None
        self._busy = 0

    @property
    def cores(self) -> int:
        """Number of cores that this process may use."""
        return cores()

    @property
    def hosts(self) -> tuple[HostHealth, ...]:
        """None but this machine."""
        return ()

    @property
    def busy(self) -> int:
        """Number of processes in the running phase."""
        return self._busy

    async def set_up(self, setup: Setup) -> None:
        """Use this set-up from the next phase on."""
        if setup != self._setup:
            await self.close()
            self._setup = setup

    async def prepare(
        self,
        *,
        workers: int,
        phase: int,
        agents: Sequence[int],
        offsets_ns: Sequence[int],
        start: Start,
    ) -> None:
        """Deal agents over processes, round robin, and wait until all are made."""
        for number in range(workers):
            await self._send(
                number,
                Prepare(
                    phase=phase,
                    agents=list(agents[number::workers]),
                    offsets_ns=list(offsets_ns[number::workers]),
                    start=start,
                ),
            )
        self._busy = workers
        await self._until_ready(workers)

    async def begin(self, at_ns: int) -> None:
        """Begin the prepared phase at an instant."""
        for number in range(self._busy):
            await self._send(number, Begin(at_ns=at_ns))

    async def grow(self, workers: int) -> None:
        """Have at least this many processes, set up and ready."""
        if self._setup is None:
            raise LoadError("load processes were asked for before any set-up")
        first = len(self._children)
        for number in range(first, workers):
            self._children.append(await self._spawn(number))
            await self._send(number, self._setup)
        await self._until_ready(max(0, workers - first))

    async def _until_ready(self, processes: int) -> None:
        ready = 0
        while ready < processes:
            report = await self.report(timeout_s=_READY_S)
            if report is None:
                raise LoadError(f"a load process was not ready after {_READY_S:.0f} s")
            ready += isinstance(report, Ready)

    async def look(self) -> None:
        """Ask the processes of the phase for what is open."""
        for number in range(self._busy):
            await self._send(number, Look())

    async def close_window(self, at_ns: int) -> None:
        """Tell the processes of the phase that the window has closed."""
        for number in range(self._busy):
            await self._send(number, Close(at_ns=at_ns))

    async def stop(self) -> None:
        """Tell the processes of the phase to stop."""
        for number in range(self._busy):
            await self._send(number, Stop())

    async def report(self, *, timeout_s: float) -> Report | None:
        """Return the next report, or ``None`` when none came in time.

        Raises:
            LoadError: a process has died or failed; names it.
        """
        heard = await next_of(self._reports, timeout_s)
        return None if heard is None else _checked(heard)

    def report_nowait(self) -> Report | None:
        """Return a report that is there already, or ``None``.

        Raises:
            LoadError: a process has died or failed; names it.
        """
        return None if self._reports.empty() else _checked(self._reports.get_nowait())

    async def close(self) -> None:
        """End all processes."""
        children, self._children, self._busy = self._children, [], 0
        self._reports = asyncio.Queue()  # before the first await: the old ones end into theirs
        for child in children:
            if child.process.stdin is not None:
                child.process.stdin.close()
        for child in children:
            try:
                await asyncio.wait_for(child.process.wait(), _GRACE_S)
            except TimeoutError:
                child.process.kill()
                await child.process.wait()
            await child.listening

    async def _spawn(self, number: int) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pytest_agentperf.worker",
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # Ctrl-C reaches the coordinator alone, which then stops the load in order.
            start_new_session=True,
        )
        return _Child(process=process, listening=asyncio.create_task(self._listen(number, process)))

    async def _listen(self, number: int, process: Process) -> None:
        decode = msgspec.msgpack.Decoder(Report).decode
        reports = self._reports
        if process.stdout is None:
            raise LoadError(f"load process {number} has no stdout")
        async for frame in read_frames(process.stdout):
            reports.put_nowait((number, decode(frame)))
        code = await process.wait()
        reports.put_nowait((number, Failed(text=f"ended with exit code {code}")))

    async def _send(self, number: int, command: Command) -> None:
        stdin = self._children[number].process.stdin
        if stdin is None:
            raise LoadError(f"load process {number} has no stdin")
        try:
            stdin.write(pack(command))
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as gone:
            raise LoadError(f"load process {number} is gone") from gone


def _checked(heard: tuple[int, Report]) -> Report:
    number, report = heard
    if isinstance(report, Failed):
        raise LoadError(f"load process {number}: {report.text}")
    return report
