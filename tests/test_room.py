import re
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.room import Room, check_room, room, worker_count


@pytest.mark.parametrize(
    ("asked", "agents", "cores", "processes"),
    [
        (0, 1, 16, 1),
        (0, 64, 16, 1),
        (0, 65, 16, 2),
        (0, 4096, 16, 15),
        (0, 4096, 1, 1),
        (3, 100, 16, 3),
        (3, 100, 1, 3),
        (9, 4, 16, 4),
    ],
    ids=[
        "one agent needs one process",
        "64 agents share one",
        "65 agents take two",
        "one core stays with the coordinator",
        "one core still runs one",
        "the user's number wins",
        "the user's number wins over the cores",
        "no process stays without an agent",
    ],
)
def test_worker_count(asked: int, agents: int, cores: int, processes: int):
    assert worker_count(asked, agents=agents, cores=cores) == processes


@given(st.integers(0, 99), st.integers(1, 5000), st.integers(1, 256))
def test_every_process_has_an_agent(asked: int, agents: int, cores: int):
    assert 1 <= worker_count(asked, agents=agents, cores=cores) <= agents


class TestRoom:
    @pytest.mark.parametrize(
        ("files", "ports", "workers", "agents"),
        [
            (1064, None, 1, 1000),
            (1064, None, 3, 3000),
            (None, 3000, 1, 2000),
            (1064, 3000, 3, 2000),
            (1064, 9000, 3, 3000),
            (50, None, 2, 0),
            (None, 900, 2, 0),
            (None, None, 1, None),
        ],
        ids=["files", "of 3", "ports", "ports first", "files first", "too few", "too few", "any"],
    )
    def test_agents_in_it(
        self, files: int | None, ports: int | None, workers: int, agents: int | None
    ):
        assert Room(files=files, ports=ports).most_agents(workers) == agents

    def test_where_all_fit_nothing_is_said(self):
        check_room(Room(files=1064, ports=None), max_agents=1000, workers=1)
        check_room(Room(files=None, ports=None), max_agents=10**9, workers=1)

    def test_one_agent_too_many_for_the_files(self):
        said = (
            "--agentperf-max-agents 2001: this machine has room for 2000 agents: a process may "
            "open 1064 files and 2 would share them; allow more (`ulimit -n 1065`), or share them "
            "among more with --agentperf-workers, or give --agentperf-max-agents=2000"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
            check_room(Room(files=1064, ports=28_000), max_agents=2001, workers=2)
        check_room(Room(files=1065, ports=28_000), max_agents=2001, workers=2)

    def test_one_agent_too_many_for_the_ports(self):
        said = r"room for 2000 agents: the machine has 3000 local ports; widen .*sysctl -w"
        with pytest.raises(ConfigError, match=said):
            check_room(Room(files=None, ports=3000), max_agents=2001, workers=2)

    def test_of_this_machine(self):
        given = room()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert given.files == (None if hard == resource.RLIM_INFINITY else hard)
        assert given.ports is None or given.ports > 0

    def test_a_process_takes_the_files_that_it_may_have(self):
        """In a process of its own: this one's limits are not to be touched."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        code = (
            "import resource as r; from pytest_agentperf.room import open_files_up; "
            f"r.setrlimit(r.RLIMIT_NOFILE, (100, {hard})); open_files_up(); "
            "print(*r.getrlimit(r.RLIMIT_NOFILE))"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert found.stdout.split() == [str(hard), str(hard)]
