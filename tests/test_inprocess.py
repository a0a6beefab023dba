"""Phases in virtual time on an endpoint whose answers are worked out by hand."""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_agentperf.asking import observe_models
from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.clock import Clock
from pytest_agentperf.errors import LoadError
from pytest_agentperf.events import Event
from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.metrics import summarize
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.preflight import open_folder
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.protocols import Meter
from pytest_agentperf.readings import Metering
from pytest_agentperf.records import Measurement
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.trajectory import Dataset
from tests.virtual import FIRST_S, Scripted, scripted_info
from tests.workloads import small_setup

T = TypeVar("T")

OFFICIAL = Settings()
DATASET = synthesize(trajectories=6, turns=3, isl_tokens=3000, osl_tokens=50, tool_s=2.0, seed=1)
SPEED = SLOTier(
    model="m",
    name="t",
    limits=(Limit(metric="output_speed_tok_per_s", statistic="p25", value=10.0),),
)
SPEC = ModelSpec(model="m", tiers=(SPEED,))


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return small_setup(DATASET, url="scripted:", model="m", folder=tmp_path)


def _in_time(endpoint: Scripted, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(endpoint.run(lambda: work))


async def _phase(
    pool: InProcessPool,
    setup: Setup,
    clock: Clock,
    *,
    agents: int,
    meter: Meter | None = None,
    settings: Settings = OFFICIAL,
) -> Measurement:
    await pool.set_up(setup)
    await pool.grow(1)
    run = PhaseRun(
        pool=pool,
        settings=settings,
        procedure=full_phase(SPEC, settings),
        readings=(),
        metering=Metering(() if meter is None else (meter,), clock),
        clock=clock,
        tell=Listeners(),
    )
    return await run.measure(number=1, agents=agents, workers=1)


def _measured(endpoint: Scripted, setup: Setup, **changes: Any) -> Measurement:
    pool = InProcessPool(endpoint)
    return _in_time(endpoint, _phase(pool, setup, endpoint.clock, **changes))


def test_an_official_phase_is_exact_to_the_nanosecond(endpoint: Scripted, setup: Setup) -> None:
    seen = _measured(endpoint, setup, agents=4)
    found = summarize(seen)
    # 4 agents: 50 tokens after the first, 4 x 0.01 s each, are 25 tok/s; 0.25 + 50 x 0.04 = 2.25 s.
    assert found.output_speed_tok_per_s is not None
    assert found.output_speed_tok_per_s.p05 == found.output_speed_tok_per_s.p99 == 25.0
    assert {t.first_token_ns - t.sent_ns for t in seen.turns if t.first_token_ns} == {
        int(FIRST_S * 1e9)
    }
    assert {t.end_ns - t.sent_ns for t in seen.turns} == {2_250_000_000}
    assert (found.failed, seen.cut, seen.broken, seen.floors_met) == (0, 0, None, True)


def test_agents_start_and_wait_as_planned(endpoint: Scripted, setup: Setup) -> None:
    seen = _measured(endpoint, setup, agents=4)
    first = seen.health.first_sent_ns
    # 30 s spread over 4 agents, and the window 30 s after the last of them.
    assert [at - first[0] for at in first] == [0, 7_500_000_000, 15_000_000_000, 22_500_000_000]
    assert seen.window.start_ns == first[3] + 30_000_000_000
    # It closes at a look within the second after its 600 s.
    assert 600.0 <= seen.window.length_s <= 601.0
    assert all(t.sent_ns == t.scheduled_ns for t in seen.turns)
    assert seen.health.loop_lag_s == ((),)
    assert seen.health.cpu_ratio == 0.0
    mine = sorted((t for t in seen.turns if t.agent == 2), key=lambda t: t.sent_ns)
    pauses = [b.sent_ns - a.end_ns for a, b in pairwise(mine) if not a.last_turn]
    assert set(pauses) == {2_000_000_000}


def test_two_runs_are_equal(setup: Setup) -> None:
    def once() -> Measurement:
        endpoint = Scripted()
        seen = _measured(endpoint, setup, agents=7)
        endpoint.close()
        return seen

    assert once() == once()


def test_the_meter_is_read_every_second_and_around_the_window(
    endpoint: Scripted, setup: Setup
) -> None:
    meter = scripted_info(endpoint).meter
    seen = _measured(endpoint, setup, agents=2, meter=meter)
    at_ns = sorted({s.at_ns for s in seen.meters[0].samples})
    steps = [b - a for a, b in pairwise(at_ns)]
    assert set(steps[:-1]) == {1_000_000_000}
    assert at_ns[0] < seen.window.start_ns
    assert seen.window.end_ns <= at_ns[-1]


def test_a_broken_agent_is_a_load_error(endpoint: Scripted, setup: Setup, tmp_path: Path) -> None:
    setup = small_setup(DATASET, url="scripted:", model="raise", folder=tmp_path)
    with pytest.raises(LoadError, match="load: RuntimeError: a connection must not raise"):
        _measured(endpoint, setup, agents=1)


def test_a_set_up_that_cannot_be_obeyed_is_a_load_error(endpoint: Scripted, setup: Setup) -> None:
    setup.trajectories += ".gone"
    with pytest.raises(LoadError, match=r"load: FileNotFoundError: .*\.gone"):
        _measured(endpoint, setup, agents=1)


def test_load_before_any_set_up_is_refused(endpoint: Scripted) -> None:
    pool = InProcessPool(endpoint)
    with pytest.raises(LoadError, match="before any set-up"):
        _in_time(endpoint, pool.grow(1))
    with pytest.raises(LoadError, match="Stop without a crew"):
        _in_time(endpoint, pool.stop())


def test_a_closed_pool_leaves_no_connection_open(endpoint: Scripted, setup: Setup) -> None:
    pool = InProcessPool(endpoint)

    async def broken_off() -> None:
        async with asyncio.timeout(100):
            await _phase(pool, setup, endpoint.clock, agents=3)

    with pytest.raises(TimeoutError):
        _in_time(endpoint, broken_off())
    assert (endpoint.open, pool.busy) == (3, 1)
    _in_time(endpoint, pool.close())
    assert (endpoint.open, pool.busy) == (0, 0)
    assert _in_time(endpoint, _phase(pool, setup, endpoint.clock, agents=1)).floors_met


def test_requests_that_outlast_their_limit_fail(endpoint: Scripted, setup: Setup) -> None:
    setup.timeout_s = 0.5
    settings = make_settings({"min_steady_s": 60.0})
    seen = _measured(endpoint, setup, agents=1, settings=settings)
    assert {t.error for t in seen.turns} == {"timeout after 0.5 s"}
    assert {t.end_ns - t.sent_ns for t in seen.turns} == {500_000_000}


async def _searched(endpoint: Scripted, results: Path, dataset: Dataset) -> tuple[Path, Capacity]:
    settings = make_settings({"results": str(results)})
    info = scripted_info(endpoint)
    inputs = Inputs(
        endpoint=info, dataset=dataset, meters=tuple(filter(None, (info.meter,))), system=None
    )
    await observe_models(info, {"m": SPEC}, settings, dataset, tell=_unheard)
    folder = open_folder(settings, inputs)
    heard: list[Event] = []
    bench = Bench(
        settings=settings,
        models=Models(specs={"m": SPEC}, published={}),
        inputs=inputs,
        folder=folder,
        on_event=heard.append,
    )
    try:
        found = await bench.capacity(SPEED)
    finally:
        await bench.close()
    assert "8 agents in virtual time" in {event.text for event in heard}
    return folder.path, found


def _unheard(_model: str, _line: object) -> None:
    pass


def _bundle(path: Path) -> dict[str, Any]:
    return json.loads((path / "bundle.json").read_bytes())


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Capacity]]:
    """The same official search twice, each on an endpoint of its own."""
    found: list[tuple[Path, Capacity]] = []
    for _ in range(2):
        endpoint = Scripted()
        results = tmp_path_factory.mktemp("results")
        found.append(asyncio.run(_searched(endpoint, results, DATASET)))
        endpoint.close()
    return found


def test_a_search_by_the_book_finds_the_last_agent(searches: list[tuple[Path, Capacity]]) -> None:
    # n agents get 100 / n tok/s: 10 are the last at 10 tok/s, and 8 and 16 show it: 0.8 and 1.6.
    path, capacity = searches[0]
    assert (capacity.agents, capacity.first_failing, capacity.status) == (10, 11, "found")
    phases = _bundle(path)["phases"]
    assert [p["agents"] for p in phases] == [8, 16, 10, 11]
    assert all(check["ok"] for p in phases for check in p["checks"])
    # Two devices of 350 W.
    assert [p["power"]["mean_w"] for p in phases] == pytest.approx([700.0] * 4)


def test_phases_last_as_long_as_the_time_in_them(searches: list[tuple[Path, Capacity]]) -> None:
    phases = _bundle(searches[0][0])["phases"]
    # The first small request took 0.25 + 50 x 0.01 s, idle power 10 s; then the next whole second.
    assert phases[0]["started_s"] == 10.25
    for last, phase in pairwise(phases):
        assert 0 < phase["started_s"] - last["started_s"] - last["duration_s"] <= 1
        assert (phase["started_s"] + 0.75).is_integer()
    assert all(600 < p["duration_s"] < 700 for p in phases)


def test_the_same_search_writes_the_same_bytes(searches: list[tuple[Path, Capacity]]) -> None:
    (one, _), (other, _) = searches
    mine, theirs = _bundle(one), _bundle(other)
    assert mine.pop("provenance")["run"] != theirs.pop("provenance")["run"]
    assert mine["settings"].pop("results") != theirs["settings"].pop("results")
    assert json.dumps(mine) == json.dumps(theirs)
    lines = (one / "requests.jsonl").read_bytes()
    assert len(lines) > 100_000
    assert lines == (other / "requests.jsonl").read_bytes()


def test_a_simulation_is_never_conformant(searches: list[tuple[Path, Capacity]]) -> None:
    (model,) = _bundle(searches[0][0])["models"]
    rules = {rule["name"]: rule["status"] for rule in model["conformance"]}
    assert rules["measured on a real system"] == "not met"


def test_a_search_that_is_cancelled_leaves_nothing_behind(
    endpoint: Scripted, tmp_path: Path
) -> None:
    async def cancelled() -> None:
        searching = asyncio.create_task(_searched(endpoint, tmp_path, DATASET))
        while endpoint.open < 8:  # noqa: ASYNC110 the endpoint must not know
            await asyncio.sleep(0)
        searching.cancel()
        await searching

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert endpoint.open == 0
