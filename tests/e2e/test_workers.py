"""Load processes: dealt, heard, and missed when they die."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.errors import LoadError
from pytest_agentperf.metrics import members
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.records import Measurement
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.sim import launch
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.workers import WorkerPool
from tests.workloads import SPEC, small_setup

pytestmark = pytest.mark.e2e

SETTINGS = make_settings(
    {"mode": "smoke", "start_spread_s": 0.2, "settle_s": 0.2, "min_steady_s": 1.0}
)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """A small workload on a simulator of its own."""
    dataset = synthesize(trajectories=6, turns=3, isl_tokens=6000, osl_tokens=300, tool_s=0, seed=1)
    info = launch.connect("sim:", models=("m",))
    yield small_setup(dataset, url=info.url, model="m", folder=tmp_path, osl_header=info.osl_header)
    info.close()


def _run(pool: WorkerPool, settings: Settings) -> PhaseRun:
    return PhaseRun(
        pool=pool,
        settings=settings,
        procedure=full_phase(SPEC, settings),
        readings=(),
        clock=REAL_TIME,
        tell=Listeners(),
    )


async def _phase(setup: Setup, *, agents: int, workers: int) -> Measurement:
    pool = WorkerPool()
    await pool.set_up(setup)
    await pool.grow(workers)
    try:
        return await _run(pool, SETTINGS).measure(number=1, agents=agents, workers=workers)
    finally:
        await pool.close()


def test_agents_are_shared_by_processes_and_all_of_them_work(setup: Setup) -> None:
    seen = asyncio.run(_phase(setup, agents=5, workers=2))
    assert {t.agent for t in seen.turns} == {0, 1, 2, 3, 4}
    assert len(seen.health.first_sent_ns) == 5
    assert seen.floors_met
    assert seen.broken is None


def test_the_engine_tells_how_late_it_read(setup: Setup) -> None:
    phase = asyncio.run(_phase(setup, agents=4, workers=2))
    seen = phase.health
    assert seen.degraded is None
    assert len(seen.read_lag) == 2
    assert all(lag.stamped + lag.unstamped > 0 for lag in seen.read_lag)
    # Garbage is not collected while load runs.
    assert seen.gc_pause_s == 0
    assert all(t.sent_ns <= (t.written_ns or 0) <= t.end_ns for t in phase.turns)


def test_load_over_httpx_is_marked(setup: Setup) -> None:
    setup.client = "httpx"
    seen = asyncio.run(_phase(setup, agents=2, workers=1))
    assert seen.health.degraded == "degraded (httpx client)"
    assert seen.health.read_lag == ()
    assert {t.error for t in seen.turns} == {None}


def test_an_agents_work_does_not_depend_on_how_many_there_are(setup: Setup) -> None:
    few = asyncio.run(_phase(setup, agents=2, workers=1))
    many = asyncio.run(_phase(setup, agents=4, workers=2))

    def order(seen: Measurement, agent: int) -> list[tuple[str, int]]:
        turns = sorted((t for t in seen.turns if t.agent == agent), key=lambda t: t.sent_ns)
        return [(t.trajectory, t.turn) for t in turns]

    for agent in (0, 1):
        one, other = order(few, agent), order(many, agent)
        shared = min(len(one), len(other))
        assert shared > 3
        assert one[:shared] == other[:shared]


def test_starts_are_spread_and_the_window_opens_after_the_last(setup: Setup) -> None:
    seen = asyncio.run(_phase(setup, agents=4, workers=1))
    first = seen.health.first_sent_ns
    begun = {t.agent: t for t in seen.turns if (t.ordinal, t.turn) == (0, 0)}
    due_ns = [begun[agent].scheduled_ns for agent in range(4)]
    # 0.2 s over four agents; a busy machine sends late, but never early.
    assert [b - a for a, b in pairwise(due_ns)] == [50_000_000] * 3
    assert all(sent_ns >= at_ns for sent_ns, at_ns in zip(first, due_ns, strict=True))
    assert seen.window.start_ns == max(first) + 200_000_000


def test_every_member_of_the_window_has_ended(setup: Setup) -> None:
    seen = asyncio.run(_phase(setup, agents=4, workers=1))
    assert seen.cut == 0
    # No agent waits for a tool here: each had a request under way when the window closed.
    assert any(t.end_ns > seen.window.end_ns for t in members(seen.turns, seen.window))


def test_a_load_process_that_dies_is_named_at_once(setup: Setup) -> None:
    async def murder() -> None:
        pool = WorkerPool()
        await pool.set_up(setup)
        await pool.grow(2)
        run = asyncio.create_task(_run(pool, SETTINGS).measure(number=1, agents=4, workers=2))
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

    with pytest.raises(LoadError, match=r"load process \d: ended with exit code -9"):
        asyncio.run(murder())
