"""Two endpoints in turns, in virtual time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import ROOT
from tests.plugin.test_gate import BY_THE_BOOK, CAPACITY_TEST, SCRIPTED

OTHER = """

@pytest.fixture(scope="session")
def agentperf_endpoint_b():
    info = scripted_info(Scripted(token_s=float(os.environ.get("TOKEN_B_S", "0.01"))))
    yield info
    info.close()
"""
SHORT = (*BY_THE_BOOK, "--agentperf-min-steady-s=60", "--agentperf-idle-s=1")
IN_TURNS = ("--agentperf-gate=ab", "--agentperf-endpoint-b=scripted:")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that carries 5 agents."""
    folder = tmp_path_factory.mktemp("before")
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    (folder / "test_it.py").write_text(CAPACITY_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SHORT]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (run,) = (folder / "results").iterdir()
    return run


@pytest.fixture
def two_endpoints(project: pytest.Pytester) -> pytest.Pytester:
    """A project with fixtures of two endpoints."""
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED + OTHER)
    project.makepyfile(CAPACITY_TEST)
    return project


def _run(project: pytest.Pytester, before: Path, *more: str) -> pytest.RunResult:
    baseline = f"--agentperf-baseline={before}"
    return project.runpytest_subprocess(*SHORT, baseline, *IN_TURNS, *more)


def _own(project: pytest.Pytester) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the bundle of the session's run and those of the turns."""
    bundles = [
        json.loads(p.read_text("utf-8")) for p in (project.path / "results").glob("*/bundle.json")
    ]
    (own,) = [b for b in bundles if b["settings"]["gate"] == "ab"]
    return own, [b for b in bundles if b is not own]


def test_an_endpoint_that_is_3_percent_slower_is_found(
    two_endpoints: pytest.Pytester, before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_B_S", "0.0103")
    result = _run(two_endpoints, before, "--junitxml=j.xml", "--agentperf-ci-json=out.json")
    assert result.ret == 1
    # 100 / 5 and 97.1 / 5 tok/s; the tier asks for 20.
    last = result.outlines[-1]
    assert last.startswith("SERVER REGRESSED: P25 speed at 5 agents 20 -> 19.4 tok/s (−2.9 %")
    result.stdout.fnmatch_lines(["*against endpoint scripted:, in turns*", "Intervals: 4 pairs"])
    own, turns = _own(two_endpoints)
    assert [p["agents"] for p in own["phases"]] == [5] * 4
    assert {p["measured_in"] for p in own["phases"]} <= {b["provenance"]["run"] for b in turns}
    assert sorted(b["settings"]["seed"] for b in turns) == [0, 0, 1, 1, 2, 2, 3, 3]
    told = json.loads((two_endpoints.path / "out.json").read_text("utf-8"))
    assert told["cause"] == "server regressed"
    (path,) = (two_endpoints.path / "results").glob("*/comparison.json")
    assert json.loads(path.read_text("utf-8"))["verdict"] == "regressed"
    entry = (two_endpoints.path / "j.xml").read_text("utf-8")
    assert '<property name="agentperf_gate_output_speed_tok_per_s.p25" value="regressed' in entry


def test_an_endpoint_b_of_the_project_is_left_alone_where_none_is_asked_for(
    two_endpoints: pytest.Pytester,
) -> None:
    result = two_endpoints.runpytest_subprocess(*SHORT)
    assert result.ret == 0
    assert result.outlines[-1] == "PASSED: every tier carries what was asked"


def test_two_that_are_the_same_pass(two_endpoints: pytest.Pytester, before: Path) -> None:
    result = _run(two_endpoints, before)
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert result.outlines[-1].startswith("PASSED: nothing regressed against scripted:: ")
    turns = [line[-1] for line in result.outlines if " of 4: " in line]
    assert "".join(turns) == "ABBAABBA"


def test_pairs_of_any_number_of_agents(two_endpoints: pytest.Pytester, before: Path) -> None:
    two_endpoints.makepyfile(
        "import pytest\n\n\n@pytest.mark.asyncio(loop_scope='session')\n"
        "async def test_it(agentperf):\n"
        "    found = await agentperf.measure(agents=2)\n"
        "    assert found.output_speed_tok_per_s.p25 == pytest.approx(50)\n"
        "    await agentperf.measure(agents=1)\n"
    )
    result = _run(two_endpoints, before, "--agentperf-pairs=5")
    assert result.ret == 0
    own, turns = _own(two_endpoints)
    assert [p["agents"] for p in own["phases"]] == [2] * 5 + [1] * 5
    # A seed that served twice would find its own prompts in the servers' caches.
    seeds = [b["settings"]["seed"] for b in turns]
    assert sorted(seeds) == [seed for seed in range(10) for _ in "AB"]


def test_hours_that_are_over_leave_no_answer(two_endpoints: pytest.Pytester, before: Path) -> None:
    result = _run(two_endpoints, before, "--agentperf-max-hours=0.05")
    assert result.ret == 10
    assert "no turn begins after --agentperf-max-hours 0.05" in result.outlines[-1]


def test_a_dead_endpoint_b_has_a_code_of_its_own(
    two_endpoints: pytest.Pytester, before: Path
) -> None:
    two_endpoints.makeconftest((ROOT / "conftest.py").read_text("utf-8") + SCRIPTED)
    result = _run(two_endpoints, before, "--agentperf-endpoint-b=http://127.0.0.1:9/v1")
    assert result.ret == 11
    said = "ENDPOINT DOWN: endpoint http://127.0.0.1:9/v1 does not answer"
    assert result.outlines[-1].startswith(said)
    assert not (two_endpoints.path / "results").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--agentperf-gate=ab",), "--agentperf-gate ab and --agentperf-endpoint-b URL belong"),
        (("--agentperf-endpoint-b=http://b/v1",), "belong together: give both, or neither"),
        ((*IN_TURNS, "--agentperf-pairs=3"), "--agentperf-pairs 3: at least 4 tell how far"),
        ((*IN_TURNS, "--agentperf-resume=a"), "--agentperf-gate ab cannot go on with an earlier"),
        ((*IN_TURNS, "--agentperf-meter=nvml"), "--agentperf-meter nvml: with --agentperf-gate ab"),
    ],
    ids=["no endpoint", "no gate", "too few pairs", "resumed", "a meter"],
)
def test_is_refused(project: pytest.Pytester, options: tuple[str, ...], said: str) -> None:
    result = project.runpytest_subprocess("--agentperf-baseline=before", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in "\n".join(result.errlines)
