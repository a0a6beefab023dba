"""Waiting for reports: never longer than asked, and never past a Ctrl-C."""

import asyncio

import pytest

from pytest_agentperf.pool import next_of


def test_what_is_there_comes_at_once():
    async def work() -> int | None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        queue.put_nowait(7)
        return await next_of(queue, 0.0)

    assert asyncio.run(work()) == 7


def test_nothing_comes_in_time():
    async def work() -> int | None:
        return await next_of(asyncio.Queue[int](), 0.001)

    assert asyncio.run(work()) is None


@pytest.mark.parametrize("timeout_s", [0.0, 0.001, 30.0])
def test_a_cancellation_from_before_it_began_is_not_its_own(timeout_s: float):
    """Ctrl-C cancels the task that runs; it is told where that waits the next time."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await next_of(asyncio.Queue[int](), timeout_s)
        pytest.fail("it went on")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
