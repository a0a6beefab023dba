"""What time it is, as an argument: the machine's clock, or one that jumps from event to event."""

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["REAL_TIME", "Clock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where stamps come from."""

    now_ns: Callable[[], int]
    jumps: bool = False
    """Time jumps from event to event, so nothing can be late: lag and CPU are not measured."""


REAL_TIME = Clock(now_ns=time.perf_counter_ns)
"""On Linux one clock for all processes of a machine."""
