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
import json, time
from pytest_agentperf.meters.nvml import connect
from pytest_agentperf.power import measure_power
from pytest_agentperf.records import Window

meter = connect()
samples = []
for _ in range(30):
    samples += meter.sample()
    time.sleep(0.01)
meter.close()
window = Window(start_ns=samples[2].at_ns, end_ns=samples[-3].at_ns)
power = measure_power(samples, window, devices=len(meter.devices))
print(json.dumps([list(meter.devices), power.mean_w, power.reason]))
"""
FAIL = """
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.nvml import connect
try:
    connect()
except ConfigError as refused:
    print(refused)
"""


def _python(code: str, library_folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(library_folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    """A folder with a libnvidia-ml.so.1 of two devices of 700 W."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler to build the stand-in with")
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return tmp_path


def test_energy_counter_and_power_samples_of_two_devices_add_up(standin: Path) -> None:
    devices, mean_w, reason = json.loads(_python(READ, standin))
    assert reason is None
    # Both draw 700 W; the counter ticks in milliseconds, 0.7 J of some 180 J.
    assert mean_w == pytest.approx(1400, rel=0.02)
    assert devices == [
        {"series": "gpu0", "name": "Stand-in A", "uuid": "GPU-a", "source": "energy counter"},
        {"series": "gpu1", "name": "Stand-in B", "uuid": "GPU-b", "source": "power samples"},
    ]


def test_without_a_driver_the_meter_says_so(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA driver")
    assert "meter 'nvml': NVML does not answer" in _python(FAIL, tmp_path)
