from typing import Any

import pytest

from pytest_agentperf.normalize import (
    Capacity,
    Normalized,
    declared_wall,
    joules_per_token,
    normalize,
)
from pytest_agentperf.power import Power
from pytest_agentperf.system import System

NOTHING = normalize(0, None, mean_power_w=None, power_reason=None)


def system(accelerators: int, **more: float) -> System:
    return System(name="s", accelerator="a", accelerators=accelerators, **more)  # pyright: ignore[reportArgumentType] counts and prices


def per(agents: float, found: System | None, power_w: float | None = None) -> Normalized:
    return normalize(agents, found, mean_power_w=power_w, power_reason=None)


def test_a_quantity_is_divided_by_what_it_took():
    found = per(
        240, system(16, tdp_w=1000.0, systems=2, racks=0.5, price_usd_per_hour=48.0), 12_000.0
    )
    assert found == Normalized(
        per_accelerator=15.0,  # 240 / 16
        per_system=120.0,  # 240 / 2
        per_megawatt=20_000.0,  # 240 / 0.012
        per_kw_tdp=15.0,  # 240 / 16 kW
        per_usd_per_hour=5.0,  # 240 / 48
        per_rack=480.0,  # 240 / 0.5
        missing={"per_megawatt_wall": "no meter of the whole chassis"},
    )


def test_what_is_missing_has_a_reason_and_no_number():
    found = normalize(10, system(8), mean_power_w=None, power_reason="no meter")
    assert (found.per_accelerator, found.per_system) == (1.25, 10.0)
    assert (found.per_megawatt, found.per_kw_tdp, found.per_rack) == (None, None, None)
    assert found.missing == {
        "per_megawatt": "no meter",
        "per_megawatt_wall": "no meter of the whole chassis",
        "per_kw_tdp": "system.yaml: accelerators.tdp_w",
        "per_usd_per_hour": "system.yaml: price_usd_per_hour",
        "per_rack": "system.yaml: racks",
    }


def test_without_a_system_only_power_divides():
    found = per(10, None, 1000.0)
    assert (found.per_megawatt, found.per_accelerator) == (10_000.0, None)
    assert set(found.missing.values()) == {"no --system file", "no meter of the whole chassis"}


@pytest.mark.parametrize("power_w", [None, 0.0], ids=["no reading", "a reading of nothing"])
def test_no_power_is_no_megawatt(power_w: float | None):
    found = per(10, system(8), power_w)
    assert (found.per_megawatt, found.missing["per_megawatt"]) == (None, "no power reading")


def test_a_chassis_meter_divides_apart():
    found = normalize(
        10, None, mean_power_w=1000.0, power_reason=None, wall_power_w=2500.0, wall_reason=None
    )
    assert (found.per_megawatt, found.per_megawatt_wall) == (10_000.0, 4000.0)


def test_a_chassis_meter_that_failed_says_why():
    found = normalize(
        10, None, mean_power_w=1.0, power_reason=None, wall_reason="readings cover 71 %"
    )
    assert found.per_megawatt_wall is None
    assert found.missing["per_megawatt_wall"] == "readings cover 71 %"


@pytest.mark.parametrize(
    ("covered", "declared", "watts"),
    [
        (1, {}, 2500.0),
        (2, {}, 2500.0),  # nothing says how many nodes one system has
        (1, {"systems": 2}, None),  # but each has one
        (2, {"systems": 2}, 2500.0),
        (1, {"nodes": 2}, None),
        (2, {"nodes": 2}, 2500.0),
        (2, {"nodes": 1}, None),
    ],
)
def test_the_wall_is_divided_by_where_the_meters_cover_every_node(
    covered: int, declared: dict[str, int], watts: float | None
):
    draw = Power(
        mean_w=2500.0, energy_j=25_000.0, devices=covered, samples=9, coverage=1.0, reason=None
    )
    assert declared_wall(draw, system(16, **declared))[0] == watts
    assert declared_wall(draw, None) == (2500.0, None)


@pytest.mark.parametrize(
    ("throughput", "power_w", "reason", "answer"),
    [
        (500.0, 4000.0, None, (8.0, None)),  # 4,000 J a second for 500 tokens
        (None, 4000.0, None, (None, "no answer to divide")),
        (500.0, None, "no meter", (None, "no meter")),
        (500.0, 0.0, None, (None, "no power reading")),
        (0.0, 4000.0, None, (None, "no output token")),
    ],
    ids=["measured", "no answer", "no meter", "a reading of nothing", "no token"],
)
def test_joules_of_a_token(
    throughput: float | None, power_w: float | None, reason: str | None, answer: tuple[Any, Any]
):
    assert joules_per_token(throughput, mean_power_w=power_w, power_reason=reason) == answer


def test_no_agents_are_none_per_anything():
    assert per(0, system(8), 1000.0).per_megawatt == 0.0


@pytest.mark.parametrize(
    ("status", "agents", "label"),
    [
        ("found", 12, "12"),
        ("at-limit", 256, "≥ 256"),
        ("unsupported", 0, "0 (not supported)"),
        ("invalid", 8, "invalid"),
        ("open", 8, "not finished (8 passed)"),
    ],
    ids=["a number", "at least a number", "not supported", "invalid", "not finished"],
)
def test_a_capacity_is_printed_as(status: str, agents: int, label: str):
    assert capacity(status=status, agents=agents).label == label


def test_a_capacity_gives_its_agents_per_unit():
    found = capacity(agents=24, per=per(24, system(8, systems=2), 1000.0))
    assert (found.per_accelerator, found.per_system, found.per_megawatt) == (3.0, 12.0, 24_000.0)


def capacity(*, status: str = "found", agents: int, per: Normalized = NOTHING) -> Capacity:
    return Capacity(
        model="m", tier="t", agents=agents, status=status, first_failing=None, limited_by=(),
        passing_phase=None, failing_phase=None, passes_above_failure=(), throughput_tok_per_s=None,
        mean_power_w=None, per=per, throughput_per=NOTHING,
    )  # fmt: skip


def test_no_answer_is_nothing_per_anything():
    found = normalize(None, system(8), mean_power_w=4000.0, power_reason=None)
    assert found.per_accelerator is None
    assert found.per_megawatt is None
    assert set(found.missing.values()) == {"no answer to divide"}
