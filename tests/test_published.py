"""Numbers that Artificial Analysis published, reproduced by our own functions.

AA-AgentPerf, June 2026, DeepSeek V4 Pro at 20 tok/s and 10 s: agents per megawatt of four systems,
and agents per GPU of two. Agents, accelerators and watts of the table are what these figures come
to (4,140 agents on 72 GPUs are 57.5 each; 61,354 a megawatt make that 67.5 kW, 937 W each); each
must give every published figure back, to the digit to which it was published.
"""

from dataclasses import dataclass

import pytest

from pytest_agentperf.normalize import Normalized, normalize
from pytest_agentperf.power import measure_power
from pytest_agentperf.records import Sample
from pytest_agentperf.system import System
from tests.phases import WINDOW, ns


@dataclass(frozen=True, kw_only=True)
class Published:
    system: str
    agents: int
    accelerators: int
    each_w: float
    """Mean power of one accelerator, watts."""
    agents_per_mw: int
    agents_per_gpu: float | None = None
    power_kw: float | None = None
    gpu_w: int | None = None


GB300 = Published(
    system="GB300 NVL72", agents=4140, accelerators=72, each_w=937.18,
    agents_per_mw=61_354, agents_per_gpu=57.5, power_kw=67.5, gpu_w=937,
)  # fmt: skip
H200 = Published(
    system="H200 x8", agents=11, accelerators=8, each_w=530.08,
    agents_per_mw=2594, agents_per_gpu=1.4,
)  # fmt: skip
# Of these two only agents a megawatt are published: watts are those that a whole number of agents
# on eight GPUs comes to, at about nine tenths of their TDP (1,100 and 1,400 W); so these rows hold
# the arithmetic alone, and say nothing of these systems.
B300 = Published(system="B300 x8", agents=168, accelerators=8, each_w=997.48, agents_per_mw=21_053)
MI355X = Published(
    system="MI355X x8", agents=36, accelerators=8, each_w=1267.25, agents_per_mw=3551
)
TABLE = pytest.mark.parametrize(
    "row", [GB300, B300, MI355X, H200], ids=[r.system for r in (GB300, B300, MI355X, H200)]
)


def power_w(row: Published) -> float:
    """Measure the table's watts as a run does: energy counters read beside the load."""
    samples = [
        Sample(at_ns=ns(at_s), series=f"gpu{gpu}", unit="J", value=row.each_w * at_s)
        for gpu in range(row.accelerators)
        for at_s in (90.5, 120.0, 150.0, 180.0, 210.5)
    ]
    found = measure_power(samples, WINDOW, devices=row.accelerators)
    assert found.mean_w is not None, found.reason
    return found.mean_w


def per(row: Published) -> Normalized:
    system = System(name=row.system, accelerator="x", accelerators=row.accelerators)
    return normalize(row.agents, system, mean_power_w=power_w(row), power_reason=None)


@TABLE
def test_agents_per_megawatt(row: Published):
    found = per(row).per_megawatt
    assert found is not None
    assert round(found) == row.agents_per_mw


@TABLE
def test_agents_per_gpu(row: Published):
    found = per(row).per_accelerator
    assert found is not None
    if row.agents_per_gpu is not None:
        assert round(found, 1) == row.agents_per_gpu


def test_a_rack_of_gb300():
    assert round(power_w(GB300) / 1e3, 1) == GB300.power_kw
    assert round(power_w(GB300) / 72) == GB300.gpu_w


@pytest.mark.parametrize(
    ("agents_per_gpu", "gpu_w"), [(1.35, 520), (1.45, 559)], ids=["1.35 agents", "1.45 agents"]
)
def test_an_h200_lies_within_what_the_rounding_of_1_4_agents_allows(
    agents_per_gpu: float, gpu_w: int
):
    # 1.4 a GPU is 1.35 to 1.45; at 2,594 a megawatt that is 520 to 559 W, and 530 lies between.
    assert round(agents_per_gpu / H200.agents_per_mw * 1e6) == gpu_w
    assert 520 <= H200.each_w <= 559


def test_gb300_over_h200():
    gb300, h200 = per(GB300), per(H200)
    assert gb300.per_megawatt is not None
    assert h200.per_megawatt is not None
    assert round(gb300.per_megawatt / h200.per_megawatt, 2) == 23.65
    # Published per GPU is the ratio of rounded figures: 57.5 / 1.4.
    assert gb300.per_accelerator is not None
    assert h200.per_accelerator is not None
    assert round(round(gb300.per_accelerator, 1) / round(h200.per_accelerator, 1)) == 41
