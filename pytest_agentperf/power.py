"""Meter samples → energy and mean power over exactly one window (METHODOLOGY, section 3)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pytest_agentperf.records import Sample, Window

__all__ = ["LEAST_COVERAGE", "Power", "measure_power"]

LEAST_COVERAGE = 0.95
"""Of the window; with less there is no figure."""
_LONGEST_GAP = 10
"""A pause of more than so many usual steps between two power samples is not covered by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Energy of all devices over the window; ``None`` with a reason where it cannot be trusted."""

    mean_w: float | None
    energy_j: float | None
    devices: int
    samples: int
    coverage: float
    """Share of the window that the samples of the worst device tell about."""
    reason: str | None


def measure_power(
    samples: Iterable[Sample], window: Window, *, devices: int, name: str = "no meter"
) -> Power:
    """Integrate every device's samples over the window and add them up.

    A running energy counter (``J``) is read at the window's edges by interpolation; power samples
    (``W``) are integrated by the trapezoid rule with interpolated edges. Up to 5 % of the window
    may lie outside a counter's readings and counts with their mean. Less than 95 % coverage (a long
    pause between power samples covers nothing), a counter that ran backwards or a device that
    vanished gives ``None``, never a guess.

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
    coverage = min((_coverage(k[1], rows, window) for k, rows in used.items()), default=0.0)
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
    if coverage < LEAST_COVERAGE:
        return f"readings cover {coverage:.0%} of the window, {LEAST_COVERAGE:.0%} are needed"
    return None


def _ran_backwards(rows: Sequence[Sample]) -> bool:
    values = [r.value for r in rows]
    return any(b < a for a, b in pairwise(values))


def _coverage(unit: str, rows: Sequence[Sample], window: Window) -> float:
    if window.length_s <= 0:
        return 0.0
    at_ns = np.array([r.at_ns for r in rows])
    steps = np.diff(at_ns)
    # A counter goes on counting while nobody reads it.
    known = steps <= (np.median(steps) * _LONGEST_GAP if unit == "W" and steps.size else np.inf)
    inside = np.diff(np.clip(at_ns, window.start_ns, window.end_ns))
    return float(inside[known].sum()) / 1e9 / window.length_s


def _energy_j(unit: str, rows: Sequence[Sample], window: Window) -> float:
    at_s = np.array([r.at_ns - window.start_ns for r in rows]) / 1e9
    values = np.array([r.value for r in rows])
    edges = np.array([0.0, window.length_s])
    if unit == "J":
        start, end = np.interp(edges, at_s, values)
        return float(end - start) / _coverage(unit, rows, window)
    inside = at_s[(at_s > 0) & (at_s < window.length_s)]
    grid = np.concatenate((edges[:1], inside, edges[1:]))
    return float(np.trapezoid(np.interp(grid, at_s, values), grid))
