"""How numbers are written: rounded for the eye, never past the limit they are compared with."""

import math

import pytest

from pytest_agentperf.records import HostHealth
from pytest_agentperf.words import apart, host, low_to_high, size


@pytest.mark.parametrize(
    ("observed", "bound", "text"),
    [
        (3.41, 3.0, "3.41"),
        (1157.4, 1158.0, "1,157"),
        (99.9997, 100.0, "99.9997"),
        (2.9951, 2.996, "2.995"),
        (3.0, 3.0, "3"),
        (math.inf, 3.0, "∞"),
        (None, 3.0, "no value"),
    ],
    ids=str,
)
def test_a_value_is_on_its_own_side_of_the_bound(
    observed: float | None, bound: float, text: str
) -> None:
    assert apart(observed, bound) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        pytest.param(39, 41, "39-41", id="both ends"),
        pytest.param(8, None, "≥ 8", id="no upper end"),
        pytest.param(None, None, "-", id="not known"),
    ],
)
def test_a_range_of_agents(low: int | None, high: int | None, text: str):
    assert low_to_high(low, high) == text


def test_a_node_and_how_far_it_can_be_believed():
    health = HostHealth(
        name="10.0.0.2/3fa9", workers=15, clock_offset_s=0.0500163, clock_error_s=0.00046,
        endpoint_s=0.0203,
    )  # fmt: skip
    assert host(health) == (
        "node 10.0.0.2/3fa9: load processes 15, clock +50.02 ± 0.46 ms, 20.30 ms to connect to the "
        "endpoint"
    )


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(120, "0.1 kB"), (52_340, "52.3 kB"), (1e6, "1.0 MB"), (2.34e9, "2.3 GB")],
)
def test_a_size(size_bytes: float, text: str):
    assert size(size_bytes) == text
