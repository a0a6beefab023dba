"""What a change between two readings is, how sure, and whether it is for the worse."""

import math

import pytest

from pytest_agentperf.change import (
    CAPACITY,
    ENERGY,
    FIGURES,
    SPEED,
    THROUGHPUT,
    TTFT,
    Change,
    Figure,
    Reading,
    by_both,
    by_intervals,
    by_pairs,
    by_spread,
    verdict_of,
)


def _reading(value: float, half: float = 0.0) -> Reading:
    return Reading(value=value, low=value - half, high=value + half, n=100)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f.name)
def test_a_tenth_for_the_worse_is_a_regression_of_every_figure(figure: Figure) -> None:
    # Which direction is worse is written here once more, by hand.
    worse = {CAPACITY: 90, SPEED: 90, THROUGHPUT: 90, TTFT: 110, ENERGY: 110}[figure]
    change = by_intervals(_reading(100, 0.1), _reading(worse, 0.1))
    assert verdict_of(figure, change) == "regressed"
    back = by_intervals(_reading(worse, 0.1), _reading(100, 0.1))
    assert verdict_of(figure, back) == "improved"


def test_distances_to_the_ends_add_as_squares() -> None:
    # ln: ends 0.03 and 0.04 away: sqrt(9 + 16) = 5 hundredths.
    before = Reading(value=1.0, low=math.exp(-0.04), high=math.exp(0.04))
    now = Reading(value=1.0, low=math.exp(-0.03), high=math.exp(0.03))
    change = by_intervals(before, now)
    assert change.ratio == 0
    assert math.log1p(change.high) == pytest.approx(0.05)
    assert math.log1p(change.low) == pytest.approx(-0.05)


def test_more_figures_at_once_make_each_less_sure() -> None:
    before, now = _reading(100, 1), _reading(98, 1)
    one, ten = (by_intervals(before, now, figures=n) for n in (1, 10))
    assert ten.low < one.low < one.high < ten.high


def test_the_spread_of_repeats_is_the_tolerance() -> None:
    # ln of the repeats is -0.01, 0, 0.01, 0, 0: SD = sqrt(0.0002 / 4) = 0.00707; two phases differ
    # by sqrt(2) of that = 0.01; t with 4 degrees of freedom is 2.776.
    repeats = [math.exp(x) for x in (-0.01, 0, 0.01, 0, 0)]
    change = by_spread(Reading(value=1.0), Reading(value=0.98), repeats)
    assert math.log1p(change.low) == pytest.approx(math.log(0.98) - 0.02776, rel=0.01)
    assert verdict_of(SPEED, change) == "unchanged"
    slower = by_spread(Reading(value=1.0), Reading(value=0.96), repeats)
    assert verdict_of(SPEED, slower) == "regressed"


def test_the_wider_of_two_intervals_counts_end_by_end() -> None:
    repeats = [math.exp(x) for x in (-0.01, 0, 0.01, 0, 0)]
    before, sure = (
        Reading(value=1.0, low=0.999, high=1.001),
        Reading(value=1.0, low=0.999, high=1.001),
    )
    assert by_both(before, sure, repeats) == by_spread(before, sure, repeats)
    doubtful = Reading(value=1.0, low=0.8, high=1.001)
    both = by_both(before, doubtful, repeats)
    assert both.low == by_intervals(before, doubtful).low
    assert both.high == by_spread(before, doubtful, repeats).high
    # What its own requests do not bound is left to the repeats.
    assert by_both(before, Reading(value=1.0), repeats) == by_spread(before, sure, repeats)


def test_pairs_do_not_show_what_they_have_in_common() -> None:
    # Work differs twofold from pair to pair; the second is 3 % slower in each.
    pairs = [(100.0, 97.0), (200.0, 194.2), (50.0, 48.4), (80.0, 77.6)]
    change = by_pairs(pairs)
    assert change.ratio == pytest.approx(-0.03, abs=0.002)
    assert verdict_of(SPEED, change) == "regressed"


@pytest.mark.parametrize(
    ("figure", "change", "verdict"),
    [
        (SPEED, Change(ratio=-0.005, low=-0.006, high=-0.004), "unchanged"),
        (SPEED, Change(ratio=-0.02, low=-0.03, high=-0.01), "regressed"),
        (SPEED, Change(ratio=-0.05, low=-0.20, high=0.12), "unclear"),
        (SPEED, Change(ratio=0.0, low=-0.05, high=0.05), "unchanged"),
        (TTFT, Change(ratio=-0.3, low=-0.4, high=-0.2), "improved"),
        (TTFT, Change(ratio=0.3, low=-0.4, high=1.8), "unclear"),
    ],
    ids=[
        "certain and too small",
        "certain and large",
        "neither a change nor its absence can be told",
        "a loss of a tenth is ruled out",
        "less time is better",
        "too wide",
    ],
)
def test_verdict(figure: Figure, change: Change, verdict: str) -> None:
    assert verdict_of(figure, change) == verdict


def test_failed_requests_in_a_percentile_are_a_regression() -> None:
    change = by_intervals(_reading(2.0, 0.1), Reading(value=math.inf))
    assert verdict_of(TTFT, change) == "regressed"
    assert verdict_of(TTFT, by_intervals(Reading(value=math.inf), _reading(2.0))) == "improved"
    assert verdict_of(SPEED, by_intervals(_reading(20.0), Reading(value=0.0))) == "regressed"
    both = by_intervals(Reading(value=math.inf), Reading(value=math.inf))
    assert verdict_of(TTFT, both) == "unclear"
