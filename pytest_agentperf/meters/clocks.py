"""Another machine's wall clock against our monotonic one, from what its answers tell.

An answer that was under way from `sent` to `received` and says that it is `told` bounds the
difference from both sides; bounds of many answers are cut with each other. The bounds are let out
by 100 ppm as they age, since clocks drift, and thrown away when they contradict: a clock was set.
"""

import time
from datetime import UTC, datetime

from pytest_agentperf.records import ClockOffset

__all__ = ["RemoteClock", "wall_s"]

_DRIFT = 1e-4


def wall_s() -> float:
    """Return our own wall clock now, seconds since 1970; only differences to others are shown."""
    return datetime.now(UTC).timestamp()


class RemoteClock:
    """What is known of one machine's clock."""

    def __init__(self) -> None:
        self._low_s: float = 0.0
        """Least of their wall clock minus our monotonic one, seconds."""
        self._high_s: float = 0.0
        self._heard_ns: int | None = None
        self._by = ""

    def hear(
        self, sent_ns: int, received_ns: int, told_s: float, *, resolution_s: float, by: str
    ) -> None:
        """Take one answer.

        Args:
            sent_ns: our clock just before it was asked for.
            received_ns: our clock when it had come.
            told_s: their time, rounded down to ``resolution_s``, seconds since 1970.
            resolution_s: the unit of their time, seconds.
            by: what told it.
        """
        low_s, high_s = told_s - received_ns / 1e9, told_s + resolution_s - sent_ns / 1e9
        if self._heard_ns is not None and by == self._by:
            drift_s = (received_ns - self._heard_ns) / 1e9 * _DRIFT
            cut = max(low_s, self._low_s - drift_s), min(high_s, self._high_s + drift_s)
            if cut[0] <= cut[1]:
                low_s, high_s = cut
        self._low_s, self._high_s, self._heard_ns, self._by = low_s, high_s, received_ns, by

    @property
    def is_known(self) -> bool:
        """Tell whether anything was heard."""
        return self._heard_ns is not None

    @property
    def uncertainty_s(self) -> float:
        """Return half of the span that the offset lies in, seconds."""
        return (self._high_s - self._low_s) / 2

    def at_ns(self, remote_s: float) -> int:
        """Return our clock's stamp of one of theirs."""
        return round((remote_s - (self._low_s + self._high_s) / 2) * 1e9)

    def offset(self) -> ClockOffset:
        """Return their wall clock minus ours."""
        if not self.is_known:
            return ClockOffset(offset_s=None, uncertainty_s=None, by="they told no time")
        ours_s = wall_s() - time.perf_counter_ns() / 1e9
        return ClockOffset(
            offset_s=(self._low_s + self._high_s) / 2 - ours_s,
            uncertainty_s=self.uncertainty_s,
            by=self._by,
        )
