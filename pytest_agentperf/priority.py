"""What a load process asks of the scheduler, so that it reads in time beside others on its core.

Two segments that wait to be read become one to the kernel, with the later one's stamp: reading late
costs stamps that nothing brings back. Short slices let a process run soon after it wakes and give
it no more of the core (``sched_setattr(2)``; from Linux 6.12 an ordinary process may choose their
length). A higher weight, where the machine allows it, keeps what load needs from what else runs
there.
"""

import ctypes
import os
import platform
import sys
from contextlib import suppress
from typing import ClassVar

__all__ = ["ask_to_run_soon"]

_SLICE_NS = 100_000
"""The shortest that the kernel grants."""
_NICER = 10
"""Ten times the weight of who asks for nothing; who was given less keeps the distance."""
_SYSCALL = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"""Number of ``sched_setattr``."""


class _SchedulingAttributes(ctypes.Structure):
    """The kernel's ``struct sched_attr``, as its first version has it."""

    _fields_: ClassVar = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    ]


def ask_to_run_soon() -> None:
    """Ask for short slices, and for a higher weight where it is allowed; no refusal is an error."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - _NICER)
    with suppress(OSError):  # musl refuses, and a sandbox may
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            _ask_for_short_slices()


def _ask_for_short_slices() -> None:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        return
    asked = _SchedulingAttributes(
        size=ctypes.sizeof(_SchedulingAttributes),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        runtime_ns=_SLICE_NS,
    )
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(asked), 0)
