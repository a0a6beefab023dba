"""A command and all its processes, watched from outside: CPU time, memory, how many they are."""

import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

__all__ = ["Moment", "Watched", "watch"]

_PERIOD_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """All processes at one instant."""

    at_ns: int
    cpu_s: float
    """Since the beginning, of those that have ended as well."""
    pss_mb: Mapping[str, float]
    """By process: its id, and its command behind a blank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a command did, and what it took."""

    began_ns: int
    ended_ns: int
    code: int
    output: str
    cpu_s: float
    moments: tuple[Moment, ...]

    @property
    def pss_mb(self) -> float:
        """Return the most memory that all processes had together."""
        return max((sum(each.pss_mb.values()) for each in self.moments), default=0.0)

    @property
    def processes(self) -> int:
        """Return the most processes that there were at once."""
        return max((len(each.pss_mb) for each in self.moments), default=0)

    def cpu_until_s(self, at_ns: int) -> float:
        """Return the CPU time of all until an instant."""
        at, cpu = ([getattr(m, name) for m in self.moments] for name in ("at_ns", "cpu_s"))
        return float(np.interp(at_ns, [self.began_ns, *at], [0.0, *cpu]))


def watch(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], most_s: float) -> Watched:
    """Run a command to its end, or for so many seconds."""
    before_s = _children_s()
    began_ns = time.perf_counter_ns()
    # A file and not a pipe, which a chatty command would fill.
    with (cwd / "output").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT
        )
        cpu_s: dict[int, float] = {}
        moments: list[Moment] = []
        while process.poll() is None:
            moments.append(_moment(process.pid, cpu_s))
            if time.perf_counter_ns() - began_ns > most_s * 1e9:
                process.terminate()
            time.sleep(_PERIOD_S)
        ended_ns = time.perf_counter_ns()
        output.seek(0)
        text = output.read()
    return Watched(
        began_ns=began_ns,
        ended_ns=ended_ns,
        code=process.returncode,
        output=text,
        # What the kernel counts leaves out children that nobody has waited for.
        cpu_s=max(_children_s() - before_s, sum(cpu_s.values())),
        moments=tuple(moments),
    )


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _moment(root: int, cpu_s: dict[int, float]) -> Moment:
    at_ns = time.perf_counter_ns()
    pss_mb: dict[str, float] = {}
    try:
        first = psutil.Process(root)
        processes = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        processes = []
    for process in processes:
        try:
            used = process.cpu_times()
            cpu_s[process.pid] = used.user + used.system
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text("ascii")
            name = f"{process.pid} {' '.join(process.cmdline())[:200]}"
        except (psutil.NoSuchProcess, OSError):
            continue
        kb = next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1]
        pss_mb[name] = int(kb) * 1024 / 1e6
    return Moment(at_ns=at_ns, cpu_s=sum(cpu_s.values()), pss_mb=pss_mb)
