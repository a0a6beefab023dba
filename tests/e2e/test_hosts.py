"""A cluster without Ray: two hosts in this process, each with load processes and a clock."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.errors import LoadError
from pytest_agentperf.host import Host
from pytest_agentperf.hosts import HostPool, Machine
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.records import Measurement
from pytest_agentperf.settings import make_settings
from pytest_agentperf.sim import launch
from pytest_agentperf.synthesis import synthesize
from tests.workloads import SPEC, small_setup

pytestmark = pytest.mark.e2e

SKEWS_NS = {"right": 0, "ahead": 50_000_000}
SETTINGS = make_settings(
    {"mode": "smoke", "start_spread_s": 0.2, "settle_s": 0.2, "min_steady_s": 1.0}
)


class _Here:
    def __init__(self, host: Host) -> None:
        self._host = host

    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(self._host, method)(*args)

    def end(self) -> None:
        pass


class _Hosts:
    def machines(self) -> Sequence[Machine]:
        return [Machine(id=name, name=name, cores=2) for name in SKEWS_NS]

    async def start(self, machine: Machine, workers: int) -> _Here:
        del workers
        return _Here(Host(skew_ns=SKEWS_NS[machine.id]))

    async def share(self, path: Path) -> Any:
        return await asyncio.to_thread(np.fromfile, path, dtype=np.uint8)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """A small workload on a simulator of its own."""
    dataset = synthesize(trajectories=6, turns=3, isl_tokens=6000, osl_tokens=300, tool_s=0, seed=1)
    info = launch.connect("sim:", models=("m",))
    yield small_setup(dataset, url=info.url, model="m", folder=tmp_path, osl_header=info.osl_header)
    info.close()


def _phase(pool: HostPool) -> Coroutine[Any, Any, Measurement]:
    return PhaseRun(
        pool=pool,
        settings=SETTINGS,
        procedure=full_phase(SPEC, SETTINGS),
        readings=(),
        clock=REAL_TIME,
        tell=Listeners(),
    ).measure(number=1, agents=4, workers=2)


def test_a_phase_is_that_of_one_machine(setup: Setup) -> None:
    async def measure() -> Measurement:
        pool = HostPool(_Hosts(), asked=2)
        await pool.set_up(setup)
        try:
            await pool.grow(2)
            return await _phase(pool)
        finally:
            await pool.close()

    seen = asyncio.run(measure())
    assert {t.agent for t in seen.turns} == {0, 1, 2, 3}
    assert seen.broken is None
    assert seen.floors_met
    assert seen.cut == 0
    assert seen.window.start_ns == max(seen.health.first_sent_ns) + 200_000_000
    for host in seen.health.hosts:
        assert abs(host.clock_offset_s - SKEWS_NS[host.name] / 1e9) <= host.clock_error_s


def test_a_load_process_that_dies_is_named_with_its_node(setup: Setup) -> None:
    async def murder() -> None:
        pool = HostPool(_Hosts(), asked=2)
        await pool.set_up(setup)
        await pool.grow(2)
        run = asyncio.create_task(_phase(pool))
        await asyncio.sleep(0.5)
        victims = [
            child
            for child in psutil.Process().children()
            if "pytest_agentperf.worker" in child.cmdline()
        ]
        victims[0].kill()
        try:
            await asyncio.wait_for(run, 5)
        finally:
            await pool.close()

    with pytest.raises(LoadError, match=r"node (right|ahead): load process 0: ended with exit"):
        asyncio.run(murder())
