"""What stops a session before any load is sent, and what it says."""

import socket

import pytest

from pytest_agentperf.outcome import UNREACHABLE

CAPACITY_TEST = """
def test_it(capacity, slo):
    assert capacity.agents >= slo.min_agents
"""
SIM = ("--endpoint=sim:", "--model=gpt-oss-120b")


def _said(result: pytest.RunResult) -> str:
    return "\n".join((*result.outlines, *result.errlines))


def test_no_endpoint_names_the_option_and_the_simulator(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess("--model=gpt-oss-120b")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*none was given: pass --agentperf-endpoint*with*sim:*"])


def test_no_model_names_those_that_have_tiers(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess("--endpoint=sim:")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no --model was given*deepseek-v4-pro, gpt-oss-120b*"])


def test_a_model_without_tiers_is_told_what_to_give(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess("--endpoint=sim:", "--model=gpt-oss-12b")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*no tiers for model 'gpt-oss-12b'*did you mean 'gpt-oss-120b'?*--tier*--agentperf-slo*"]
    )


def test_a_misspelt_key_in_a_tier_file_is_named_with_its_neighbour(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(CAPACITY_TEST)
    project.makefile(
        ".yaml",
        tiers="version: 1\nmodels: [{model: m, tiers: [{name: a, limit: {ttft_s.p95: 3}}]}]",
    )
    result = project.runpytest_subprocess(
        "--endpoint=sim:", "--model=m", "--agentperf-slo=tiers.yaml"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*tiers.yaml*unknown key 'limit'; did you mean 'limits'?*"])


def test_an_unknown_tier_is_named_with_its_neighbour(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, "--tier=slo2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no tier is called 'slo2'; did you mean 'slo-2'?*"])


def test_xdist_is_refused(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pytest-xdist (-n)*run without -n*"])


def test_xdist_without_an_endpoint_is_refused_where_a_test_measures(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess("--model=gpt-oss-120b", "-n", "1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pytest-xdist (-n) would measure several phases at once" in _said(result)


def test_xdist_stays_usable_for_tests_that_measure_nothing(project: pytest.Pytester) -> None:
    project.makepyfile("def test_a(): pass")
    result = project.runpytest_subprocess("-n", "1")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--agentperf-mode=fastest", "*'fastest' is not one of exact, fast, smoke*"),
        ("--agentperf-seed=lucky", "*--agentperf-seed takes a whole number, got 'lucky'*"),
        ("--agentperf-settle-s=-1", "*--agentperf-settle-s must be 0 or more, got -1*"),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    project: pytest.Pytester, option: str, said: str
) -> None:
    result = project.runpytest_subprocess(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_a_missing_dataset_ends_the_session(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, "--dataset=traces/nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "traces/nowhere" in _said(result)
    assert "synthetic:" in _said(result)


def test_a_missing_system_file_ends_the_session(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, "--system=system.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--agentperf-system 'system.yaml' cannot be read" in _said(result)


def test_mistakes_in_a_system_file_end_the_session_before_any_load(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(CAPACITY_TEST)
    (project.path / "system.yaml").write_text(
        "version: 1\nname: s\nacelerator: H200\nprice_usd_per_hour: -3\n"
        "accelerators: {name: H200, tdp_w: 0.7}\n",
        "utf-8",
    )
    result = project.runpytest_subprocess(*SIM, "--system=system.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for told in (
        "system.yaml: unknown key 'acelerator'; did you mean 'accelerators'?",
        "system.yaml: price_usd_per_hour is -3; it is more than 0, or left out",
        "system.yaml: accelerators.count is missing; write 'count: 8' for all accelerators",
        "system.yaml: accelerators.tdp_w is 0.7; it is in watts of one accelerator: is 0.7 in kil",
    ):
        assert told in _said(result)
    assert not (project.path / "agentperf-results").exists()


def test_a_dead_endpoint_ends_the_session(project: pytest.Pytester) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        f"--endpoint=http://127.0.0.1:{port}/v1", "--model=gpt-oss-120b"
    )
    assert result.ret == UNREACHABLE
    assert result.outlines[-1].startswith(f"ENDPOINT DOWN: endpoint http://127.0.0.1:{port}/v1")
    assert f"endpoint http://127.0.0.1:{port}/v1 does not answer" in _said(result)
    assert "is the server up" in _said(result)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/v1", "no endpoint is called 'ftp'"),
        ("localhost", "is no URL; write http://HOST:PORT/v1 or sim:"),
        ("http:///v1", "has no host"),
        ("http://me:secret@127.0.0.1:1/v1", "a key belongs into the environment"),
        ("sim:h200x8", "preset"),
    ],
)
def test_an_impossible_endpoint_ends_the_session(
    project: pytest.Pytester, url: str, said: str
) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(f"--endpoint={url}", "--model=gpt-oss-120b")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in _said(result)
    assert "secret" not in _said(result).replace("--endpoint=http://me:secret", "")


@pytest.mark.parametrize(
    "option",
    [
        "--endpoint=https://me:s3cret@host/v1",
        "--endpoint=me:s3c/ret@host/v1",
        "--agentperf-endpoint-b=http://s3cret@host/v1",
        "--agentperf-metrics-url=http://me:s3cret@host:9000/metrics",
        "--agentperf-metrics-url=http://me:12#s3cret@host/metrics",
        "--agentperf-metrics-url=http://me:p?s3cret@host/metrics",
        "--agentperf-workers=ray://me:s3cret@host:10001?workers=2",
    ],
    ids=["endpoint", "no URL", "endpoint B", "page of metrics", "a hash", "a mark", "Ray head"],
)
def test_user_info_in_an_address_is_refused_and_not_shown(
    project: pytest.Pytester, option: str
) -> None:
    result = project.runpytest_subprocess(*SIM[1:], option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "holds user info for host; " in _said(result)
    assert "s3c" not in _said(result)


def test_more_agents_than_this_machine_has_files_for_end_the_session(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, "--agentperf-max-agents=999999999")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--agentperf-max-agents 999999999: this machine has room for" in _said(result)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ("some", "--agentperf-workers takes a number of load processes, ray:auto or ray://"),
        ("ray:auto?workers=0", "behind the ? only workers=N may stand, N above 0"),
    ],
)
def test_a_place_for_load_that_is_none_is_refused(
    project: pytest.Pytester, workers: str, said: str
) -> None:
    result = project.runpytest_subprocess(f"--agentperf-workers={workers}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in _said(result)


def test_a_cluster_without_ray_names_the_extra(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    project.makepyfile(no_ray="import sys\nsys.modules['ray'] = None")
    result = project.runpytest_subprocess(*SIM, "-p", "no_ray", "--agentperf-workers=ray:auto")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "needs ray; pip install pytest-agentperf[ray]" in _said(result)


def test_a_cluster_that_cannot_be_reached_ends_the_session(project: pytest.Pytester) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(*SIM, f"--agentperf-workers=ray://127.0.0.1:{port}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"no Ray cluster can be used at 'ray://127.0.0.1:{port}'" in _said(result)
    assert "start one with `ray start --head`" in _said(result)


def test_a_cluster_has_no_part_in_virtual_time(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        "--endpoint=sim+virtual:", "--model=gpt-oss-120b", "--agentperf-workers=ray:auto"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "virtual time is time of this process alone" in _said(result)


def test_a_series_that_the_server_has_not_ends_the_session(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    wrong = "--agentperf-metrics-series=vllm:num_request_waiting"
    result = project.runpytest_subprocess(*SIM, wrong)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no such series; did you mean 'vllm:num_requests_waiting'?" in _said(result)


def test_virtual_time_has_no_page_of_metrics(project: pytest.Pytester) -> None:
    project.makepyfile(CAPACITY_TEST)
    result = project.runpytest_subprocess(
        "--endpoint=sim+virtual:", "--model=gpt-oss-120b", "--agentperf-metrics-series=up"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "has no page of metrics; leave --agentperf-metrics-url and" in _said(result)


def test_phases_that_fill_the_memory_of_this_machine_end_the_session(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(CAPACITY_TEST)
    # Eight agents that send a request about every second for 30 years.
    result = project.runpytest_subprocess(
        *SIM[1:],
        "--endpoint=sim+virtual:",
        "--dataset=synthetic:trajectories=8,turns=3,isl=1500,osl=20,tool_s=0.1,seed=1",
        "--agentperf-min-steady-s=1e9",
        "--agentperf-max-phase-s=1e9",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the first phase has no room: load and requests of 8 agents take about" in _said(result)
    assert not (project.path / "agentperf-results").exists()
