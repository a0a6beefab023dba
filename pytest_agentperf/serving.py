"""What a server counted itself over one phase, and what it said while requests were late."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_agentperf.records import Measurement, Sample, TurnRecord, Window

__all__ = ["COUNTS", "LEVELS", "Late", "Level", "ServerMetrics", "serve"]

LEVELS = ("running", "waiting", "kv_use_ratio", "prefix_hit_ratio", "accepted_ratio")
"""What a server says of a moment; ratios are 0-1."""
COUNTS = ("prefix_hits", "prefix_queries", "drafted", "accepted", "preemptions")
"""What it counts since it was started: looked-up and found (tokens or blocks), drafted and accepted
tokens, requests that lost their place."""
_LEAST_SAMPLES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One series over the window."""

    mean: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """What requests met whose TTFT was over a limit, beside those that kept it; medians."""

    limit_s: float
    late: int
    """Requests over the limit, failed ones too."""
    others: int
    kv_use_late_ratio: float | None
    """Highest use of the KV cache (0-1) between sending and first token."""
    kv_use_others_ratio: float | None
    waiting_late: float | None
    """Most requests in the server's queue between sending and first token."""
    waiting_others: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetrics:
    """A server's own counts over the steady window; ``None`` where it does not tell."""

    samples: int
    """How often it was asked inside the window, and answered."""
    running: Level | None = None
    """Requests in execution, all replicas together."""
    waiting: Level | None = None
    """Requests in its queues."""
    kv_use_ratio: Level | None = None
    """Share (0-1) of the KV cache in use, of the fullest replica."""
    prefix_hit_ratio: float | None = None
    """Share (0-1) of prompts found in the prefix cache: hits / queries over the window."""
    accepted_ratio: float | None = None
    """Share (0-1) of drafted tokens that were accepted."""
    preemptions: float | None = None
    """Requests that lost their place in the cache; a count."""
    named: Mapping[str, Level] = field(default_factory=dict[str, Level])
    """Series that were asked for by name; a counter's increase a second."""
    late: tuple[Late, ...] = ()
    """One per TTFT limit, strictest last."""


def serve(measurement: Measurement, ttft_limits_s: Sequence[float] = ()) -> ServerMetrics | None:
    """Sum up what the server told of itself.

    Args:
        measurement: the phase, with samples of units ``1`` and ``n``.
        ttft_limits_s: bounds on TTFT; who was over one is told apart from who kept it.

    Returns:
        ``None`` where nobody asked the server, or it was silent.
    """
    series = _by_series(measurement.samples)
    window = measurement.window
    inside = {name: [s for s in rows if window.holds(s.at_ns)] for name, rows in series.items()}
    samples = max(map(len, inside.values()), default=0)
    if samples < _LEAST_SAMPLES:
        return None
    levels = {n: _level(inside[n]) for n in inside if _is_level(series[n])}
    grown = {n: _increase(rows, window) for n, rows in series.items() if not _is_level(rows)}
    named: dict[str, Level] = {n: v for n, v in levels.items() if v and n not in LEVELS}
    named |= {
        name: _rate(rows, window)
        for name, rows in series.items()
        if name in grown and name not in COUNTS and grown[name] is not None
    }
    return ServerMetrics(
        samples=samples,
        running=levels.get("running"),
        waiting=levels.get("waiting"),
        kv_use_ratio=levels.get("kv_use_ratio"),
        prefix_hit_ratio=_share(grown, "prefix_hits", "prefix_queries", levels, "prefix_hit_ratio"),
        accepted_ratio=_share(grown, "accepted", "drafted", levels, "accepted_ratio"),
        preemptions=grown.get("preemptions"),
        named=named,
        late=tuple(
            _late(measurement, series, limit) for limit in sorted(ttft_limits_s, reverse=True)
        ),
    )


def _by_series(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.unit in {"1", "n"}:
            found.setdefault(sample.series, []).append(sample)
    return found


def _is_level(rows: Sequence[Sample]) -> bool:
    return rows[0].unit == "1"


def _level(rows: Sequence[Sample]) -> Level | None:
    values = [r.value for r in rows]
    return Level(mean=float(np.mean(values)), most=max(values)) if values else None


def _increase(rows: Sequence[Sample], window: Window) -> float | None:
    """Return by how much a counter grew; ``None`` where it was reset, or read too rarely."""
    if len(rows) < _LEAST_SAMPLES or any(b.value < a.value for a, b in pairwise(rows)):
        return None
    return _reading(rows, window.end_ns) - _reading(rows, window.start_ns)


def _reading(rows: Sequence[Sample], at_ns: int) -> float:
    before = [r.value for r in rows if r.at_ns <= at_ns]
    return before[-1] if before else rows[0].value


def _rate(rows: Sequence[Sample], window: Window) -> Level:
    increase = _increase(rows, window) or 0.0
    steps = [
        (b.value - a.value) * 1e9 / (b.at_ns - a.at_ns)
        for a, b in pairwise(rows)
        if window.holds(b.at_ns) and b.at_ns > a.at_ns
    ]
    return Level(mean=increase / window.length_s, most=max(steps, default=0.0))


def _share(
    grown: Mapping[str, float | None],
    part: str,
    whole: str,
    levels: Mapping[str, Level | None],
    gauge: str,
) -> float | None:
    if whole in grown:
        counted, of = grown.get(part), grown[whole]
        return None if counted is None or not of else counted / of
    level = levels.get(gauge)
    return level.mean if level else None


def _late(measurement: Measurement, series: Mapping[str, list[Sample]], limit_s: float) -> Late:
    members = [t for t in measurement.turns if measurement.window.holds(t.sent_ns)]
    over = [t for t in members if _is_over(t, limit_s)]
    kept = [t for t in members if not _is_over(t, limit_s)]
    kv_use, waiting = (_Track(series.get(name, ())) for name in ("kv_use_ratio", "waiting"))
    return Late(
        limit_s=limit_s,
        late=len(over),
        others=len(kept),
        kv_use_late_ratio=kv_use.met(over),
        kv_use_others_ratio=kv_use.met(kept),
        waiting_late=waiting.met(over),
        waiting_others=waiting.met(kept),
    )


def _is_over(turn: TurnRecord, limit_s: float) -> bool:
    if turn.error is not None or turn.first_token_ns is None:
        return True
    return (turn.first_token_ns - turn.sent_ns) / 1e9 > limit_s


class _Track:
    """One level over time."""

    def __init__(self, rows: Sequence[Sample]) -> None:
        self._at_ns: npt.NDArray[Any] = np.array([r.at_ns for r in rows], dtype=np.int64)
        self._values = np.array([r.value for r in rows])

    def met(self, turns: Sequence[TurnRecord]) -> float | None:
        """Return the median of the highest level that requests met while they waited."""
        if not turns or not self._values.size:
            return None
        ends_ns = [t.first_token_ns or t.end_ns for t in turns]
        # The reading before the request was sent still held when it came.
        first = np.searchsorted(self._at_ns, [t.sent_ns for t in turns], "right") - 1
        last = np.searchsorted(self._at_ns, ends_ns, "right")
        highest = [
            self._values[max(0, a) : max(1, b)].max() for a, b in zip(first, last, strict=True)
        ]
        return float(np.median(highest))
