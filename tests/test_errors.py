import pytest

from pytest_agentperf.errors import (
    AgentPerfError,
    ConfigError,
    EndpointError,
    LoadError,
    did_you_mean,
)


@pytest.mark.parametrize("kind", [ConfigError, EndpointError, LoadError])
def test_one_root_catches_every_error(kind: type[Exception]):
    assert issubclass(kind, AgentPerfError)


def test_the_nearest_name_is_proposed():
    assert did_you_mean("tttf_s", ["e2e_s", "ttft_s"]) == "; did you mean 'ttft_s'?"


def test_all_names_are_listed_in_order_where_none_is_near():
    assert did_you_mean("zzz", {"ttft_s": 1, "e2e_s": 2}) == "; known: e2e_s, ttft_s"
