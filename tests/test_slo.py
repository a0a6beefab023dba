import math
from typing import Any

import pytest

from pytest_agentperf.metrics import Metrics, distribution
from pytest_agentperf.slo import HIGHER_IS_BETTER, Limit, SLOTier, Verdict, judge
from tests.phases import metrics, request

SPEED = Limit(metric="output_speed_tok_per_s", statistic="p25", value=10.0)
TTFT = Limit(metric="ttft_s", statistic="p95", value=1.0)
TIER = SLOTier(model="m", name="slo-1", limits=(SPEED, TTFT))
FAILED = request(error="x")


def phase(*, speed: float = 10.0, ttft: float = 1.0, **changes: Any) -> Metrics:
    """A hundred equal requests; by default exactly on both limits."""
    return metrics(
        request(),
        **{
            "output_speed_tok_per_s": distribution([speed] * 100),
            "ttft_s": distribution([ttft] * 100),
            "requests": 100,
        }
        | changes,
    )


def missed(verdict: Verdict) -> list[str]:
    return [f.limit for f in verdict.findings if not f.met]


def test_a_value_on_the_limit_is_inside():
    assert judge(TIER, phase()).outcome == "pass"


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({"speed": 9.99}, ["output_speed_tok_per_s.p25"]),
        ({"ttft": 1.01}, ["ttft_s.p95"]),
        ({"speed": 1.0, "ttft": 9.0}, ["output_speed_tok_per_s.p25", "ttft_s.p95"]),
        ({"ttft": math.inf}, ["ttft_s.p95"]),
        ({"error_ratio": 0.03, "failed": 30, "requests": 1000}, ["error_ratio"]),
    ],
    ids=[
        "it is too slow",
        "it is too late",
        "it is both",
        "failures reach into the percentile",
        "too many requests failed",
    ],
)
def test_a_phase_fails_when(values: dict[str, float], limits: list[str]):
    verdict = judge(TIER, phase(**values))
    assert (verdict.outcome, missed(verdict)) == ("fail", limits)


@pytest.mark.parametrize(
    ("failed", "requests", "outcome"),
    [
        (1, 100, "pass"),
        # One in a hundred is allowed. Where so many fail, six or more of 100 are seen in 1 phase of
        # 1,870, and five or more in 1 of 291.
        (5, 100, "invalid"),
        (6, 100, "fail"),
        # Of 1,000: 21 or more in 1 of 668, 22 or more in 1 of 1,534.
        (21, 1000, "invalid"),
        (22, 1000, "fail"),
        (1, 2, "invalid"),
        (20_000, 1_000_000, "fail"),
    ],
)
def test_failures_that_may_be_chance_decide_nothing(failed: int, requests: int, outcome: str):
    seen = phase(
        failed=failed,
        requests=requests,
        error_ratio=failed / requests,
        errors={"HTTP 500: x": failed},
    )
    verdict = judge(TIER, seen)
    assert verdict.outcome == outcome
    if outcome == "invalid":
        (reason,) = verdict.reasons
        assert reason.startswith(f"error_ratio: {failed} of {requests} requests failed")
        assert "'HTTP 500: x'" in reason
        assert judge(TIER, seen, aims=True).outcome == "fail"


def test_failures_beside_a_limit_that_was_missed_do_not_save_the_phase():
    assert judge(TIER, phase(speed=9.0, failed=2, error_ratio=0.02)).outcome == "fail"


@pytest.mark.parametrize("better", [{"speed": 999.0}, {"ttft": 0.001}], ids=["speed", "ttft"])
def test_better_is_never_worse(better: dict[str, float]):
    assert judge(TIER, phase(**better)).outcome == "pass"


def test_directions_belong_to_the_metrics():
    assert {m for m, higher in HIGHER_IS_BETTER.items() if higher} == {
        "output_speed_tok_per_s",
        "first_chunk_speed_tok_per_s",
    }
    assert {m for m, higher in HIGHER_IS_BETTER.items() if not higher} == {"ttft_s", "e2e_s"}


@pytest.mark.parametrize("metric", HIGHER_IS_BETTER)
def test_a_synthetic_regression_fails(metric: str):
    better, worse = (11.0, 9.0) if HIGHER_IS_BETTER[metric] else (9.0, 11.0)
    tier = SLOTier(model="m", name="t", limits=(Limit(metric=metric, statistic="p50", value=10.0),))
    good: dict[str, Any] = {metric: distribution([better] * 9)}
    bad: dict[str, Any] = {metric: distribution([worse] * 9)}
    assert judge(tier, phase(**good)).outcome == "pass"
    assert judge(tier, phase(**bad)).outcome == "fail"


def test_one_error_in_a_hundred_is_allowed():
    assert judge(TIER, phase(error_ratio=0.01)).outcome == "pass"


@pytest.mark.parametrize(
    ("changes", "invalid", "reasons"),
    [
        ({}, ("client cpu: late",), ("client cpu: late",)),
        ({"speed": 1.0}, ("client cpu: late",), ("client cpu: late",)),
        ({"ttft_s": None}, (), ("ttft_s.p95: no value",)),
        ({"output_speed_tok_per_s": None}, (), ("output_speed_tok_per_s.p25: no value",)),
        ({"requests": 0}, (), ("no request was sent in the steady window",)),
    ],
    ids=[
        "a good one of a late client",
        "a bad one of a late client",
        "no TTFT",
        "no speed",
        "no request",
    ],
)
def test_a_phase_is_neither_pass_nor_fail_with(
    changes: dict[str, Any], invalid: tuple[str, ...], reasons: tuple[str, ...]
):
    verdict = judge(TIER, phase(**changes), invalid=invalid)
    assert (verdict.outcome, verdict.reasons) == ("invalid", reasons)


def test_a_phase_in_which_everything_failed_fails():
    verdict = judge(TIER, metrics(FAILED, FAILED, FAILED))
    assert (verdict.outcome, len(missed(verdict))) == ("fail", 3)


def test_a_finding_says_what_was_seen():
    speed, ttft, errors = judge(TIER, phase(ttft=2.0)).findings
    assert (speed.limit, speed.sign, speed.bound) == ("output_speed_tok_per_s.p25", ">=", 10.0)
    assert (ttft.limit, ttft.sign, ttft.observed, ttft.n) == ("ttft_s.p95", "<=", 2.0, 100)
    assert (errors.limit, errors.sign, errors.bound, errors.n) == ("error_ratio", "<=", 0.01, 100)


def test_a_finding_without_values_has_none():
    finding = judge(TIER, phase(ttft_s=None)).findings[1]
    assert (finding.observed, finding.n, finding.met) == (None, 0, False)


def test_in_asks_whether_all_limits_are_met():
    assert phase() in TIER
    assert phase(ttft=1.1) not in TIER
    assert phase(requests=0) not in TIER
    assert "slo-1" not in TIER


def test_a_tier_is_named_with_its_model():
    assert str(TIER) == "m slo-1"
