"""Which numbers of a phase may be wrong because the load generator was late, and by how much.

The kernel stamps what it receives, whenever we read it. That leaves few ways in which a late
process moves a time: what waited together is one read with the last one's stamp; a request leaves
long after its own stamp, all at once or in pieces; and a machine that stood still as a whole has
stamped late itself. What each answer may have lost by these is given back to it, and what is judged
is looked at again.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pytest_agentperf.metrics import (
    distribution,
    e2e_s,
    first_chunk_speed_tok_per_s,
    members,
    output_speed_tok_per_s,
    ttft_s,
)
from pytest_agentperf.records import ClientHealth, Measurement, TurnRecord

__all__ = ["doubt"]

_FEW = 0.001
_MOST_STOLEN = 0.02
_MOST_OFF_S = 0.010
_MOST_OFF_RATIO = 0.01
"""Times may be wrong by the one, speeds by the other."""
_TIMES = ("ttft_s", "e2e_s")
_METRICS: Mapping[str, Callable[[TurnRecord], float | None]] = {
    "ttft_s": ttft_s,
    "e2e_s": e2e_s,
    "output_speed_tok_per_s": output_speed_tok_per_s,
    "first_chunk_speed_tok_per_s": first_chunk_speed_tok_per_s,
}


def doubt(measurement: Measurement, judged: Iterable[tuple[str, str]]) -> str | None:
    """Say why numbers may be wrong where the load generator was late; nothing where they are right.

    Args:
        measurement: the phase.
        judged: metric and statistic of every number that something is made of.
    """
    health = measurement.health
    theirs = sum(lag.stamped for lag in health.read_lag)
    ours = sum(lag.unstamped for lag in health.read_lag)
    if not theirs or ours > _FEW * theirs:
        return "and its times are its own"
    if health.stolen_ratio > _MOST_STOLEN:
        return f"and its machine stood still for {health.stolen_ratio:.1%} of the time (steal)"
    inside = members(measurement.turns, measurement.window)
    if not any(turn.first_token_ns for turn in inside):
        return "and no answer tells whether a time is right"
    wait_ns = _longest_wait_ns(health)
    earlier = [_given_back(turn, wait_ns) for turn in inside]
    lost = distribution(
        ttft_s(was) - ttft_s(is_at_least)
        for was, is_at_least in zip(inside, earlier, strict=True)
        if was.first_token_ns and was.error is None
    )
    if lost is not None and lost.p95 > _MOST_OFF_S:
        return f"and one TTFT in twenty may be {lost.p95 * 1e3:.0f} ms too long through it"
    for metric, statistic in sorted(judged):
        seen, least = (_statistic(turns, metric, statistic) for turns in (inside, earlier))
        off = _off(metric, seen, least)
        if off is not None:
            return f"and {metric}.{statistic} may be wrong by {off} through it"
    return None


def _longest_wait_ns(health: ClientHealth) -> int:
    """Return how long anything has waited for us, which no first token can have outdone."""
    in_loop_s = max((max(lags, default=0.0) for lags in health.loop_lag_s), default=0.0)
    in_kernel_s = max((lag.most_s for lag in health.read_lag), default=0.0)
    return int(max(in_loop_s, in_kernel_s) * 1e9)


def _given_back(turn: TurnRecord, wait_ns: int) -> TurnRecord:
    """Return an answer with all that our lateness may have taken from it."""
    first_ns = turn.first_token_ns
    if first_ns is None or turn.error is not None:
        return turn
    sent_ns = min(max(turn.sent_ns, turn.written_ns or 0), first_ns)
    if turn.first_token_merged:
        first_ns = max(first_ns - wait_ns, sent_ns)
    return replace(turn, sent_ns=sent_ns, first_token_ns=first_ns)


def _statistic(turns: Iterable[TurnRecord], metric: str, statistic: str) -> float | None:
    value = _METRICS[metric]
    found = distribution(v for turn in turns if (v := value(turn)) is not None)
    return None if found is None else found.statistic(statistic)


def _off(metric: str, seen: float | None, least: float | None) -> str | None:
    """Return by how much a number may be wrong, where that is too much."""
    if seen is None or least is None or not math.isfinite(seen):
        return None
    if metric in _TIMES:
        off_s = abs(seen - least)
        return f"{off_s * 1e3:.0f} ms" if off_s > _MOST_OFF_S else None
    off = abs(seen - least) / seen if seen else 0.0
    return f"{off:.1%}" if off > _MOST_OFF_RATIO else None
