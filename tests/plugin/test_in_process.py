"""A session on an endpoint in virtual time: by the book, in seconds, without a socket."""

import json
from pathlib import Path

import pytest

from tests.plugin.conftest import ROOT

SCRIPTED = """
import pytest
from tests.virtual import Scripted, scripted_info


@pytest.fixture(scope="session")
def agentperf_endpoint():
    endpoint = Scripted()
    info = scripted_info(endpoint)
    yield info
    info.close()
"""
BY_THE_BOOK = (
    "--endpoint=scripted:",
    "--model=m",
    "--tier=t:speed>=20",
    "--agentperf-start-agents=4",
    "--agentperf-results=results",
    "--dataset=synthetic:trajectories=8,turns=3,isl=1500,osl=20,tool_s=0.1,seed=1",
)


def test_a_session_in_virtual_time(project: pytest.Pytester) -> None:
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    # n agents get 100 / n tok/s, and the endpoint's own meter reads 700 W:
    # 5 agents on 0.0007 MW are 7,142.857 agents a megawatt.
    project.makepyfile(
        """
        import pytest

        def test_it(capacity):
            assert (capacity.agents, capacity.first_failing) == (5, 6)
            assert capacity.per_megawatt == pytest.approx(7142.857, rel=1e-6)
        """
    )
    result = project.runpytest_subprocess(*BY_THE_BOOK)
    result.assert_outcomes(passed=1)
    assert "8 agents in virtual time" in result.stdout.str()
    (path,) = Path(project.path / "results").glob("*/bundle.json")
    bundle = json.loads(path.read_text("utf-8"))
    assert bundle["provenance"]["meter"] == "scripted power"
    # 20 / 25 = 0.8 of the limit with 4 agents, 1.6 with 8: all of it with 5.
    assert [p["agents"] for p in bundle["phases"]] == [4, 8, 5, 6]


def test_no_meter_may_be_asked_for(project: pytest.Pytester) -> None:
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    project.makepyfile("def test_it(agentperf_meters):\n    assert not agentperf_meters")
    result = project.runpytest_subprocess(*BY_THE_BOOK, "--agentperf-meter=none")
    result.assert_outcomes(passed=1)


PLANNED = (
    "--endpoint=sim+virtual:h200x8/deepseek-v4-pro?acceptance=0.8,0.5&kv_capacity_tokens=400000",
    "--tier=slo-2",
    "--agentperf-mode=smoke",
    "--agentperf-max-agents=4",
    "--agentperf-results=results",
    "--dataset=synthetic:trajectories=8,turns=4,isl=4000,osl=60~300,tool_s=0.1~0.5,seed=1",
)


def test_a_preset_plans_a_run_and_says_that_it_did(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(capacity):\n    assert capacity.agents == 4")
    result = project.runpytest_subprocess(*PLANNED, "--html=report.html")
    result.assert_outcomes(passed=1)
    # The model comes with the preset; a phase of seconds costs nothing worth printing.
    result.stdout.fnmatch_lines(
        [
            "*deepseek-v4-pro: capacity*",
            "*rules not met:*measured on a real system*",
            "Time on the system: * s for 1 phase, $0.?? at the declared price",
            "SIMULATED: a plan for such a system, not a measurement of one.",
        ]
    )
    page = (project.path / "report.html").read_text("utf-8")
    assert "<strong>Simulated.</strong>" in page
    assert "8 × H200" in page.replace("NVIDIA ", "").replace(" SXM", "")


def test_the_same_seed_gives_the_same_bytes(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(capacity):\n    assert capacity.agents")
    for _ in range(2):
        project.runpytest_subprocess(*PLANNED).assert_outcomes(passed=1)
    runs = sorted((project.path / "results").iterdir())
    assert len(runs) == 2
    logs = [(run / "requests.jsonl").read_bytes() for run in runs]
    assert logs[0] == logs[1]
    assert logs[0].count(b"\n") > 20
    bundles = [json.loads((run / "bundle.json").read_bytes()) for run in runs]
    told = [json.dumps(b | {"provenance": None}) for b in bundles]
    assert told[0] == told[1]


def test_another_seed_gives_others(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(capacity):\n    assert capacity.agents")
    for seed in (1, 2):
        options = (*PLANNED, f"--agentperf-seed={seed}")
        project.runpytest_subprocess(*options).assert_outcomes(passed=1)
    one, two = (
        (run / "requests.jsonl").read_bytes() for run in (project.path / "results").iterdir()
    )
    assert one != two
