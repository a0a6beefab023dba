"""The NVML meter against a library at NVML's C ABI, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "data" / "nvml_standin.c"
READ = """
import json, sys, time
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.nvml import connect
from pytest_agentperf.power import measure_meters
from pytest_agentperf.protocols import ReadingError
from pytest_agentperf.records import Metered, Window

try:
    meter = connect(sys.argv[1])
except ConfigError as refused:
    sys.exit(print(json.dumps([[], None, str(refused)])))
samples, trouble = [], None
began_ns = time.perf_counter_ns()
for _ in range(40):
    try:
        samples += meter.sample()
    except ReadingError as failed:
        samples += failed.samples
        trouble = str(failed)
    time.sleep(0.02)  # a busy machine stalls for a tenth of a second
meter.close()
metered = Metered(
    meter=meter.name, kind=meter.kind, role=meter.role, samples=tuple(samples), trouble=trouble,
    series=tuple(d["series"] for d in meter.devices), devices=len(meter.devices),
)
window = Window(start_ns=samples[4].at_ns, end_ns=time.perf_counter_ns() - 40_000_000)
(found,) = measure_meters([metered], window)
print(json.dumps([list(meter.devices), found.power.mean_w, found.power.reason]))
"""


def _read(
    folder: Path, meter: str = "nvml", **planted: str
) -> tuple[list[dict[str, str]], float, str]:
    done = subprocess.run(
        [sys.executable, "-c", READ, meter],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), **planted},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libnvidia-ml.so.1 of two devices of 700 W."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler to build the stand-in with")
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return folder


def test_energy_counter_and_power_samples_of_two_devices_add_up(standin: Path) -> None:
    devices, mean_w, reason = _read(standin)
    assert reason is None
    # Both draw 700 W; the counter ticks in milliseconds, 0.7 J of some 180 J.
    assert mean_w == pytest.approx(1400, rel=0.02)
    assert devices == [
        {"series": "gpu0", "name": "Stand-in A", "uuid": "GPU-a", "source": "energy counter"},
        {"series": "gpu1", "name": "Stand-in B", "uuid": "GPU-b", "source": "power samples"},
    ]


@pytest.mark.parametrize("name", ["nvml:0", "nvml:GPU-a", "nvml:MIG-a1", "nvml:0,GPU-a"])
def test_a_device_is_named_by_index_uuid_or_a_mig_instance_on_it(standin: Path, name: str) -> None:
    devices, mean_w, reason = _read(standin, name)
    assert ([d["uuid"] for d in devices], reason) == (["GPU-a"], None)
    assert mean_w == pytest.approx(700, rel=0.02)


@pytest.mark.parametrize(
    ("scope", "watts", "source"),
    [
        ("gpu", 520, "instant power of the gpu"),
        ("module", 700, "average power of the module"),
        ("memory", 130, "instant power of the memory"),
    ],
)
def test_scopes_of_the_power_are_told_apart(
    standin: Path, scope: str, watts: float, source: str
) -> None:
    devices, mean_w, _ = _read(standin, f"nvml:0?scope={scope}")
    assert mean_w == pytest.approx(watts)
    assert devices[0]["source"] == source


def test_a_gpu_that_disappears_leaves_no_figure_and_is_named(standin: Path) -> None:
    _, mean_w, reason = _read(standin, STANDIN_LOST_MS="150")
    assert mean_w is None
    assert "readings of gpu0 cover" in reason
    assert reason.endswith("(gpu0 (GPU-a): GPU is lost)")


def test_a_counter_that_begins_anew_leaves_no_figure(standin: Path) -> None:
    _, mean_w, reason = _read(standin, STANDIN_RESET_MS="150")
    assert (mean_w, reason) == (None, "nvml: the energy counter of gpu0 was reset")


@pytest.mark.parametrize(
    ("meter", "said"),
    [
        ("nvml:7", "no device is '7'; NVML lists 2: 0 (GPU-a), 1 (GPU-b)"),
        ("nvml:MIG-x", "no device is 'MIG-x'"),
        ("nvml:scope=gpu", "gpu1 does not tell the power of its gpu alone, which came with Hopper"),
        ("nvml:scope=rack", "scope is 'rack'; it is one of gpu, module, memory"),
        ("nvml:0?field=peak", "field is 'peak'; it is one of instant, average"),
    ],
)
def test_a_meter_that_cannot_be_had_is_refused(standin: Path, meter: str, said: str) -> None:
    _, _, refused = _read(standin, meter)
    assert said in refused


def test_without_a_driver_the_meter_says_so(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA driver")
    _, _, refused = _read(tmp_path)
    assert "--agentperf-meter 'nvml': NVML does not answer" in refused
    assert "dcgm:, prometheus: and command: read those of another" in refused
