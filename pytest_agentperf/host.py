"""What runs on each machine of a cluster: its load processes, told and heard in its own clock.

`Host` is an actor of Ray, but knows nothing of it. What happens inside one machine is done by the
same pool and the same processes that run load beside the coordinator.
"""

import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pytest_agentperf import __version__
from pytest_agentperf.alignment import shifted
from pytest_agentperf.api_key import API_KEY_VARIABLE
from pytest_agentperf.errors import LoadError
from pytest_agentperf.orders import Failed, Report, Setup
from pytest_agentperf.records import Start
from pytest_agentperf.room import room
from pytest_agentperf.tokens import missing_file
from pytest_agentperf.workers import WorkerPool

__all__ = ["Host", "versions"]

_CONNECTS = 9
_CONNECT_S = 10.0
_PORTS = {"http": 80, "https": 443}


def versions() -> Mapping[str, str]:
    """Return what must be the same on all machines of a run."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"pytest-agentperf": __version__, "python": python}


class Host:
    """The load of one machine."""

    def __init__(self, *, skew_ns: int = 0) -> None:
        """Be ready for orders.

        Args:
            skew_ns: lets the machine's clock go wrong by so much, which only tests want.
        """
        self._skew_ns = skew_ns
        self._pool = WorkerPool()
        self._folder = tempfile.TemporaryDirectory(prefix="agentperf-")

    async def versions(self) -> Mapping[str, str]:
        """Return what is installed here."""
        return versions()

    async def now_ns(self) -> int:
        """Return what time it is here."""
        return time.perf_counter_ns() + self._skew_ns

    async def distance_s(self, url: str) -> float:
        """Return how long a connection to a server takes to open: the median, in seconds.

        Raises:
            LoadError: it cannot be opened.
        """
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 80)
        taken_s: list[float] = []
        try:
            for _ in range(_CONNECTS):
                began_ns = time.perf_counter_ns()
                async with asyncio.timeout(_CONNECT_S):
                    _, writer = await asyncio.open_connection(parts.hostname, port)
                taken_s.append((time.perf_counter_ns() - began_ns) / 1e9)
                writer.close()
        except (OSError, TimeoutError) as failed:
            raise LoadError(
                f"cannot connect to the endpoint {url}: {failed or type(failed).__name__}; name it "
                "as all machines of the cluster reach it"
            ) from failed
        return statistics.median(taken_s)

    async def set_up(self, setup: Setup, trajectories: Any, key: str) -> None:
        """Use this set-up from the next phase on.

        Args:
            setup: what the coordinator would tell a process of its own.
            trajectories: the bytes of the file that it names, as an array.
            key: the endpoint's; it goes to the processes by the environment.

        Raises:
            LoadError: something that it names is not here.
        """
        os.environ[API_KEY_VARIABLE] = key
        path = Path(self._folder.name) / Path(setup.trajectories).name
        await asyncio.to_thread(trajectories.tofile, path)
        missing = await asyncio.to_thread(missing_file, setup.tokenizer)
        if missing is not None:
            raise LoadError(f"there is no tokenizer in {missing}; put it there as well")
        await self._pool.set_up(msgspec.structs.replace(setup, trajectories=str(path)))

    async def grow(self, workers: int) -> None:
        """Have at least this many load processes."""
        await self._pool.grow(workers)

    async def prepare(
        self,
        workers: int,
        phase: int,
        agents: Sequence[int],
        offsets_ns: Sequence[int],
        start: Start,
    ) -> None:
        """Deal agents over processes, and wait until all are made.

        Raises:
            LoadError: this machine has no files or ports for so many.
        """
        most = room().most_agents(workers)
        if most is not None and len(agents) > most:
            raise LoadError(
                f"there is room for {most} agents and {len(agents)} were dealt; take more nodes, "
                "or let a process open more files (`ulimit -n`) and the machine more local ports "
                "(net.ipv4.ip_local_port_range)"
            )
        await self._pool.prepare(
            workers=workers, phase=phase, agents=agents, offsets_ns=offsets_ns, start=start
        )

    async def begin(self, at_ns: int) -> None:
        """Begin the prepared phase at an instant of this machine's clock."""
        await self._pool.begin(at_ns - self._skew_ns)

    async def look(self) -> None:
        """Ask for what is open."""
        await self._pool.look()

    async def close_window(self, at_ns: int) -> None:
        """Say that the window closed at an instant of this machine's clock."""
        await self._pool.close_window(at_ns - self._skew_ns)

    async def stop(self) -> None:
        """End the phase."""
        await self._pool.stop()

    async def reports(self, timeout_s: float) -> bytes:
        """Return all reports that are there, as msgpack, waiting a moment for the first."""
        heard: list[Report] = []
        try:
            report = await self._pool.report(timeout_s=timeout_s)
            while report is not None:
                heard.append(shifted(report, self._skew_ns))
                report = self._pool.report_nowait()
        except LoadError as broke:
            heard.append(Failed(text=str(broke)))
        return msgspec.msgpack.encode(heard)

    async def close(self) -> None:
        """End all processes and leave nothing behind."""
        await self._pool.close()
        self._folder.cleanup()
