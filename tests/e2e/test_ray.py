"""Load on a Ray cluster: two nodes on one machine, the clock of one of them 50 ms ahead."""

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import SCHEMA, Bundle, provenance
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.events import Event
from pytest_agentperf.hosts import HostPool
from pytest_agentperf.metrics import members
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.ray_cluster import RayCluster
from pytest_agentperf.records import Measurement
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.settings import make_settings
from pytest_agentperf.sim import launch
from pytest_agentperf.synthesis import synthesize
from tests.plugin.conftest import SHORT
from tests.workloads import SPEC, small_setup

pytest.importorskip("ray", reason="the extra [ray] is not installed")

pytestmark = [
    pytest.mark.e2e,
]

SKEW_NS = 50_000_000
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = make_settings(
    {
        "mode": "smoke", "start_spread_s": 0.2, "settle_s": 0.2, "min_steady_s": 1.0,
        "start_agents": 2, "max_agents": 4, "workers": "ray:auto?workers=2",
    }
)  # fmt: skip
DATASET = synthesize(trajectories=6, turns=3, isl_tokens=6000, osl_tokens=300, tool_s=0, seed=1)


class _TwoNodes:
    """A cluster of two nodes with two cores each, as Ray's own tests make it."""

    def __init__(self) -> None:
        cluster_utils: Any = importlib.import_module("ray.cluster_utils")
        self._ray: Any = cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "include_dashboard": False,
                # A killed node is noticed within seconds, not within half a minute.
                "_system_config": {
                    "health_check_period_ms": 1000,
                    "health_check_timeout_ms": 3000,
                    "health_check_failure_threshold": 2,
                },
            },
        )
        self._second: Any = self._ray.add_node(num_cpus=2)

    @property
    def address(self) -> str:
        return self._ray.address

    def kill_one(self) -> None:
        self._ray.remove_node(self._second, allow_graceful=False)

    def shut_down(self) -> None:
        self._ray.shutdown()


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[_TwoNodes]:
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_ADDRESS")}
    # Nodes inherit it: what they run is this checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), *sys.path))
    nodes = _TwoNodes()
    os.environ["RAY_ADDRESS"] = nodes.address
    yield nodes
    nodes.shut_down()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def cluster(two_nodes: _TwoNodes) -> Iterator[RayCluster]:
    del two_nodes  # they are to be there
    cluster = RayCluster("auto", skew_ns=(0, SKEW_NS))
    yield cluster
    cluster.disconnect()


@pytest.fixture
def endpoint() -> Iterator[EndpointInfo]:
    info = launch.connect("sim:", models=("m",))
    yield info
    info.close()


async def _phase(cluster: RayCluster, endpoint: EndpointInfo, folder: Path) -> Measurement:
    pool = HostPool(cluster, asked=2)
    await pool.set_up(
        small_setup(
            DATASET, url=endpoint.url, model="m", folder=folder, osl_header=endpoint.osl_header
        )
    )
    try:
        await pool.grow(2)
        return await PhaseRun(
            pool=pool,
            settings=SETTINGS,
            procedure=full_phase(SPEC, SETTINGS),
            readings=(),
            clock=REAL_TIME,
            tell=Listeners(),
        ).measure(number=1, agents=6, workers=2)
    finally:
        await pool.close()


def test_agents_work_on_both_nodes_in_one_clock(
    cluster: RayCluster, endpoint: EndpointInfo, tmp_path: Path
) -> None:
    seen = asyncio.run(_phase(cluster, endpoint, tmp_path))
    assert seen.broken is None
    assert seen.floors_met
    assert seen.cut == 0
    assert {t.agent for t in seen.turns} == {0, 1, 2, 3, 4, 5}
    right, ahead = seen.health.hosts
    assert (right.workers, ahead.workers) == (1, 1)
    assert abs(right.clock_offset_s) <= right.clock_error_s
    assert abs(ahead.clock_offset_s - SKEW_NS / 1e9) <= ahead.clock_error_s
    assert max(right.clock_error_s, ahead.clock_error_s) < 0.025
    assert 0 < right.endpoint_s < 1
    # Agents start 0.2 s / 6 apart in one clock, though every other one does so on another node.
    begun = {t.agent: t for t in seen.turns if (t.ordinal, t.turn) == (0, 0)}
    due_s = [begun[agent].scheduled_ns / 1e9 for agent in range(6)]
    assert [b - a for a, b in pairwise(due_s)] == pytest.approx([0.2 / 6] * 5, abs=0.01)
    assert all(t.sent_ns < t.end_ns for t in members(seen.turns, seen.window))


@pytest.mark.usefixtures("two_nodes")
def test_a_whole_run_tells_of_its_nodes(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((ROOT / "conftest.py").read_text("utf-8"))
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makepyfile("def test_it(capacity): assert capacity.agents == 2")
    result = pytester.runpytest_subprocess(
        *SHORT,
        "--endpoint=sim:",
        "--model=gpt-oss-120b",
        "--tier=easy:speed>=1",
        "--agentperf-max-agents=2",
        "--agentperf-workers=ray:auto?workers=2",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["Load from node *: load processes 1, clock * ms, * ms to connect to the endpoint"] * 2
    )
    (path,) = (pytester.path / "results").glob("*/bundle.json")
    (phase,) = json.loads(path.read_text("utf-8"))["phases"]
    assert [host["workers"] for host in phase["hosts"]] == [1, 1]
    assert "clock alignment" in {check["name"] for check in phase["checks"]}


async def _search(bench: Bench) -> Capacity:
    try:
        return await bench.capacity(SPEC.tiers[0])
    finally:
        await bench.close()


def test_a_node_killed_in_a_phase_is_named_and_the_search_goes_on(
    cluster: RayCluster, two_nodes: _TwoNodes, endpoint: EndpointInfo, tmp_path: Path
) -> None:
    names = [machine.name for machine in cluster.machines()]
    events: list[Event] = []

    def hear(event: Event) -> None:
        events.append(event)
        if event.phase == 1 and sum(e.kind == "progress" for e in events) == 1:
            two_nodes.kill_one()

    bundle = Bundle(
        schema=SCHEMA,
        provenance=provenance(
            endpoint=endpoint.url, server="", served_models=(), meter="", devices=(),
            simulated=True,
        ),
        settings=SETTINGS,
        system=None,
    )  # fmt: skip
    folder = RunFolder(tmp_path, bundle)
    bench = Bench(
        # Long enough that the loss of a node comes before the end.
        settings=replace(SETTINGS, min_steady_s=8.0, max_agents=2),
        models=Models(specs={"m": SPEC}, published={}),
        inputs=Inputs(
            endpoint=endpoint,
            dataset=DATASET,
            meters=(),
            system=None,
            hosts=HostPool(cluster, asked=2),
        ),
        folder=folder,
        on_event=hear,
    )
    found = asyncio.run(_search(bench))
    first, second = folder.bundle.phases
    (why,) = [text for text in first.invalid if text.startswith("phase complete")]
    assert any(f"node {name} was lost" in why for name in names)
    assert second.invalid == ()
    assert len(second.hosts) == 1
    assert second.hosts[0].workers == 2
    assert found.agents == 2
