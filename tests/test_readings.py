"""Sources that are read beside the load, in virtual time and in real."""

import asyncio
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pytest_agentperf.clock import REAL_TIME, Clock
from pytest_agentperf.protocols import ReadingError
from pytest_agentperf.readings import Metering, Readings, make_readings
from pytest_agentperf.records import Metered, Role, Sample
from pytest_agentperf.sim.virtual_time import VirtualTime


class Meter:
    """Two series, and after so many readings a failure."""

    name = kind = "test meter"
    role: Role = "accelerator"
    period_s = 0.01
    devices: Sequence[Mapping[str, Any]] = ({"series": "gpu0"}, {"series": "gpu1"})

    def __init__(self, clock: Clock, *, fails_at: int = 1000) -> None:
        self._clock = clock
        self._left = fails_at
        self.threads: set[int] = set()

    def sample(self) -> Sequence[Sample]:
        self.threads.add(threading.get_ident())
        self._left -= 1
        if self._left <= 0:
            raise OSError("gone")
        at_ns = self._clock.now_ns()
        return [Sample(at_ns=at_ns, series=f"gpu{i}", unit="W", value=350.0) for i in range(2)]

    def clock(self) -> None:
        pass

    def close(self) -> None:
        pass


def read(readings: Readings, time: VirtualTime, *, for_s: float) -> None:
    """Read for a span of virtual time."""

    async def work() -> None:
        going = asyncio.create_task(readings.go_on())
        await asyncio.sleep(for_s)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)

    asyncio.run(time.run(work))


def test_a_source_is_read_at_once_and_every_period_and_all_series_each_time():
    time = VirtualTime()
    readings = Readings(Meter(time.clock), time.clock, period_s=2.0)
    assert readings.samples == ()
    read(readings, time, for_s=5.0)
    time.close()
    assert [(s.at_ns, s.series) for s in readings.samples] == [
        (at_s * 1_000_000_000, f"gpu{i}") for at_s in (0, 2, 4) for i in range(2)
    ]


def test_a_source_that_fails_is_read_no_more_and_what_it_told_stays():
    time = VirtualTime()
    readings = Readings(Meter(time.clock, fails_at=3), time.clock, period_s=1.0)

    async def work() -> None:
        with pytest.raises(OSError, match="gone"):
            await readings.go_on()

    asyncio.run(time.run(work))
    assert time.clock.now_ns() == 1_000_000_000 * 2
    time.close()
    assert [s.at_ns for s in readings.samples[::2]] == [0, 1_000_000_000]


def test_in_real_time_a_source_is_read_in_a_thread_and_never_holds_up_the_load():
    meter = Meter(REAL_TIME)
    asyncio.run(Readings(meter, REAL_TIME, period_s=1.0).take())
    assert threading.get_ident() not in meter.threads


def test_where_time_jumps_no_thread_is_used():
    time = VirtualTime()
    meter = Meter(time.clock)
    seen: set[int] = set()

    async def work() -> None:
        seen.add(threading.get_ident())
        await Readings(meter, time.clock, period_s=1.0).take()

    asyncio.run(time.run(work))
    time.close()
    assert meter.threads == seen


def test_without_a_source_nothing_is_read():
    assert make_readings(REAL_TIME) == ()


def test_a_servers_counts_have_their_readings():
    assert len(make_readings(REAL_TIME, gauges=Meter(REAL_TIME))) == 1


def metered(meter: Meter, *, for_s: float = 0.05) -> tuple[Metered, float]:
    """Return what a meter told of a phase in real time, and how long ending it took."""

    async def work() -> tuple[Metered, float]:
        metering = Metering((meter,), REAL_TIME)
        metering.begin()
        await asyncio.sleep(for_s)
        closed_ns = REAL_TIME.now_ns()
        await metering.end(closed_ns)
        (told,) = metering.metered()
        took_s = (REAL_TIME.now_ns() - closed_ns) / 1e9
        await metering.stop()
        return told, took_s

    return asyncio.run(work())


def test_where_time_jumps_a_meter_is_read_every_second():
    time = VirtualTime()
    metering = Metering((Meter(time.clock),), time.clock)

    async def work() -> None:
        metering.begin()
        await asyncio.sleep(2.5)
        await metering.end(time.clock.now_ns())

    asyncio.run(time.run(work))
    time.close()
    (told,) = metering.metered()
    at_s = [s.at_ns / 1e9 for s in told.samples[::2]]
    assert at_s == [0, 1, 2, 2.5]
    assert (told.series, told.devices, told.trouble) == (("gpu0", "gpu1"), 2, None)


def test_a_meter_is_read_in_a_thread_of_its_own_until_it_has_told_of_the_end():
    meter = Meter(REAL_TIME)
    told, _ = metered(meter)
    assert len(meter.threads) == 1
    assert threading.get_ident() not in meter.threads
    assert {s.series for s in told.samples} == {"gpu0", "gpu1"}
    assert told.trouble is None


def test_a_meter_that_fails_is_read_again_and_says_so():
    told, _ = metered(Meter(REAL_TIME, fails_at=3))
    assert len(told.samples) == 2 * 2
    assert told.trouble is not None
    assert re.fullmatch(r"\d+ of \d+ readings failed, the last: OSError: gone", told.trouble)


def test_what_could_be_read_beside_a_failure_is_kept():
    class Half(Meter):
        def sample(self) -> Sequence[Sample]:
            one, _ = super().sample()
            raise ReadingError("gpu1 is lost", [one])

    told, _ = metered(Half(REAL_TIME))
    assert {s.series for s in told.samples} == {"gpu0"}
    assert told.trouble is not None
    assert told.trouble.endswith("the last: gpu1 is lost")


def test_a_meter_that_hangs_is_waited_for_no_longer_than_a_moment():
    class Hanging(Meter):
        def sample(self) -> Sequence[Sample]:
            released.wait(30)
            return ()

    released = threading.Event()
    told, took_s = metered(Hanging(REAL_TIME))
    released.set()
    assert took_s < 4
    assert told.samples == ()
    assert told.trouble is not None
    assert told.trouble.startswith("a reading has not come back for 2.")


def test_idle_power_is_the_mean_of_a_while_without_load():
    time = VirtualTime()
    metering = Metering((Meter(time.clock),), time.clock)
    (idle,) = asyncio.run(time.run(lambda: metering.idle(for_s=10.0)))
    time.close()
    assert (idle.power.mean_w, idle.power.reason) == (700.0, None)
    assert idle.power.largest_gap_s == 1.0


def test_no_meter_and_no_time_give_no_idle_power():
    assert asyncio.run(Metering().idle(for_s=10.0)) == ()
    assert asyncio.run(Metering((Meter(REAL_TIME),)).idle(for_s=0.0)) == ()


def test_power_now_is_that_of_the_latest_readings_and_not_of_old_ones() -> None:
    time = VirtualTime()
    metering = Metering([Meter(time.clock, fails_at=100)], time.clock)
    drawn: list[float | None] = []

    async def work() -> None:
        drawn.append(metering.power_w())
        metering.begin()
        await asyncio.sleep(10.5)
        drawn.append(metering.power_w())
        await asyncio.sleep(100)  # it has failed from the 100th reading on
        drawn.append(metering.power_w())
        await metering.end(time.clock.now_ns())

    asyncio.run(time.run(work))
    time.close()
    assert drawn == [None, pytest.approx(700.0), None]


def test_without_a_meter_of_accelerators_power_is_not_known() -> None:
    meter = Meter(REAL_TIME)
    meter.role = "chassis"
    assert Metering([meter]).power_w() is None
    assert Metering().power_w() is None
