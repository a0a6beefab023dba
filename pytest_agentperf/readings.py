"""Meters and a server's own counts, read beside the load.

In real time a meter has a thread of its own, from before the first phase to after the last, that
nobody ever waits for: what has come is taken, and what has not is a gap with a reason.
"""

import asyncio
import threading
from collections.abc import Sequence

from pytest_agentperf.clock import REAL_TIME, Clock
from pytest_agentperf.power import MeterPower, measure_meters, role_power
from pytest_agentperf.protocols import Gauges, Meter, ReadingError
from pytest_agentperf.records import Metered, Sample, Window

__all__ = ["MeterReadings", "Metering", "Readings", "make_readings"]

_GAUGES_S = 1.0
"""A page of metrics takes a server milliseconds to write."""
_JUMPING_S = 1.0
"""Where time jumps every look takes real time."""
_KEPT_NS = 300_000_000_000
"""So much from before a phase is kept: some meters are read once a minute."""
_LATE_S = 2.0
_LATEST_S = 60.0
_LATEST = 64
"""Samples a series, of which the end of a phase is sought."""
_LOOK_S = 0.05
_STALE = 10
"""What was read longer ago than so many periods says nothing of now."""
_STOP_S = 2.0


class Readings:
    """What one server told of itself."""

    def __init__(self, source: Gauges, clock: Clock, *, period_s: float) -> None:
        self._source = source
        self._clock = clock
        self._period_s = period_s
        self._samples: list[Sample] = []

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples so far, in order."""
        return tuple(self._samples)

    async def go_on(self) -> None:
        """Read the source every period, until cancelled or it fails."""
        while True:
            await self.take()
            await asyncio.sleep(self._period_s)

    async def take(self) -> None:
        """Read the source once."""
        if self._clock.jumps:  # a thread would let time jump meanwhile
            self._samples += self._source.sample()
        else:
            self._samples += await asyncio.to_thread(self._source.sample)


class MeterReadings:
    """What one meter told, and what went wrong."""

    def __init__(self, meter: Meter, clock: Clock) -> None:
        self.meter = meter
        self._clock = clock
        self._samples: list[Sample] = []
        self._readings = self._failures = 0
        self._last_failure = ""
        self._asked_ns: int | None = None
        """When the reading began that has not come back."""
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def begin(self) -> None:
        """Begin a phase: forget what lies long before it, and earlier failures."""
        if self._thread is None and not self._clock.jumps:
            # A daemon: one that hangs for good must not keep the interpreter from ending.
            self._thread = threading.Thread(
                target=self._read_on, name=f"meter {self.meter.name}", daemon=True
            )
            self._thread.start()
        from_ns = self._clock.now_ns() - _KEPT_NS
        old = next((i for i, s in enumerate(self._samples) if s.at_ns >= from_ns), 0)
        del self._samples[:old]  # in place: the thread goes on adding
        self._readings = self._failures = 0

    async def go_on(self) -> None:
        """Where time jumps, read the meter every second of it; else its thread does."""
        while self._clock.jumps:
            self.read()
            await asyncio.sleep(_JUMPING_S)

    def read(self) -> None:
        """Read the meter once, and take note of what went wrong."""
        self._readings += 1
        self._asked_ns = self._clock.now_ns()
        try:
            self._samples.extend(self.meter.sample())
        except ReadingError as failed:
            self._samples.extend(failed.samples)
            self._fail(str(failed))
        except Exception as failed:  # noqa: BLE001 a meter may be a third party's
            self._fail(f"{type(failed).__name__}: {failed}")
        self._asked_ns = None

    async def told_until(self, at_ns: int) -> None:
        """Wait until every series was read after an instant, as long as can be expected.

        A meter on another machine tells what was when it is asked the next time.
        """
        if self._clock.jumps:
            self.read()  # the window may have closed since the last reading
            return
        limit_s = min(_LATEST_S, _LATE_S + 2 * max(self.meter.period_s, self._step_s()))
        until_ns = self._clock.now_ns() + int(limit_s * 1e9)
        while not self._is_told(at_ns) and self._clock.now_ns() < until_ns:  # noqa: ASYNC110 no event: a thread
            await asyncio.sleep(_LOOK_S)

    def metered(self, *, latest: bool = False) -> Metered:
        """Return what is known so far, or of it only the latest readings."""
        meter = self.meter
        return Metered(
            meter=meter.name,
            kind=meter.kind,
            role=meter.role,
            series=self._series(),
            devices=sum(int(d.get("count", 1)) for d in meter.devices),
            samples=tuple(self._latest() if latest else self._samples),
            trouble=self.trouble(),
            clock=meter.clock(),
        )

    def trouble(self) -> str | None:
        """Say what went wrong since the phase began; ``None``: nothing."""
        said: list[str] = []
        if self._failures:
            said.append(
                f"{self._failures} of {self._readings} readings failed, the last: "
                f"{self._last_failure}"
            )
        asked_ns = self._asked_ns
        if not self._clock.jumps and asked_ns is not None:
            waited_s = (self._clock.now_ns() - asked_ns) / 1e9
            if waited_s > self.meter.period_s + _LATE_S:
                said.append(f"a reading has not come back for {waited_s:.1f} s")
        return "; ".join(said) or None

    async def stop(self) -> None:
        """Read no more; waits a moment for a reading that is under way."""
        self._stopped.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _STOP_S)

    def _read_on(self) -> None:
        while not self._stopped.is_set():
            self.read()
            self._stopped.wait(self.meter.period_s)

    def _fail(self, text: str) -> None:
        self._failures += 1
        self._last_failure = text

    def _series(self) -> tuple[str, ...]:
        return tuple(str(device["series"]) for device in self.meter.devices)

    def _is_told(self, at_ns: int) -> bool:
        if self._stopped.is_set():
            return True
        told = {s.series for s in self._latest() if s.at_ns >= at_ns}
        return told >= set(self._series())

    def _latest(self) -> Sequence[Sample]:
        return self._samples[-_LATEST * max(1, len(self.meter.devices)) :]

    def _step_s(self) -> float:
        """Return the longest usual span between two stamps of a series, seconds."""
        first = next(iter(self._series()), None)
        at_ns = sorted({s.at_ns for s in self._latest() if s.series == first})[-4:]
        return (at_ns[-1] - at_ns[0]) / 1e9 / (len(at_ns) - 1) if len(at_ns) > 1 else 0.0


class Metering:
    """All meters of a run."""

    def __init__(self, meters: Sequence[Meter] = (), clock: Clock = REAL_TIME) -> None:
        self._clock = clock
        self._readings = [MeterReadings(meter, clock) for meter in meters]
        self._going: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Begin a phase, inside the loop in whose time it runs."""
        for each in self._readings:
            each.begin()
        self._going = [asyncio.create_task(each.go_on()) for each in self._readings]

    async def end(self, at_ns: int) -> None:
        """Wait a moment until every meter has told of an instant, then end the phase."""
        await asyncio.gather(*(each.told_until(at_ns) for each in self._readings))
        for task in self._going:
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)

    def metered(self) -> tuple[Metered, ...]:
        """Return what every meter has told so far, in the order in which they were named."""
        return tuple(each.metered() for each in self._readings)

    def power_w(self) -> float | None:
        """Return what all accelerators have drawn over their latest readings; ``None``: unknown.

        It is for who looks on: the figure of a phase is made of its whole window.
        """
        readings = [r for r in self._readings if r.meter.role == "accelerator"]
        metered = [r.metered(latest=True) for r in readings]
        stamps: dict[str, list[int]] = {}
        for each in metered:
            for sample in each.samples:
                stamps.setdefault(f"{each.meter}/{sample.series}", []).append(sample.at_ns)
        if not stamps:
            return None
        window = Window(
            start_ns=max(at_ns[0] for at_ns in stamps.values()),
            end_ns=min(at_ns[-1] for at_ns in stamps.values()),
        )
        stale_s = _LATE_S + _STALE * max(r.meter.period_s for r in readings)
        if window.length_s <= 0 or self._clock.now_ns() - window.end_ns > stale_s * 1e9:
            return None
        return role_power(measure_meters(metered, window), "accelerator").mean_w

    async def idle(self, *, for_s: float) -> tuple[MeterPower, ...]:
        """Measure all meters for so many seconds before any load."""
        if not self._readings or for_s <= 0:
            return ()
        self.begin()
        began_ns = self._clock.now_ns()
        await asyncio.sleep(for_s)
        window = Window(start_ns=began_ns, end_ns=self._clock.now_ns())
        await self.end(window.end_ns)
        return measure_meters(self.metered(), window)

    async def stop(self) -> None:
        """Read no more."""
        await asyncio.gather(*(each.stop() for each in self._readings))


def make_readings(clock: Clock, *, gauges: Gauges | None = None) -> tuple[Readings, ...]:
    """Return what asks the server over one phase, as often as is good for it."""
    if gauges is None:
        return ()
    return (Readings(gauges, clock, period_s=_JUMPING_S if clock.jumps else _GAUGES_S),)
