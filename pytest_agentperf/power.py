"""Meter samples → energy and mean power over exactly one window (METHODOLOGY, section 3)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pytest_agentperf.records import Sample, Window

__all__ = ["Power", "measure_power"]

_LEAST_COVERAGE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Energy of all devices over the window; ``None`` with a reason where it cannot be trusted."""

    mean_w: float | None
    energy_j: float | None
    devices: int
    samples: int
    coverage: float
    """Share of the window between the first and the last sample of the worst device."""
    reason: str | None


def measure_power(
    samples: Iterable[Sample], window: Window, *, devices: int, name: str = "no meter"
) -> Power:
    """Integrate every device's samples over the window and add them up.

    A running energy counter (``J``) is read at the window's edges by interpolation; power samples
    (``W``) are integrated by the trapezoid rule with interpolated edges. Less than 95 % coverage, a
    counter that ran backwards or a device that vanished gives ``None``, never a guess.

    Args:
        samples: readings from before the window to after it, of any device.
        window: the steady span.
        devices: how many devices the meter set out with; 0 when there is no meter.
        name: name of the meter, for the reason.
    """
    by_series: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.unit in {"J", "W"}:
            by_series[sample.series, sample.unit].append(sample)
    counted = {series for series, unit in by_series if unit == "J"}
    used = {key: rows for key, rows in by_series.items() if key[1] == "J" or key[0] not in counted}
    total = sum(map(len, used.values()))
    coverage = min((_coverage(rows, window) for rows in used.values()), default=0.0)
    reason = _objection(used, devices, coverage, name)
    energy = None if reason else sum(_energy_j(k[1], rows, window) for k, rows in used.items())
    return Power(
        mean_w=None if energy is None else energy / window.length_s,
        energy_j=energy,
        devices=devices,
        samples=total,
        coverage=coverage,
        reason=reason,
    )


def _objection(
    used: dict[tuple[str, str], list[Sample]], devices: int, coverage: float, name: str
) -> str | None:
    if devices == 0:
        return name
    if len(used) < devices:
        return f"{devices - len(used)} of {devices} devices gave no reading"
    if any(_ran_backwards(rows) for (_, unit), rows in used.items() if unit == "J"):
        return "an energy counter was reset"
    if coverage < _LEAST_COVERAGE:
        return f"readings cover {coverage:.0%} of the window, {_LEAST_COVERAGE:.0%} are needed"
    return None


def _ran_backwards(rows: Sequence[Sample]) -> bool:
    values = [r.value for r in rows]
    return any(b < a for a, b in pairwise(values))


def _coverage(rows: Sequence[Sample], window: Window) -> float:
    first = max(rows[0].at_ns, window.start_ns)
    last = min(rows[-1].at_ns, window.end_ns)
    length = window.end_ns - window.start_ns
    return max(0, last - first) / length if length > 0 else 0.0


def _energy_j(unit: str, rows: Sequence[Sample], window: Window) -> float:
    at_s = np.array([r.at_ns - window.start_ns for r in rows]) / 1e9
    values = np.array([r.value for r in rows])
    edges = np.array([0.0, window.length_s])
    if unit == "J":
        start, end = np.interp(edges, at_s, values)
        return float(end - start)
    inside = at_s[(at_s > 0) & (at_s < window.length_s)]
    grid = np.concatenate((edges[:1], inside, edges[1:]))
    return float(np.trapezoid(np.interp(grid, at_s, values), grid))
