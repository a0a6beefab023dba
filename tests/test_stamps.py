"""Stamps of the kernel as times of our clock, and how late reads were."""

import struct
import time

import pytest

from pytest_agentperf.engine.stamps import KernelClock, ReadLags

MS = 1_000_000


def stamp_of(at_ns: int) -> bytes:
    """Return the kernel's stamp of an instant of our clock."""
    wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.perf_counter_ns() + at_ns
    return struct.pack("@ll", *divmod(wall_ns, 1_000_000_000))


@pytest.mark.parametrize("late_ms", [0, 1, 40, 3000])
def test_a_stamp_is_when_it_came(late_ms: int) -> None:
    came_ns = time.perf_counter_ns() - late_ms * MS
    event_ns = KernelClock().event_ns(stamp_of(came_ns), came_ns + late_ms * MS)
    # Two samples of the clocks' distance, on a busy machine.
    assert abs(event_ns - came_ns) < MS


@pytest.mark.parametrize("wrong_s", [3600, -3600], ids=["an hour ahead", "an hour ago"])
def test_a_stamp_that_cannot_be_is_not_believed(wrong_s: int) -> None:
    now_ns = time.perf_counter_ns()
    wrong = stamp_of(now_ns + wrong_s * 1_000_000_000)
    assert KernelClock().event_ns(wrong, now_ns) == now_ns


def test_no_read_is_before_its_stamp() -> None:
    now_ns = time.perf_counter_ns()
    assert KernelClock().event_ns(stamp_of(now_ns + MS // 20), now_ns) <= now_ns


def test_quantiles_of_reads() -> None:
    lags = ReadLags()
    for _ in range(98):
        lags.add(100_000)
    lags.add(5 * MS)
    lags.add(500 * MS)
    lags.unstamped += 3
    seen = lags.take()
    # 100 us are in the bucket that ends at 7 x 16.384 us; half a second is beyond all of them.
    assert (seen.stamped, seen.unstamped) == (100, 3)
    assert seen.p50_s == seen.p95_s == pytest.approx(0.000114688)
    assert seen.p99_s == pytest.approx(0.005, abs=0.00002)
    assert seen.most_s == 0.5


def test_reads_are_counted_anew_when_they_were_taken() -> None:
    lags = ReadLags()
    lags.add(1)
    lags.unstamped += 1
    lags.take()
    seen = lags.take()
    assert (seen.stamped, seen.unstamped, seen.p95_s, seen.most_s) == (0, 0, 0.0, 0.0)
