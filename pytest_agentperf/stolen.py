"""How much of the time the host of a virtual machine kept its cores to itself.

A machine that stands still as a whole stamps late what it receives, and no process in it can tell
that from a server that was slow; its kernel can (``/proc/stat``, *steal*; see proc(5)).
"""

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["StolenTime", "read_cores"]

_STAT = Path("/proc/stat")
_STEAL = 7
_COUNTED = 8
"""Behind them stand times that the others hold already."""

Cores = Mapping[int, tuple[int, int]]
"""By core, its stolen ticks and all of them."""


def read_cores(text: str) -> Cores:
    """Read what the kernel has counted for every core; nothing of what is no such text."""
    found: dict[int, tuple[int, int]] = {}
    for line in text.splitlines():
        name, *ticks = line.split() or [""]
        core = name.removeprefix("cpu")
        if core != name and core.isdecimal() and len(ticks) >= _COUNTED:
            counts = [int(each) for each in ticks[:_COUNTED]]
            found[int(core)] = counts[_STEAL], sum(counts)
    return found


class StolenTime:
    """What was stolen of the cores that this process may run on."""

    def __init__(self) -> None:
        self._seen = _now()

    def take_ratio(self) -> float:
        """Return the share (0-1) since it was asked last, of the core that lost most; 0 unknown."""
        before, self._seen = self._seen, _now()
        ratios = [
            (stolen - before[core][0]) / (ticks - before[core][1])
            for core, (stolen, ticks) in self._seen.items()
            if core in before and ticks > before[core][1]
        ]
        return max(ratios, default=0.0)


def _now() -> Cores:
    try:
        cores = read_cores(_STAT.read_text("ascii"))
    except OSError:
        return {}
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else cores.keys()
    return {core: counts for core, counts in cores.items() if core in ours}
