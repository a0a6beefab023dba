"""What a load process asks of the scheduler, as the kernel tells it afterwards."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")

_ASK = """
import ctypes, os, platform, struct
from pytest_agentperf.priority import ask_to_run_soon
{first}
ask_to_run_soon()
told = ctypes.create_string_buffer(56)
number = {{"x86_64": 315, "aarch64": 275}}[platform.machine()]
assert ctypes.CDLL(None).syscall(number, 0, told, 56, 0) == 0
print(os.getpriority(os.PRIO_PROCESS, 0), struct.unpack_from("=Q", told, 24)[0])
"""


def _asked(first: str = "") -> tuple[int, int]:
    found = subprocess.run(
        [sys.executable, "-c", _ASK.format(first=first)], capture_output=True, text=True, check=True
    )
    nice, slice_ns = map(int, found.stdout.split())
    return nice, slice_ns


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root gets no higher weight")
def test_a_higher_weight_keeps_the_distance_that_was_asked_for() -> None:
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert _asked()[0] == max(-20, here - 10)
    assert _asked("os.nice(7)")[0] == max(-20, min(19, here + 7) - 10)


@pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 12),
    reason="Linux keeps no slices",
)
def test_slices_are_short() -> None:
    assert _asked()[1] == 100_000


def test_a_kernel_that_tells_nothing_is_no_error() -> None:
    refuses = "def refuse(_): raise OSError(38, 'Function not implemented')"
    nice, _ = _asked(f"{refuses}\nos.sched_getscheduler = refuse")
    assert nice <= os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="has to become an ordinary user")
def test_a_refusal_is_no_error() -> None:
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert _asked("os.setuid(65534)")[0] == here
