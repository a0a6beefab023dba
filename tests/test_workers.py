import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.workers import worker_count


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
