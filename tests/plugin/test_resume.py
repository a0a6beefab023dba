"""A run that is stopped or killed is gone on with in another, and ends as if nothing had been."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import ROOT

CAPACITY_TEST = "def test_it(capacity):\n    assert capacity.agents\n"
# 15 agents are carried by the easy tier and 3 by the hard one.
SIM = (
    "--endpoint=sim+virtual:h200x8/deepseek-v4-pro?acceptance=0.8,0.5&kv_capacity_tokens=400000",
    "--tier=easy:speed>=40,ttft<=30",
    "--tier=hard:speed>=110,ttft<=30",
    "--agentperf-start-agents=4",
    "--agentperf-max-agents=24",
    "--agentperf-min-trajectories=8",
    "--agentperf-min-trajectories-per-agent=1",
    "--agentperf-min-steady-s=60",
    "--agentperf-results=results",
    "--dataset=synthetic:trajectories=12,turns=4,isl=6000,osl=60~300,tool_s=0.1~0.5,seed=1",
)

SCRIPTED = """
import os
import signal
import pytest
from tests.virtual import Scripted, scripted_info


class Mortal(Scripted):
    # One connection before any load, then one for each agent of each phase.
    connections = 0

    def connect(self, *, timeout_s):
        self.connections += 1
        if self.connections == int(os.environ.get("DIES_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().connect(timeout_s=timeout_s)


@pytest.fixture(scope="session")
def agentperf_endpoint():
    info = scripted_info(Mortal())
    yield info
    info.close()
"""
# n agents get 100 / n tok/s: 5 are carried: 4 pass, 8 fail, and the curve through both aims at 5.
BY_THE_BOOK = (
    "--endpoint=scripted:",
    "--model=m",
    "--tier=t:speed>=20",
    "--agentperf-start-agents=4",
    "--agentperf-results=results",
    "--dataset=synthetic:trajectories=8,turns=3,isl=1500,osl=20,tool_s=0.1,seed=1",
)


@pytest.fixture
def scripted(project: pytest.Pytester) -> pytest.Pytester:
    """A project whose endpoint may be made to kill its own process."""
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    project.makepyfile(CAPACITY_TEST)
    return project


def _runs(project: pytest.Pytester) -> dict[str, dict[str, Any]]:
    """Return all bundles by the name of their run, in no order that tests may lean on."""
    paths = Path(project.path / "results").glob("*/bundle.json")
    return {p.parent.name: json.loads(p.read_bytes()) for p in paths}


def _run(project: pytest.Pytester, *options: str) -> tuple[pytest.RunResult, str]:
    """Run a session; return its result and the name of its run."""
    before = set(_runs(project))
    result = project.runpytest_subprocess(*options)
    (name,) = set(_runs(project)) - before
    return result, name


def _said(result: pytest.RunResult) -> str:
    return "\n".join((*result.outlines, *result.errlines))


def _measured(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """Return phases without what tells of the run that measured them.

    Energy counters run on while a system idles, so power differs in its last bits.
    """
    return [p | {"measured_in": None, "power": None, "meters": None} for p in bundle["phases"]]


def _answers(bundle: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(c["tier"], c["agents"], c["status"], c["first_failing"]) for c in bundle["capacities"]]


def test_a_run_out_of_hours_goes_on_as_if_it_had_not_stopped(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result, whole = _run(project, *SIM)
    result.assert_outcomes(passed=2)
    result, stopped = _run(project, *SIM, "--agentperf-max-hours=0.07")
    result.assert_outcomes(errors=2)
    go_on = f"--agentperf-resume={stopped}"
    result.stdout.fnmatch_lines(
        [
            f"*easy is not finished: no phase begins after *-hours 0.07; go on with {go_on}",
            "*NOT FINISHED, neither pass nor fail: no phase begins after*",
            "*carries not finished (* passed) agents*",
            f"Not finished: go on with {go_on}",
        ]
    )
    before = (project.path / "results" / stopped / "bundle.json").read_bytes()
    result, resumed = _run(project, *SIM, go_on)
    result.assert_outcomes(passed=2)
    assert (project.path / "results" / stopped / "bundle.json").read_bytes() == before

    runs = _runs(project)
    taken = len(runs[stopped]["phases"])
    assert 2 <= taken < len(runs[whole]["phases"])
    assert _measured(runs[resumed]) == _measured(runs[whole])
    assert _answers(runs[resumed]) == _answers(runs[whole])
    assert runs[resumed]["provenance"]["resumed_from"] == stopped
    assert [p["measured_in"] for p in runs[resumed]["phases"][: taken + 1]] == [
        *[stopped] * taken,
        None,
    ]
    requests = (project.path / "results" / resumed / "requests.jsonl").read_text("utf-8")
    assert {json.loads(line)["phase"] for line in requests.splitlines()} == {
        p["number"] for p in runs[whole]["phases"][taken:]
    }
    result.stdout.fnmatch_lines(
        [
            f"*{taken} valid phases of run {stopped} are taken over, * on the system",
            f"Measured in run {stopped}: phases 1, 2*",
        ]
    )
    assert (project.path / "results" / stopped / "report.html").stat().st_size


@pytest.mark.parametrize(
    ("dies_at", "measured"),
    [(14, [4, 8]), (16, [4, 8]), (2, [])],
    ids=["before a phase", "while agents are made", "before the first phase"],
)
def test_a_killed_run_goes_on(
    scripted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, dies_at: int, measured: list[int]
) -> None:
    monkeypatch.setenv("DIES_AT", str(dies_at))
    result, killed = _run(scripted, *BY_THE_BOOK)
    assert result.ret == -9
    assert [p["agents"] for p in _runs(scripted)[killed]["phases"]] == measured
    monkeypatch.delenv("DIES_AT")
    # What a kill in the middle of a bundle leaves.
    (scripted.path / "results" / killed / "bundle.json.part").write_bytes(b'{"schema": "agent')

    folder = scripted.path / "results" / killed
    result, resumed = _run(scripted, *BY_THE_BOOK, f"--agentperf-resume={folder}")
    result.assert_outcomes(passed=1)
    bundle = _runs(scripted)[resumed]
    assert [(p["number"], p["agents"]) for p in bundle["phases"]] == [
        (1, 4),
        (2, 8),
        (3, 5),
        (4, 6),
    ]
    assert _answers(bundle) == [("t", 5, "found", 6)]


def test_a_run_may_be_gone_on_with_again_and_again(scripted: pytest.Pytester) -> None:
    # A phase takes more than 11 minutes, and begins within the first 0.2 h = 12 min of each run.
    some = ("--agentperf-max-hours=0.2",)
    _, first = _run(scripted, *BY_THE_BOOK, *some)
    result, second = _run(scripted, *BY_THE_BOOK, *some, f"--agentperf-resume={first}")
    result.assert_outcomes(passed=1)
    result, third = _run(scripted, *BY_THE_BOOK, f"--agentperf-resume={second}")
    result.assert_outcomes(passed=1)
    assert "agents in virtual time" not in result.stdout.str()
    bundle = _runs(scripted)[third]
    assert [(p["agents"], p["measured_in"]) for p in bundle["phases"]] == [
        (4, first),
        (8, first),
        (5, second),
        (6, second),
    ]
    assert _answers(bundle) == [("t", 5, "found", 6)]


def test_a_phase_by_name_is_not_measured_after_the_hours(scripted: pytest.Pytester) -> None:
    scripted.makepyfile(
        """
        async def test_it(agentperf):
            await agentperf.measure(agents=2)
            await agentperf.measure(agents=2)
            await agentperf.measure(agents=3)
        """
    )
    result, run = _run(scripted, *BY_THE_BOOK, "--agentperf-max-hours=0.01")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [f"E *HoursOverError: 3 agents were not measured: *--agentperf-resume={run}"]
    )
    assert [p["agents"] for p in _runs(scripted)[run]["phases"]] == [2]


@pytest.fixture
def stopped(scripted: pytest.Pytester) -> str:
    """The name of a run with one phase."""
    return _run(scripted, *BY_THE_BOOK, "--agentperf-max-hours=0.01")[1]


def test_another_measurement_is_refused(scripted: pytest.Pytester, stopped: str) -> None:
    others = {
        "--tier": "t:speed>=21",
        "--dataset": "synthetic:trajectories=9,turns=3,isl=1500,osl=20,tool_s=0.1,seed=1",
        "--agentperf-seed": "3",
    }
    same = [o for o in BY_THE_BOOK if o.partition("=")[0] not in others]
    changed = [f"{name}={value}" for name, value in others.items()]
    result = scripted.runpytest_subprocess(*same, *changed, f"--agentperf-resume={stopped}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = _said(result)
    assert f"--agentperf-resume: run {stopped} measured something else: " in text
    assert "; m: tiers was 't (output_speed_tok_per_s.p25 >= 20, error_ratio <= 0.01)' and is " in (
        text
    )
    assert "; dataset sha256 was '" in text
    assert "--agentperf-seed was 0 and is 3; " in text
    assert "Make them equal, or start a run without --agentperf-resume" in text
    assert set(_runs(scripted)) == {stopped}


def test_what_only_chooses_phases_may_differ(scripted: pytest.Pytester, stopped: str) -> None:
    options = (
        "--agentperf-resolution=0.5",
        "--agentperf-max-agents=64",
        f"--agentperf-resume={stopped}",
    )
    result, run = _run(scripted, *BY_THE_BOOK, *options)
    result.assert_outcomes(passed=1)
    # 4 was measured, 8 fails; half of 4 is the step, so 6 ends the search.
    assert [p["agents"] for p in _runs(scripted)[run]["phases"]] == [4, 8, 6]


def test_an_unknown_run_is_refused(scripted: pytest.Pytester) -> None:
    result = scripted.runpytest_subprocess(*BY_THE_BOOK, "--agentperf-resume=nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--agentperf-resume 'nowhere': no such run in results; there are none" in _said(result)
    assert not (scripted.path / "results").exists()
