"""An event loop whose time jumps to the next timer: an hour that is slept through takes no time.

Nothing in it waits for the machine: not for sockets, which it would hear only when all else waits,
and not for threads, while whose work time would jump. What runs in it twice runs the same twice:
timers of one instant run in the order in which they were made.
"""

import asyncio
import heapq
import math
import selectors
from asyncio import AbstractEventLoop, Handle, Task, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

from pytest_agentperf.clock import Clock

__all__ = ["VirtualLoop", "VirtualTime"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PATIENCE_S = 5.0
_MOST_NAMED = 5


class _Selector(selectors.DefaultSelector):
    """Lets time jump where asyncio would sleep."""

    def __init__(
        self,
        jump: Callable[[], bool],
        stands_still: Callable[[], RuntimeError],
        patience_s: float,
    ) -> None:
        super().__init__()
        self._jump = jump
        self._stands_still = stands_still
        self._patience_s = patience_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return at once without asking the machine, unless nothing else can ever happen.

        ``call_soon_threadsafe`` needs no asking: what it brings is ready in the next turn.
        """
        if timeout == 0 or (timeout is not None and self._jump()):
            return []
        heard = super().select(self._patience_s)
        if not heard:
            raise self._stands_still()
        return heard


class _Timer(TimerHandle):
    """A timer that comes after those of its instant that were made before it."""

    __slots__ = ("order",)

    def __init__(
        self,
        when: float,
        number: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: AbstractEventLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.order = (when, number)

    def __lt__(self, other: TimerHandle) -> bool:
        return self.order < other.order if isinstance(other, _Timer) else super().__lt__(other)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual seconds, which begin at 0."""

    # What asyncio's own loop keeps, unchanged since Python 3.4.
    _scheduled: list[TimerHandle]
    _ready: deque[Handle]
    _clock_resolution: float

    def __init__(self, *, patience_s: float = _PATIENCE_S) -> None:
        """Make a loop at second 0.

        Args:
            patience_s: real seconds to wait for another thread when nothing is left to happen.
        """
        self._now_s = 0.0
        self._numbers = count()
        super().__init__(_Selector(self._jump, self._stands_still, patience_s))
        self._clock_resolution = math.ulp(0.0)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._now_s

    def next_timer_s(self) -> float:
        """Return the earliest instant at which anything that is scheduled already happens.

        That is now where a callback is ready to run, and infinity where nothing is scheduled.
        """
        if self._ready:
            return self._now_s
        return max(self._now_s, _earliest_s(self._scheduled))

    def call_at(  # pyright: ignore[reportIncompatibleMethodOverride] as the base has it
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Call back at an instant, after all that was asked for that instant before."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = _Timer(when, next(self._numbers), callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # noqa: SLF001 so that asyncio counts it when it is cancelled
        return timer

    def _jump(self) -> bool:
        due_s = _earliest_s(self._scheduled)
        if math.isinf(due_s):
            return False
        self._now_s = max(self._now_s, due_s)
        # asyncio runs what is due within this: the least there is, so that nothing runs early.
        self._clock_resolution = math.ulp(self._now_s)
        return True

    def _stands_still(self) -> RuntimeError:
        waiting = sorted(_name(task) for task in asyncio.all_tasks(self))
        more = ["…"] if len(waiting) > _MOST_NAMED else []
        return RuntimeError(
            f"virtual time stands still at {self._now_s:.9g} s: nothing is scheduled, and these "
            f"wait for what nobody will do: {', '.join(waiting[:_MOST_NAMED] + more) or 'nobody'}"
        )


class VirtualTime:
    """One virtual time over many runs: it goes on in each where the last one left it.

    The loop runs in a thread of its own while somebody awaits `run`; in between, time stands.
    """

    def __init__(self, *, patience_s: float = _PATIENCE_S) -> None:
        """Make a time at second 0; see `VirtualLoop`."""
        self.loop = VirtualLoop(patience_s=patience_s)
        self.clock = Clock(now_ns=self._now_ns, jumps=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentperf-virtual-time")
        self._busy = False

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what ``work`` makes in virtual time; return or raise what it does.

        When the awaiting task is cancelled the work is too, and has ended when that is raised.

        Raises:
            RuntimeError: another run is under way, or virtual time stands still.
        """
        if self._busy:
            raise RuntimeError("virtual time runs already: one run at a time")
        self._busy = True
        try:
            task = self.loop.create_task(work())
            return await self._until_ended(task)
        finally:
            self._busy = False

    def close(self) -> None:
        """End what is left in the loop, and the loop; a second call does nothing."""
        if not self.loop.is_closed():
            self._thread.submit(self._end).result()
            self._thread.shutdown()

    async def _until_ended(self, task: "Task[T]") -> T:
        ended = asyncio.get_running_loop().run_in_executor(self._thread, self._drive, task)
        cancelled: asyncio.CancelledError | None = None
        while not ended.done():
            try:
                await asyncio.wait((ended,))
            except asyncio.CancelledError as told:
                cancelled = told
                self.loop.call_soon_threadsafe(task.cancel)
        if cancelled is not None:
            ended.exception()  # heard, so that nobody calls it forgotten
            raise cancelled
        return ended.result()

    def _drive(self, task: "Task[T]") -> T:
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # it is the loop that broke: the work must not stay half done
                self._cancel(task)
            raise

    def _cancel(self, *tasks: "Task[Any]") -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _end(self) -> None:
        try:
            self._cancel(*asyncio.all_tasks(self.loop))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()

    def _now_ns(self) -> int:
        return round(self.loop.time() * 1e9)


def _earliest_s(heap: list[TimerHandle]) -> float:
    """Return when the first timer of a heap is due that was not cancelled; it stays as it is."""
    found = math.inf
    places = [0]
    while places:
        place = places.pop()
        if place < len(heap) and (due_s := heap[place].when()) < found:
            if heap[place].cancelled():
                places += (2 * place + 1, 2 * place + 2)
            else:
                found = due_s
    return found


def _name(task: "Task[Any]") -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())
