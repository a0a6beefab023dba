"""Where things lie in a picture, worked by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.plots import Scale, apart, bars, limits, nice_ticks, path

LOG = Scale(low=1.0, high=100.0, log=True)
LINEAR = Scale(low=0.0, high=200.0)


def test_a_logarithmic_scale_places_by_ratios():
    assert (LOG.across(10), LOG.down(10), LOG.down(100)) == ("50.00", "50.00", "0.00")
    assert not LOG.holds(0)
    assert not LOG.holds(float("inf"))


def test_a_scale_of_one_value_has_it_in_the_middle():
    assert Scale(low=5.0, high=5.0).across(5.0) == "50.00"


def test_a_line_is_broken_where_a_value_is_missing():
    drawn = path([0, 50, 100, 150, 200], [0, 200, None, 100, 200], LINEAR, LINEAR)
    assert drawn == "M0 1000L250 0M750 500L1000 0"


def test_bars_reach_up_to_the_fullest_bin():
    assert bars([1, 0, 4], 0.1, 0.4) == "M100.0 1000V750H200.0V1000ZM300.0 1000V0H400.0V1000Z"


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(low=0, high=7), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Scale(low=0, high=620), [0, 100, 200, 300, 400, 500, 600]),
        (Scale(low=0, high=0.04), [0, 0.01, 0.02, 0.03, 0.04]),
        (Scale(low=0.9, high=12, log=True), [1, 2, 5, 10]),
        (Scale(low=0.8, high=90_000, log=True), [1, 10, 100, 1000, 10_000]),
        (Scale(low=101, high=109, log=True), [102, 104, 106, 108]),
    ],
)
def test_ticks_are_round(scale: Scale, ticks: list[float]):
    assert nice_ticks(scale) == pytest.approx(ticks)


@given(
    st.floats(min_value=1e-6, max_value=1e6),
    st.floats(min_value=1.001, max_value=1e6),
    st.booleans(),
)
def test_ticks_are_few_and_inside(low: float, factor: float, log: bool):  # noqa: FBT001 drawn
    scale = Scale(low=low, high=low * factor, log=log)
    ticks = nice_ticks(scale)
    assert 1 <= len(ticks) <= 13
    assert all(low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6) for tick in ticks)
    assert all(a < b for a, b in pairwise(ticks))


def test_labels_of_limits_keep_off_one_another():
    assert apart([10, 11, 40], 5) == [10, 15, 40]
    drawn = limits({10.0: ["slo-1"], 10.5: ["slo-2", "slo-3"]}, "s", LOG, line=(0.1, 0.9))
    assert [line.text for line in drawn] == ["slo-2, slo-3: 10.5 s", "slo-1: 10 s"]
    first, second = (float(line.label_at) for line in drawn)
    assert second - first >= 5
    assert [line.at for line in drawn] == ["48.94", "50.00"]  # 1 - log10(10.5) / 2


def test_a_label_stands_where_the_line_is_far_away():
    # The line falls from 0.9 to 0.2: a limit high up is named at its end, a low one at its begin.
    drawn = limits({80.0: ["high"], 2.0: ["low"]}, "s", LOG, line=(0.9, 0.2))
    assert {line.text: line.right for line in drawn} == {"high: 80 s": True, "low: 2 s": False}
