"""When the kernel received what we read, and how long we took to notice.

Linux stamps every segment on its arrival by the wall clock (SO_TIMESTAMPNS). Its offset from
`time.perf_counter_ns` is sampled for every request and while answers come; a stamp that then looks
late or early has it sampled once more, so that a clock that was set in between moves no event.
"""

import socket
import struct
import sys
import time

from pytest_agentperf.records import ReadLag

__all__ = ["KernelClock", "ReadLags", "ask_for_stamps"]

_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size) if hasattr(socket, "CMSG_SPACE") else 0
"""Room that a stamp takes beside what is read."""
_UNSUSPICIOUS_NS = 5_000_000
_SUSPECTED_NS = 1_000_000
"""So soon after a sample nobody has set the clock."""
_BELIEVED_NS = 60_000_000_000
_EARLIER_NS = 100_000
"""A stamp may be so much in the future: the offset is known no better on a busy machine."""
_SAMPLES = 3
_AGE_NS = 200_000_000
_BUCKET_BITS = 14
_BUCKETS = 4096
"""16 microseconds each; the last one holds all lags from 67 ms on."""


def ask_for_stamps(sock: socket.socket) -> bool:
    """Have the kernel stamp what a socket receives; tell whether it will."""
    if not sys.platform.startswith("linux") or _TIMESPEC.size != 16:  # noqa: PLR2004 64-bit only
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


class ReadLags:
    """How long after the kernel our loop read, over a phase."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._most_ns = 0
        self.unstamped = 0
        """Reads that only we have stamped."""

    def add(self, lag_ns: int) -> None:
        """Count one read."""
        self._most_ns = max(self._most_ns, lag_ns)
        bucket = lag_ns >> _BUCKET_BITS
        self._counts[bucket if bucket < _BUCKETS else -1] += 1

    def take(self) -> ReadLag:
        """Return what was seen, and begin anew."""
        counts, most_ns, unstamped = self._counts, self._most_ns, self.unstamped
        self._counts, self._most_ns, self.unstamped = [0] * _BUCKETS, 0, 0
        quantiles_s = [_quantile_s(counts, most_ns, share) for share in (0.5, 0.95, 0.99)]
        return ReadLag(
            stamped=sum(counts),
            unstamped=unstamped,
            p50_s=quantiles_s[0],
            p95_s=quantiles_s[1],
            p99_s=quantiles_s[2],
            most_s=most_ns / 1e9,
        )


def _quantile_s(counts: list[int], most_ns: int, share: float) -> float:
    """Return the upper end of the bucket that holds a quantile, in seconds."""
    wanted = share * sum(counts)
    below = 0
    for bucket, count in enumerate(counts[:-1]):
        below += count
        if below >= wanted:
            return min((bucket + 1) << _BUCKET_BITS, most_ns) / 1e9
    return most_ns / 1e9


class KernelClock:
    """The wall clock of the kernel's stamps, as `time.perf_counter_ns`."""

    def __init__(self) -> None:
        self._offset_ns = 0
        self._sampled_ns = 0
        self.sample()

    def sample(self) -> None:
        """Measure the offset between the two clocks."""
        best_ns = 1 << 62
        after_ns = 0
        for _ in range(_SAMPLES):
            before_ns = time.perf_counter_ns()
            wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
            after_ns = time.perf_counter_ns()
            if after_ns - before_ns < best_ns:
                best_ns = after_ns - before_ns
                self._offset_ns = (before_ns + after_ns) // 2 - wall_ns
        self._sampled_ns = after_ns

    def freshen(self, now_ns: int) -> None:
        """Measure anew if the last time is long ago: clocks drift apart, by up to 0.5 ms/s."""
        if now_ns - self._sampled_ns > _AGE_NS:
            self.sample()

    def event_ns(self, stamp: bytes, read_ns: int) -> int:
        """Return when the kernel received a read; ``read_ns`` where that cannot be believed.

        Args:
            stamp: ancillary data of the read, a ``struct timespec``.
            read_ns: when we had read it.
        """
        seconds, nanoseconds = _TIMESPEC.unpack(stamp)
        wall_ns = seconds * 1_000_000_000 + nanoseconds
        lag_ns = read_ns - wall_ns - self._offset_ns
        if not 0 <= lag_ns < _UNSUSPICIOUS_NS:
            if read_ns - self._sampled_ns > _SUSPECTED_NS:
                self.sample()
            lag_ns = read_ns - wall_ns - self._offset_ns
            if not -_EARLIER_NS <= lag_ns < _BELIEVED_NS:
                return read_ns
        return read_ns - lag_ns if lag_ns > 0 else read_ns
