"""A Ray cluster that is there already: its nodes, and hosts on them as actors.

Ray is an extra, loaded when a cluster is named.
"""

import asyncio
import importlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pytest_agentperf.errors import ConfigError, HostLostError, LoadError
from pytest_agentperf.host import Host
from pytest_agentperf.hosts import Machine

__all__ = ["RayCluster"]

_START_S = 60.0
_KNOCK_S = 10.0
_MODULES = ("ray", "ray.exceptions", "ray.util.scheduling_strategies")


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise ConfigError(
            "--agentperf-workers ray:… needs ray; pip install pytest-agentperf[ray]"
        ) from missing


class RayCluster:
    """A cluster that we are connected to; see `pytest_agentperf.hosts.Cluster`."""

    def __init__(self, address: str, *, skew_ns: Sequence[int] = ()) -> None:
        """Connect to a cluster.

        Args:
            address: ``auto``, or ``ray://HOST:PORT`` of its client server.
            skew_ns: clocks of its machines, in order, are to be wrong by so much; for tests.

        Raises:
            ConfigError: Ray is not installed, or no cluster of use answers there.
        """
        self._ray, self._exceptions, self._strategies = map(_load, _MODULES)
        self._skew_ns = skew_ns
        try:
            _knock(address)
            self._ray.init(
                address=address, namespace="agentperf", log_to_driver=False, logging_level="ERROR"
            )
        except Exception as failed:
            raise ConfigError(
                f"--agentperf-workers: no Ray cluster can be used at {address!r}: "
                f"{_first_line(failed)}; start one with `ray start --head`, or name its head as "
                "ray://HOST:10001"
            ) from failed
        if not self.machines():
            self.disconnect()
            raise ConfigError(
                f"--agentperf-workers: the Ray cluster at {address!r} has no node with a core; "
                "start one with `ray start --address=HEAD:6379`"
            )

    def machines(self) -> Sequence[Machine]:
        """Return the nodes that are alive and have cores, in order of their names."""
        found = [
            Machine(
                id=node["NodeID"],
                # Nodes may share an address: several on one machine, or behind one translation.
                name=f"{node['NodeManagerAddress']}/{node['NodeID'][:8]}",
                cores=int(node["Resources"].get("CPU", 0)),
            )
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        return sorted((m for m in found if m.cores), key=lambda machine: machine.name)

    async def start(self, machine: Machine, workers: int) -> "_RayNode":
        """Start a host on a node; see `pytest_agentperf.hosts.Cluster`."""
        strategy = self._strategies.NodeAffinitySchedulingStrategy(machine.id, soft=False)
        number = [m.id for m in self.machines()].index(machine.id) if self._skew_ns else 0
        actor = (
            self._ray.remote(Host)
            .options(
                num_cpus=workers, max_restarts=0, max_task_retries=0, scheduling_strategy=strategy
            )
            .remote(skew_ns=self._skew_ns[number] if self._skew_ns else 0)
        )
        node = _RayNode(self._ray, self._exceptions, actor, machine.name)
        try:
            async with asyncio.timeout(_START_S):
                await node.call("now_ns")
        except TimeoutError:
            node.end()
            raise LoadError(
                f"node {machine.name} had no {workers} cores free for {_START_S:.0f} s; look at "
                "`ray status`, or ask for fewer load processes with ?workers=N"
            ) from None
        return node

    async def share(self, path: Path) -> Any:
        """Put a file's bytes into the object store, from where each node takes them once."""
        return await asyncio.to_thread(lambda: self._ray.put(np.fromfile(path, dtype=np.uint8)))

    def disconnect(self) -> None:
        """Leave the cluster; what was started on it ends."""
        self._ray.shutdown()


class _RayNode:
    """A host as an actor; see `pytest_agentperf.hosts.Node`."""

    def __init__(self, ray: Any, exceptions: Any, actor: Any, name: str) -> None:
        self._ray = ray
        self._exceptions = exceptions
        self._actor = actor
        self._name = name

    async def call(self, method: str, *args: Any) -> Any:
        try:
            answer = getattr(self._actor, method).remote(*args).future()
            # Whoever stops waiting must not cancel it: Ray's client fails on answers nobody wants.
            return await asyncio.shield(asyncio.wrap_future(answer))
        except self._exceptions.RayTaskError as failed:
            raise LoadError(f"node {self._name}: {failed.cause}") from None
        except (self._exceptions.RayError, ConnectionError) as gone:
            raise HostLostError(f"node {self._name} was lost: {_first_line(gone)}") from gone

    def end(self) -> None:
        try:
            self._ray.kill(self._actor)
        except (self._exceptions.RayError, ConnectionError, ValueError):
            return  # it is gone, or we are


def _knock(address: str) -> None:
    """Open a connection to a named head: Ray itself takes half a minute to see that none is there.

    Raises:
        OSError: nothing listens there.
    """
    parts = urlsplit(address)
    if parts.hostname is not None:
        socket.create_connection((parts.hostname, parts.port or 0), _KNOCK_S).close()


def _first_line(fault: BaseException) -> str:
    return (next(iter(str(fault).splitlines()), "") or type(fault).__name__).rstrip(".")
