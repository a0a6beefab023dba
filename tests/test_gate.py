"""What a CI is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_agentperf.change import (
    CAPACITY,
    ENERGY,
    REUSE,
    SPEED,
    THROUGHPUT,
    TTFT,
    Figure,
)
from pytest_agentperf.checks import Check
from pytest_agentperf.gate import Gate, end, tell
from pytest_agentperf.gate_text import comparison_table, properties
from pytest_agentperf.outcome import Facts
from pytest_agentperf.run_folder import RunFolder
from tests.gated import run

GATE = Gate(baseline=run(), noise=None, differences=("mode was 'a' and is 'b'",))


def test_a_github_job_gets_a_summary_and_annotations(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, run("now", speed=90.0))
    found, comparison = end(GATE, folder, Facts(), wanted=True)
    said: list[str] = []
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", "utf-8")
    tell(
        found,
        comparison,
        folder,
        ci_json=str(tmp_path / "out.json"),
        environ={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)},
        write_line=said.append,
    )
    assert said[0].startswith("::error title=agentperf::SERVER REGRESSED: P25 speed")
    assert "(−10.0 %25, " in said[0]
    assert said[1].startswith("::error title=agentperf::regressed: P25 speed at 35 agents")
    text = summary.read_text("utf-8")
    assert text.startswith("before\n## agentperf\n\n**SERVER REGRESSED")
    assert "| P25 speed, tok/s | 35 | 100 | 90 | −10.0 % |" in text
    assert "- compared anyway: mode was 'a' and is 'b'" in text
    line = (tmp_path / "out.json").read_text("utf-8")
    assert line.count("\n") == 1
    told = json.loads(line)
    assert (told["cause"], told["exit_code"]) == ("server regressed", 1)
    assert told["capacities"][0]["agents"] == 35
    assert told["comparison"]["verdict"] == "regressed"
    kept = json.loads((folder.path / "comparison.json").read_bytes())
    assert kept["baseline"] == "baseline"
    folder.close()


def test_a_phase_that_was_measured_again_is_no_cause(tmp_path: Path) -> None:
    bundle = run("now")
    (good,) = bundle.phases
    stopped = Check(
        name="phase complete",
        value=None,
        limit=None,
        ok=False,
        invalidates=True,
        text="the endpoint stopped answering",
    )
    late = replace(stopped, name="client cpu", text="too slow")
    phases = (
        replace(good, number=3, checks=(stopped,)),
        replace(good, number=4),
        replace(good, number=8, agents=99, checks=(late,)),
    )
    folder = RunFolder(tmp_path, replace(bundle, phases=phases))
    asked = Facts(unmeasured=["t: INVALID"])
    assert end(None, folder, asked, wanted=False)[0].cause == "client too slow"
    folder.update(phases=(replace(good, number=2), phases[0]))
    assert end(None, folder, asked, wanted=False)[0].cause == "endpoint down"
    folder.update(phases=phases[:2])
    assert end(None, folder, asked, wanted=False)[0].cause == "no answer"
    folder.close()


def test_elsewhere_one_line_of_json_goes_to_the_terminal() -> None:
    found, comparison = end(None, None, Facts(down="no answer"), wanted=False)
    said: list[str] = []
    tell(found, comparison, None, ci_json="-", environ={}, write_line=said.append)
    (line,) = said
    assert json.loads(line) == {
        "cause": "endpoint down",
        "exit_code": 11,
        "line": "ENDPOINT DOWN: no answer",
        "run": None,
        "results": None,
        "capacities": [],
        "comparison": None,
    }


def test_a_job_without_a_fault_is_told_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, run("now"))
    found, comparison = end(GATE, folder, Facts(), wanted=True)
    said: list[str] = []
    environ = {"GITHUB_ACTIONS": "true"}
    tell(found, comparison, folder, ci_json=None, environ=environ, write_line=said.append)
    assert [line.partition(" ")[0] for line in said] == ["::notice"]
    folder.close()


def test_a_comparison_that_was_asked_for_and_not_made_is_no_pass() -> None:
    found, _ = end(None, None, Facts(), wanted=True)
    assert (found.cause, found.code) == ("not comparable", 10)


def test_the_table_marks_what_was_compared_anyway() -> None:
    found = replace(GATE.compare(run("now")), differences=("seed was 1 and is 2",))
    text = comparison_table(found, 100)
    assert "COMPARED ANYWAY: seed was 1 and is 2" in text
    assert "Intervals: the searches' intervals; intervals inside the phases" in text


def test_properties_of_a_test() -> None:
    now = run("now")
    said = dict(properties(now.capacities[0], GATE.compare(now)))
    assert said["agentperf_capacity"] == 35
    assert said["agentperf_interval"] == "35"
    assert said["agentperf_status"] == "found"
    assert str(said["agentperf_gate_capacity"]).startswith("unchanged: capacity of slo-1 35 -> 35")
    assert str(said["agentperf_gate_ttft_s.p95"]).startswith("unchanged: P95 TTFT at 35 agents")


@pytest.mark.parametrize(
    "figure", [CAPACITY, SPEED, TTFT, THROUGHPUT, REUSE, ENERGY], ids=lambda f: f.name
)
def test_the_red_session_on_the_page_has_a_row_of_every_figure(figure: Figure) -> None:
    page = (Path(__file__).parents[1] / "docs" / "gate.md").read_text("utf-8")
    assert f"\n│ {figure.title}, {figure.unit} " in page
