"""How sure one phase is of its own figures: intervals that a bundle keeps for comparisons."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pytest_agentperf.evidence import Interval, percentile_interval, student
from pytest_agentperf.metrics import (
    first_chunk_speed_tok_per_s,
    members,
    output_speed_tok_per_s,
    throughput_tok_per_s,
    ttft_s,
)
from pytest_agentperf.records import Measurement, TurnRecord, Window

__all__ = ["SPANS", "intervals"]

SPANS = 10
"""Equal parts of the window, whose spread tells how sure the throughput is; as in `evidence`."""


def intervals(measurement: Measurement, *, speed: str = "usage") -> Mapping[str, Interval]:
    """Return the 95 % interval of P25 output speed, P95 TTFT and throughput, by name.

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
    runs = {(t.agent, t.ordinal): 0 for t, _ in known}
    numbers = {run: number for number, run in enumerate(runs)}
    return percentile_interval(
        [value for _, value in known],
        [numbers[t.agent, t.ordinal] for t, _ in known],
        [t.sent_ns for t, _ in known],
        window,
        q,
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
