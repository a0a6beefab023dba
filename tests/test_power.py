import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.power import Power, measure_power
from pytest_agentperf.records import Sample, Window
from tests.phases import WINDOW, ns

SECONDS = range(90, 211)
LESS = "readings of gpu0 cover %s%% of the window, 95%% are needed"


def sample(at_s: float, value: float, *, unit: str = "W", series: str = "gpu0") -> Sample:
    return Sample(at_ns=ns(at_s), series=series, unit=unit, value=value)


def power(*samples: Sample, devices: int = 1) -> Power:
    return measure_power(samples, WINDOW, devices=devices)


def test_a_constant_power_is_its_own_mean():
    found = power(*(sample(s, 700.0) for s in SECONDS))
    assert (found.mean_w, found.energy_j, found.coverage) == pytest.approx((700, 70_000, 1.0))
    assert (found.samples, found.devices, found.reason) == (103, 1, None)


def test_readings_of_earlier_phases_are_not_counted():
    # 101 in the window, one before and one behind; what is kept from long before tells nothing.
    assert power(*(sample(s, 700.0) for s in range(-200, 211))).samples == 103


def test_a_ramp_is_integrated_by_trapezoids():
    # At s seconds s watts: the mean from 100 to 200 s is 150.
    assert power(*(sample(s, s) for s in SECONDS)).mean_w == pytest.approx(150)


def test_power_outside_the_window_does_not_count():
    found = power(*(sample(s, 500.0 if 100 <= s <= 200 else 9999.0) for s in SECONDS))
    assert found.mean_w == pytest.approx(500)


def test_the_edges_are_interpolated():
    # From 0 W at 95 s to 100 W at 105 s: 50 W at the edge, so 75 W for 5 s, then 100 W.
    steps = [sample(95, 0), *(sample(s, 100) for s in range(105, 206, 10))]
    assert power(*steps).energy_j == pytest.approx(75 * 5 + 100 * 95)


def test_a_counter_is_read_at_the_edges():
    # 300 J a second; at 100 s half way from 95 to 105 s.
    found = power(*(sample(s, 300.0 * s, unit="J") for s in (95, 105, 195, 205)))
    assert (found.mean_w, found.energy_j) == pytest.approx((300, 30_000))


def test_a_counter_counts_on_while_nobody_reads_it():
    found = power(sample(99, 0.0, unit="J"), sample(201, 102.0 * 400, unit="J"))
    assert (found.mean_w, found.coverage) == (pytest.approx(400), 1.0)


def test_a_counter_wins_over_power_samples_of_its_device():
    counted = [sample(s, 300.0 * s, unit="J") for s in SECONDS]
    assert power(*counted, *(sample(s, 370.0) for s in SECONDS)).mean_w == pytest.approx(300)


@pytest.mark.parametrize("counted_w", [0.0, 3.0, 380.0])
def test_a_counter_that_its_device_contradicts_is_no_figure(counted_w: float):
    counted = [sample(s, counted_w * s, unit="J") for s in SECONDS]
    found = power(*counted, *(sample(s, 300.0) for s in SECONDS))
    assert (found.mean_w, found.energy_j) == (None, None)
    assert found.reason is not None
    if counted_w:  # one that stands still tells of no span at all
        assert "samples 300 W: one of them is wrong" in found.reason


def test_samples_of_a_part_of_the_window_contradict_nothing():
    counted = [sample(s, 300.0 * s, unit="J") for s in SECONDS]
    few = [sample(s, 999.0) for s in range(150, 170)]
    assert power(*counted, *few).mean_w == pytest.approx(300)


def test_devices_add_up_whatever_they_read():
    counted = [sample(s, 300.0 * s, unit="J") for s in SECONDS]
    sampled = [sample(s, 400.0, series="gpu1") for s in SECONDS]
    assert power(*counted, *sampled, devices=2).mean_w == pytest.approx(700)


def test_other_quantities_are_no_power():
    others = [sample(s, 5.0, unit="1", series="running") for s in SECONDS]
    found = power(*(sample(s, 700.0) for s in SECONDS), *others)
    assert (found.mean_w, found.samples) == (pytest.approx(700), 103)


@pytest.mark.parametrize("unit", ["W", "J"], ids=["power samples", "a counter"])
def test_a_short_lack_at_the_end_does_not_lower_the_mean(unit: str):
    # Readings end at 196 of 200 s: 96 % covered, and the mean is still what was seen, 300 W.
    rows = [sample(s, 300.0 * (s if unit == "J" else 1), unit=unit) for s in range(90, 197)]
    found = power(*rows)
    assert (found.coverage, found.mean_w) == (pytest.approx(0.96), pytest.approx(300))
    assert found.energy_j == pytest.approx(30_000)


@pytest.mark.parametrize(
    ("samples", "devices", "reason"),
    [
        ([], 0, "no meter"),
        ([], 1, "1 of 1 devices gave no reading"),
        ([sample(s, 1.0) for s in SECONDS], 8, "7 of 8 devices gave no reading"),
        ([sample(s, 1.0) for s in range(90, 195)], 1,
         f"{LESS % 94}: the last came 6 s before its end"),
        ([sample(s, 1.0) for s in range(106, 211)], 1,
         LESS % 94),
        ([sample(s, 1.0) for s in range(50, 99)], 1,
         f"{LESS % 0}: the last came 102 s before its end"),
        ([sample(150, 1.0)], 1,
         f"{LESS % 0}: the last came 50 s before its end"),
        ([sample(s, 1.0) for s in SECONDS if not 110 < s < 190], 1,
         LESS % 20),
        ([sample(s, s % 150, unit="J") for s in SECONDS], 1,
         "the energy counter of gpu0 was reset"),
    ],
    ids=[
        "there is no meter",
        "a device never answered",
        "most devices never answered",
        "readings ended early",
        "readings began late",
        "readings ended before the window",
        "there is one reading",
        "readings paused for long",
        "a counter ran backwards",
    ],
)  # fmt: skip
def test_there_is_no_number_when(samples: list[Sample], devices: int, reason: str):
    found = power(*samples, devices=devices)
    assert (found.mean_w, found.energy_j, found.reason) == (None, None, reason)


def test_the_worst_device_decides():
    good = [sample(s, 1.0) for s in SECONDS]
    found = power(*good, *(sample(s, 1.0, series="gpu1") for s in range(90, 151)), devices=2)
    assert (found.mean_w, found.coverage) == (None, 0.5)


def test_a_reset_outside_the_window_voids_the_counter_too():
    rows = [sample(s, s - 95 if s >= 95 else s, unit="J") for s in SECONDS]
    assert power(*rows).reason == "the energy counter of gpu0 was reset"


def test_an_empty_window_is_not_covered():
    empty = Window(start_ns=ns(100), end_ns=ns(100))
    found = measure_power([sample(s, 1.0) for s in SECONDS], empty, devices=1)
    assert (found.mean_w, found.coverage) == (None, 0.0)


def test_the_meter_names_why_it_is_missing():
    assert measure_power([], WINDOW, devices=0, name="nvml: no driver").reason == "nvml: no driver"


@given(shift_s=st.integers(-10_000, 10_000))
def test_a_shift_in_time_changes_nothing(shift_s: int):
    rows = [sample(s + shift_s, s % 7) for s in SECONDS]
    window = Window(start_ns=WINDOW.start_ns + ns(shift_s), end_ns=WINDOW.end_ns + ns(shift_s))
    moved = measure_power(rows, window, devices=1)
    assert moved.energy_j == pytest.approx(power(*(sample(s, s % 7) for s in SECONDS)).energy_j)
