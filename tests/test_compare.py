"""Two runs compared: the traps that let a regression pass, each on a made-up bundle."""

import math
from dataclasses import replace

import pytest

from pytest_agentperf.bundle import Bundle
from pytest_agentperf.compare import compare, compare_pairs
from tests.gated import MODEL, noise, run


def _verdicts(before: Bundle, now: Bundle) -> dict[str, str]:
    return {row.figure.name: row.verdict for row in compare(before, now).rows}


def test_the_same_twice_is_unchanged() -> None:
    found = compare(run(), run("again"))
    assert {row.verdict for row in found.rows} == {"unchanged"}
    assert found.verdict == "unchanged"
    assert (found.baseline, found.run) == ("baseline", "again")


@pytest.mark.parametrize(
    ("now", "regressed"),
    [
        (run(speed=90.0), "output_speed_tok_per_s.p25"),
        (run(ttft=2.2), "ttft_s.p95"),
        (run(throughput=900.0), "throughput_tok_per_s"),
        (run(reuse=0.9), "reused_ratio"),
        (run(capacity=(30, 29, 31)), "capacity"),
    ],
    ids=["slower", "later", "less", "forgetful", "fewer"],
)
def test_each_figure_regresses_in_its_own_direction(now: Bundle, regressed: str) -> None:
    then = run(reuse=0.998 if now.phases[0].metrics.reused_ratio else None)
    assert [name for name, v in _verdicts(then, now).items() if v == "regressed"] == [regressed]
    assert [name for name, v in _verdicts(now, then).items() if v == "improved"] == [regressed]


def test_energy_per_token_regresses_upwards() -> None:
    # 4 kW / 1,000 tok/s = 4 J, and 4.8 J.
    found = compare(run(watts=4000.0), run(watts=4800.0))
    (row,) = [row for row in found.rows if row.figure.name == "energy_j_per_token"]
    assert row.before is not None
    assert row.before.value == 4.0
    assert row.verdict == "regressed"


def test_energy_that_neither_could_measure_is_not_asked_for() -> None:
    assert "energy_j_per_token" not in _verdicts(run(), run())


def test_reuse_that_the_baseline_did_not_tell_of_is_not_asked_for() -> None:
    assert "reused_ratio" not in _verdicts(run(), run(reuse=0.998))


def test_reuse_that_is_told_of_no_more_has_not_passed() -> None:
    found = compare(run(reuse=0.998), run())
    (row,) = found.of("not comparable")
    assert row.reason == "this run has no prefix reuse at 35 agents"


def test_a_cache_that_finds_nothing_again_has_regressed() -> None:
    # 0 is a figure, unlike a throughput of 0.
    assert _verdicts(run(reuse=0.998), run(reuse=0.0))["reused_ratio"] == "regressed"


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (run(speed=None), "this run has no P25 speed at 35 agents"),
        (run(watts=None), "this run has no energy at 35 agents"),
        (run(agents=34), "the two runs have no valid full phase with equal agents"),
        (run(invalid=True), "the two runs have no valid full phase with equal agents"),
        (run(status="invalid"), "this run has no answer for slo-1: invalid"),
        (run(status="open"), "this run has no answer for slo-1: not finished (35 passed)"),
    ],
    ids=["no speed", "no power", "other agents", "an invalid phase", "no answer", "not finished"],
)
def test_what_is_missing_has_not_passed(now: Bundle, reason: str) -> None:
    found = compare(run(watts=4000.0), replace(now))
    assert reason in [row.reason for row in found.of("not comparable")]
    assert found.verdict == "not comparable"


def test_a_tier_that_the_baseline_lacks_has_not_passed() -> None:
    found = compare(replace(run(), capacities=()), run())
    assert found.of("not comparable")[0].reason == "the baseline has no answer for slo-1"


def test_nothing_measured_has_not_passed() -> None:
    assert compare(run(), replace(run(), capacities=(), phases=())).verdict == "not comparable"


def test_a_regression_outweighs_a_gap() -> None:
    found = compare(run(watts=4000.0), run(speed=50.0, watts=None))
    assert found.of("not comparable")
    assert found.verdict == "regressed"


def test_failed_requests_in_p95_ttft_are_a_regression() -> None:
    assert _verdicts(run(), run(ttft=math.inf, sure=False))["ttft_s.p95"] == "regressed"


def test_a_capacity_whose_interval_reaches_the_other_is_not_told_apart() -> None:
    # 33 of 32 to 36 against 35 of 34 to 36: a loss of up to (32 - 36) / 36 = 11 %.
    row = compare(run(capacity=(35, 34, 36)), run(capacity=(33, 32, 36))).rows[0]
    assert row.verdict == "unclear"
    assert row.change is not None
    assert row.change.low == pytest.approx(-4 / 36)


def test_a_tolerance_comes_from_measured_repeats_where_there_are_some() -> None:
    now = run("now", speed=96.0)
    assert _verdicts(run(), now)["output_speed_tok_per_s.p25"] == "regressed"
    loud = noise(speed=(100.0, 104.0, 96.0, 103.0, 97.0))
    (row,) = [
        r for r in compare(run(), now, noise=loud).rows if r.figure.name.startswith("output_speed")
    ]
    assert row.verdict == "unclear"
    assert row.by.startswith("5 repeats with 35 agents")
    # 100 x (1.04 x 0.96 x 1.03 x 0.97) ^ (1/6), and not only the baseline's 100.
    assert row.before is not None
    assert row.before.value == pytest.approx(99.96, abs=0.01)


def test_without_intervals_and_repeats_nothing_is_certain() -> None:
    found = _verdicts(run(sure=False), run(sure=False, speed=80.0))
    assert found["output_speed_tok_per_s.p25"] == "unclear"


def test_repeats_with_other_agents_are_another_noise() -> None:
    spread = noise(speed=(1.0, 1.0, 1.0, 1.0, 1.1))
    name = "output_speed_tok_per_s.p25"
    assert spread.repeats(MODEL, 50, name)
    assert spread.repeats(MODEL, 53, name) is None
    assert spread.repeats("another", 35, name) is None


@pytest.mark.parametrize(
    ("status", "verdict", "reason"),
    [
        ("at-limit", "unchanged", "it is carried; more was not asked"),
        ("unclear", "unclear", "missed by less than its noise: ttft_s.p95"),
        ("below", "regressed", "missed: ttft_s.p95"),
    ],
    ids=["carried", "missed inside the noise", "missed"],
)
def test_a_verified_capacity(status: str, verdict: str, reason: str) -> None:
    now = run(status=status)
    found = replace(now.capacities[0], limited_by=("ttft_s.p95",), first_failing=35)
    row = compare(run(), replace(now, capacities=(found,))).rows[0]
    assert (row.verdict, row.reason) == (verdict, reason)


def test_a_tier_that_is_not_supported_in_either_run_is_unchanged() -> None:
    none = run(capacity=(0, 0, 0), status="unsupported")
    assert compare(none, none).rows[0].verdict == "unchanged"
    assert compare(run(), none).rows[0].verdict == "regressed"
    assert compare(none, run()).rows[0].verdict == "improved"


def test_tiers_are_compared_by_model_and_name() -> None:
    # The same name under another model is another tier.
    other = replace(run().capacities[0], model="another")
    found = compare(replace(run(), capacities=(other,)), run())
    assert found.rows[0].verdict == "not comparable"


def test_pairs_show_what_both_of_each_have_apart() -> None:
    # 10 % less in each of four pairs, whose work differs by half.
    speeds = (100.0, 150.0, 120.0, 90.0)
    pairs = [(run(speed=v).phases[0], run(speed=0.9 * v).phases[0]) for v in speeds]
    found = compare_pairs(pairs, before="http://a", now="b", tiers={(MODEL, 35): ("slo-1",)})
    (row,) = found.of("regressed")
    assert (row.figure.name, row.tiers) == ("output_speed_tok_per_s.p25", ("slo-1",))
    assert row.change is not None
    assert row.change.ratio == pytest.approx(-0.1)


def test_a_pair_without_a_figure_has_not_passed() -> None:
    whole = (run().phases[0], run().phases[0])
    broken = (run().phases[0], run(speed=None).phases[0])
    found = compare_pairs([whole, whole, whole, broken], before="a", now="b", tiers={})
    assert found.verdict == "not comparable"
    (row,) = found.of("not comparable")
    assert row.reason == "1 of 4 pairs have no P25 speed at 35 agents"
