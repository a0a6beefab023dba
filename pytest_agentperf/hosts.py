"""Load on the machines of a cluster: agents are dealt over nodes, stamps moved into our clock.

On every node a `pytest_agentperf.host.Host` runs the load processes. This is the coordinator's side
of them; what a cluster is and how a node is spoken to is an argument.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pytest_agentperf.alignment import Exchange, HostClock, shifted
from pytest_agentperf.clock import REAL_TIME, Clock
from pytest_agentperf.errors import ConfigError, EndpointError, HostLostError, LoadError
from pytest_agentperf.host import versions
from pytest_agentperf.orders import Failed, Report, Setup, Stopped
from pytest_agentperf.pool import next_of
from pytest_agentperf.records import HostHealth, Start

__all__ = ["Cluster", "HostPool", "Machine", "Node", "deal"]

_EXCHANGES = 20
_PERIOD_S = 5.0
"""The clocks are looked at so often in a phase."""
_POLL_S = 1.0
_ANSWER_S = 30.0
"""A node that does not answer a short question for so long is lost."""
_READY_S = 180.0

_decode = msgspec.msgpack.Decoder(list[Report]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine that a cluster has, by name."""

    id: str
    name: str
    cores: int

    @property
    def room(self) -> int:
        """Load processes that it has cores for, beside what the cluster needs itself."""
        return max(1, self.cores - 1)


class Node(Protocol):
    """A machine on which a `Host` has been started."""

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of its host.

        Raises:
            HostLostError: it is gone.
            LoadError: the host has raised an error.
        """
        ...

    def end(self) -> None:
        """End the host, whatever it does."""
        ...


class Cluster(Protocol):
    """Machines that can be had."""

    def machines(self) -> Sequence[Machine]:
        """Return the machines that are there now and have cores."""
        ...

    async def start(self, machine: Machine, workers: int) -> Node:
        """Start a host on a machine, with cores for so many load processes.

        Raises:
            HostLostError: the machine is gone.
            LoadError: it has not so many cores to spare.
        """
        ...

    async def share(self, path: Path) -> Any:
        """Return the bytes of a file as an argument of `Node.call`, sent to each node once."""
        ...


@dataclass(slots=True, kw_only=True)
class _Host:
    machine: Machine
    node: Node
    endpoint_s: float = 0.0
    clock: HostClock = field(default_factory=HostClock)
    workers: int = 0
    """Load processes in the running phase."""
    running: int = 0
    """Those of them that have not stopped."""

    async def call(self, method: str, *args: Any, limit_s: float = _ANSWER_S) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                return await self.node.call(method, *args)
        except TimeoutError:
            raise HostLostError(
                f"node {self.machine.name} did not answer for {limit_s:.0f} s"
            ) from None

    async def exchanges(self, now_ns: Callable[[], int]) -> list[Exchange]:
        made: list[Exchange] = []
        for _ in range(_EXCHANGES):
            asked_ns = now_ns()
            theirs_ns: int = await self.call("now_ns")
            made.append(Exchange(asked_ns=asked_ns, theirs_ns=theirs_ns, heard_ns=now_ns()))
        return made

    @property
    def health(self) -> HostHealth:
        return HostHealth(
            name=self.machine.name,
            workers=self.workers,
            clock_offset_s=self.clock.offset_ns / 1e9,
            clock_error_s=self.clock.error_s,
            endpoint_s=self.endpoint_s,
        )


def deal(workers: int, rooms: Sequence[int]) -> tuple[int, ...]:
    """Return, for each load process, the number of its machine.

    Machines take turns while they have cores; when none has, all take turns again. One process more
    changes nothing for those before it.
    """
    rounds = (
        number for turn in range(max(rooms)) for number, room in enumerate(rooms) if turn < room
    )
    return tuple(islice(cycle(rounds), workers))


class HostPool:
    """Load processes on the machines of a cluster; see `pytest_agentperf.pool.Pool`."""

    def __init__(
        self, cluster: Cluster, *, asked: int, key: str = "", clock: Clock = REAL_TIME
    ) -> None:
        """Use all machines of a cluster, or as many as there are processes.

        Args:
            cluster: where they are.
            asked: the user's number of load processes; 0 has as many as there are cores for.
            key: the endpoint's, for load processes.
            clock: the run's.
        """
        self._cluster = cluster
        self._asked = asked
        self._key = key
        self._now_ns = clock.now_ns
        self._hosts: list[_Host] = []
        self._setup: Setup | None = None
        self._busy = 0
        self._reports: asyncio.Queue[Report | LoadError] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def busy(self) -> int:
        """Number of processes in the running phase, on all machines."""
        return self._busy

    @property
    def cores(self) -> int:
        """Cores of all machines that are for load, and one for the coordinator."""
        machines = [host.machine for host in self._hosts] or self._usable()
        return sum(machine.room for machine in machines) + 1

    @property
    def hosts(self) -> tuple[HostHealth, ...]:
        """The machines in the running phase."""
        return tuple(host.health for host in self._in_phase())

    async def set_up(self, setup: Setup) -> None:
        """Use this set-up from the next phase on."""
        if setup != self._setup:
            await self.close()
            self._setup = setup

    async def grow(self, workers: int) -> None:
        """Have at least this many processes, set up and ready, on what is there of the cluster."""
        if self._setup is None:
            raise LoadError("load processes were asked for before any set-up")
        try:
            await self._each(self._hosts, lambda host: host.call("now_ns"))
        except HostLostError:
            await self.close()
        if not self._hosts:
            await self._start(self._setup)
        shares = self._shares(workers)
        await self._each(
            self._hosts,
            lambda host: host.call("grow", shares[host.machine.id], limit_s=_READY_S),
        )

    async def prepare(
        self,
        *,
        workers: int,
        phase: int,
        agents: Sequence[int],
        offsets_ns: Sequence[int],
        start: Start,
    ) -> None:
        """Deal agents over all processes, round robin, and wait until all are made."""
        await self._end_tasks()
        places = self._deal(workers)
        shares = self._shares(workers)
        for host in self._hosts:
            host.workers = host.running = shares[host.machine.id]

        def prepare(host: _Host) -> Coroutine[Any, Any, Any]:
            number = self._hosts.index(host)
            mine = [i for i in range(len(agents)) if places[i % workers] == number]
            dealt = [agents[i] for i in mine], [offsets_ns[i] for i in mine]
            return host.call("prepare", host.workers, phase, *dealt, start, limit_s=_READY_S)

        await self._each(self._in_phase(), prepare)
        await self._each(self._in_phase(), self._begin_clock)
        self._busy = workers
        self._tasks = [
            asyncio.create_task(self._passing_on_errors(work, host))
            for host in self._in_phase()
            for work in (self._listen, self._watch_clock)
        ]

    async def begin(self, at_ns: int) -> None:
        """Begin the prepared phase at an instant of our clock."""
        await self._each(
            self._in_phase(), lambda host: host.call("begin", at_ns + host.clock.offset_ns)
        )

    async def look(self) -> None:
        """Ask the processes of the phase for what is open."""
        await self._each(self._in_phase(), lambda host: host.call("look"))

    async def close_window(self, at_ns: int) -> None:
        """Tell the processes of the phase that the window has closed."""
        for host in self._in_phase():
            host.clock.hold()
        await self._each(
            self._in_phase(), lambda host: host.call("close_window", at_ns + host.clock.offset_ns)
        )

    async def stop(self) -> None:
        """Tell the processes of the phase to stop."""
        await self._each(self._in_phase(), lambda host: host.call("stop"))

    async def report(self, *, timeout_s: float) -> Report | None:
        """Return the next report, or ``None`` when none came in time.

        Raises:
            HostLostError: a machine is gone; names it.
            LoadError: a process of it has died; names both.
        """
        heard = await next_of(self._reports, timeout_s)
        return None if heard is None else _checked(heard)

    def report_nowait(self) -> Report | None:
        """Return a report that is there already, or ``None``.

        Raises:
            HostLostError: a machine is gone; names it.
            LoadError: a process of it has died; names both.
        """
        return None if self._reports.empty() else _checked(self._reports.get_nowait())

    async def close(self) -> None:
        """End all hosts; the cluster stays as it is."""
        hosts, self._hosts, self._busy = self._hosts, [], 0
        self._reports = asyncio.Queue()  # before the first await: the old ones end into theirs
        await self._end_tasks()
        # One that is gone cannot be asked to clean up, and need not be.
        await asyncio.gather(*(host.call("close") for host in hosts), return_exceptions=True)
        for host in hosts:
            host.node.end()

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _usable(self) -> Sequence[Machine]:
        machines = self._cluster.machines()
        return machines[: self._asked] if self._asked else machines

    def _in_phase(self) -> list[_Host]:
        return [host for host in self._hosts if host.workers]

    def _deal(self, workers: int) -> tuple[int, ...]:
        return deal(workers, [host.machine.room for host in self._hosts])

    def _shares(self, workers: int) -> dict[str, int]:
        places = self._deal(workers)
        return {host.machine.id: places.count(n) for n, host in enumerate(self._hosts)}

    async def _start(self, setup: Setup) -> None:
        """Start hosts on all machines that answer, and see that they can do what is wanted."""
        trajectories = await self._cluster.share(Path(setup.trajectories))
        machines = self._usable()
        started = await asyncio.gather(
            *map(self._cluster.start, machines, self._reserved(machines)), return_exceptions=True
        )
        self._hosts = [
            _Host(machine=machine, node=node)
            for machine, node in zip(machines, started, strict=True)
            if not isinstance(node, BaseException)
        ]
        for fault in started:
            # A machine that died a moment ago may still have been in the cluster's list.
            if isinstance(fault, BaseException) and not isinstance(fault, HostLostError):
                raise fault
        if not self._hosts:
            raise LoadError("no node of the cluster is left to run load on; look at ray status")
        await self._each(self._hosts, lambda host: self._equip(host, setup, trajectories))

    def _reserved(self, machines: Sequence[Machine]) -> list[int]:
        """Return how many cores to ask of each machine: for all processes that it may ever run."""
        rooms = [machine.room for machine in machines]
        if not self._asked:
            return rooms
        places = deal(self._asked, rooms)
        return [min(places.count(n), machine.cores) for n, machine in enumerate(machines)]

    async def _equip(self, host: _Host, setup: Setup, trajectories: Any) -> None:
        theirs, ours = await host.call("versions", limit_s=_READY_S), versions()
        if theirs != ours:
            raise ConfigError(
                f"node {host.machine.name} has {dict(theirs)}, the coordinator {dict(ours)}; "
                "install the same on all machines"
            )
        try:
            host.endpoint_s = await host.call("distance_s", setup.url, limit_s=_READY_S)
        except HostLostError:
            raise
        except LoadError as failed:
            raise EndpointError(str(failed)) from failed
        await host.call("set_up", setup, trajectories, self._key, limit_s=_READY_S)

    async def _begin_clock(self, host: _Host) -> None:
        host.clock.begin_phase(await host.exchanges(self._now_ns))

    async def _listen(self, host: _Host) -> None:
        """Pass on a host's reports, in our time, until all of its processes have stopped."""
        while host.running:
            reports = _decode(await host.call("reports", _POLL_S))
            host.running -= sum(isinstance(report, Stopped) for report in reports)
            if not host.running:
                host.clock.feed(await host.exchanges(self._now_ns))
            for report in reports:
                if isinstance(report, Failed):
                    raise LoadError(f"node {host.machine.name}: {report.text}")
                self._reports.put_nowait(shifted(report, -host.clock.offset_ns))

    async def _watch_clock(self, host: _Host) -> None:
        while host.running:
            await asyncio.sleep(_PERIOD_S)
            host.clock.feed(await host.exchanges(self._now_ns))

    async def _passing_on_errors(
        self, work: Callable[[_Host], Coroutine[Any, Any, None]], host: _Host
    ) -> None:
        reports = self._reports
        try:
            await work(host)
        except LoadError as broke:
            reports.put_nowait(broke)

    async def _each(
        self, hosts: Sequence[_Host], call: Callable[[_Host], Coroutine[Any, Any, Any]]
    ) -> None:
        """Call all hosts at once, wait for all of them, and raise what the first raised."""
        answers = await asyncio.gather(*map(call, hosts), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer


def _checked(heard: Report | LoadError) -> Report:
    if isinstance(heard, LoadError):
        raise heard
    return heard
