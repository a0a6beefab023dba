"""Energy of a window by the meters against the integral of the engine that drew it."""

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from pytest_agentperf.clock import Clock
from pytest_agentperf.power import measure_meters
from pytest_agentperf.readings import Metering
from pytest_agentperf.records import Metered, RawAnswer, Role, Sample, Window
from pytest_agentperf.sim.launch import connect_virtual
from pytest_agentperf.sim.virtual import VirtualMeter, VirtualServer

ENDPOINT = "sim+virtual:h200x8/gpt-oss-120b"
EDGES_S = (31.3333, 47.0071, 60.5, 77.123456, 93.9, 121.77)
"""None of them an instant at which a meter is read."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was read, and what the engine had drawn at each edge."""

    metered: Sequence[Metered]
    drawn_j: dict[float, float]


class Watts(VirtualMeter):
    """Reads the power of the moment instead, as the least of the sources can."""

    name = kind = "watts"
    role: Role = "accelerator"

    def __init__(self, server: VirtualServer) -> None:
        super().__init__(server, "H200")
        self._clock = server.clock

    def sample(self) -> Sequence[Sample]:
        at_ns = self._clock.now_ns()
        rows = self._server.fleet.status(at_ns / 1e9)
        each_w = [row.power_w / row.accelerators for row in rows for _ in range(row.accelerators)]
        return [
            Sample(at_ns=at_ns, series=f"gpu{i}", unit="W", value=w) for i, w in enumerate(each_w)
        ]


def _ask(number: int, draw: random.Random) -> bytes:
    text = f"{number} " + "x" * draw.randrange(2_000, 60_000)
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
    ).encode()


async def _agent(server: VirtualServer, number: int, clock: Clock) -> None:
    draw = random.Random(number)
    connection = server.connect(timeout_s=300)
    while clock.now_ns() < 130e9:
        await connection.chat(_ask(number, draw), RawAnswer(), osl_tokens=draw.randrange(20, 900))
        await asyncio.sleep(draw.expovariate(0.5))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Twelve agents for 130 s of virtual time, with pauses in which the engine idles."""
    info = connect_virtual(ENDPOINT, models=("m",))
    server = info.in_process
    assert isinstance(server, VirtualServer)
    assert info.meter is not None
    clock = server.clock
    counters = Metering((info.meter,), clock)
    watts = Watts(server)
    fast: list[Sample] = []
    drawn_j: dict[float, float] = {}

    async def sample_watts() -> None:
        while True:
            fast.extend(watts.sample())
            await asyncio.sleep(0.1)

    async def look(at_s: float) -> None:
        await asyncio.sleep(at_s - clock.now_ns() / 1e9)
        at_ns = clock.now_ns()
        drawn_j[at_s] = sum(row.energy_j for row in server.fleet.status(at_ns / 1e9))

    async def work() -> None:
        counters.begin()
        going = asyncio.create_task(sample_watts())
        looks = [asyncio.create_task(look(at_s)) for at_s in EDGES_S]
        await asyncio.gather(*(_agent(server, number, clock) for number in range(12)), *looks)
        await counters.end(clock.now_ns())
        going.cancel()

    asyncio.run(server.run(work))
    (counted,) = counters.metered()
    sampled = Metered(
        meter="watts",
        kind="watts",
        role="accelerator",
        series=counted.series,
        devices=counted.devices,
        samples=tuple(fast),
    )
    yield Run((counted, sampled), drawn_j)
    info.close()


WINDOWS = [
    pytest.param(a, b, id=f"{a:g} to {b:g} s")
    for i, a in enumerate(EDGES_S)
    for b in EDGES_S[i + 1 :]
]


@pytest.mark.parametrize(("start_s", "end_s"), WINDOWS)
@pytest.mark.parametrize("place", [0, 1], ids=["counter every second", "power every 0.1 s"])
def test_energy_of_a_window_between_readings_is_the_engines(
    run: Run, start_s: float, end_s: float, place: int
) -> None:
    window = Window(start_ns=round(start_s * 1e9), end_ns=round(end_s * 1e9))
    (found,) = measure_meters([run.metered[place]], window)
    truth_j = run.drawn_j[end_s] - run.drawn_j[start_s]
    assert found.power.reason is None
    assert found.power.energy_j == pytest.approx(truth_j, rel=0.005)
    assert found.power.devices == 8
