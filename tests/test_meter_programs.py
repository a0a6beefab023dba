"""Meters that are programs or files: a command, ipmitool, amd-smi, RAPL, a wall meter's log."""

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters import amd_smi, command, ipmi, rapl, wall_csv
from pytest_agentperf.power import measure_power
from pytest_agentperf.protocols import ReadingError
from pytest_agentperf.records import Sample, Window

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Makes a program of this name that is found first."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n", "ascii")
        path.chmod(0o755)
        return path

    return make


# A command that prints watts


def test_a_command_that_prints_a_number_is_one_device() -> None:
    meter = command.connect("command:echo 712.5")
    (sample,) = meter.sample()
    assert (sample.series, sample.unit, sample.value) == ("command", "W", 712.5)
    assert meter.role == "accelerator"


def test_a_command_may_stand_for_several_devices_and_other_units() -> None:
    meter = command.connect("command:printf 'a 1.5\\nb 2\\n'?unit=kW&devices=8&role=chassis")
    assert {s.series: s.value for s in meter.sample()} == {"a": 1500.0, "b": 2000.0}
    assert sum(int(d.get("count", 1)) for d in meter.devices) == 8
    assert meter.role == "chassis"


@pytest.mark.parametrize(("devices", "counts"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (8, [6, 1, 1])])
def test_three_feeds_stand_for_as_many_devices_as_is_said(devices: int, counts: list[int]) -> None:
    line = f"command:printf 'psu1 1\\npsu2 1\\npsu3 1\\n'?role=chassis&devices={devices}"
    assert [int(d.get("count", 1)) for d in command.connect(line).devices] == counts


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    gate = tmp_path / "slow"
    meter = command.connect(f"command:test ! -e {gate} || sleep 30 | cat; echo 5?timeout=0.2")
    gate.touch()
    began_s = time.perf_counter()
    with pytest.raises(ReadingError, match=r"did not end within 0\.2 s"):
        meter.sample()
    assert time.perf_counter() - began_s < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("command:", "there is no command; write command:LINE"),
        ("command:echo much", "prints 'much', no number; it has to print watts"),
        ("command:echo -5", "prints '-5', no number"),
        ("command:true", "prints nothing"),
        ("command:echo no >&2; exit 3", "failed with status 3: no"),
        ("command:echo 5?unit=hp", "unit is 'hp'; it is one of W, mW"),
    ],
)
def test_a_command_that_is_no_meter_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        command.connect(text)
    assert said in str(refused.value)


# IPMI

DCMI = """
    Instantaneous power reading:                   {watts} Watts
    Minimum during sampling period:                 18 Watts
    Maximum during sampling period:                902 Watts
    Average power reading over sample period:      431 Watts
    IPMI timestamp:                           Sat Nov 21 07:00:00 2026
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   {state}
"""


def test_ipmi_reads_the_chassis_of_this_machine(program: Program) -> None:
    program("ipmitool", f"test \"$*\" = 'dcmi power reading' && cat <<E\n{DCMI}\nE".format(
        watts=6120, state="activated"))  # fmt: skip
    meter = ipmi.connect("ipmi")
    (sample,) = meter.sample()
    assert (sample.series, sample.unit, sample.value) == ("chassis", "W", 6120.0)
    assert meter.role == "chassis"
    assert [d.get("count", 1) for d in meter.devices] == [1]
    assert [d.get("count", 1) for d in ipmi.connect("ipmi?devices=2").devices] == [2]


def test_ipmi_hands_user_and_password_on_without_showing_them(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTPERF_IPMI_USER", "me")
    monkeypatch.setenv("AGENTPERF_IPMI_PASSWORD", "s3cret")
    wanted = "-I lanplus -H bmc-a -U me -E dcmi power reading"
    program("ipmitool", f"test \"$*\" = '{wanted}' && test $IPMI_PASSWORD = s3cret && cat <<E\n"
            f"{DCMI.format(watts=900, state='activated')}\nE")  # fmt: skip
    assert [s.value for s in ipmi.connect("ipmi:bmc-a").sample()] == [900.0]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"cat <<E\n{DCMI.format(watts=0, state='deactivated')}\nE", "readings are deactivated"),
        ("echo 'DCMI not supported'", "prints no power reading: 'DCMI not supported'"),
        ("echo 'Error: Unable to establish session' >&2; exit 1", "Unable to establish session"),
    ],
)
def test_ipmi_without_a_reading_is_refused(program: Program, script: str, said: str) -> None:
    program("ipmitool", script)
    with pytest.raises(ConfigError) as refused:
        ipmi.connect("ipmi")
    assert said in str(refused.value)
    assert "AGENTPERF_IPMI_USER" in str(refused.value)


def test_ipmi_without_the_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="cannot be run: No such file"):
        ipmi.connect("ipmi")


# AMD SMI


def amd(entry: object) -> str:
    return f"cat <<E\n{json.dumps(entry)}\nE"


def gpu(index: int, watts: object = 750, joules: object = 81234.567) -> dict[str, object]:
    return {
        "gpu": index,
        "power": {
            "socket_power": {"value": watts, "unit": "W"},
            "gfx_voltage": "N/A",
            "throttle_status": "UNTHROTTLED",
        },
        "energy": {"total_energy_consumption": {"value": joules, "unit": "J"}},
    }


def test_amd_smi_reads_the_counter_with_its_witness_else_the_power_alone(program: Program) -> None:
    program("amd-smi", amd([gpu(0), {**gpu(1), "energy": "N/A"}]))
    meter = amd_smi.connect("amd-smi")
    assert [d["source"] for d in meter.devices] == ["energy counter", "power samples"]
    assert [(s.series, s.unit, s.value) for s in meter.sample()] == [
        ("gpu0", "J", 81234.567),
        ("gpu0", "W", 750.0),
        ("gpu1", "W", 750.0),
    ]


def test_amd_smi_by_its_power_alone(program: Program) -> None:
    program("amd-smi", amd([gpu(0)]))
    meter = amd_smi.connect("amd-smi?source=power")
    assert [d["source"] for d in meter.devices] == ["power samples"]
    assert [(s.unit, s.value) for s in meter.sample()] == [("W", 750.0)]


def test_amd_smi_of_rocm_7_and_a_chosen_device(program: Program) -> None:
    program("amd-smi", amd({"gpu_data": [gpu(0), gpu(1), gpu(2)]}))
    assert [d["series"] for d in amd_smi.connect("amd-smi:1").devices] == ["gpu1"]


def test_amd_smi_that_loses_a_device_says_so(program: Program) -> None:
    program("amd-smi", amd([gpu(0), gpu(1)]))
    meter = amd_smi.connect("amd-smi")
    program("amd-smi", amd([gpu(0), gpu(1, watts=750, joules="N/A")]))
    with pytest.raises(ReadingError, match="tells nothing of GPU 1") as lost:
        meter.sample()
    assert {s.series for s in lost.value.samples} == {"gpu0"}


@pytest.mark.parametrize(
    ("text", "script", "said"),
    [
        ("amd-smi?source=coal", amd([gpu(0)]), "source is 'coal'; it is one of energy, power"),
        ("amd-smi:3", amd([gpu(0)]), "no GPU '3' tells its power; amd-smi lists 0"),
        ("amd-smi", amd([]), "lists no GPU that tells its power"),
        ("amd-smi", "echo ERROR", "prints no JSON: 'ERROR'"),
        ("amd-smi", amd({"gpus": 1}), "prints no list of GPUs"),
    ],
)
def test_amd_smi_without_a_reading_is_refused(
    program: Program, text: str, script: str, said: str
) -> None:
    program("amd-smi", script)
    with pytest.raises(ConfigError) as refused:
        amd_smi.connect(text)
    assert said in str(refused.value)


# RAPL


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """A tree as of a machine with two packages, DRAM below the first, and a platform zone."""
    zones = {
        "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1", "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0",
    }  # fmt: skip
    for folder, name in zones.items():
        zone = tmp_path / folder
        zone.mkdir()
        (zone / "name").write_text(f"{name}\n", "ascii")
        (zone / "energy_uj").write_text("262143000000\n", "ascii")
        (zone / "max_energy_range_uj").write_text("262143328850\n", "ascii")
    return tmp_path


def test_rapl_reads_packages_and_dram_and_nothing_twice(powercap: Path) -> None:
    meter = rapl.connect(f"rapl:{powercap}")
    assert [d["series"] for d in meter.devices] == ["package-0", "package-0 dram", "package-1"]
    assert {(s.unit, s.value) for s in meter.sample()} == {("J", 262143.0)}
    assert meter.role == "cpu"


def test_rapl_goes_on_counting_where_the_counter_wraps(powercap: Path) -> None:
    meter = rapl.connect(f"rapl:{powercap}")
    before = meter.sample()[0].value
    (powercap / "intel-rapl:0" / "energy_uj").write_text("671149\n", "ascii")
    # To the end of the range 0.32885 J, one count back to 0, and 0.671149 J: 1 J.
    assert meter.sample()[0].value - before == pytest.approx(1.0)


def test_rapl_without_a_range_tells_a_wrap_as_a_reset(powercap: Path) -> None:
    (powercap / "intel-rapl:0" / "max_energy_range_uj").unlink()
    meter = rapl.connect(f"rapl:{powercap}")
    before = meter.sample()[0].value
    (powercap / "intel-rapl:0" / "energy_uj").write_text("5\n", "ascii")
    assert meter.sample()[0].value < before


def test_rapl_that_cannot_be_read_says_so(powercap: Path) -> None:
    meter = rapl.connect(f"rapl:{powercap}")
    (powercap / "intel-rapl:1" / "energy_uj").write_text("?\n", "ascii")
    with pytest.raises(ReadingError, match="package-1: invalid literal") as wrong:
        meter.sample()
    assert len(wrong.value.samples) == 2
    with pytest.raises(ConfigError, match="has no package; is this bare metal"):
        rapl.connect(f"rapl:{powercap / 'nowhere'}")
    with pytest.raises(ConfigError, match="cannot be read"):
        rapl.connect(f"rapl:{powercap}")


def test_rapl_of_this_machine_counts_up() -> None:
    try:
        meter = rapl.connect("rapl")
    except ConfigError as refused:
        pytest.skip(f"no RAPL here: {refused}")
    first = {s.series: s.value for s in meter.sample()}
    time.sleep(0.01)
    assert all(s.value > first[s.series] for s in meter.sample())


# The log of a wall meter


def _log(path: Path, rows: list[str], head: str = "time,power") -> str:
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return f"csv:{path}"


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def test_a_log_is_put_on_our_clock_and_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "wall.csv"
    meter = wall_csv.connect(_log(path, [f"{_ago(10).isoformat()},6100.5"]))
    (first,) = meter.sample()
    assert (first.series, first.unit, first.value) == ("power", "W", 6100.5)
    assert (time.perf_counter_ns() - first.at_ns) / 1e9 == pytest.approx(10, abs=0.3)
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{_ago(5).isoformat()},6200\n{_ago(4).isoformat()},63")
    assert [s.value for s in meter.sample()] == [6200.0]
    with path.open("a", encoding="utf-8") as log:
        log.write("00\n")
    assert [s.value for s in meter.sample()] == [6300.0]
    assert list(meter.sample()) == []
    assert meter.role == "chassis"


@pytest.mark.parametrize(
    ("head", "row", "options"),
    [
        ("time,power", "{local},5", "?tz=Asia/Tokyo"),
        ("time,power", "{unix},5", ""),
        ("time,power", "{ms},5", ""),
        ("when;volts;kilowatts", "{utc};230;0,005", "?time=when&power=kilowatts&unit=kW"),
    ],
    ids=["a stated zone", "seconds since 1970", "milliseconds", "a German log"],
)
def test_a_log_may_write_its_times_as(tmp_path: Path, head: str, row: str, options: str) -> None:
    at = _ago(30)
    text = row.format(
        local=(at + timedelta(hours=9)).strftime("%Y-%m-%d %H:%M:%S"),
        unix=at.timestamp(),
        ms=round(at.timestamp() * 1000),
        utc=at.isoformat(),
    )
    (sample,) = wall_csv.connect(_log(tmp_path / "l.csv", [text], head) + options).sample()
    assert sample.value == 5.0
    assert (time.perf_counter_ns() - sample.at_ns) / 1e9 == pytest.approx(30, abs=1.3)


def test_a_logs_stated_offset_moves_its_stamps_and_stands_in_the_result(tmp_path: Path) -> None:
    meter = wall_csv.connect(
        _log(tmp_path / "l.csv", [f"{_ago(-60).isoformat()},5"]) + "?offset=90"
    )
    (sample,) = meter.sample()
    assert (time.perf_counter_ns() - sample.at_ns) / 1e9 == pytest.approx(30, abs=0.3)
    told = meter.clock()
    assert told is not None
    assert (told.offset_s, told.uncertainty_s, told.by) == (90.0, None, "as stated")


def test_a_log_of_two_feeds_adds_up(tmp_path: Path) -> None:
    rows = [f"{_ago(s).isoformat()},1000,500" for s in range(60, -1, -1)]
    meter = wall_csv.connect(_log(tmp_path / "l.csv", rows, "time,a,b") + "?power=a,b")
    samples: list[Sample] = list(meter.sample())
    now_ns = time.perf_counter_ns()
    window = Window(start_ns=now_ns - 50_500_000_000, end_ns=now_ns - 10_500_000_000)
    assert measure_power(samples, window, devices=2).mean_w == pytest.approx(1500)


@pytest.mark.parametrize(
    ("rows", "head", "options", "said"),
    [
        (["2026-11-21 07:00:00,5"], "time,power", "", "has no time zone; state it: tz=Europe/Ber"),
        (["yesterday,5"], "time,power", "", "'yesterday' is no ISO 8601 time"),
        (["12,5"], "time,power", "", "'12' is no time since 1970"),
        (["2026-11-21T07:00:00Z,much"], "time,power", "", "'much' is no power"),
        ([], "time", "", "has no line of column names: 'time'"),
        ([], "time,power", "?power=watts", "no column is 'watts'; there are time, power"),
        ([], "time,power", "?tz=Mars/Olympus", "no time zone is 'Mars/Olympus'"),
    ],
)
def test_a_log_that_cannot_be_read_is_refused(
    tmp_path: Path, rows: list[str], head: str, options: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        wall_csv.connect(_log(tmp_path / "l.csv", rows, head) + options)
    assert said in str(refused.value)


def test_a_log_that_goes_wrong_later_is_told(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    good = f"{_ago(9).isoformat()},5"
    meter = wall_csv.connect(_log(path, [good, f"{_ago(8).isoformat()},", good]))
    with pytest.raises(ReadingError, match=r"1 rows are broken: row .* '' is no power") as wrong:
        meter.sample()
    assert len(wrong.value.samples) == 2
    path.write_text("time,power\n", "utf-8")
    with pytest.raises(ReadingError, match="was cut to 11 bytes"):
        meter.sample()
    path.unlink()
    with pytest.raises(ReadingError, match="cannot be read: No such file"):
        meter.sample()


@pytest.mark.parametrize(
    ("text", "said"),
    [("csv:", "there is no file"), ("csv:/nowhere/l.csv", "cannot be read: No such file")],
)
def test_a_log_that_is_not_there_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        wall_csv.connect(text)
