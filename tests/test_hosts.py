"""The coordinator's side of a cluster, on machines that are played."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.errors import ConfigError, EndpointError, HostLostError, LoadError
from pytest_agentperf.host import versions
from pytest_agentperf.hosts import HostPool, Machine, deal
from pytest_agentperf.orders import Failed, Report, Setup, Started, Stopped

T = TypeVar("T")
MS = 1_000_000
SETUP = Setup(
    trajectories="planned", url="http://h/v1", headers={}, osl_header=None, model="m", request={},
    max_tokens=9, output="natural", salt="none", seed=0, run="r", timeout_s=1.0, tokenizer=None,
    client="engine",
)  # fmt: skip


class PlayedHost:
    """A machine that does nothing, with a clock of its own."""

    def __init__(self, name: str, skew_ns: int) -> None:
        self.name = name
        self.skew_ns = skew_ns
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.is_lost = False
        self.has_ended = False
        self.versions = versions()
        self.refuses: dict[str, LoadError] = {}
        self.reports: list[Report] = []

    async def call(self, method: str, *args: Any) -> Any:
        await asyncio.sleep(0)
        if self.is_lost:
            raise HostLostError(f"node {self.name} was lost: gone")
        if method in self.refuses:
            raise self.refuses[method]
        self.asked.append((method, args))
        match method:
            case "now_ns":
                return time.perf_counter_ns() + self.skew_ns
            case "versions":
                return self.versions
            case "distance_s":
                return 0.02
            case "stop":
                self.reports += [Stopped(lag_s=[], cpu_ratio=0.0, open_members=0)] * self.workers
            case "reports":
                heard, self.reports = self.reports, []
                return msgspec.msgpack.encode(heard)
            case _:
                return None
        return None

    def end(self) -> None:
        self.has_ended = True

    @property
    def workers(self) -> int:
        return self.args("prepare")[0]

    def args(self, method: str) -> tuple[Any, ...]:
        """Return what a method was last called with."""
        return next(args for name, args in reversed(self.asked) if name == method)


class PlayedCluster:
    def __init__(self, cores: Mapping[str, int], skew_ns: Mapping[str, int] | None = None) -> None:
        self.hosts = {name: PlayedHost(name, (skew_ns or {}).get(name, 0)) for name in cores}
        self.cores = dict(cores)
        self.reserved: dict[str, int] = {}
        self.shared: list[Path] = []

    def machines(self) -> Sequence[Machine]:
        return [Machine(id=name, name=name, cores=cores) for name, cores in self.cores.items()]

    async def start(self, machine: Machine, workers: int) -> PlayedHost:
        self.reserved[machine.name] = workers
        host = self.hosts[machine.name]
        if host.is_lost:
            raise HostLostError(f"node {machine.name} was lost: dead")
        return host

    async def share(self, path: Path) -> bytes:
        self.shared.append(path)
        return b"planned"


def played(
    cluster: PlayedCluster, act: Callable[[HostPool], Coroutine[Any, Any, T]], *, asked: int = 0
) -> T:
    """Let a pool act that is set up on a cluster."""

    async def whole() -> T:
        pool = HostPool(cluster, asked=asked, key="secret")
        await pool.set_up(SETUP)
        try:
            return await act(pool)
        finally:
            await pool.close()

    return asyncio.run(whole())


async def prepared(pool: HostPool, *, workers: int, agents: int) -> None:
    await pool.grow(workers)
    await pool.prepare(
        workers=workers,
        phase=1,
        agents=range(agents),
        offsets_ns=[100 * a for a in range(agents)],
        start="first",
    )


async def heard(pool: HostPool) -> Report:
    report = await pool.report(timeout_s=5)
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("workers", "rooms", "places"),
    [
        (4, [9, 9], (0, 1, 0, 1)),
        (5, [1, 3], (0, 1, 1, 1, 0)),
        (2, [4, 4, 4], (0, 1)),
    ],
    ids=["machines take turns", "a small one is left alone when full", "not all are needed"],
)
def test_processes_are_dealt_over_machines(workers: int, rooms: list[int], places: tuple[int, ...]):
    assert deal(workers, rooms) == places


@given(st.integers(1, 60), st.lists(st.integers(1, 16), min_size=1, max_size=8))
def test_no_machine_is_overfull_while_another_has_room(workers: int, rooms: list[int]):
    places = deal(workers, rooms)
    assert len(places) == workers
    assert places == deal(workers + 1, rooms)[:-1]
    if workers <= sum(rooms):
        assert all(places.count(n) <= room for n, room in enumerate(rooms))


def test_agents_get_the_process_that_they_would_get_on_one_machine():
    cluster = PlayedCluster({"a": 4, "b": 4})
    played(cluster, lambda pool: prepared(pool, workers=3, agents=8))
    # Three processes: 0 and 2 on a, 1 on b. Agent 5 belongs to process 5 mod 3 = 2.
    assert cluster.hosts["a"].args("prepare") == (
        2, 1, [0, 2, 3, 5, 6], [0, 200, 300, 500, 600], "first",
    )  # fmt: skip
    assert cluster.hosts["b"].args("prepare") == (1, 1, [1, 4, 7], [100, 400, 700], "first")


def test_each_node_is_sent_the_dataset_and_the_key_once():
    cluster = PlayedCluster({"a": 4, "b": 4})

    async def twice(pool: HostPool) -> None:
        await prepared(pool, workers=6, agents=8)
        await pool.grow(6)

    played(cluster, twice)
    assert cluster.shared == [Path("planned")]
    for host in cluster.hosts.values():
        assert [args for name, args in host.asked if name == "set_up"] == [
            (SETUP, b"planned", "secret")
        ]


def test_orders_go_out_in_the_clock_of_each_node():
    cluster = PlayedCluster({"a": 4, "b": 4}, {"b": 50 * MS})

    async def act(pool: HostPool) -> None:
        await prepared(pool, workers=2, agents=2)
        await pool.begin(1_000 * MS)
        await pool.close_window(2_000 * MS)

    played(cluster, act)
    for name, skew_ns in (("a", 0), ("b", 50 * MS)):
        host = cluster.hosts[name]
        assert host.args("begin")[0] == pytest.approx(1_000 * MS + skew_ns, abs=5 * MS)
        assert host.args("close_window")[0] == pytest.approx(2_000 * MS + skew_ns, abs=5 * MS)


def test_reports_come_in_in_our_clock_and_the_error_is_told():
    cluster = PlayedCluster({"a": 4, "b": 4}, {"b": 50 * MS})

    async def act(pool: HostPool) -> tuple[Report, float, float]:
        await prepared(pool, workers=2, agents=2)
        cluster.hosts["b"].reports.append(Started(first_sent_ns={1: 150 * MS}, answering_ns={}))
        report = await heard(pool)
        b = pool.hosts[1]
        return report, b.clock_offset_s, b.clock_error_s

    report, offset_s, error_s = played(cluster, act)
    assert abs(offset_s - 0.05) <= error_s < 0.005
    assert isinstance(report, Started)
    assert abs(report.first_sent_ns[1] - 100 * MS) <= error_s * 1e9


def test_a_phase_ends_when_all_processes_have_stopped():
    cluster = PlayedCluster({"a": 4, "b": 4})

    async def act(pool: HostPool) -> tuple[int, list[Report]]:
        await prepared(pool, workers=3, agents=3)
        await pool.look()
        await pool.stop()
        stopped = [await heard(pool) for _ in range(pool.busy)]
        assert pool.report_nowait() is None
        await prepared(pool, workers=3, agents=3)
        return len(stopped), stopped

    number, stopped = played(cluster, act)
    assert number == 3
    assert all(isinstance(report, Stopped) for report in stopped)


def test_nothing_to_hear_is_none():
    cluster = PlayedCluster({"a": 4})

    async def act(pool: HostPool) -> Report | None:
        await prepared(pool, workers=1, agents=1)
        return await pool.report(timeout_s=0.005)

    assert played(cluster, act) is None


def test_a_node_that_is_lost_in_a_phase_is_named():
    cluster = PlayedCluster({"a": 4, "b": 4})

    async def act(pool: HostPool) -> None:
        await prepared(pool, workers=2, agents=2)
        cluster.hosts["b"].is_lost = True
        await heard(pool)

    with pytest.raises(HostLostError, match="node b was lost"):
        played(cluster, act)


def test_the_next_phase_runs_on_what_is_left():
    cluster = PlayedCluster({"a": 4, "b": 4})

    async def act(pool: HostPool) -> Sequence[str]:
        await prepared(pool, workers=2, agents=4)
        cluster.hosts["b"].is_lost = True  # and still in the cluster's list
        await prepared(pool, workers=2, agents=4)
        return [host.name for host in pool.hosts]

    assert played(cluster, act) == ["a"]
    assert cluster.hosts["a"].args("prepare")[2] == [0, 1, 2, 3]


def test_with_no_node_left_there_is_no_load():
    cluster = PlayedCluster({"a": 4})
    cluster.hosts["a"].is_lost = True
    with pytest.raises(LoadError, match="no node of the cluster is left to run load on"):
        played(cluster, lambda pool: pool.grow(1))


def test_a_process_that_fails_is_named_with_its_node():
    cluster = PlayedCluster({"a": 4})

    async def act(pool: HostPool) -> None:
        await prepared(pool, workers=1, agents=1)
        cluster.hosts["a"].reports.append(Failed(text="load process 0: ended with exit code -9"))
        await heard(pool)

    with pytest.raises(LoadError, match="node a: load process 0: ended with exit code -9"):
        played(cluster, act)


def test_load_without_a_set_up_is_refused():
    pool = HostPool(PlayedCluster({"a": 4}), asked=0)
    with pytest.raises(LoadError, match="before any set-up"):
        asyncio.run(pool.grow(1))


def test_another_version_on_a_node_is_told():
    cluster = PlayedCluster({"a": 4})
    cluster.hosts["a"].versions = {"pytest-agentperf": "0.0.1", "python": "3.9"}
    with pytest.raises(ConfigError, match=r"node a has .*'0\.0\.1'.* install the same"):
        played(cluster, lambda pool: pool.grow(1))


def test_an_endpoint_that_a_node_does_not_reach_is_told():
    cluster = PlayedCluster({"a": 4})
    cluster.hosts["a"].refuses["distance_s"] = LoadError("node a: cannot connect to the endpoint")
    with pytest.raises(EndpointError, match="node a: cannot connect"):
        played(cluster, lambda pool: pool.grow(1))


def test_a_node_that_is_lost_while_it_is_set_up_is_no_matter_of_the_endpoint():
    cluster = PlayedCluster({"a": 4})
    cluster.hosts["a"].refuses["distance_s"] = HostLostError("node a was lost: gone")
    with pytest.raises(HostLostError, match="node a was lost"):
        played(cluster, lambda pool: pool.grow(1))


def test_a_node_that_cannot_be_had_is_told():
    class Full(PlayedCluster):
        async def start(self, machine: Machine, workers: int) -> PlayedHost:
            raise LoadError(f"node {machine.name} had no {workers} cores free")

    with pytest.raises(LoadError, match="node a had no 3 cores free"):
        played(Full({"a": 4}), lambda pool: pool.grow(1))


@pytest.mark.parametrize(
    ("asked", "reserved", "cores"),
    [
        (0, {"a": 3, "b": 1}, 5),
        (3, {"a": 2, "b": 1}, 5),
        (9, {"a": 4, "b": 2}, 5),
        (1, {"a": 1}, 4),
    ],
    ids=[
        "one core of each stays free",
        "as many as were asked for",
        "never more than there are",
        "one process needs one node",
    ],
)
def test_cores_are_reserved_for_all_that_may_run(asked: int, reserved: dict[str, int], cores: int):
    cluster = PlayedCluster({"a": 4, "b": 2})

    async def act(pool: HostPool) -> int:
        before = pool.cores
        await pool.grow(1)
        assert pool.cores == before
        return before

    assert played(cluster, act, asked=asked) == cores
    assert cluster.reserved == reserved


def test_closing_ends_all_hosts_even_one_that_is_gone():
    cluster = PlayedCluster({"a": 4, "b": 4})

    async def act(pool: HostPool) -> None:
        await prepared(pool, workers=2, agents=2)
        cluster.hosts["b"].is_lost = True

    played(cluster, act)
    assert cluster.hosts["a"].args("close") == ()
    assert all(host.has_ended for host in cluster.hosts.values())
