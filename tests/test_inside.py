"""How sure a phase is of its own figures."""

import pytest

from pytest_agentperf.inside import intervals
from tests.phases import measurement, request


def test_figures_lie_inside_their_intervals() -> None:
    # 2 s of decoding for 20 tokens, 10 % more or less by turns: 10 tok/s, of every agent's request.
    turns = [
        request(100 + i, decode_s=2 + 0.2 * (i % 3 - 1), ordinal=i // 4, agent=i % 2)
        for i in range(90)
    ]
    found = intervals(measurement(turns))
    assert set(found) == {"output_speed_tok_per_s.p25", "ttft_s.p95", "throughput_tok_per_s"}
    for interval in found.values():
        assert interval.low <= interval.estimate <= interval.high
    # Quantile by interpolation: a third each of 20 / 2.2, 20 / 2 and 20 / 1.8.
    assert found["output_speed_tok_per_s.p25"].estimate == pytest.approx(20 / 2.2)


def test_nothing_measured_has_no_interval() -> None:
    assert intervals(measurement([])) == {}


def test_even_output_is_sure_of_its_throughput() -> None:
    # 21 tokens in each of 100 seconds, in two events: a spread only where an event meets an edge.
    found = intervals(measurement([request(100 + i, ttft_s=0.1, decode_s=0.5) for i in range(100)]))
    interval = found["throughput_tok_per_s"]
    assert interval.estimate == pytest.approx(21)
    assert interval.high - interval.low < 0.01
