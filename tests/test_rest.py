"""Waiting until a server is idle, in virtual time, with counts and canaries worked out by hand."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from pytest_agentperf.prelude import Rest
from pytest_agentperf.records import Sample
from pytest_agentperf.rest import Rester
from pytest_agentperf.sim.virtual_time import VirtualTime

T = TypeVar("T")


class Counts:
    """Tells what it is given, one a look, and the last one from then on."""

    def __init__(self, *running: float | None) -> None:
        self.left = list(running)

    def sample(self) -> Sequence[Sample]:
        now = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if now is None:
            return ()
        rows = {"running": now, "waiting": 0.0, "kv_use_ratio": 0.3}
        return [Sample(at_ns=0, series=k, unit="1", value=v) for k, v in rows.items()]

    def close(self) -> None:
        pass


class Canaries:
    """Takes as long as it is told, one a call, and the last one from then on."""

    def __init__(self, *ttft_s: float | None) -> None:
        self.left = list(ttft_s)
        self.sent = 0

    async def __call__(self) -> float | None:
        self.sent += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.fixture
def time() -> Iterator[VirtualTime]:
    time = VirtualTime()
    yield time
    time.close()


def run(work: Callable[[], Coroutine[Any, Any, T]], time: VirtualTime) -> T:
    import asyncio  # noqa: PLC0415 for one call

    return asyncio.run(time.run(work))


def rest(time: VirtualTime, gauges: Counts | None, canary: Canaries, limit_s: float = 60.0) -> Rest:
    rester = Rester(gauges=gauges, canary=canary, clock=time.clock, limit_s=limit_s)

    async def work() -> Rest:
        await rester.know()
        return await rester.until_idle()

    return run(work, time)


def test_counts_decide_where_a_server_tells_them(time: VirtualTime) -> None:
    canary = Canaries(0.1)
    # One look to know that it tells, and four every half second.
    found = rest(time, Counts(3, 3, 2, 1, 0), canary)
    assert found == Rest(
        waited_s=1.5,
        idle=True,
        evidence="metrics",
        text="0 requests run or wait at the server",
    )
    assert canary.sent == 0


def test_counts_that_stand_still_are_brought_up_to_date(time: VirtualTime) -> None:
    """Some servers write them only while they work: after ten looks a canary makes them."""
    canary = Canaries(0.1)
    found = rest(time, Counts(*[2.0] * 11, 0), canary)
    assert found.idle
    assert canary.sent == 1
    assert found.waited_s == 5.0


def test_a_canary_is_back_at_its_first_value(time: VirtualTime) -> None:
    # The better of the first two is 0.1 s: up to 2 x 0.1 + 0.05 s the server is idle.
    canary = Canaries(0.3, 0.1, 1.5, 0.26, 0.25)
    found = rest(time, None, canary)
    assert (found.idle, found.waited_s, found.evidence) == (True, 1.0, "canary")
    assert found.text == "the canary took 0.25 s, at first 0.1 s"


def test_a_canary_that_fails_is_no_rest(time: VirtualTime) -> None:
    found = rest(time, Counts(None), Canaries(0.1, 0.1, None, 0.1))
    assert (found.idle, found.waited_s) == (True, 0.5)


def test_no_wait_is_longer_than_its_limit(time: VirtualTime) -> None:
    found = rest(time, Counts(7), Canaries(0.1), limit_s=2.0)
    assert (found.idle, found.waited_s, found.evidence) == (False, 2.0, "metrics")
    assert found.text.startswith("7 requests run")


def test_counts_that_cannot_be_read_any_more_are_no_counts(time: VirtualTime) -> None:
    class Closed(Counts):
        def sample(self) -> Sequence[Sample]:
            raise RuntimeError("the client has been closed")

    found = rest(time, Closed(), Canaries(0.1))
    assert (found.idle, found.evidence) == (True, "canary")


def test_where_nothing_tells_nobody_waits(time: VirtualTime) -> None:
    found = rest(time, None, Canaries(None))
    assert (found.idle, found.waited_s, found.evidence) == (True, 0.0, "none")
