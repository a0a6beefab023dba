"""Meter samples → energy and mean power over exactly one window (METHODOLOGY, section 3)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_agentperf.records import ClockOffset, Metered, Role, Sample, Window

__all__ = [
    "LEAST_COVERAGE",
    "LONGEST_GAP",
    "MeterPower",
    "Power",
    "measure_meters",
    "measure_power",
    "moved_readings",
    "role_power",
    "used_readings",
]

LEAST_COVERAGE = 0.95
"""Of the window; with less there is no figure."""
LONGEST_GAP = 10
"""A pause of more than so many usual steps between two power samples is not covered by them."""
_BESIDE = 0.05
"""A counter's long pause over an edge is covered where at most this share lies outside."""
_MOST_APART = 0.2
"""A counter and the power samples of its device may say so different a mean; sampling accounts for
a few percent."""
_MOST_W: Mapping[Role, float] = {"accelerator": 2e4, "chassis": 5e6, "cpu": 5e3}
"""No device draws more: a unit was mistaken."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Energy of all devices over the window; ``None`` with a reason where it cannot be trusted."""

    mean_w: float | None
    energy_j: float | None
    devices: int
    samples: int
    """Readings of all devices in the window, and of each the one before it and the one behind."""
    coverage: float
    """Share of the window that the samples of the worst device tell about."""
    reason: str | None
    largest_gap_s: float | None = None
    """Longest span between two readings of a device over the window, or between one and its edge,
    seconds; ``None``: there was no reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterPower:
    """What one meter says of a window."""

    meter: str
    kind: str
    role: Role
    counted: bool
    """It is in its role's figure; else it reads what that holds already, and stands beside it."""
    power: Power
    clock: ClockOffset | None = None
    """Of stamps that are not our own; ``None``: they are."""


def measure_meters(metered: Iterable[Metered], window: Window) -> tuple[MeterPower, ...]:
    """Measure every meter's power over a window.

    Of each role the kind that was named first counts, with all meters of that kind (two hosts). A
    second kind reads the same devices once more: it is kept beside, never added.
    """
    counted: dict[Role, str] = {}
    return tuple(
        MeterPower(
            meter=each.meter,
            kind=each.kind,
            role=each.role,
            counted=counted.setdefault(each.role, each.kind) == each.kind,
            power=_of(each, window),
            clock=each.clock,
        )
        for each in metered
    )


def role_power(meters: Iterable[MeterPower], role: Role) -> Power:
    """Add up the power of a role's meters that count; one without a figure leaves none."""
    own = [m.power for m in meters if m.role == role and m.counted]
    if not own:
        missing = "no meter" if role == "accelerator" else f"no {role} meter"
        return Power(mean_w=None, energy_j=None, devices=0, samples=0, coverage=0.0, reason=missing)
    means = [p.mean_w for p in own if p.mean_w is not None]
    energies = [p.energy_j for p in own if p.energy_j is not None]
    gaps = [p.largest_gap_s for p in own if p.largest_gap_s is not None]
    reasons = [p.reason for p in own if p.reason is not None]
    return Power(
        mean_w=None if reasons else sum(means),
        energy_j=None if reasons else sum(energies),
        devices=sum(p.devices for p in own),
        samples=sum(p.samples for p in own),
        coverage=min(p.coverage for p in own),
        reason="; ".join(reasons) or None,
        largest_gap_s=max(gaps, default=None),
    )


def measure_power(
    samples: Iterable[Sample], window: Window, *, devices: int, name: str = "no meter"
) -> Power:
    """Integrate every device's samples over the window and add them up.

    A running energy counter (``J``) is read at the window's edges by interpolation between the
    readings at which it had moved; power samples (``W``) are integrated by the trapezoid rule with
    interpolated edges. Up to 5 % of the window may lie outside the readings and counts with their
    mean. Less than 95 % coverage (a long pause between power samples covers nothing), a counter
    that ran backwards or that its device's own power samples contradict, or a device that vanished
    gives ``None``, never a guess.

    Args:
        samples: readings from before the window to after it, of any device.
        window: the steady span.
        devices: how many devices the meter set out with; 0 when there is no meter.
        name: name of the meter, for the reason.
    """
    read = _by_series(samples)
    used = _used(read)
    spans = {series: _coverage(unit, rows, window) for (series, unit), rows in used.items()}
    worst = min(spans, key=lambda series: spans[series], default="")
    coverage = spans.get(worst, 0.0)
    reason = (
        _objection(used, devices, name)
        or _uncovered(used, worst, coverage, window)
        or _contradiction(read, window)
    )
    energy = None if reason else sum(_energy_j(k[1], rows, window) for k, rows in used.items())
    return Power(
        mean_w=None if energy is None else energy / window.length_s,
        energy_j=energy,
        devices=devices,
        samples=sum(_told(rows, window) for rows in used.values()),
        coverage=coverage,
        reason=reason,
        largest_gap_s=max((_gap_s(rows, window) for rows in used.values()), default=None),
    )


def _of(metered: Metered, window: Window) -> Power:
    power = measure_power(metered.samples, window, devices=len(metered.series), name=metered.meter)
    most_w = _MOST_W[metered.role] * max(1, metered.devices)
    reason = power.reason
    if power.mean_w is not None and power.mean_w > most_w:
        reason = f"{power.mean_w:,.0f} W of {metered.devices} devices is no power: is the unit?"
    if reason is not None:
        reason = f"{metered.meter}: {reason}"
        reason += f" ({metered.trouble})" if metered.trouble else ""
    return Power(
        mean_w=None if reason else power.mean_w,
        energy_j=None if reason else power.energy_j,
        devices=metered.devices,
        samples=power.samples,
        coverage=power.coverage,
        reason=reason,
        largest_gap_s=power.largest_gap_s,
    )


_Read = Mapping[tuple[str, str], Sequence[Sample]]
"""Readings in order of time, by device and unit."""


def used_readings(samples: Iterable[Sample]) -> _Read:
    """Return each device's readings in order of time: its counter's where it has one."""
    return _used(_by_series(samples))


def _by_series(samples: Iterable[Sample]) -> _Read:
    by_series: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.unit in {"J", "W"}:
            by_series[sample.series, sample.unit].append(sample)
    return {key: sorted(rows, key=lambda row: row.at_ns) for key, rows in by_series.items()}


def _used(read: _Read) -> _Read:
    """Return each device's readings that count: its counter's where it has one."""
    return {key: rows for key, rows in read.items() if key[1] == "J" or (key[0], "J") not in read}


def _contradiction(read: _Read, window: Window) -> str | None:
    """Say which device's counter and power samples cannot both be right.

    A counter that stood still was seen, and one that was a hundred times too small (AMD's,
    https://github.com/ROCm/amdsmi/issues/38).
    """
    for (series, unit), samples in read.items():
        counter = read.get((series, "J"))
        if unit != "W" or not counter or _coverage("W", samples, window) < LEAST_COVERAGE:
            continue
        sampled_w = _energy_j("W", samples, window) / window.length_s
        counted_w = _energy_j("J", counter, window) / window.length_s
        if abs(counted_w - sampled_w) > _MOST_APART * max(counted_w, sampled_w):
            return (
                f"the energy counter of {series} says {counted_w:,.4g} W on average and its power "
                f"samples {sampled_w:,.4g} W: one of them is wrong"
            )
    return None


def _objection(used: _Read, devices: int, name: str) -> str | None:
    if devices == 0:
        return name
    if len(used) < devices:
        return f"{devices - len(used)} of {devices} devices gave no reading"
    if len(used) > devices:
        return f"{len(used)} devices were read, the meter set out with {devices}"
    for (series, unit), rows in used.items():
        if unit == "J" and any(b.value < a.value for a, b in pairwise(rows)):
            return f"the energy counter of {series} was reset"
    return None


def _uncovered(used: _Read, worst: str, coverage: float, window: Window) -> str | None:
    if coverage >= LEAST_COVERAGE:
        return None
    said = (
        f"readings of {worst} cover {coverage:.0%} of the window, {LEAST_COVERAGE:.0%} are needed"
    )
    rows = used.get((worst, "J"), used.get((worst, "W"), ()))
    lost_s = (window.end_ns - rows[-1].at_ns) / 1e9 if rows else 0.0
    if lost_s > (1 - LEAST_COVERAGE) * window.length_s:
        return f"{said}: the last came {lost_s:.3g} s before its end"
    return said


def moved_readings(rows: Sequence[Sample]) -> Sequence[Sample]:
    """Return the readings at which a counter had moved: in between it is only read again.

    A page that is written every 30 s and read every second would put each step up to 30 s late.
    """
    return [b for a, b in pairwise((None, *rows)) if b and (a is None or b.value != a.value)]


def _told(rows: Sequence[Sample], window: Window) -> int:
    """Count a device's readings in the window, with those that stand next to its edges."""
    before = sum(row.at_ns < window.start_ns for row in rows)
    behind = sum(row.at_ns > window.end_ns for row in rows)
    return len(rows) - max(0, before - 1) - max(0, behind - 1)


def _gap_s(rows: Sequence[Sample], window: Window) -> float:
    inside = (r.at_ns for r in rows if window.start_ns < r.at_ns < window.end_ns)
    at_ns = np.array([window.start_ns, *inside, window.end_ns], dtype=np.int64)
    if rows[0].at_ns < window.start_ns:
        at_ns[0] = max(r.at_ns for r in rows if r.at_ns <= window.start_ns)
    if rows[-1].at_ns > window.end_ns:
        at_ns[-1] = min(r.at_ns for r in rows if r.at_ns >= window.end_ns)
    return float(np.diff(at_ns).max()) / 1e9


def _spans(unit: str, rows: Sequence[Sample], window: Window) -> tuple[_Floats, _Floats]:
    """Return beginnings and ends, seconds in the window, of the spans that readings tell about."""
    at_s = np.array([r.at_ns - window.start_ns for r in rows]) / 1e9
    steps = np.diff(at_s)
    known = steps <= (np.median(steps) * LONGEST_GAP if steps.size else np.inf)
    if unit == "J":  # it goes on counting while nobody reads it: only over an edge is it a guess
        before, after = -at_s[:-1], at_s[1:] - window.length_s
        outside = np.maximum(before, after)
        known |= outside <= _BESIDE * window.length_s
    inside_s = np.clip(at_s, 0.0, window.length_s)
    return inside_s[:-1][known], inside_s[1:][known]


def _coverage(unit: str, rows: Sequence[Sample], window: Window) -> float:
    if window.length_s <= 0:
        return 0.0
    begins, ends = _spans(unit, moved_readings(rows) if unit == "J" else rows, window)
    return float((ends - begins).sum()) / window.length_s


def _energy_j(unit: str, rows: Sequence[Sample], window: Window) -> float:
    rows = moved_readings(rows) if unit == "J" else rows
    at_s = np.array([r.at_ns - window.start_ns for r in rows]) / 1e9
    values = np.array([r.value for r in rows])
    if unit == "J":
        begins, ends = _spans(unit, rows, window)
        told = np.interp(ends, at_s, values) - np.interp(begins, at_s, values)
        return float(told.sum()) / _coverage(unit, rows, window)
    edges = np.array([0.0, window.length_s])
    inside = at_s[(at_s > 0) & (at_s < window.length_s)]
    grid = np.concatenate((edges[:1], inside, edges[1:]))
    return float(np.trapezoid(np.interp(grid, at_s, values), grid))
