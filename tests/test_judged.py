from pytest_agentperf.judged import marks_of
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier


def test_a_late_client_must_have_moved_nothing_that_is_judged_or_published() -> None:
    limits = (Limit(metric="ttft_s", statistic="p99", value=1.0),)
    tiers = (SLOTier(model="m", name="t", limits=limits),)
    marks = marks_of(ModelSpec(model="m", tiers=tiers), Settings())
    assert marks.judged == {
        ("ttft_s", "p99"), ("ttft_s", "p95"), ("output_speed_tok_per_s", "p25"),
    }  # fmt: skip
