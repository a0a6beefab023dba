"""`--agentperf-plan`: everything is said, nothing is sent."""

import socket
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_agentperf.run_folder import RunFolder
from tests.gated import run
from tests.plugin.conftest import ROOT, SHORT
from tests.plugin.test_gate import CAPACITY_TEST

TESTS = """
def test_searched(capacity, slo):
    assert capacity.agents >= slo.min_agents

async def test_fixed(agentperf):
    assert await agentperf.measure(agents=3)

def test_other():
    raise AssertionError("no test may run")
"""
PLAN = ("--agentperf-plan", "--model=gpt-oss-120b", *SHORT)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


def test_a_plan_is_printed_and_no_connection_made(
    project: pytest.Pytester, listener: socket.socket
) -> None:
    project.makepyfile(TESTS)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    result = project.runpytest_subprocess(
        *PLAN,
        f"--endpoint={url}/v1",
        f"--agentperf-metrics-url={url}/metrics",
        f"--agentperf-meter=dcgm:{url}/metrics",
        "--junitxml=j.xml",
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "collected 6 items",
            "*agentperf plan*",
            "Nothing was sent and no test has run.",
            "Tests that ask for a capacity: 4. Tests that measure numbers of agents * own: 1; *",
            "gpt-oss-120b, mode smoke",
            "slo-1: P25 output speed ≥ 100 tok/s, P95 TTFT ≤ 5 s",
            "*a search of 4 tiers takes *",
            "if these agents are carried: slo-1 8, slo-2 8, slo-3 8, slo-4 8",
            "*Agents*Time*Requests*",
            "Checked before the first phase: *one request of 16 tokens*",
            "*no tests ran*",
        ]
    )
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert not (project.path / "results").exists()
    # No test has run, so none has passed.
    suite = ET.parse(project.path / "j.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), list(suite)) == ("0", [])


def test_a_plan_needs_no_endpoint_and_takes_the_projects_own_dataset(
    project: pytest.Pytester,
) -> None:
    project.makeconftest(
        (ROOT / "conftest.py").read_text("utf-8")
        + """
from dataclasses import replace
import pytest

@pytest.fixture(scope="session")
def agentperf_dataset(agentperf_dataset):
    return replace(agentperf_dataset, name="our own")
"""
    )
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*PLAN)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["dataset our own: 8 trajectories, 24 prompts *"])


def test_a_fixture_that_needs_the_endpoint_ends_the_plan(project: pytest.Pytester) -> None:
    project.makeconftest(
        (ROOT / "conftest.py").read_text("utf-8")
        + """
import pytest

@pytest.fixture(scope="session")
def agentperf_system(agentperf_endpoint):
    return None
"""
    )
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*PLAN, "--endpoint=sim:")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*--agentperf-plan sends nothing, and a fixture of this project*"])


def test_a_plan_knows_a_baseline_and_an_earlier_run(
    project: pytest.Pytester, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path, run("before"))
    folder.close()
    project.makepyfile(CAPACITY_TEST)
    one = (*PLAN, "--tier=slo-1")
    verify = (f"--agentperf-baseline={folder.path}", "--agentperf-gate=verify")
    result = project.runpytest_subprocess(*one, *verify)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["if these agents are carried: slo-1 35", "*1 │*35 │ slo-1 *"])
    result = project.runpytest_subprocess(*one, f"--agentperf-resume={folder.path}")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["Taken over: 1 valid phases of run before;*"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dataset=nowhere",), "nowhere"),
        (
            ("--agentperf-baseline=b", "--agentperf-gate=ab", "--agentperf-endpoint-b=http://b/v1"),
            "--agentperf-plan knows the phases of one endpoint",
        ),
        (("-n2",), "pytest-xdist (-n) would measure several phases at once"),
    ],
)
def test_what_is_wrong_is_told(
    project: pytest.Pytester, options: tuple[str, ...], said: str
) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*PLAN, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stdout.str() + result.stderr.str()


def test_a_session_that_measures_nothing_has_an_empty_plan(project: pytest.Pytester) -> None:
    project.makepyfile("def test_other():\n    raise AssertionError\n")
    result = project.runpytest_subprocess("--agentperf-plan")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["no test of this session measures; nothing would be sent"])
