"""What was going on in each second of a phase: agents at work, requests in flight, tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pytest_agentperf.power import LONGEST_GAP, moved_readings, used_readings
from pytest_agentperf.records import Measurement, Metered, Sample, TurnRecord

__all__ = ["Timeline", "timeline"]

_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One phase, second by second from its first request; second *i* is [i, i + 1)."""

    window_s: tuple[float, float]
    """Where the steady window begins and ends on this axis."""
    started: tuple[int, ...]
    """Agents that had sent their first request by the second's end."""
    in_flight: tuple[float, ...]
    """Requests open, mean over the second. Those that were open at the end of the phase are not
    measured, and not counted."""
    waiting: tuple[float, ...]
    """Requests without a first token yet, mean over the second; failed ones until their end."""
    output_tokens: tuple[float, ...]
    """Tokens received, those of an event counted evenly."""
    server: Mapping[str, tuple[float | None, ...]] = field(
        default_factory=dict[str, tuple[float | None, ...]]
    )
    """What the server told, by series: the mean of what it said in a second, or by how much a count
    had grown since it was last asked; ``None`` where it said nothing in that second."""
    began_ns: int | None = None
    """When second 0 begins, by the clock of the requests; ``None``: in runs before it was kept."""
    power_w: Mapping[str, tuple[float | None, ...]] = field(
        default_factory=dict[str, tuple[float | None, ...]]
    )
    """Mean power in each second, by meter, of all its devices; ``None`` where one told nothing."""


def timeline(measurement: Measurement) -> Timeline:
    """Return what went on in a phase."""
    turns, firsts = measurement.turns, measurement.health.first_sent_ns
    began_ns = min((*firsts, *(t.sent_ns for t in turns)), default=measurement.window.start_ns)
    end_ns = max((measurement.window.end_ns, *(t.end_ns for t in turns)))
    seconds = max(1, -(-(end_ns - began_ns) // _S))
    window = measurement.window
    starts = np.array([(at - began_ns) // _S for at in firsts], dtype=np.int64)
    begun = np.bincount(np.clip(starts, 0, seconds - 1), minlength=seconds).cumsum()
    return Timeline(
        window_s=((window.start_ns - began_ns) / _S, (window.end_ns - began_ns) / _S),
        started=tuple(begun.tolist()),
        in_flight=_occupied([(t.sent_ns, t.end_ns) for t in turns], began_ns, seconds),
        waiting=_occupied(
            [(t.sent_ns, t.first_token_ns or t.end_ns) for t in turns], began_ns, seconds
        ),
        output_tokens=_tokens(turns, began_ns, seconds),
        server=_server(measurement.samples, began_ns, seconds),
        began_ns=began_ns,
        power_w={
            metered.meter: watts
            for metered in measurement.meters
            if (watts := _watts(metered, began_ns, seconds))
        },
    )


def _occupied(spans: Iterable[tuple[int, int]], began_ns: int, seconds: int) -> tuple[float, ...]:
    """Return how many spans cover each second, in part counted as that part."""
    # The integral of how many are open up to each full second; its differences are the means.
    ends = np.array(list(spans), dtype=np.float64).reshape(-1, 2)
    edges = np.arange(seconds + 1, dtype=np.float64)
    since = (ends - began_ns) / _S
    covered = _area_after(since[:, 0], edges) - _area_after(since[:, 1], edges)
    return tuple(np.round(np.diff(covered), 3).tolist())


def _area_after(
    instants: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return, for each edge, the time that has passed since all instants before it, in sum."""
    ordered = np.sort(instants)
    before = np.searchsorted(ordered, edges, side="right")
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    return before * edges - sums[before]


def _tokens(turns: Iterable[TurnRecord], began_ns: int, seconds: int) -> tuple[float, ...]:
    total = np.zeros(seconds)
    for turn in turns:
        offsets_us = np.frombuffer(turn.token_offsets_us, dtype="<u4").astype(np.int64)
        if not offsets_us.size:
            continue
        at = np.clip((turn.sent_ns - began_ns + offsets_us * 1000) // _S, 0, seconds - 1)
        each = (turn.osl_tokens or offsets_us.size) / offsets_us.size
        first = int(at.min())
        counts = np.bincount(at - first)
        total[first : first + counts.size] += each * counts
    return tuple(np.round(total, 1).tolist())


def _server(
    samples: Iterable[Sample], began_ns: int, seconds: int
) -> dict[str, tuple[float | None, ...]]:
    series: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.unit in {"1", "n"}:
            series.setdefault(sample.series, []).append(sample)
    return {name: _told(rows, began_ns, seconds) for name, rows in series.items()}


def _told(rows: Sequence[Sample], began_ns: int, seconds: int) -> tuple[float | None, ...]:
    counts = rows[0].unit == "n"
    values = [(r.at_ns, r.value) for r in rows]
    if counts:
        # A counter that falls was reset, and has counted its new value since.
        values = [
            (b.at_ns, b.value - a.value if b.value >= a.value else b.value)
            for a, b in pairwise(rows)
        ]
    told: list[list[float]] = [[] for _ in range(seconds)]
    for at_ns, value in values:
        second = (at_ns - began_ns) // _S
        if 0 <= second < seconds:
            told[second].append(value)
    return tuple(round(sum(v) if counts else sum(v) / len(v), 6) if v else None for v in told)


def _watts(metered: Metered, began_ns: int, seconds: int) -> tuple[float | None, ...]:
    """Return the power of a meter's devices in sum; nothing where one of them is missing."""
    devices = used_readings(metered.samples)
    if not devices or len(devices) < len(metered.series):
        return ()
    total = np.zeros(seconds)
    for (_, unit), rows in devices.items():
        total += _device_watts(unit, rows, began_ns, seconds)
    return tuple(None if np.isnan(watts) else round(watts, 2) for watts in total.tolist())


def _device_watts(
    unit: str, rows: Sequence[Sample], began_ns: int, seconds: int
) -> npt.NDArray[np.float64]:
    rows = moved_readings(rows) if unit == "J" else rows
    at_s = np.array([(row.at_ns - began_ns) / _S for row in rows])
    values = np.array([row.value for row in rows])
    edges = np.arange(seconds + 1, dtype=np.float64)
    middles = edges[:-1] + 0.5
    if unit == "J":
        watts = np.diff(np.interp(edges, at_s, values, left=np.nan, right=np.nan))
    else:
        watts = np.interp(middles, at_s, values, left=np.nan, right=np.nan)
        # Over a long pause nobody knows what was drawn.
        steps = np.diff(at_s)
        longest_s = np.median(steps) * LONGEST_GAP if steps.size else 0.0
        after = np.clip(np.searchsorted(at_s, middles), 1, max(1, steps.size)) - 1
        watts[(steps[after] > longest_s) if steps.size else slice(None)] = np.nan
    return watts
