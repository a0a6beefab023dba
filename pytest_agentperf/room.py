"""Whether this machine has room for so many agents: open files, and local ports.

An agent holds one connection all the time. Where a process runs out of files or the machine out of
ports, requests fail that no server has seen: such a number of agents is refused before any load.
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from pytest_agentperf.errors import ConfigError

__all__ = ["Room", "check_room", "cores", "open_files_up", "room", "worker_count"]

_AGENTS_PER_WORKER = 64
_OWN_FILES = 64
"""Files that a load process has open beside its connections."""
_OWN_PORTS = 1000
"""Local ports left to all else on the machine, and to connections that are not forgotten yet."""
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What this machine gives."""

    files: int | None
    """Files that one process may have open at most; ``None`` without a limit."""
    ports: int | None
    """Local ports to one address; ``None`` where nothing tells."""

    def most_agents(self, workers: int) -> int | None:
        """Return how many agents have room in so many processes; ``None`` without a limit."""
        limits = [
            None if self.files is None else max(0, self.files - _OWN_FILES) * workers,
            None if self.ports is None else max(0, self.ports - _OWN_PORTS),
        ]
        return min((limit for limit in limits if limit is not None), default=None)


def room() -> Room:
    """Return what this machine gives to a process that has raised its own limits."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Room(files=None if files == resource.RLIM_INFINITY else files, ports=_ports())


def _ports() -> int | None:
    try:
        low, high = map(int, _PORTS.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None
    return high - low + 1


def open_files_up() -> None:
    """Let this process have as many files open as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return  # macOS names a limit that it does not grant; the soft one stays


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(asked: int, *, agents: int, cores: int) -> int:
    """Return how many processes share the agents.

    Args:
        asked: the user's number; 0 leaves one core to the coordinator and takes no more processes
            than there are 64 agents.
        agents: agents of the phase.
        cores: cores of this machine.
    """
    wanted = asked or min(max(1, cores - 1), -(-agents // _AGENTS_PER_WORKER))
    return max(1, min(wanted, agents))


def check_room(given: Room, *, max_agents: int, workers: int) -> None:
    """Check that the largest phase that a run may ask for has room.

    Args:
        given: what this machine gives.
        max_agents: agents of that phase.
        workers: processes that would share them.

    Raises:
        ConfigError: it has not; names what is short and what to do.
    """
    most = given.most_agents(workers)
    if most is None or max_agents <= most:
        return
    files = None if given.files is None else (given.files - _OWN_FILES) * workers
    if files is not None and files <= most:
        needed = -(-max_agents // workers) + _OWN_FILES
        remedy = (
            f"a process may open {given.files} files and {workers} would share them; allow more "
            f"(`ulimit -n {needed}`), or share them among more with --agentperf-workers"
        )
    else:
        remedy = (
            f"the machine has {given.ports} local ports; widen "
            f'net.ipv4.ip_local_port_range (`sysctl -w net.ipv4.ip_local_port_range="1024 65535"`)'
        )
    raise ConfigError(
        f"--agentperf-max-agents {max_agents}: this machine has room for {most} agents: {remedy}, "
        f"or give --agentperf-max-agents={most}"
    )
