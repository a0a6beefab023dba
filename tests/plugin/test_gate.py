"""Sessions that are held against a baseline, in virtual time."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import ROOT

SCRIPTED = """
import os
import pytest
from tests.virtual import Scripted, scripted_info


@pytest.fixture(scope="session")
def agentperf_endpoint():
    info = scripted_info(Scripted(token_s=float(os.environ.get("TOKEN_S", "0.01"))))
    yield info
    info.close()
"""
# n agents get 100 / n tok/s: 5 are carried.
BY_THE_BOOK = (
    "--endpoint=scripted:",
    "--model=m",
    "--tier=t:speed>=20",
    "--agentperf-start-agents=4",
    "--agentperf-results=results",
    "--dataset=synthetic:trajectories=8,turns=3,isl=1500,osl=20,tool_s=0.1,seed=1",
)
CAPACITY_TEST = "def test_it(capacity, slo):\n    assert capacity.agents >= slo.min_agents\n"


@pytest.fixture
def project_with_a_baseline(project: pytest.Pytester) -> pytest.Pytester:
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*BY_THE_BOOK)
    result.assert_outcomes(passed=1)
    assert result.outlines[-1] == "PASSED: every tier carries what was asked"
    (project.path / "results").rename(project.path / "before")
    return project


def _baseline(project: pytest.Pytester) -> str:
    (path,) = Path(project.path / "before").iterdir()
    return f"--agentperf-baseline={path}"


def _bundle(project: pytest.Pytester) -> dict[str, Any]:
    (path,) = Path(project.path / "results").glob("*/bundle.json")
    return json.loads(path.read_text("utf-8"))


def test_a_session_that_only_skips_says_that_nothing_was_measured(
    project: pytest.Pytester,
) -> None:
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    project.makepyfile(f"import pytest\n\n@pytest.mark.skip\n{CAPACITY_TEST}")
    result = project.runpytest_subprocess(*BY_THE_BOOK)
    result.assert_outcomes(skipped=1)
    assert (result.ret, result.outlines[-1]) == (0, "PASSED: nothing was measured")


def test_the_same_system_is_verified_in_one_phase(
    project_with_a_baseline: pytest.Pytester,
) -> None:
    project = project_with_a_baseline
    result = project.runpytest_subprocess(
        *BY_THE_BOOK, _baseline(project), "--agentperf-gate=verify", "--junitxml=j.xml"
    )
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*verifies the baseline's capacities, no search: t with 5 agents",
            "*against run *",
            "*capacity, agents*5*≥ 5*unchanged*",
            "*P25 speed, tok/s*5*20*20*+0.0 %*unchanged*",
            "*energy, J/token*unchanged*",
            "PASSED: nothing regressed against *: 5 figures held",
        ]
    )
    assert [p["agents"] for p in _bundle(project)["phases"]] == [5]
    entry = (project.path / "j.xml").read_text("utf-8")
    assert '<property name="agentperf_capacity" value="5" />' in entry
    assert '<property name="agentperf_gate_capacity" value="unchanged: ' in entry


def test_a_slower_system_regressed_wherever_it_is_asked(
    project_with_a_baseline: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_with_a_baseline
    monkeypatch.setenv("TOKEN_S", "0.0125")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = project.runpytest_subprocess(
        *BY_THE_BOOK, _baseline(project), "--agentperf-ci-json=out.json", "--junitxml=j.xml"
    )
    # 80 / n tok/s: 4 are carried, which is enough for the test itself.
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    # 20 and 16 tok/s at 5 agents: 20 % less.
    last = result.outlines[-1]
    assert last.startswith("SERVER REGRESSED: P25 speed at 5 agents 20 -> 16 tok/s (−20.0 %")
    result.stdout.fnmatch_lines(
        [
            "*= agentperf =*",
            last,
            "",
            "against run *",
            "::error title=agentperf::SERVER REGRESSED: *",
        ]
    )
    # The test itself has passed: who reads the XML alone must hear of it too.
    entry = (project.path / "j.xml").read_text("utf-8")
    assert '<property name="agentperf_cause" value="server regressed" />' in entry
    assert '<property name="agentperf_exit_code" value="1" />' in entry
    told = json.loads((project.path / "out.json").read_text("utf-8"))
    assert told["exit_code"] == 1
    assert {r["figure"]["name"]: r["verdict"] for r in told["comparison"]["rows"]} == {
        "capacity": "unclear",  # 5 of 4 to 5, and 4 of 3 to 4: their ends meet
        "output_speed_tok_per_s.p25": "regressed",
        "ttft_s.p95": "unchanged",
        "throughput_tok_per_s": "regressed",
        "energy_j_per_token": "regressed",
    }


def test_a_slower_system_is_not_searched_where_it_is_verified(
    project_with_a_baseline: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_with_a_baseline
    monkeypatch.setenv("TOKEN_S", "0.0125")
    result = project.runpytest_subprocess(
        *BY_THE_BOOK, _baseline(project), "--agentperf-gate=verify"
    )
    result.assert_outcomes(failed=1)
    assert [p["agents"] for p in _bundle(project)["phases"]] == [5]


def test_a_baseline_of_something_else_is_refused_before_any_load(
    project_with_a_baseline: pytest.Pytester,
) -> None:
    project = project_with_a_baseline
    other = (*BY_THE_BOOK, _baseline(project), "--agentperf-max-tool-s=1")
    result = project.runpytest_subprocess(*other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "\n".join((*result.outlines, *result.errlines))
    assert "cannot be compared with: --agentperf-max-tool-s was 5.0 and is 1.0. Make" in said
    assert not (project.path / "results").exists()
    anyway = (*other, "--agentperf-compare-anyway", "--agentperf-gate=verify")
    result = project.runpytest_subprocess(*anyway)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["COMPARED ANYWAY: --agentperf-max-tool-s was 5.0 and is 1.0"])


def test_a_missing_baseline_ends_the_session(project: pytest.Pytester) -> None:
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*BY_THE_BOOK, "--agentperf-baseline=nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "\n".join((*result.outlines, *result.errlines))
    assert "--agentperf-baseline 'nowhere': no bundle.json and no folder of runs" in said


def test_a_gate_needs_a_baseline(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--agentperf-gate=verify")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--agentperf-gate verify needs a run to compare with; give --agentperf-baseline RUN*"]
    )


def test_a_missed_tier_and_a_test_that_measures_nothing_keep_pytests_code(
    project: pytest.Pytester,
) -> None:
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    project.makepyfile(
        CAPACITY_TEST.replace("slo.min_agents", "9") + "\ndef test_other():\n    assert 0\n"
    )
    result = project.runpytest_subprocess(*BY_THE_BOOK)
    result.assert_outcomes(failed=2)
    assert result.ret == 1
    last = result.outlines[-1]
    assert last.startswith("SLO MISSED: test_it[m-t]: 'm t' carries 5 agents;")
    assert last.endswith("; limited by P25 output speed")


def test_a_run_without_an_answer_has_a_code_of_its_own(project: pytest.Pytester) -> None:
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*BY_THE_BOOK, "--agentperf-max-hours=0.01")
    result.assert_outcomes(errors=1)
    assert result.ret == 10
    assert result.outlines[-1].startswith("NO ANSWER: test_it[m-t]: NOT FINISHED, neither pass")
