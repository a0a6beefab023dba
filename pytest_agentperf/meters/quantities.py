"""A number and its unit, as meters write them, in watts or joules."""

import math
from collections.abc import Mapping

__all__ = ["UNITS", "finite", "number_in"]

UNITS: Mapping[str, tuple[str, float]] = {
    "W": ("W", 1.0),
    "mW": ("W", 1e-3),
    "uW": ("W", 1e-6),
    "kW": ("W", 1e3),
    "J": ("J", 1.0),
    "mJ": ("J", 1e-3),
    "uJ": ("J", 1e-6),
    "kJ": ("J", 1e3),
    "Wh": ("J", 3.6e3),
    "kWh": ("J", 3.6e6),
}
"""Unit as written: what it is of (power, or a running energy counter), and how many of it."""


def finite(value: object) -> float | None:
    """Return a reading as a number from 0 on; ``None`` where it is none, or not a number at all."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def number_in(text: str) -> float | None:
    """Return the number that a text is; ``None`` where it is none, negative or infinite."""
    try:
        return finite(float(text))
    except ValueError:
        return None
