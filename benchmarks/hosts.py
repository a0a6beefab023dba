"""Two Ray nodes on one machine against load from here: clocks, 1,000 agents, a killed node.

The second node lives in a time namespace of the kernel, whose monotonic clock is 50 ms ahead; all
that is said to it and heard of it takes 20 ms more, half on each way or all on one. Needs the extra
[ray], Linux and root; both nodes, the simulator and the coordinator share the machine's cores.

    python -m benchmarks.hosts
    python -m benchmarks.hosts --parts clock lost
"""

import argparse
import asyncio
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import SCHEMA, Bundle, PhaseResult, provenance
from pytest_agentperf.hosts import HostPool, Machine, Node
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.ray_cluster import RayCluster
from pytest_agentperf.records import Event
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.sim import launch
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier

AHEAD_NS = 50_000_000
DELAY_S = 0.02
_CLONE_NEWTIME = 0x80
_LIGHT = (
    "max_sequences=1024&sequence_overhead_s=0&kv_capacity_tokens=1000000000&step_overhead_s=0.02"
    "&stream_interval=50&max_step_tokens=131072&flops_per_token=1e9&acceptance="
)
"""Fifty tokens a second for everyone, in few events, so that the simulator's process keeps up."""
_SMALL = (
    "acceptance=&max_sequences=64&step_overhead_s=0.012&sequence_overhead_s=0.002"
    "&flops_per_token=1e10&kv_capacity_tokens=100000000&stream_interval=100000"
)
"""12 ms a step, and 2 ms for every sequence in it: 40 tok/s with seven at once."""
_LOOSE: dict[str, Any] = {
    "mode": "smoke", "max_loop_lag_p95_s": 0.3, "max_loop_lag_p99_s": 1.0, "max_cpu_ratio": 1.0,
    "start_spread_s": 2.0, "settle_s": 1.0, "workers": 2,
}  # fmt: skip
"""Four processes share the cores of this machine, so that lateness is no matter here."""


def be_node(address: str, ahead_ns: int) -> None:
    """Become a node of a cluster whose monotonic clock is ahead of this machine's."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWTIME):
        raise OSError(ctypes.get_errno(), "a time namespace needs Linux and root")
    Path("/proc/self/timens_offsets").write_text(f"monotonic 0 {ahead_ns}\n", "ascii")
    ray = str(Path(sys.executable).with_name("ray"))
    os.execv(ray, [ray, "start", f"--address={address}", "--num-cpus=2", "--block"])


class _TwoNodes:
    """A cluster of a node in our time and one that is ahead of it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415 an extra

        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        # One that is killed is noticed in seconds.
        config = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
        head = {"num_cpus": 2, "include_dashboard": False, "_system_config": config}
        self._ray: Any = Cluster(initialize_head=True, head_node_args=head)
        os.environ["RAY_ADDRESS"] = self._ray.address
        self._second: subprocess.Popen[bytes] | None = None

    def fill(self) -> None:
        """Have the second node, and know it by its name."""
        if self._second is not None:
            return
        # Nodes sort by name, and share an address here: which is which, the clock tells.
        command = [sys.executable, "-m", "benchmarks.hosts", "--node", self._ray.address]
        self._second = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(8)

    def kill_second(self) -> None:
        """Kill all processes of the second node, as if its plug were pulled."""
        if self._second is not None:
            processes = psutil.Process(self._second.pid).children(recursive=True)
            for process in (*processes, self._second):
                process.kill()
            self._second.wait()
        self._second = None

    def close(self) -> None:
        """End both nodes."""
        self.kill_second()
        self._ray.shutdown()


class _FarNode:
    """A node that is so far away."""

    def __init__(self, node: Node, there_s: float, back_s: float) -> None:
        self._node, self._there_s, self._back_s = node, there_s, back_s

    async def call(self, method: str, *args: Any) -> Any:
        await asyncio.sleep(self._there_s)
        answer = await self._node.call(method, *args)
        await asyncio.sleep(self._back_s)
        return answer

    def end(self) -> None:
        self._node.end()


class _FarCluster:
    """A cluster whose nodes are far away."""

    def __init__(self, cluster: RayCluster, there_s: float, back_s: float) -> None:
        self._cluster, self._there_s, self._back_s = cluster, there_s, back_s

    def machines(self) -> Sequence[Machine]:
        return self._cluster.machines()

    async def start(self, machine: Machine, workers: int) -> _FarNode:
        node = await self._cluster.start(machine, workers)
        return _FarNode(node, self._there_s, self._back_s)

    async def share(self, path: Path) -> Any:
        return await self._cluster.share(path)


def _spec(speed: float) -> ModelSpec:
    limit = Limit(metric="output_speed_tok_per_s", statistic="p25", value=speed)
    tier = SLOTier(model="m", name="speed", limits=(limit,), max_error_ratio=0.01)
    return ModelSpec(model="m", tiers=(tier,))


def _nobody(event: Event) -> None:
    del event


def search(
    sim: str,
    settings: Settings,
    pool: HostPool | None,
    *,
    speed: float,
    hear: Callable[[Event], None] = _nobody,
) -> tuple[Capacity, tuple[PhaseResult, ...]]:
    """Search the capacity of a simulated deployment; return it with its phases."""
    info = launch.connect(f"sim:?{sim}", models=("m",))
    bundle = Bundle(
        schema=SCHEMA,
        provenance=provenance(
            endpoint=info.url, server="", served_models=(), meter="", devices=(), simulated=True
        ),
        settings=settings,
        system=None,
    )
    with tempfile.TemporaryDirectory() as results:
        folder = RunFolder(Path(results), bundle)
        spec = _spec(speed)
        bench = Bench(
            settings=settings,
            models=Models(specs={"m": spec}, published={}),
            inputs=Inputs(
                endpoint=info,
                dataset=load_dataset(settings.dataset, None),
                meters=(),
                system=None,
                hosts=pool,
            ),
            folder=folder,
            on_event=hear,
        )

        async def find() -> Capacity:
            try:
                return await bench.capacity(spec.tiers[0])
            finally:
                await bench.close()

        found = asyncio.run(find())
        info.close()
        return found, folder.bundle.phases


@contextmanager
def _pool(there_s: float = 0.0, back_s: float = 0.0) -> Iterator[HostPool]:
    cluster = RayCluster("auto")
    try:
        yield HostPool(_FarCluster(cluster, there_s, back_s), asked=2)
    finally:
        cluster.disconnect()


def _tell(where: str, phases: Sequence[PhaseResult]) -> None:
    for phase in phases:
        metrics = phase.metrics
        speed, ttft = metrics.output_speed_tok_per_s, metrics.ttft_s
        print(
            f"  {where}: {phase.agents} agents, {metrics.requests} requests, "
            f"{metrics.throughput_tok_per_s or 0:.0f} tok/s together, P25 speed "
            f"{speed.p25 if speed else 0:.1f} tok/s, P95 TTFT {ttft.p95 if ttft else 0:.3f} s"
            f"{'; INVALID: ' + '; '.join(phase.invalid) if phase.invalid else ''}"
        )
        for host in phase.hosts:
            right_s = 0.0 if host.clock_offset_s < AHEAD_NS / 2e9 else AHEAD_NS / 1e9
            wrong_s = abs(host.clock_offset_s - right_s)
            print(
                f"    {host.name}: clock {host.clock_offset_s * 1e3:+.3f} ms told, wrong by "
                f"{wrong_s * 1e3:.3f}, within its error of {host.clock_error_s * 1e3:.3f} ms: "
                f"{wrong_s <= host.clock_error_s}; to the endpoint {host.endpoint_s * 1e3:.2f} ms"
            )


def clock(nodes: _TwoNodes) -> None:
    """Small phases, with the second node's clock ahead and both near, far, or far on one way."""
    nodes.fill()
    settings = make_settings(
        {**_LOOSE, "start_agents": 4, "max_agents": 4, "min_steady_s": 12.0,
         "dataset": "synthetic:trajectories=20,turns=4,isl=1500,osl=40,tool_s=0.5,seed=1"}
    )  # fmt: skip
    for name, there_s, back_s in (
        ("near", 0.0, 0.0),
        ("20 ms, half on each way", DELAY_S / 2, DELAY_S / 2),
        ("20 ms, all on the way there", DELAY_S, 0.0),
    ):
        with _pool(there_s, back_s) as pool:
            _tell(name, search(_LIGHT, settings, pool, speed=1.0)[1])


def agents(nodes: _TwoNodes) -> None:
    """As many as two cores carry beside a simulator: 1,000 that wait most of the time."""
    nodes.fill()
    settings = make_settings(
        {**_LOOSE, "start_agents": 1000, "max_agents": 1000, "min_steady_s": 60.0,
         "start_spread_s": 30.0, "settle_s": 2.0, "max_tool_s": 60.0,
         "dataset": "synthetic:trajectories=200,turns=6,isl=1500,osl=20,tool_s=25~35,seed=1"}
    )  # fmt: skip
    _tell("here", search(_LIGHT, settings, None, speed=1.0)[1])
    with _pool() as pool:
        _tell("two nodes", search(_LIGHT, settings, pool, speed=1.0)[1])


def capacity(nodes: _TwoNodes) -> None:
    """The same search from here and from two nodes."""
    nodes.fill()
    settings = _searching()
    found, phases = search(_SMALL, settings, None, speed=40.0)
    _tell("here", phases)
    print(f"  here: {found.label} agents, {found.first_failing} fail")
    with _pool() as pool:
        found, phases = search(_SMALL, settings, pool, speed=40.0)
    _tell("two nodes", phases)
    print(f"  two nodes: {found.label} agents, {found.first_failing} fail")


def lost(nodes: _TwoNodes) -> None:
    """A search in whose second phase a node is killed."""
    nodes.fill()
    seen: list[int] = []

    def hear(event: Event) -> None:
        if event.kind == "progress" and event.phase == 2:
            seen.append(event.phase)
            if len(seen) == 3:
                nodes.kill_second()

    with _pool() as pool:
        found, phases = search(_SMALL, _searching(), pool, speed=40.0, hear=hear)
    _tell("a node killed", phases)
    print(f"  a node killed: {found.label} agents, {found.first_failing} fail")


def _searching() -> Settings:
    return make_settings(
        {**_LOOSE, "start_agents": 8, "max_agents": 64, "resolution": 0.01, "min_steady_s": 15.0,
         "dataset": "synthetic:trajectories=40,turns=4,isl=1500,osl=80,tool_s=0.5,seed=1"}
    )  # fmt: skip


_PARTS = {"clock": clock, "agents": agents, "capacity": capacity, "lost": lost}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--node", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.node:
        be_node(given.node, AHEAD_NS)
    nodes = _TwoNodes()
    try:
        for part in given.parts:
            print(f"{part}: {_PARTS[part].__doc__}", flush=True)
            _PARTS[part](nodes)
    finally:
        nodes.close()


if __name__ == "__main__":
    main()
