"""Every formula once: TTFT, output speed, throughput, percentiles (METHODOLOGY, section 3)."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_agentperf.records import Measurement, TurnRecord, Window
from pytest_agentperf.reuse import reused
from pytest_agentperf.token_check import TokenCheck, check_tokens

__all__ = [
    "OTHER_REASONS",
    "STATISTICS",
    "Distribution",
    "Metrics",
    "distribution",
    "e2e_s",
    "first_chunk_speed_tok_per_s",
    "is_bundled",
    "largest_burst",
    "members",
    "output_speed_tok_per_s",
    "quantile",
    "summarize",
    "tells_of_caching",
    "throughput_tok_per_s",
    "ttft_s",
]

_WHOLE = 0.9
"""Prefix caches work in blocks, and the last token is computed anew."""
_QUANTILES = {"p05": 5, "p10": 10, "p25": 25, "p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99}
_MOST_REASONS = 50
OTHER_REASONS = "other reasons"
"""Stands in `Metrics.errors` for those beyond the most frequent ones."""
STATISTICS = ("mean", *_QUANTILES)
"""Names that a limit may ask of a distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Percentiles of ``n`` values; ``inf`` where failed requests reach into a percentile."""

    n: int
    mean: float
    p05: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float

    def statistic(self, name: str) -> float:
        """Return one of `STATISTICS` by name."""
        return float(getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Metrics:
    """One phase in numbers; ``None`` where nothing was there to measure."""

    agents: int
    window_s: float
    requests: int
    """Members: requests sent inside the window."""
    failed: int
    errors: dict[str, int]
    """Reason of failure, and how many members failed for it."""
    error_ratio: float
    ttft_s: Distribution | None
    output_speed_tok_per_s: Distribution | None
    """The judged one: by usage, unless the settings ask for the first-chunk variant."""
    usage_speed_tok_per_s: Distribution | None
    first_chunk_speed_tok_per_s: Distribution | None
    uncounted_first_chunks: int
    """Answers with an output speed whose first chunk's tokens nothing told."""
    unbundled_speed_tok_per_s: Distribution | None
    """Output speed without the answers of which one read brought more than half."""
    e2e_s: Distribution | None
    isl_tokens: Distribution | None
    osl_tokens: Distribution | None
    undefined_speed_ratio: float
    bundled_ratio: float
    hidden_reasoning_ratio: float
    length_cut_ratio: float
    """Answers that ended at ``max_tokens``, over answers."""
    throughput_tok_per_s: float
    cached_ratio: float | None
    """Cached over prompt tokens; ``None`` when the server reports none."""
    first_turn_cached_ratio: float | None
    trajectories: int
    """Trajectories completed in the phase."""
    in_flight: float
    """Requests in flight, mean over the window."""
    slip_s: Distribution | None
    """How late requests were sent against their schedule."""
    sends_in_10ms: int
    """Largest number of requests sent within 10 ms: lock step shows here."""
    token_ratio: float | None
    """Median of usage over local token counts; ``None`` without a tokenizer."""
    osl_vs_recorded: float | None
    """Output tokens over recorded output tokens, in sum."""
    reconnects: int
    known_first_prompts_ratio: float | None = None
    """First prompts that were cached whole, over those of which the server told."""
    looping_ratio: float = 0.0
    """Answers that ended in one short piece, repeated without end, over answers."""
    reused_ratio: float | None = None
    """Of the prompts that sessions had sent one request earlier, the tokens that were still cached;
    ``None`` when the server reports none, or no session had a second request."""
    tokens: TokenCheck | None = None
    """The server's counts against a tokenizer's; ``None`` without one."""

    def __repr__(self) -> str:
        return f"<Metrics {self.agents} agents, {self.requests} requests, {self.failed} failed>"


def distribution(values: Iterable[float]) -> Distribution | None:
    """Return percentiles by linear interpolation (NumPy's default), ``None`` for no values.

    Infinite values are allowed: a percentile that leans on one is infinite.
    """
    data = np.sort(np.asarray(list(values), dtype=np.float64))
    if data.size == 0:
        return None
    return Distribution(
        n=int(data.size),
        mean=float(data.mean()),
        **{name: quantile(data, q) for name, q in _QUANTILES.items()},
    )


def quantile(data: "np.ndarray[tuple[int], np.dtype[np.float64]]", percent: float) -> float:
    """Return one percentile of sorted values."""
    # NumPy's own formula, but a zero weight on an infinite neighbour must not give NaN.
    at = (data.size - 1) * percent / 100
    low = math.floor(at)
    weight = at - low
    if weight == 0 or math.isinf(data[low]):
        return float(data[low])
    return float(data[low] + weight * (data[low + 1] - data[low]))


def ttft_s(turn: TurnRecord) -> float:
    """Return first token − sent; infinite for a failed request."""
    if turn.error is not None or turn.first_token_ns is None:
        return math.inf
    return (turn.first_token_ns - turn.sent_ns) / 1e9


def e2e_s(turn: TurnRecord) -> float:
    """Return last byte − sent; infinite for a failed request."""
    return math.inf if turn.error is not None else (turn.end_ns - turn.sent_ns) / 1e9


def _span_s(turn: TurnRecord) -> float:
    if turn.first_token_ns is None or turn.last_token_ns is None:
        return 0.0
    return (turn.last_token_ns - turn.first_token_ns) / 1e9


def output_speed_tok_per_s(turn: TurnRecord) -> float | None:
    """Return (OSL − 1) / (last token − first token), as agentperf-local computes it.

    0 for a failed request; ``None`` (undefined) where OSL < 2 or the span is zero.
    """
    if turn.error is not None:
        return 0.0
    span = _span_s(turn)
    if turn.osl_tokens is None or turn.osl_tokens < 2 or span <= 0:  # noqa: PLR2004 METHODOLOGY §3
        return None
    return (turn.osl_tokens - 1) / span


def first_chunk_speed_tok_per_s(turn: TurnRecord) -> float | None:
    """Return (OSL − tokens of the first chunk) / span: what bundling cannot inflate.

    0 for a failed request; ``None`` where that is undefined or the first chunk's count unknown.
    """
    if turn.error is not None:
        return 0.0
    if output_speed_tok_per_s(turn) is None or turn.first_chunk_tokens is None:
        return None
    rest = (turn.osl_tokens or 0) - turn.first_chunk_tokens
    # A local count of the first chunk above the server's of the whole says nothing.
    return rest / _span_s(turn) if rest > 0 else None


def is_bundled(turn: TurnRecord) -> bool:
    """Tell whether one read brought more than half of the answer."""
    return turn.error is None and (turn.largest_read_ratio or 0) > 0.5  # noqa: PLR2004 METHODOLOGY §3


def members(turns: Iterable[TurnRecord], window: Window) -> tuple[TurnRecord, ...]:
    """Return the requests that count: those sent inside the window, however they ended."""
    return tuple(t for t in turns if window.holds(t.sent_ns))


def throughput_tok_per_s(turns: Iterable[TurnRecord], window: Window) -> float:
    """Return output tokens received inside the window over its length.

    Each request's tokens are spread evenly over its token-bearing events, requests sent before
    the window included.
    """
    tokens = 0.0
    for turn in turns:
        if not turn.osl_tokens or not turn.token_offsets_us:
            continue
        offsets = np.frombuffer(turn.token_offsets_us, dtype="<u4").astype(np.int64)
        at_ns = turn.sent_ns + offsets * 1000
        inside = int(np.count_nonzero((at_ns >= window.start_ns) & (at_ns < window.end_ns)))
        tokens += turn.osl_tokens * inside / offsets.size
    return tokens / window.length_s if window.length_s > 0 else 0.0


def largest_burst(sent_ns: Iterable[int], *, within_ns: int = 10_000_000) -> int:
    """Return the largest number of sends that lie within a span."""
    stamps = np.sort(np.asarray(list(sent_ns), dtype=np.int64))
    ends = np.searchsorted(stamps, stamps + within_ns, side="left")
    return int((ends - np.arange(stamps.size)).max(initial=0))


def summarize(measurement: Measurement, *, speed: str = "usage") -> Metrics:
    """Turn one phase into its metrics.

    Args:
        measurement: the phase as seen.
        speed: which output speed is the judged one, ``usage`` or ``first-chunk``.
    """
    window = measurement.window
    inside = members(measurement.turns, window)
    answered = [t for t in inside if t.error is None]
    cached = answered if tells_of_caching(answered) else []
    by_usage = [(t, output_speed_tok_per_s(t)) for t in inside]
    by_first_chunk = [first_chunk_speed_tok_per_s(t) for t in inside]
    first_chunk = distribution(_known(by_first_chunk))
    usage = distribution(_known(s for _, s in by_usage))
    tokens = check_tokens(t for t in answered if not _hides_reasoning(t))
    judged = by_first_chunk if speed == "first-chunk" else [s for _, s in by_usage]
    return Metrics(
        agents=measurement.agents,
        window_s=window.length_s,
        requests=len(inside),
        failed=len(inside) - len(answered),
        errors=_count(t.error for t in inside if t.error is not None),
        error_ratio=_share(len(inside) - len(answered), len(inside)),
        ttft_s=distribution(ttft_s(t) for t in inside),
        output_speed_tok_per_s=first_chunk if speed == "first-chunk" else usage,
        usage_speed_tok_per_s=usage,
        first_chunk_speed_tok_per_s=first_chunk,
        uncounted_first_chunks=sum(
            s is not None and t.error is None and t.first_chunk_tokens is None for t, s in by_usage
        ),
        unbundled_speed_tok_per_s=distribution(_known(s for t, s in by_usage if not is_bundled(t))),
        e2e_s=distribution(map(e2e_s, inside)),
        isl_tokens=distribution(_known(t.isl_tokens for t in answered)),
        osl_tokens=distribution(_known(t.osl_tokens for t in answered)),
        undefined_speed_ratio=_share(judged.count(None), len(inside)),
        bundled_ratio=_share(sum(map(is_bundled, answered)), len(answered)),
        hidden_reasoning_ratio=_share(sum(map(_hides_reasoning, answered)), len(answered)),
        length_cut_ratio=_share(sum(t.finish_reason == "length" for t in answered), len(answered)),
        throughput_tok_per_s=throughput_tok_per_s(measurement.turns, window),
        cached_ratio=_cached_ratio(cached),
        first_turn_cached_ratio=_cached_ratio([t for t in cached if t.turn == t.from_turn]),
        trajectories=sum(t.completes for t in measurement.turns),
        in_flight=_in_flight(measurement.turns, window),
        slip_s=distribution((t.sent_ns - t.scheduled_ns) / 1e9 for t in inside),
        sends_in_10ms=largest_burst(t.sent_ns for t in inside),
        token_ratio=tokens.osl.p50 if tokens and tokens.osl else None,
        osl_vs_recorded=_osl_vs_recorded(answered),
        reconnects=sum(t.reconnected for t in inside),
        known_first_prompts_ratio=_known_whole([t for t in cached if t.turn == t.from_turn]),
        looping_ratio=_share(sum(t.loops for t in answered), len(answered)),
        reused_ratio=_reused_ratio(measurement.turns, inside),
        tokens=tokens,
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _count(reasons: Iterable[str]) -> dict[str, int]:
    """Count reasons; where servers put a number of its own into each, those of the rest in sum."""
    counts = Counter(reasons)
    if len(counts) <= _MOST_REASONS:
        return dict(counts)
    kept = dict(counts.most_common(_MOST_REASONS))
    return kept | {OTHER_REASONS: counts.total() - sum(kept.values())}


def _hides_reasoning(turn: TurnRecord) -> bool:
    return bool(turn.reasoning_tokens) and not turn.reasoning_streamed


def tells_of_caching(answered: Iterable[TurnRecord]) -> bool:
    """Tell whether the cached tokens of these answers are known: of all, once any tells of them.

    vLLM leaves the field out where nothing was cached: its silence is 0, and not to be skipped.
    """
    return any(turn.cached_tokens is not None for turn in answered)


def _cached_ratio(turns: Sequence[TurnRecord]) -> float | None:
    known = [turn for turn in turns if turn.isl_tokens]
    total = sum(turn.isl_tokens or 0 for turn in known)
    return sum(turn.cached_tokens or 0 for turn in known) / total if total else None


def _reused_ratio(turns: Sequence[TurnRecord], inside: Sequence[TurnRecord]) -> float | None:
    found = reused(turns, inside)
    held = sum(each.held_tokens for each in found)
    return sum(each.found_tokens for each in found) / held if held else None


def _known_whole(turns: Sequence[TurnRecord]) -> float | None:
    known = [
        (turn.cached_tokens or 0) >= _WHOLE * turn.isl_tokens for turn in turns if turn.isl_tokens
    ]
    return _share(sum(known), len(known)) if known else None


def _in_flight(turns: Iterable[TurnRecord], window: Window) -> float:
    busy_ns = sum(
        max(0, min(t.end_ns, window.end_ns) - max(t.sent_ns, window.start_ns)) for t in turns
    )
    return busy_ns / 1e9 / window.length_s if window.length_s > 0 else 0.0


def _osl_vs_recorded(turns: Iterable[TurnRecord]) -> float | None:
    known = [t for t in turns if t.recorded_osl_tokens and t.osl_tokens is not None]
    recorded = sum(t.recorded_osl_tokens or 0 for t in known)
    return sum(t.osl_tokens or 0 for t in known) / recorded if recorded else None
