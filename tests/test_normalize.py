import pytest

from pytest_agentperf.normalize import Capacity, Normalized, normalize
from pytest_agentperf.system import System

NOTHING = normalize(0, None, mean_power_w=None, power_reason=None)


def system(accelerators: int, **more: float) -> System:
    return System(name="s", accelerator="a", accelerators=accelerators, **more)  # pyright: ignore[reportArgumentType] counts and prices


def per(agents: float, found: System | None, power_w: float | None = None) -> Normalized:
    return normalize(agents, found, mean_power_w=power_w, power_reason=None)


class TestPublishedNumbers:
    """METHODOLOGY, section 5: DeepSeek V4 Pro at 20 tok/s and 10 s, June 2026."""

    def test_gb300_nvl72(self):
        # 72 GPUs at 937 W are 67.5 kW; 4,140 agents on them are 57.5 a GPU.
        found = per(4140, system(72), 72 * 937.0)
        assert found.per_accelerator == 57.5
        assert found.per_megawatt == pytest.approx(61_354, rel=5e-4)  # 937 W is rounded

    def test_one_gb300(self):
        assert per(57.5, system(1), 937.0).per_megawatt == pytest.approx(61_354, rel=5e-4)

    @pytest.mark.parametrize("power_w", [520.0, 559.0], ids=["1.35 agents", "1.45 agents"])
    def test_h200_within_what_its_rounding_allows(self, power_w: float):
        # 1.4 agents a GPU is rounded: from 1.35 to 1.45, at 2,594 agents a megawatt.
        agents = {520.0: 1.35, 559.0: 1.45}[power_w]
        assert per(agents, system(1), power_w).per_megawatt == pytest.approx(2594, rel=2e-3)

    def test_h200_on_eight_gpus(self):
        # 11 agents on 8 GPUs are 1.375 each; at 2,594 agents a megawatt that is 530 W a GPU.
        found = per(11, system(8), 8 * 530.1)
        assert found.per_accelerator == 1.375
        assert found.per_megawatt == pytest.approx(2594, rel=1e-3)

    def test_gb300_over_h200(self):
        gb300, h200 = per(4140, system(72), 72 * 937.0), per(11, system(8), 8 * 530.1)
        assert gb300.per_megawatt is not None
        assert h200.per_megawatt is not None
        assert gb300.per_megawatt / h200.per_megawatt == pytest.approx(23.65, rel=1e-3)


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
        missing={},
    )


def test_what_is_missing_has_a_reason_and_no_number():
    found = normalize(10, system(8), mean_power_w=None, power_reason="no meter")
    assert (found.per_accelerator, found.per_system) == (1.25, 10.0)
    assert (found.per_megawatt, found.per_kw_tdp, found.per_rack) == (None, None, None)
    assert found.missing == {
        "per_megawatt": "no meter",
        "per_kw_tdp": "system.yaml: accelerators.tdp_w",
        "per_usd_per_hour": "system.yaml: price_usd_per_hour",
        "per_rack": "system.yaml: racks",
    }


def test_without_a_system_only_power_divides():
    found = per(10, None, 1000.0)
    assert (found.per_megawatt, found.per_accelerator) == (10_000.0, None)
    assert set(found.missing.values()) == {"no --system file"}


@pytest.mark.parametrize("power_w", [None, 0.0], ids=["no reading", "a reading of nothing"])
def test_no_power_is_no_megawatt(power_w: float | None):
    found = per(10, system(8), power_w)
    assert (found.per_megawatt, found.missing["per_megawatt"]) == (None, "no power reading")


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
