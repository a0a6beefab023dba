"""Memory and disk of the phases of a run, held against what is free."""

import re
from pathlib import Path

import pytest

from pytest_agentperf.bench import Inputs, Models
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.preflight import check_room_for_phases
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.space import Need, Space, check_space, free_memory_bytes, need, space
from pytest_agentperf.synthesis import synthesize

GB = 1_000_000_000


def _need(agents: int, *, memory_gb: float = 0.1, disk_gb: float = 1.0) -> Need:
    return Need(agents=agents, memory_bytes=memory_gb * GB, disk_bytes=disk_gb * GB)


def test_what_a_phase_takes() -> None:
    found = need(agents=100, processes=2, requests=10_000, osl_tokens=300)
    # 2 x 50 MB + 100 x 80 kB + 10,000 x (1,500 + 4 x 300) B = 100 + 8 + 27 MB.
    assert found.memory_bytes == 135_000_000
    # 10,000 x (700 + 16 / 3 x 300) B = 10,000 x 2,300 B.
    assert found.disk_bytes == 23_000_000


def test_load_that_runs_elsewhere_takes_no_memory_here() -> None:
    found = need(agents=100, processes=0, requests=10_000, osl_tokens=300)
    assert found.memory_bytes == 27_000_000


def test_where_all_fit_nothing_is_said() -> None:
    given = Space(memory_bytes=GB, disk_bytes=3 * GB)
    assert check_space(given, [_need(8), _need(16), _need(32)], results="r") == ()
    assert check_space(given, [], results="r") == ()
    blind = Space(memory_bytes=None, disk_bytes=None)
    assert check_space(blind, [_need(8, memory_gb=1e6, disk_gb=1e6)], results="r") == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            Space(memory_bytes=GB // 20, disk_bytes=None),
            (
                "load and requests of 8 agents take about 100.0 MB of memory, and 50.0 MB are "
                "free; free some, give this container more, or measure fewer "
                "agents, as with --agentperf-start-agents and --agentperf-max-agents"
            ),
        ),
        (
            Space(memory_bytes=None, disk_bytes=GB // 2),
            (
                "with the phase of 8 agents the requests take about 1.0 GB of disk, and 500.0 MB "
                "are free for r; make room, or name another folder with --agentperf-results"
            ),
        ),
    ],
    ids=["memory", "disk"],
)
def test_a_first_phase_without_room_is_refused(given: Space, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^the first phase has no room: {re.escape(said)}$"):
        check_space(given, [_need(8), _need(16)], results="r")


def test_a_later_phase_without_room_is_warned_of() -> None:
    needs = [_need(8), _need(16), _need(32, memory_gb=2.0)]
    (said,) = check_space(Space(memory_bytes=GB, disk_bytes=3 * GB), needs, results="r")
    assert said.startswith(
        "a later phase may have no room: load and requests of 32 agents take about 2.0 GB of memory"
    )


def test_the_disk_keeps_what_every_phase_has_written() -> None:
    (said,) = check_space(Space(memory_bytes=None, disk_bytes=GB), [_need(8)] * 2, results="r")
    assert "with the phase of 8 agents the requests take about 2.0 GB of disk" in said


class TestFreeMemory:
    def test_the_kernel_tells_what_is_available(self, tmp_path: Path) -> None:
        (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n", "ascii")
        assert free_memory_bytes(tmp_path, tmp_path / "none") == 5000 * 1024

    def test_every_cgroup_around_us_limits_it(self, tmp_path: Path) -> None:
        (tmp_path / "meminfo").write_text("MemAvailable: 5000000 kB\n", "ascii")
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "cgroup").write_text("0::/pod/box\n", "ascii")
        inside = tmp_path / "cgroup" / "pod" / "box"
        inside.mkdir(parents=True)
        for folder, limit, used in ((inside, "max", "100"), (inside.parent, "1000", "700")):
            (folder / "memory.max").write_text(f"{limit}\n", "ascii")
            (folder / "memory.current").write_text(f"{used}\n", "ascii")
        assert free_memory_bytes(tmp_path, tmp_path / "cgroup") == 300
        # What is cached of files counts as used, and is given back.
        cached = "anon 500\ninactive_file 200\nactive_file 90\nslab_reclaimable 10\n"
        (inside.parent / "memory.stat").write_text(cached, "ascii")
        assert free_memory_bytes(tmp_path, tmp_path / "cgroup") == 600

    def test_where_nothing_tells_nothing_is_known(self, tmp_path: Path) -> None:
        assert free_memory_bytes(tmp_path, tmp_path) is None


def test_a_folder_that_is_not_there_yet_lies_on_its_parent_s_disk(tmp_path: Path) -> None:
    found = space(tmp_path / "a" / "b")
    assert found.disk_bytes
    assert found.memory_bytes


def test_a_file_system_that_tells_no_sizes_has_room() -> None:
    assert space(Path("/proc/self/nothing")).disk_bytes is None


TIER = SLOTier(
    model="m",
    name="t",
    limits=(Limit(metric="output_speed_tok_per_s", statistic="p25", value=20.0),),
)
INPUTS = Inputs(
    endpoint=EndpointInfo(url="http://h/v1"),
    dataset=synthesize(trajectories=8, turns=3, isl_tokens=1500, osl_tokens=20, tool_s=0.1, seed=1),
    meters=(),
    system=None,
)


@pytest.mark.parametrize(
    ("disk_bytes", "said"),
    [(10**12, ""), (5_000_000, "a later phase may have no room: with the phase of 16 agents")],
)
def test_the_phases_that_a_search_may_ask_for_are_looked_at(disk_bytes: int, said: str) -> None:
    # A turn takes 20 / 20 + 0.1 = 1.1 s: 8 agents send some 8 x 650 / 1.1 = 4,700 requests of
    # 807 bytes, 3.8 MB; 16 agents twice as many.
    settings = make_settings({"min_trajectories": 8, "min_trajectories_per_agent": 1})
    models = Models(specs={"m": ModelSpec(model="m", tiers=(TIER,))}, published={})
    given = Space(memory_bytes=None, disk_bytes=disk_bytes)
    found = check_room_for_phases(settings, models, INPUTS, given=given)
    assert [text[: len(said)] for text in found] == ([said] if said else [])
