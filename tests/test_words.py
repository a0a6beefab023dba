"""How numbers are written: rounded for the eye, never past the limit they are compared with."""

import math

import pytest

from pytest_agentperf.words import apart, low_to_high


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
