"""From what a client saw and what is true to figures, and from figures to the goals; all pure."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "ORIGIN_LATE_S",
    "WAITED_RATIO",
    "Goal",
    "carries",
    "cell",
    "figures",
    "goals",
    "is_disturbed",
    "joined",
    "ladder_top",
    "quantiles_s",
]

ORIGIN_LATE_S = 0.015
WAITED_RATIO = 0.05
"""A trial in which the origin itself was later than this, or in which the client waited so large a
share of the time for its core while others had it, says nothing about times."""
CARRIED_P95_S = 0.010
"""The largest error of the p95 TTFT with which a load still counts as carried."""
_QUANTILES = (50, 95, 99)

Figures = Mapping[str, Any]
Data = Mapping[str, Any]


def quantiles_s(values_ns: Sequence[int]) -> dict[str, float] | None:
    """Return p50, p95 and p99 in seconds; ``None`` of nothing."""
    if not values_ns:
        return None
    found = np.percentile(np.asarray(values_ns, dtype=float), _QUANTILES)
    return {f"p{q}": round(float(v) / 1e9, 9) for q, v in zip(_QUANTILES, found, strict=True)}


def figures(told: Mapping[str, Any], *, requests: int, hog: bool = False) -> dict[str, Any]:
    """Return the figures of one trial.

    The error of TTFT is what the client would report less what is true: (first token − sent) −
    (first send − request read). That of the receive side alone is stamp − send.

    Args:
        told: what the client printed, and the ``truth`` of the origin.
        requests: how many were to be made.
        hog: others have the client's core because they are meant to.
    """
    pairs = list(joined(told["rows"], told["truth"]))
    tokens = sum(true["tokens"] for _, true in pairs)
    return {
        "requests": len(pairs),
        "done_ratio": len(pairs) / requests,
        "events": tokens,
        "lost_tokens": sum(abs(true["tokens"] - row[4]) for row, true in pairs),
        "lost_chars": sum(abs(true["chars"] - row[5]) for row, true in pairs),
        "cpu_s_per_event": told["cpu_s"] / tokens if tokens else None,
        "cpu_s_per_request": told["cpu_s"] / len(pairs) if pairs else None,
        "cpu_ratio": told["cpu_s"] / told["wall_s"],
        "waited_ratio": told["waited_s"] / told["wall_s"],
        "ttft_error_s": quantiles_s(
            [row[2] - row[1] - (true["first_ns"] - true["read_ns"]) for row, true in pairs]
        ),
        "receive_error_s": quantiles_s([row[2] - true["first_ns"] for row, true in pairs]),
        "last_token_error_s": quantiles_s([row[3] - true["last_ns"] for row, true in pairs]),
        "loop_lag_s": quantiles_s(told.get("lag_ns", ())),
        "origin_lag_s": max((true["lag_ns"] for _, true in pairs), default=0) / 1e9,
        "rss_mb": told["rss_mb"],
        "hog": hog,
    }


def joined(
    rows: Sequence[Sequence[int]], truth: Sequence[Mapping[str, int]]
) -> Iterator[tuple[Sequence[int], Mapping[str, int]]]:
    """Yield every answer as seen and as it was; a stream's answers come one after the other."""
    answers: dict[int, list[Mapping[str, int]]] = {}
    for true in truth:  # what was cut off is behind all that a client has seen of its stream
        answers.setdefault(true["stream"], []).append(true)
    # The first one of a stream was asked to have its connection.
    left = {stream: iter(each[1:]) for stream, each in answers.items()}
    for row in rows:
        yield row, next(left[row[0]])


def is_disturbed(trial: Figures) -> bool:
    """Tell whether the origin was late itself, or others had the client's core."""
    if "failed" in trial:
        return False
    waited = 0.0 if trial.get("hog") else trial["waited_ratio"]
    return trial["origin_lag_s"] > ORIGIN_LATE_S or waited > WAITED_RATIO


def carries(trial: Figures) -> bool:
    """Tell whether a client carried a load: all of it, and with times that are right."""
    return (
        "failed" not in trial
        and trial["done_ratio"] == 1
        and not trial["lost_tokens"]
        and not trial["lost_chars"]
        and trial["ttft_error_s"]["p95"] <= CARRIED_P95_S
    )


def ladder_top(steps: Mapping[str, bool]) -> int:
    """Return the most streams that were carried; 0 where none were."""
    return max((int(streams) for streams, carried in steps.items() if carried), default=0)


def cell(trials: Sequence[Figures]) -> dict[str, Any] | None:
    """Return the median of every figure; only undisturbed trials count where there are any."""
    valid = [trial for trial in trials if "failed" not in trial]
    chosen = [trial for trial in valid if not is_disturbed(trial)] or valid
    if not chosen:
        return None
    return {
        "trials": len(chosen),
        "disturbed": is_disturbed(chosen[0]),
        **{key: _median([trial[key] for trial in chosen]) for key in chosen[0] if key != "hog"},
    }


def _median(values: Sequence[Any]) -> Any:
    told = [value for value in values if value is not None]
    if not told:
        return None
    if isinstance(told[0], Mapping):
        return {key: statistics.median(value[key] for value in told) for key in told[0]}
    return statistics.median(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One demand, and what was measured."""

    text: str
    limit: float
    value: float | None
    """``None``: not measured."""
    unit: str = ""
    at_least: bool = False
    """The value is to be no less than the limit; otherwise no more."""

    @property
    def is_met(self) -> bool | None:
        """Tell whether it is; ``None``: not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def goals(data: Data) -> list[Goal]:
    """Return every goal with the value that the data have for it."""
    return [*_cpu_goals(data), *_load_goals(data), *_time_goals(data), *_peer_goals(data)]


def _of(data: Data, load: str, client: str, key: str) -> float | None:
    """Return a figure; ``key`` is its name, with a quantile behind a dot where it has some."""
    found = cell(data.get("loads", {}).get(load, {}).get(client, ()))
    name, _, quantile = key.partition(".")
    value = found and found[name]
    return value[quantile] if value and quantile else value


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _cpu_goals(data: Data) -> Iterator[Goal]:
    def event(client: str) -> float | None:
        return _of(data, "500 x 50", client, "cpu_s_per_event")

    def request(load: str) -> float | None:
        return _of(data, load, "engine", "cpu_s_per_request")

    yield Goal(
        text="CPU an event, all decoding included, at 500 × 50: ours to the C client's",
        limit=1.6,
        value=_ratio(event("engine"), event("limit")),
    )
    yield Goal(
        text="the same, ours to the naive loop's",
        limit=0.35,
        value=_ratio(event("engine"), event("naive")),
    )
    yield Goal(
        text="CPU an event, httpx over our engine to the engine alone, at 500 × 50",
        limit=1.3,
        value=_ratio(event("adapter"), event("engine")),
    )
    yield Goal(
        text="CPU a request with 2,000 open connections to that with 500, ours",
        limit=1.2,
        value=_ratio(request("requests, 2000 open"), request("requests, 500 open")),
    )


def _load_goals(data: Data) -> Iterator[Goal]:
    def top(client: str) -> float | None:
        steps = data.get("ladder", {}).get(client)
        return ladder_top(steps) if steps else None

    text = "most streams × 50 with a p95 TTFT error of at most 10 ms: ours to the"
    yield Goal(
        text=f"{text} C client's",
        limit=0.6,
        value=_ratio(top("engine"), top("limit")),
        at_least=True,
    )
    yield Goal(
        text=f"{text} naive loop's",
        limit=3.5,
        value=_ratio(top("engine"), top("naive")),
        at_least=True,
    )


def _time_goals(data: Data) -> Iterator[Goal]:
    demands = (
        ("p95 TTFT error at 500 × 50", 0.3, "500 x 50", "ttft_error_s.p95"),
        ("p95 TTFT error of 500 that tick together", 2.0, "500 together", "ttft_error_s.p95"),
        ("p99 on the receive side at 1,000 × 50", 0.1, "1000 x 50", "receive_error_s.p99"),
        (
            "p99 on the receive side at 1,000 × 50, with a CPU hog on the client's core",
            0.1,
            "1000 x 50, hog",
            "receive_error_s.p99",
        ),
    )
    for text, limit_ms, load, key in demands:
        value_s = _of(data, load, "engine", key)
        yield Goal(
            text=text,
            limit=limit_ms,
            value=None if value_s is None else value_s * 1e3,
            unit="ms",
        )
    lost: Callable[[Figures], float] = lambda trial: trial["lost_tokens"] + trial["lost_chars"]  # noqa: E731
    ours = [
        trial
        for clients in data.get("loads", {}).values()
        for client, trials in clients.items()
        if client in {"engine", "engine-user", "adapter"}
        for trial in trials
    ]
    whole = [lost(trial) for trial in ours if "failed" not in trial]
    yield Goal(
        text="tokens and characters lost, and trials that failed, of all trials of ours",
        limit=0,
        value=sum(whole) + len(ours) - len(whole) if ours else None,
    )


def _peer_goals(data: Data) -> Iterator[Goal]:
    peers = data.get("peers", {})
    ours = peers.get("ours", {}).get("cpu_s_per_event")
    for name in ("aiperf", "guidellm"):
        yield Goal(
            text=f"CPU seconds of all processes for the same work: {name}'s to ours",
            limit=5,
            value=_ratio(peers.get(name, {}).get("cpu_s_per_event"), ours),
            at_least=True,
        )
