"""One phase in its distributions: histograms, the same figures by kinds of requests, failures.

It is what a report shows of a phase's single requests, and is made while they are in memory: nobody
has to read fifty thousand lines once more to draw one picture.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from pytest_agentperf.labels import Labels
from pytest_agentperf.metrics import (
    Distribution,
    distribution,
    first_chunk_speed_tok_per_s,
    members,
    output_speed_tok_per_s,
    tells_of_caching,
    ttft_s,
)
from pytest_agentperf.records import ClientHealth, Measurement, ReadLag, TurnRecord

__all__ = [
    "BINS",
    "MOST_GROUPS",
    "MOST_REASONS",
    "ClientLag",
    "Failure",
    "Group",
    "Histogram",
    "PhaseProfile",
    "profile",
]

BINS = 40
MOST_GROUPS = 12
"""Kinds of requests that are told apart; the rarest of more are taken together."""
MOST_REASONS = 20
"""A server that puts an id into every error must not fill a page."""
_TURNS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, None))
_OTHERS = "all others"
_UNKNOWN = "not told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Values counted in bins of equal width on a logarithmic axis."""

    low: float
    high: float
    counts: tuple[int, ...]
    apart: int
    """Values that have no place on the axis: infinite ones, or zero."""

    @property
    def n(self) -> int:
        """All values."""
        return sum(self.counts) + self.apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The figures of one kind of requests."""

    name: str
    requests: int
    failed: int
    ttft_s: Distribution | None
    output_speed_tok_per_s: Distribution | None
    osl_tokens: Distribution | None
    cached_ratio: float | None
    """Cached over prompt tokens; ``None`` when the server reports none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One reason for which requests of the window failed."""

    reason: str
    requests: int
    agents: int
    first_s: float
    """When the first one was sent, and the last: seconds after the window opened."""
    last_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLag:
    """How late one load process was, seconds."""

    p50_s: float
    p95_s: float
    p99_s: float
    most_s: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseProfile:
    """What single requests of the window say, in sum."""

    ttft_s: Histogram | None
    output_speed_tok_per_s: Histogram | None
    by: Mapping[str, tuple[Group, ...]]
    """By ``isl``, ``turn``, ``tool`` and ``language``; without what the dataset does not tell."""
    failures: tuple[Failure, ...] = ()
    """The most frequent reasons."""
    other_reasons: int = 0
    """Further reasons, and how many requests failed for these."""
    other_failed: int = 0
    loop_lag: tuple[ClientLag, ...] = ()
    """A load process each, as `ClientHealth` has them."""
    read_lag: tuple[ReadLag, ...] = ()
    cpu_ratio: float = 0.0
    stolen_ratio: float = 0.0
    gc_pause_s: float = 0.0
    taken_together: Mapping[str, int] = field(default_factory=dict[str, int])
    """By the keys of ``by``: how many kinds the last group holds, where it holds several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One request with the two values it is counted by."""

    turn: TurnRecord
    ttft_s: float
    speed_tok_per_s: float | None
    cached_tokens: int | None
    """0 where the answer is silent and another of the phase is not."""


_Kind = Callable[[TurnRecord], str | None]


def profile(measurement: Measurement, labels: Labels, *, speed: str = "usage") -> PhaseProfile:
    """Sum up the members of a phase.

    Args:
        measurement: the phase as seen.
        labels: what its requests are about.
        speed: which output speed is the judged one, ``usage`` or ``first-chunk``.
    """
    speed_of = first_chunk_speed_tok_per_s if speed == "first-chunk" else output_speed_tok_per_s
    inside = members(measurement.turns, measurement.window)
    silent = 0 if tells_of_caching(t for t in inside if t.error is None) else None
    rows = [
        _Row(
            turn=t,
            ttft_s=ttft_s(t),
            speed_tok_per_s=speed_of(t),
            cached_tokens=silent if t.cached_tokens is None else t.cached_tokens,
        )
        for t in inside
    ]
    kinds: dict[str, _Kind] = {
        "tool": lambda t: labels.tool(t.trajectory, t.turn),
        "language": lambda t: labels.language(t.trajectory),
    }
    named = {name: _most_frequent(rows, kind) for name, kind in kinds.items()}
    health, failures = measurement.health, _failures(inside, measurement.window.start_ns)
    rest = failures[MOST_REASONS:]
    return PhaseProfile(
        ttft_s=_histogram([row.ttft_s for row in rows]),
        output_speed_tok_per_s=_histogram(
            [row.speed_tok_per_s for row in rows if row.speed_tok_per_s is not None]
        ),
        by={
            "isl": _ordered(rows, lambda t: _isl_from(t.isl_tokens), _isl_name),
            "turn": _ordered(rows, lambda t: _turn_from(t.turn + 1), _turn_name),
            **{name: groups for name, (groups, _) in named.items() if groups},
        },
        failures=tuple(failures[:MOST_REASONS]),
        other_reasons=len(rest),
        other_failed=sum(failure.requests for failure in rest),
        loop_lag=_loop_lag(health),
        read_lag=health.read_lag,
        cpu_ratio=health.cpu_ratio,
        stolen_ratio=health.stolen_ratio,
        gc_pause_s=health.gc_pause_s,
        taken_together={name: others for name, (_, others) in named.items() if others},
    )


def _histogram(values: Sequence[float]) -> Histogram | None:
    placed = [v for v in values if 0 < v < math.inf]
    if not values:
        return None
    if not placed:
        return Histogram(low=1.0, high=1.0, counts=(), apart=len(values))
    low, high = min(placed), max(placed)
    if high / low < 1.01:  # noqa: PLR2004 all but equal: bins around them
        low, high = low / 1.1, high * 1.1
    logs = np.log(np.asarray(placed))
    counts, _ = np.histogram(logs, bins=BINS, range=(math.log(low), math.log(high)))
    # An end of the range is itself rounded: what it lost is in the outer bins.
    counts[0] += int((logs < math.log(low)).sum())
    counts[-1] += int((logs > math.log(high)).sum())
    return Histogram(
        low=low, high=high, counts=tuple(counts.tolist()), apart=len(values) - len(placed)
    )


def _group(name: str, rows: Sequence[_Row]) -> Group:
    known = [row for row in rows if row.turn.error is None]
    answered = [row.turn for row in known]
    told = [row for row in known if row.cached_tokens is not None and row.turn.isl_tokens]
    prompt_tokens = sum(row.turn.isl_tokens or 0 for row in told)
    return Group(
        name=name,
        requests=len(rows),
        failed=len(rows) - len(answered),
        ttft_s=distribution(row.ttft_s for row in rows),
        output_speed_tok_per_s=distribution(
            row.speed_tok_per_s for row in rows if row.speed_tok_per_s is not None
        ),
        osl_tokens=distribution(t.osl_tokens for t in answered if t.osl_tokens is not None),
        cached_ratio=sum(row.cached_tokens or 0 for row in told) / prompt_tokens
        if prompt_tokens
        else None,
    )


def _ordered(
    rows: Iterable[_Row], place: Callable[[TurnRecord], int], name: Callable[[int], str]
) -> tuple[Group, ...]:
    """Group by a place in an order, in that order."""
    ordered = sorted(rows, key=lambda row: place(row.turn))
    found = groupby(ordered, key=lambda row: place(row.turn))
    return tuple(_group(name(key), list(each)) for key, each in found)


def _most_frequent(rows: Iterable[_Row], kind: _Kind) -> tuple[tuple[Group, ...], int]:
    """Group by kind, the most frequent first; return how many kinds the last one holds."""
    found: dict[str, list[_Row]] = {}
    for row in rows:
        if (name := kind(row.turn)) is not None:
            found.setdefault(name, []).append(row)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    if len(ordered) <= MOST_GROUPS:
        return tuple(_group(name, each) for name, each in ordered), 0
    kept, rest = ordered[: MOST_GROUPS - 1], ordered[MOST_GROUPS - 1 :]
    others = [row for _, each in rest for row in each]
    return (*(_group(name, each) for name, each in kept), _group(_OTHERS, others)), len(rest)


def _isl_from(tokens: int | None) -> int:
    """Return the lower end of a bucket: a power of two from 1,024 on, 0 below; -1: not told."""
    if tokens is None:
        return -1
    return 0 if tokens < 1024 else 1 << (tokens.bit_length() - 1)  # noqa: PLR2004 the first bucket


def _isl_name(low: int) -> str:
    if low < 0:
        return _UNKNOWN
    return "below 1,024" if not low else f"{low:,} to {2 * low - 1:,}"


def _turn_from(number: int) -> int:
    return max(low for low, _ in _TURNS if low <= number)


def _turn_name(low: int) -> str:
    high = dict(_TURNS)[low]
    return f"{low}" if high == low else f"{low} to {high}" if high else f"{low} and later"


def _failures(inside: Iterable[TurnRecord], from_ns: int) -> list[Failure]:
    found: dict[str, list[TurnRecord]] = {}
    for turn in inside:
        if turn.error is not None:
            found.setdefault(turn.error, []).append(turn)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        Failure(
            reason=reason,
            requests=len(turns),
            agents=len({t.agent for t in turns}),
            first_s=(min(t.sent_ns for t in turns) - from_ns) / 1e9,
            last_s=(max(t.sent_ns for t in turns) - from_ns) / 1e9,
        )
        for reason, turns in ordered
    ]


def _loop_lag(health: ClientHealth) -> tuple[ClientLag, ...]:
    return tuple(
        ClientLag(
            p50_s=float(np.percentile(lag, 50)),
            p95_s=float(np.percentile(lag, 95)),
            p99_s=float(np.percentile(lag, 99)),
            most_s=max(lag),
            n=len(lag),
        )
        for lag in health.loop_lag_s
        if lag
    )
