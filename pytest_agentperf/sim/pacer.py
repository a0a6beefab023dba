"""Runs the replicas of a fleet on a clock: real, or one that jumps."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from pytest_agentperf.sim.fleet import Fleet
from pytest_agentperf.sim.sequence import Gain, Request, Segment

__all__ = ["Lateness", "Pacer"]

_LATE_S = 0.05


@dataclass(slots=True)
class Lateness:
    """How well the clock is kept: a step whose end is handed out late is the machine's fault."""

    steps: int = 0
    """Steps, or runs of them that were handed out together."""
    late_steps: int = 0
    """Handed out more than 50 ms after their end."""
    worst_s: float = 0.0

    def add(self, behind_s: float) -> None:
        """A step was handed out so long after its end."""
        self.steps += 1
        self.late_steps += behind_s > _LATE_S
        self.worst_s = max(self.worst_s, behind_s)


class Pacer:
    """Submits requests to the fleet and hands out what its steps bring when they end."""

    def __init__(
        self,
        fleet: Fleet,
        loop: asyncio.AbstractEventLoop,
        clock_s: Callable[[], float],
        *,
        horizon_s: Callable[[], float] | None = None,
    ) -> None:
        """Make it; it runs as long as there is work.

        Args:
            fleet: the replicas.
            loop: where timers go.
            clock_s: the time; with a horizon it must be the loop's own.
            horizon_s: until when nothing can happen but steps; ``None``: the next thing may come
                at any time, so that steps are taken one by one.
        """
        self.fleet = fleet
        self.lateness = Lateness()
        self.clock_s = clock_s
        self._loop = loop
        self._receivers: dict[str, tuple[Callable[[Gain], None], int]] = {}
        self._lanes = [_Lane(self, index, loop, horizon_s) for index in range(len(fleet.engines))]

    def submit(self, request: Request, receiver: Callable[[Gain], None]) -> None:
        """Have a request answered; ``receiver`` is called whenever steps that served it end.

        Raises:
            QueueFullError: the replica that should take it has no place in its queue.
        """
        place = self.fleet.route(request)
        self.fleet.engines[place].submit(request)
        self._receivers[request.id] = receiver, place
        self._lanes[place].wake()

    def cancel(self, request_id: str) -> None:
        """Stop answering; nothing is received of what is under way."""
        known = self._receivers.pop(request_id, None)
        if known is not None:
            self.fleet.engines[known[1]].cancel(request_id)

    def deliver(self, segment: Segment) -> None:
        """Hand out what the steps brought that have ended now."""
        for gain in segment.gains:
            known = self._receivers.get(gain.request_id)
            if known is None:
                continue
            if gain.finished:
                del self._receivers[gain.request_id]
            known[0](gain)
        for request in segment.handed_over:
            self._hand_over(request)

    def _hand_over(self, request: Request) -> None:
        known = self._receivers.get(request.id)
        if known is None:
            return
        place, successor, delay_s = self.fleet.hand_over(request)
        self._receivers[request.id] = known[0], place
        self._loop.call_later(delay_s, self._arrive, place, successor)

    def _arrive(self, place: int, request: Request) -> None:
        self.fleet.arrived(place)
        if request.id in self._receivers:
            self.fleet.engines[place].submit(request)
            self._lanes[place].wake()


class _Lane:
    """One replica's steps, one after the other.

    A step ends at an absolute deadline, the last deadline plus its duration, and the next one
    begins there, however late the event loop woke up: timers of 1 ms blur single steps and leave
    their mean exact. A loop that is behind runs the missed steps one turn of the loop each, so
    that requests are still read between them.
    """

    def __init__(
        self,
        pacer: Pacer,
        place: int,
        loop: asyncio.AbstractEventLoop,
        horizon_s: Callable[[], float] | None,
    ) -> None:
        self._pacer = pacer
        self._engine = pacer.fleet.engines[place]
        self._loop = loop
        self._horizon_s = horizon_s
        self._segment: Segment | None = None

    def wake(self) -> None:
        """Something has come: begin a step unless one is under way."""
        if self._segment is None:
            self._begin(self._pacer.clock_s())

    def _begin(self, start_s: float) -> None:
        until_s = self._horizon_s() if self._horizon_s else start_s
        self._segment = self._engine.advance(start_s, until_s)
        if self._segment is not None:
            self._await_end(self._segment.end_s)

    def _await_end(self, end_s: float) -> None:
        left_s = end_s - self._pacer.clock_s()
        if left_s <= 0:
            self._loop.call_soon(self._end)
        elif self._horizon_s:
            self._loop.call_at(end_s, self._end)
        else:
            # Rounded up, as uvloop rounds to the nearest millisecond, and would wake too early.
            self._loop.call_later(ceil(left_s * 1000) / 1000, self._wake_up)

    def _wake_up(self) -> None:
        assert self._segment is not None
        if self._pacer.clock_s() < self._segment.end_s:
            self._await_end(self._segment.end_s)
        else:
            self._end()

    def _end(self) -> None:
        segment = self._segment
        assert segment is not None
        self._pacer.lateness.add(self._pacer.clock_s() - segment.end_s)
        try:
            self._pacer.deliver(segment)
        finally:  # a receiver that fails must not stop the replica
            self._begin(segment.end_s)
