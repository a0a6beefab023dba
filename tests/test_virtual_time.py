"""Time that jumps: order, runs, cancellation, and what happens when nothing can happen."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.sim.virtual_time import VirtualLoop, VirtualTime


@pytest.fixture
def time() -> Iterator[VirtualTime]:
    made = VirtualTime(patience_s=0.1)
    yield made
    made.close()


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


async def _sleep_s(*spans_s: float) -> float:
    for span_s in spans_s:
        await asyncio.sleep(span_s)
    return asyncio.get_running_loop().time()


def test_time_begins_at_0_and_a_year_is_slept_through_at_once(time: VirtualTime) -> None:
    assert time.clock.jumps
    assert time.clock.now_ns() == 0
    assert asyncio.run(time.run(lambda: _sleep_s(3600.0))) == 3600.0
    assert time.clock.now_ns() == 3_600_000_000_000
    # Where a nanosecond is lost in a double, time still goes on: 3,600 + 31,536,000 s.
    assert asyncio.run(time.run(lambda: _sleep_s(31_536_000.0))) == 31_539_600.0


def test_time_goes_on_where_the_last_run_left_it(time: VirtualTime) -> None:
    for end_ns in (1_500_000_000, 3_000_000_000):
        asyncio.run(time.run(lambda: _sleep_s(1.5)))
        assert time.clock.now_ns() == end_ns


def test_what_a_run_left_behind_goes_on_in_the_next(time: VirtualTime) -> None:
    heard: list[float] = []

    async def leave() -> None:
        now_s = asyncio.get_running_loop().time
        time.loop.call_at(2.0, lambda: heard.append(now_s()))

    asyncio.run(time.run(leave))
    assert heard == []
    asyncio.run(time.run(lambda: _sleep_s(3.0)))
    assert heard == [2.0]


@given(st.lists(st.sampled_from([0.0, 1.0, 1.0 + 1e-10, 2.0, 1e6]), max_size=40))
def test_timers_run_in_order_and_those_of_one_instant_as_they_were_made(due_s: list[float]) -> None:
    ran: list[tuple[float, int]] = []
    seen_s: list[float] = []
    loop = VirtualLoop()

    def run(due: float, number: int) -> None:
        ran.append((due, number))
        seen_s.append(loop.time())

    for number, due in enumerate(due_s):
        loop.call_at(due, run, due, number)
    loop.run_until_complete(asyncio.sleep(2e6))
    loop.close()
    assert ran == sorted((due, number) for number, due in enumerate(due_s))
    # To the instant, not within a clock's resolution of it.
    assert seen_s == [due for due, _ in ran]


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=40))
def test_the_next_timer_is_the_first_that_was_not_cancelled(timers: list[tuple[float, bool]]):
    loop = VirtualLoop()
    for due_s, cancelled in timers:
        timer = loop.call_at(due_s, print)
        if cancelled:
            timer.cancel()
    kept = [due_s for due_s, cancelled in timers if not cancelled]
    assert loop.next_timer_s() == min(kept, default=math.inf)
    loop.close()


def test_what_is_ready_happens_now(loop: VirtualLoop) -> None:
    loop.call_at(5.0, print)
    loop.call_soon(print)
    assert loop.next_timer_s() == 0.0


def test_a_timer_that_is_overdue_is_due_now(loop: VirtualLoop) -> None:
    loop.run_until_complete(asyncio.sleep(3.0))
    loop.call_at(1.0, print)
    assert loop.next_timer_s() == 3.0


def test_a_closed_loop_takes_no_timers() -> None:
    loop = VirtualLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_at(1.0, print)


def test_what_the_work_raises_passes_through(time: VirtualTime) -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        asyncio.run(time.run(fail))


def test_a_time_limit_of_virtual_seconds_holds(time: VirtualTime) -> None:
    async def late() -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(11)

    with pytest.raises(TimeoutError):
        asyncio.run(time.run(late))
    assert time.clock.now_ns() == 10_000_000_000


def test_cancellation_from_outside_waits_until_the_work_has_ended(time: VirtualTime) -> None:
    told: list[str] = []
    begun = threading.Event()

    async def work() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                begun.set()
        finally:
            await asyncio.sleep(3600)
            told.append("tidied up")

    async def cancel() -> None:
        running = asyncio.create_task(time.run(work))
        await asyncio.to_thread(begun.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        told.append("cancelled")

    asyncio.run(cancel())
    assert told == ["tidied up", "cancelled"]


def test_a_second_cancellation_reaches_the_work_too(time: VirtualTime) -> None:
    tries = [threading.Event(), threading.Event()]

    async def work() -> None:
        for begun in tries:
            with contextlib.suppress(asyncio.CancelledError):
                while True:
                    await asyncio.sleep(1)
                    begun.set()

    async def cancel() -> None:
        running = asyncio.create_task(time.run(work))
        for begun in tries:
            await asyncio.to_thread(begun.wait)
            running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel())


def test_another_thread_wakes_what_waits_for_it(time: VirtualTime) -> None:
    async def wait() -> str:
        heard: asyncio.Future[str] = time.loop.create_future()
        threading.Timer(
            0.01, lambda: time.loop.call_soon_threadsafe(heard.set_result, "heard")
        ).start()
        return await heard

    assert asyncio.run(time.run(wait)) == "heard"
    assert time.clock.now_ns() == 0


def test_where_nothing_can_happen_any_more_the_work_is_ended_and_named(time: VirtualTime) -> None:
    told: list[str] = []

    async def wait_for_nobody() -> None:
        await asyncio.sleep(2.5)
        try:
            await asyncio.Event().wait()
        finally:
            told.append("tidied up")

    with pytest.raises(
        RuntimeError, match=r"virtual time stands still at 2\.5 s: .*\.wait_for_nobody$"
    ):
        asyncio.run(time.run(wait_for_nobody))
    assert told == ["tidied up"]
    assert asyncio.run(time.run(lambda: _sleep_s(1))) == 3.5


def test_time_does_not_jump_to_infinity(time: VirtualTime) -> None:
    with pytest.raises(RuntimeError, match="virtual time stands still at 1 s"):
        asyncio.run(time.run(lambda: _sleep_s(1.0, math.inf)))


def test_one_run_at_a_time(time: VirtualTime) -> None:
    async def both() -> None:
        first = asyncio.create_task(time.run(lambda: _sleep_s(*[1.0] * 1000)))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one run at a time"):
            await time.run(lambda: _sleep_s(1.0))
        assert await first == 1000.0

    asyncio.run(both())


def test_closing_ends_what_is_left_and_may_be_done_twice() -> None:
    time = VirtualTime()
    told: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def stay() -> None:
        try:
            await asyncio.sleep(math.inf)
        finally:
            await asyncio.sleep(1)
            told.append("tidied up")

    async def leave() -> None:
        kept.append(asyncio.create_task(stay()))
        await asyncio.sleep(1)

    asyncio.run(time.run(leave))
    time.close()
    time.close()
    assert told == ["tidied up"]
    assert kept[0].cancelled()
