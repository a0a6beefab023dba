"""What a change between two readings is, how sure, and whether it is for the worse."""

import math

import pytest

from pytest_agentperf.change import (
    CAPACITY,
    ENERGY,
    REUSE,
    SPEED,
    THROUGHPUT,
    TTFT,
    Change,
    Figure,
    Reading,
    among,
    by_intervals,
    by_pairs,
    by_repeats,
    verdict_of,
)


def _reading(value: float, half: float = 0.0) -> Reading:
    return Reading(value=value, low=value - half, high=value + half, n=100)


# Which direction is worse is written here once more, by hand.
WORSE = {CAPACITY: 90, SPEED: 90, THROUGHPUT: 90, REUSE: 90, TTFT: 110, ENERGY: 110}


@pytest.mark.parametrize(("figure", "worse"), WORSE.items(), ids=[f.name for f in WORSE])
def test_a_tenth_for_the_worse_is_a_regression_of_every_figure(figure: Figure, worse: int) -> None:
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


_APART = (-0.01, 0, 0.01, 0, 0)
"""ln of repeats: SD = sqrt(0.0002 / 4) = 0.00707; t with 4 degrees of freedom is 2.776."""
_REPEATS = [math.exp(x) for x in _APART]


def test_the_spread_of_repeats_is_the_tolerance() -> None:
    # Two phases differ by sqrt(2) of the SD = 0.01.
    change = by_repeats(SPEED, Reading(value=1.0), Reading(value=0.98), _REPEATS, alike=False)
    assert math.log1p(change.low) == pytest.approx(math.log(0.98) - 0.02776, rel=0.01)
    assert verdict_of(SPEED, change) == "unchanged"
    slower = by_repeats(SPEED, Reading(value=1.0), Reading(value=0.96), _REPEATS, alike=False)
    assert verdict_of(SPEED, slower) == "regressed"


def test_repeats_of_the_very_phase_say_with_it_what_was_before() -> None:
    # The mean of six, of which the baseline is 0.012 above the other five: 0.002; a phase differs
    # from it by sqrt(1 + 1/6) of the SD = 0.00764, times 2.776 = 0.0212.
    before = Reading(value=math.exp(0.012))
    change = by_repeats(SPEED, before, Reading(value=0.96), _REPEATS, alike=True)
    assert math.log1p(change.ratio) == pytest.approx(math.log(0.96) - 0.002)
    assert math.log1p(change.high) - math.log1p(change.ratio) == pytest.approx(0.0212, rel=0.01)


def test_repeats_that_the_baseline_lies_apart_from_are_of_something_else() -> None:
    # 2.776 x 0.00707 x sqrt(1 + 1/5) = 0.0215 apart at most.
    before = Reading(value=math.exp(0.022))
    assert among(Reading(value=math.exp(0.021)), _REPEATS) == (math.exp(0.021), *_REPEATS)
    assert among(before, _REPEATS) == (before.value,)
    now = Reading(value=0.96)
    both = (by_repeats(SPEED, before, now, _REPEATS, alike=alike) for alike in (True, False))
    assert next(both) == next(both)


def test_phases_count_where_they_are_less_sure_than_repeats() -> None:
    none = Reading(value=1.0)
    sure = Reading(value=1.0, low=0.999, high=1.001)
    of_repeats = by_repeats(SPEED, none, none, _REPEATS, alike=False)
    assert by_repeats(SPEED, sure, sure, _REPEATS, alike=False) == of_repeats
    # ln: ends 0.03 and 0.04 away, 0.0354 in the mean of their squares, and as far again for a
    # second phase that is surer: 0.05 either way.
    unsure = Reading(value=1.0, low=math.exp(-0.03), high=math.exp(0.04))
    change = by_repeats(SPEED, unsure, none, _REPEATS, alike=False)
    assert math.log1p(change.low) == pytest.approx(-0.05)
    assert math.log1p(change.high) == pytest.approx(0.05)
    # This run's own end, 0.3 away, and the repeats' 2.776 x 0.00707 for the other.
    change = by_repeats(SPEED, none, Reading(value=1.0, low=math.exp(-0.3)), _REPEATS, alike=False)
    assert math.log1p(change.low) == pytest.approx(-math.hypot(0.3, 0.01963), rel=1e-3)
    assert change.high == of_repeats.high


def test_what_is_lost_in_bursts_is_held_against_a_baseline_that_has_none() -> None:
    before, now = _reading(0.998, 0.001), Reading(value=0.79, low=0.55, high=1.0)
    assert verdict_of(REUSE, by_intervals(before, now)) == "unclear"
    assert verdict_of(SPEED, by_repeats(SPEED, before, now, _REPEATS, alike=True)) == "unclear"
    assert verdict_of(REUSE, by_repeats(REUSE, before, now, _REPEATS, alike=True)) == "regressed"


def test_a_single_burst_is_no_loss_of_reuse() -> None:
    assert verdict_of(REUSE, Change(ratio=-0.04, low=-0.045, high=-0.035)) == "unchanged"
    assert verdict_of(REUSE, Change(ratio=-0.06, low=-0.065, high=-0.055)) == "regressed"


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
