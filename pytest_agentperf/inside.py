"""How sure one phase is of its own figures: intervals that a bundle keeps for comparisons."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pytest_agentperf.evidence import Interval, mean_error, percentile_interval, student
from pytest_agentperf.metrics import (
    first_chunk_speed_tok_per_s,
    members,
    output_speed_tok_per_s,
    throughput_tok_per_s,
    ttft_s,
)
from pytest_agentperf.records import Measurement, TurnRecord, Window
from pytest_agentperf.reuse import reused

__all__ = ["SPANS", "intervals"]

SPANS = 10
"""Equal parts of the window, whose spread tells how sure the throughput is; as in `evidence`."""


def intervals(measurement: Measurement, *, speed: str = "usage") -> Mapping[str, Interval]:
    """Return the 95 % interval of P25 output speed, P95 TTFT, throughput, reuse, by name.

    A figure of which nothing was there to measure has none.

    Args:
        measurement: the phase as seen.
        speed: which output speed is the judged one, ``usage`` or ``first-chunk``.
    """
    inside = members(measurement.turns, measurement.window)
    speed_of = first_chunk_speed_tok_per_s if speed == "first-chunk" else output_speed_tok_per_s
    found = {
        "output_speed_tok_per_s.p25": _percentile(inside, speed_of, measurement.window, 0.25),
        "ttft_s.p95": _percentile(inside, ttft_s, measurement.window, 0.95),
        "throughput_tok_per_s": _throughput(measurement.turns, measurement.window),
        "reused_ratio": _reuse(measurement.turns, inside, measurement.window),
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def _percentile(
    turns: Sequence[TurnRecord],
    value_of: Callable[[TurnRecord], float | None],
    window: Window,
    q: float,
) -> Interval | None:
    known = [(t, value) for t in turns if (value := value_of(t)) is not None]
    if not known:
        return None
    asked = [t for t, _ in known]
    return percentile_interval(
        [value for _, value in known],
        _runs(asked),
        [t.sent_ns for t in asked],
        window,
        q,
    )


def _runs(turns: Sequence[TurnRecord]) -> Sequence[int]:
    """Return the number of the trajectory's run that each request belongs to."""
    numbers: dict[tuple[int, int], int] = {}
    return [numbers.setdefault((t.agent, t.ordinal), len(numbers)) for t in turns]


def _reuse(
    turns: Sequence[TurnRecord], inside: Sequence[TurnRecord], window: Window
) -> Interval | None:
    found = reused(turns, inside)
    held = sum(each.held_tokens for each in found)
    if not held:
        return None
    total = sum(each.found_tokens for each in found) / held
    # A ratio of two sums: what each request is apart from it, whose mean is 0 (Cochran, 6.4).
    apart = [each.found_tokens - total * each.held_tokens for each in found]
    asked = [each.turn for each in found]
    error, freedom = mean_error(apart, _runs(asked), [t.sent_ns for t in asked], window)
    se = error * len(found) / held
    half = student(freedom) * se
    return Interval(
        low=max(0.0, total - half),
        high=min(1.0, total + half),
        estimate=total,
        n=len(found),
        se=se,
    )


def _throughput(turns: Sequence[TurnRecord], window: Window) -> Interval | None:
    total = throughput_tok_per_s(turns, window)
    if not total:
        return None
    edges_ns = np.linspace(window.start_ns, window.end_ns, SPANS + 1).round().astype(np.int64)
    tokens = np.zeros(SPANS)
    for turn in turns:
        if turn.osl_tokens and turn.token_offsets_us:
            offsets = np.frombuffer(turn.token_offsets_us, dtype="<u4").astype(np.int64)
            inside, _ = np.histogram(turn.sent_ns + offsets * 1000, edges_ns)
            tokens += turn.osl_tokens * inside / offsets.size
    rates = tokens / (window.length_s / SPANS)
    se = float(rates.std(ddof=1)) / math.sqrt(SPANS)
    half = student(SPANS - 1) * se
    return Interval(
        low=max(0.0, total - half),
        high=total + half,
        estimate=total,
        n=len(turns),
        se=se / total,
    )
