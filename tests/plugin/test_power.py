"""Runs whose meter goes wrong: the run goes on, the phase has no figure, the report says why."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.meter_pages import PageServer, serving
from tests.plugin.conftest import SHORT

SIM = ("--endpoint=sim:", "--model=gpt-oss-120b", *SHORT)
TWO_AGENTS = (
    "--tier=easy:speed>=1",
    "--agentperf-start-agents=2",
    "--agentperf-max-agents=2",
    "--agentperf-min-steady-s=3",
)
CAPACITY_TEST = """
def test_it(capacity, slo):
    assert capacity.agents == 2
"""
NAME = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
GOOD_PAGES = 35
"""Read every 0.1 s: past the second of idle power, before the window ends."""

Rows = list[tuple[int, object]]


class Exporter:
    """Two GPUs that count 70 J a page, until something is planted."""

    def __init__(self, planted: Callable[["Exporter", PageServer | None, Rows], Rows]) -> None:
        self.pages = 0
        self.server: PageServer | None = None
        self._planted = planted

    def __call__(self, path: str, query: dict[str, list[str]]) -> str:
        del path, query
        self.pages += 1
        rows: Rows = [(gpu, self.pages * 70_000) for gpu in (0, 1)]
        if self.pages > GOOD_PAGES:
            rows = self._planted(self, self.server, rows)
        return "".join(f'{NAME}{{gpu="{gpu}",UUID="GPU-{gpu}"}} {v}\n' for gpu, v in rows)


def nothing(exporter: Exporter, server: PageServer | None, rows: Rows) -> Rows:
    del exporter, server
    return rows


def gone(exporter: Exporter, server: PageServer | None, rows: Rows) -> Rows:
    del exporter, server
    return rows[:1]


def wrapped(exporter: Exporter, server: PageServer | None, rows: Rows) -> Rows:
    del server
    return [rows[0], (1, (exporter.pages - GOOD_PAGES) * 70_000)]


def hanging(exporter: Exporter, server: PageServer | None, rows: Rows) -> Rows:
    del exporter
    assert server is not None
    threading.Event().wait(30 if not server.ended.is_set() else 0)
    return rows


def mistyped(exporter: Exporter, server: PageServer | None, rows: Rows) -> Rows:
    del exporter, server
    return [rows[0], (1, "N/A")]


def _bundle(project: pytest.Pytester) -> tuple[dict[str, Any], str]:
    (folder,) = Path(project.path / "results").iterdir()
    report = (folder / "report.html").read_text("utf-8")
    return json.loads((folder / "bundle.json").read_text("utf-8")), report


def _run(project: pytest.Pytester, planted: Any, *options: str) -> pytest.RunResult:
    project.makepyfile(CAPACITY_TEST)
    exporter = Exporter(planted)
    with serving(exporter) as server:
        exporter.server = server
        meter = f"dcgm:{server.url}/metrics?every=0.1&timeout=60"
        return project.runpytest_subprocess(
            *SIM, *TWO_AGENTS, f"--agentperf-meter={meter}", *options
        )


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (gone, "readings of GPU-1 cover"),
        (wrapped, "the energy counter of GPU-1 was reset"),
        (hanging, "a reading has not come back for"),
        (mistyped, "a line is no sample"),
    ],
    ids=["a GPU that disappears", "a counter that wraps", "a scrape that hangs", "wrong types"],
)
def test_a_meter_that_goes_wrong_costs_the_power_and_nothing_else(
    project: pytest.Pytester, planted: Any, reason: str
) -> None:
    result = _run(project, planted)
    result.assert_outcomes(passed=1)
    assert result.duration < 60
    bundle, report = _bundle(project)
    (phase,) = bundle["phases"]
    assert (phase["power"]["mean_w"], phase["power"]["energy_j"]) == (None, None)
    assert reason in phase["power"]["reason"]
    assert reason in report
    (idle,) = bundle["idle"]
    assert idle["power"]["mean_w"] > 0
    (capacity,) = bundle["capacities"]
    assert capacity["agents"] == 2
    assert reason in capacity["per"]["missing"]["per_megawatt"]


@pytest.mark.e2e
def test_several_meters_stand_side_by_side(project: pytest.Pytester) -> None:
    result = _run(
        project,
        nothing,
        "--agentperf-meter=command:echo 900?role=chassis&every=0.2",
        "--agentperf-meter=command:echo 20?role=cpu&every=0.2",
        "--agentperf-meter=command:echo 1?every=0.2",
        "--agentperf-require-power",
    )
    result.assert_outcomes(passed=1)
    bundle, report = _bundle(project)
    (phase,) = bundle["phases"]
    found = {
        (m["kind"], m["role"]): (m["counted"], round(m["power"]["mean_w"], 3))
        for m in phase["meters"]
    }
    # 140 J a page of 0.1 s and a little more; the fourth meter reads accelerators once more.
    assert 500 < found.pop(("dcgm", "accelerator"))[1] < 1500
    assert found == {
        ("command", "chassis"): (True, 900.0),
        ("command", "cpu"): (True, 20.0),
        ("command", "accelerator"): (False, 1.0),
    }
    clock = phase["meters"][0]["clock"]
    assert abs(clock["offset_s"]) < 2
    assert clock["uncertainty_s"] <= 0.6
    for shown in ("900 W", "at the wall", "Idle"):
        assert shown in report


@pytest.mark.e2e
def test_power_that_is_required_and_fails_makes_the_phase_invalid(
    project: pytest.Pytester,
) -> None:
    result = _run(project, gone, "--agentperf-require-power")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*INVALID, neither pass nor fail*", "*power coverage: *GPU-1*"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--agentperf-require-power", "--agentperf-meter=none"),
            "there is no meter of the accelerators of http:",
        ),
        (("--agentperf-meter=nvm",), "no meter is called 'nvm'; did you mean 'nvml'?"),
        (("--agentperf-meter=none", "--agentperf-meter=rapl"), "'none' stands beside rapl"),
        (("--agentperf-meter=command:echo 5?rol=cpu",), "prints '5?rol=cpu', no number"),
        (("--agentperf-meter=csv:nowhere.csv",), "nowhere.csv cannot be read"),
        (
            ("--agentperf-meter=dcgm:http://me:pw@h/",),
            "credentials are read from the environment alone",
        ),
    ],
    ids=[
        "power required and none there",
        "an unknown kind",
        "none beside another",
        "a misspelt option",
        "a file that is not there",
        "credentials in a URL",
    ],
)
def test_a_meter_that_cannot_be_had_ends_the_session_before_any_load(
    project: pytest.Pytester, options: tuple[str, ...], said: str
) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in "\n".join((*result.outlines, *result.errlines))
    assert not Path(project.path / "results").exists()


def test_virtual_time_takes_no_other_meter(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        "--endpoint=sim+virtual:h200x8/gpt-oss-120b", *SHORT, "--agentperf-meter=command:echo 5"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "has a time of its own, which no other meter can follow" in result.stdout.str()


@pytest.mark.e2e
def test_a_simulators_own_power_is_read_beside_others(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    chassis = "--agentperf-meter=command:echo 900?role=chassis&every=0.2"
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS, "--agentperf-meter=auto", chassis)
    result.assert_outcomes(passed=1)
    bundle, _ = _bundle(project)
    (phase,) = bundle["phases"]
    assert [(m["kind"], m["role"], m["power"]["reason"]) for m in phase["meters"]] == [
        ("dcgm", "accelerator", None),
        ("command", "chassis", None),
    ]
    assert phase["power"]["mean_w"] > bundle["idle"][0]["power"]["mean_w"] > 0
