import pytest

from pytest_agentperf.selfcheck.ladder import carries, climb
from pytest_agentperf.selfcheck.nullclient import Point


def point(
    streams: int, *, p95_s: float = 0.0005, cpu_s: float = 1.0, tokens: int = 50_000
) -> Point:
    return Point(
        streams=streams,
        rate_tok_per_s=50.0,
        requests=100,
        tokens=tokens,
        wall_s=2.0,
        cpu_s=cpu_s,
        ttft_error_s=(0.0001, p95_s, 2 * p95_s),
        last_token_error_s=(0.0, 0.0, 0.0),
        loop_lag_p95_s=0.0005,
        loop_lag_p99_s=0.001,
        read_lag_p95_s=0.0001,
        merged_ratio=0.0,
        server_late_p95_s=0.0,
        failed=0,
    )


class TestCarries:
    def test_what_one_process_does_by_hand(self):
        # 1 s of CPU for 50,000 tokens are 20 µs each; at 80 % of a core 40,000 in a second.
        found = carries([point(100, cpu_s=9.0), point(200)])
        assert found.cpu_us_per_token == pytest.approx(20.0)
        assert found.tok_per_s == pytest.approx(40_000)

    def test_the_greatest_load_within_each_limit(self):
        points = [point(100), point(200, p95_s=0.002), point(400, p95_s=0.0101)]
        found = carries(points)
        assert (found.within_1_ms_tok_per_s, found.within_10_ms_tok_per_s) == (5_000, 10_000)

    def test_none_where_the_first_load_is_too_much(self):
        found = carries([point(100, p95_s=0.5)])
        assert (found.within_1_ms_tok_per_s, found.within_10_ms_tok_per_s) == (0, 0)

    def test_a_load_without_a_figure_is_not_carried(self):
        assert carries([point(100, p95_s=float("nan"))]).within_10_ms_tok_per_s == 0


class TestClimb:
    def test_doubles_until_times_are_wrong(self):
        asked = list(climb(lambda n: point(n, p95_s=n * 1e-4), start=25, most=10_000))
        assert [p.streams for p in asked] == [25, 50, 100, 200]

    def test_ends_at_the_most(self):
        assert [p.streams for p in climb(point, start=25, most=100)] == [25, 50, 100]
        assert [p.streams for p in climb(point, start=25, most=99)] == [25, 50]
