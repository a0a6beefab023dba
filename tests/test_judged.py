import pytest

from pytest_agentperf.judged import marks_of
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier


@pytest.mark.parametrize(
    ("statistics", "share"),
    [(("p25",), 0.03), (("p25", "p95"), 0.03), (("p95", "p99"), 0.006), (("mean",), 0.03)],
    ids=["no worse than a P95", "P95", "P99", "the mean has no tail"],
)
def test_a_late_client_may_move_less_than_lies_beyond_what_is_judged(
    statistics: tuple[str, ...], share: float
) -> None:
    limits = tuple(Limit(metric="ttft_s", statistic=name, value=1.0) for name in statistics)
    tiers = (SLOTier(model="m", name="t", limits=limits),)
    marks = marks_of(ModelSpec(model="m", tiers=tiers), Settings())
    assert marks.max_moved_ratio == pytest.approx(share)
