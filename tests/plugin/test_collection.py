"""Which tests there are, and how they are run; nothing is measured here."""

import pytest

from pytest_agentperf.settings import knobs, option_name


def test_one_test_per_model_and_tier(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(capacity): pass")
    result = project.runpytest_subprocess(
        "--collect-only", "-q", "--model=gpt-oss-120b", "--model=deepseek-v3.2"
    )
    found = [line.split("::")[1] for line in result.outlines if "::" in line]
    assert found == [
        *(f"test_it[gpt-oss-120b-slo-{n}]" for n in (1, 2, 3, 4)),
        *(f"test_it[deepseek-v3.2-slo-{n}]" for n in (1, 2, 3)),
    ]


def test_the_marker_keeps_one_tier(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.slo("slo-2")
        def test_it(capacity): pass
        """
    )
    result = project.runpytest_subprocess("--collect-only", "-q", "--model=gpt-oss-120b")
    assert [line for line in result.outlines if "::" in line] == [
        "test_the_marker_keeps_one_tier.py::test_it[gpt-oss-120b-slo-2]"
    ]


def test_a_tier_of_ones_own_needs_no_file(project: pytest.Pytester) -> None:
    project.makepyfile(
        "def test_it(slo): assert [(x.name, x.value) for x in slo.limits] == "
        "[('output_speed_tok_per_s.p25', 50.0), ('ttft_s.p95', 3.0)]"
    )
    result = project.runpytest_subprocess("--model=mine", "--tier=fast:speed>=50,ttft<=3")
    result.assert_outcomes(passed=1)


def test_a_test_without_our_fixtures_needs_no_endpoint(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "agentperf" not in result.stdout.str().replace("plugins: ", "").split("collected")[1]


def test_command_line_wins_over_ini(project: pytest.Pytester) -> None:
    project.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
        "agentperf_seed = 3\nagentperf_max_agents = 9\n"
    )
    project.makepyfile(
        "def test_it(agentperf_settings): "
        "assert (agentperf_settings.seed, agentperf_settings.max_agents) == (4, 9)"
    )
    result = project.runpytest_subprocess("--agentperf-seed=4")
    result.assert_outcomes(passed=1)


def test_every_knob_is_an_option_with_help(project: pytest.Pytester) -> None:
    text = project.runpytest_subprocess("--help").stdout.str()
    missing = [option_name(k.name) for k in knobs() if option_name(k.name) not in text]
    assert not missing


def test_metrics_outside_a_tier_are_explained_limit_by_limit(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from pytest_agentperf import explain
        from tests.bundles import example_bundle

        def test_it():
            bundle = example_bundle()
            phase = max(bundle.phases, key=lambda p: p.agents)
            assert phase.metrics in bundle.models[0].spec.tiers[-1]
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *limits missed*", "E *output_speed_tok_per_s.p25*missed*n=*"])
