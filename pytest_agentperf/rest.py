"""Waits until a server is idle, so that no phase begins on what another left behind.

The server's own counts of requests decide where it tells them, and how soon it answers one small
request, a canary, where it does not. A canary also brings counts up to date that a server writes
only while it works.
"""

import asyncio
from collections.abc import Awaitable, Callable

from pytest_agentperf.clock import Clock
from pytest_agentperf.prelude import Rest
from pytest_agentperf.protocols import Gauges

__all__ = ["Canary", "Rester"]

Canary = Callable[[], Awaitable[float | None]]
"""Returns after how many seconds a small request was answered; ``None``: it has failed."""

_LOOK_S = 0.5
_CANARY_EVERY = 10
"""Looks at counts that are not 0, between two canaries."""
_SLOWER, _SLACK_S = 2.0, 0.05
"""A canary is back at its first value within both together."""


class Rester:
    """Waits before each phase of a run."""

    def __init__(
        self, *, gauges: Gauges | None, canary: Canary, clock: Clock, limit_s: float
    ) -> None:
        """Look at nothing yet.

        Args:
            gauges: the server's own counts, where it tells them.
            canary: sends a small request.
            clock: in which waits are told.
            limit_s: no wait is longer.
        """
        self._gauges = gauges
        self._canary = canary
        self._clock = clock
        self._limit_s = limit_s
        self._first_s: float | None = None

    async def know(self) -> None:
        """Send the canary that later ones are compared with, where counts do not tell."""
        if await self._requests() is None:
            times = [await self._canary() for _ in range(2)]
            self._first_s = min((t for t in times if t is not None), default=None)

    async def until_idle(self) -> Rest:
        """Wait until the server is idle, at most as long as the limit."""
        began_ns = self._clock.now_ns()
        looks = 0
        while True:
            requests = await self._requests()
            if requests is None:
                idle, said = await self._by_canary()
            else:
                idle, said = requests <= 0, f"{requests:g} requests run or wait at the server"
                looks += 1
                if not idle and looks % _CANARY_EVERY == 0:
                    await self._canary()
            waited_s = (self._clock.now_ns() - began_ns) / 1e9
            if idle or waited_s >= self._limit_s:
                by = "canary" if self._first_s is not None else "none"
                return Rest(
                    waited_s=waited_s,
                    idle=idle,
                    evidence=by if requests is None else "metrics",
                    text=said,
                )
            await asyncio.sleep(_LOOK_S)

    async def _requests(self) -> float | None:
        """Return how many requests the server says that it has; ``None``: it does not say."""
        if self._gauges is None:
            return None
        try:
            if self._clock.jumps:  # a thread would let time jump meanwhile
                told = self._gauges.sample()
            else:
                told = await asyncio.to_thread(self._gauges.sample)
        except Exception:  # noqa: BLE001 a server that is gone tells nothing; the phase will say so
            return None
        counts = [s.value for s in told if s.series in {"running", "waiting"}]
        return sum(counts) if counts else None

    async def _by_canary(self) -> tuple[bool, str]:
        if self._first_s is None:
            return True, "nothing tells whether the server is idle"
        now_s = await self._canary()
        if now_s is None:
            return False, "the canary failed"
        said = f"the canary took {now_s:.3g} s, at first {self._first_s:.3g} s"
        return now_s <= self._first_s * _SLOWER + _SLACK_S, said
