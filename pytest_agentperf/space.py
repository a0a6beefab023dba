"""Whether memory and disk hold what the phases of a run will keep.

A phase whose machine runs out of memory is killed with everything around it, and a full disk ends a
run after hours. Both are worked out from what a request and an agent were measured to take.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from pytest_agentperf import words
from pytest_agentperf.errors import ConfigError

__all__ = ["Need", "Space", "check_space", "free_memory_bytes", "need", "space"]

_PROCESS_BYTES = 50_000_000
_AGENT_BYTES = 80_000
"""One that streams: 2,000 at once took 190 MB (docs/client.md). One that waits takes 15 KB."""
_RECORD_BYTES, _RECORD_TOKEN_BYTES = 1_500, 4
"""What a request takes in the coordinator until its phase is judged, the judging included."""
_LINE_BYTES, _LINE_TOKEN_BYTES = 700, 16 / 3
"""A line of the request log: four bytes a token, in base64."""

_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is free; ``None`` where nothing tells."""

    memory_bytes: int | None
    disk_bytes: int | None
    """Where the results lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one phase takes, at most."""

    agents: int
    memory_bytes: float
    """While it runs; then it is given back."""
    disk_bytes: float
    """For good."""


def need(*, agents: int, processes: int, requests: float, osl_tokens: float) -> Need:
    """Return what a phase takes.

    Args:
        agents: of the phase.
        processes: on this machine that share them; 0: load runs elsewhere, or in our own process.
        requests: that it may send.
        osl_tokens: of a mean answer.
    """
    load_bytes = processes * _PROCESS_BYTES + agents * _AGENT_BYTES if processes else 0
    record_bytes = _RECORD_BYTES + _RECORD_TOKEN_BYTES * osl_tokens
    return Need(
        agents=agents,
        memory_bytes=load_bytes + requests * record_bytes,
        disk_bytes=requests * (_LINE_BYTES + _LINE_TOKEN_BYTES * osl_tokens),
    )


def check_space(given: Space, needs: Sequence[Need], *, results: str) -> tuple[str, ...]:
    """Check that the phases of a run have room.

    Args:
        given: what is free.
        needs: of the phases in order, as far as they are planned.
        results: the folder of results, as it was named.

    Returns:
        Warnings, where a later phase may not have it.

    Raises:
        ConfigError: not even the first phase has room; says what is short and what to do.
    """
    written = accumulate(each.disk_bytes for each in needs)
    short = [list(_short(given, *each, results)) for each in zip(needs, written, strict=True)]
    if short and short[0]:
        raise ConfigError(f"the first phase has no room: {'; '.join(short[0])}")
    first = next((said for said in short if said), ())
    return tuple(f"a later phase may have no room: {said}" for said in first)


def _short(given: Space, wanted: Need, written_bytes: float, results: str) -> Iterator[str]:
    agents = f"{wanted.agents} agents"
    if given.memory_bytes is not None and wanted.memory_bytes > given.memory_bytes:
        yield (
            f"load and requests of {agents} take about {words.size(wanted.memory_bytes)} of "
            f"memory, and {words.size(given.memory_bytes)} are free; free some, give this "
            "container more, or measure fewer agents, as with --agentperf-start-agents and "
            "--agentperf-max-agents"
        )
    if given.disk_bytes is not None and written_bytes > given.disk_bytes:
        yield (
            f"with the phase of {agents} the requests take about {words.size(written_bytes)} of "
            f"disk, and {words.size(given.disk_bytes)} are free for {results}; make room, or name "
            "another folder with --agentperf-results"
        )


def space(results: Path) -> Space:
    """Return what is free on this machine, and where results will lie."""
    asked = results.absolute()
    there = next(folder for folder in (asked, *asked.parents) if os.path.exists(folder))  # noqa: PTH110 no error where we may not look
    try:
        disk = os.statvfs(there)
    except OSError:
        return Space(memory_bytes=free_memory_bytes(), disk_bytes=None)
    # Some file systems tell no sizes, which is 0 of 0.
    free = disk.f_bavail * disk.f_frsize if disk.f_blocks else None
    return Space(memory_bytes=free_memory_bytes(), disk_bytes=free)


def free_memory_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the memory that may still be taken, by the kernel and by every cgroup around us.

    Args:
        proc: where the kernel tells of processes.
        cgroups: where it tells of cgroups, version 2.
    """
    told = [_kilobytes(proc / "meminfo", "MemAvailable:"), *_in_cgroups(proc, cgroups)]
    return min((size for size in told if size is not None), default=None)


def _kilobytes(path: Path, name: str) -> int | None:
    found = _table(path).get(name)
    return None if found is None else found * 1024


def _in_cgroups(proc: Path, cgroups: Path) -> Iterator[int | None]:
    own = next((x[3:] for x in _text(proc / "self" / "cgroup").split() if x.startswith("0::")), "/")
    inside = cgroups / own.strip("/")
    for group in (inside, *inside.parents):
        if group.is_relative_to(cgroups):
            limit, used = (_text(group / f"memory.{name}").strip() for name in ("max", "current"))
            if limit.isdecimal() and used.isdecimal():
                # Pages of files and what can be reclaimed go before anything is killed.
                told = _table(group / "memory.stat")
                spare = sum(told.get(name, 0) for name in _RECLAIMABLE)
                yield max(0, int(limit) - int(used) + spare)


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
