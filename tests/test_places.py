import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.places import Places, parse_places


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("0", Places(workers=0)),
        ("12", Places(workers=12)),
        ("ray:auto", Places(workers=0, cluster="auto")),
        ("ray:auto?workers=6", Places(workers=6, cluster="auto")),
        ("ray://head:10001", Places(workers=0, cluster="ray://head:10001")),
        ("ray://10.0.0.1:10001?workers=40", Places(workers=40, cluster="ray://10.0.0.1:10001")),
    ],
    ids=[
        "this machine, by cores",
        "this machine, so many",
        "the cluster that is found",
        "so many on the cluster that is found",
        "the cluster behind a head",
        "so many on the cluster behind a head",
    ],
)
def test_where_load_runs(text: str, places: Places):
    assert parse_places(text) == places


@pytest.mark.parametrize(
    "text",
    ["many", "-1", "1.5", "ray", "ray:", "ray://head", "ray://:10001", "ray://head:port", ""],
)
def test_what_is_no_place_is_told(text: str):
    with pytest.raises(ConfigError, match="takes a number of load processes, ray:auto or ray://"):
        parse_places(text)


@pytest.mark.parametrize("query", ["worker=2", "workers=0", "workers=", "workers=two", "2"])
def test_a_wrong_number_of_workers_is_told(query: str):
    with pytest.raises(ConfigError, match=r"behind the \? only workers=N may stand, N above 0"):
        parse_places(f"ray:auto?{query}")
