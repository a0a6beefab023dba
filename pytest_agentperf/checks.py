"""One check of a phase, and the marks that a phase is held to."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["PUBLISHED", "Check", "Marks", "at_most", "invalid_by"]

PUBLISHED = frozenset({("ttft_s", "p95"), ("output_speed_tok_per_s", "p25")})
"""What every report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What a phase is held to."""

    max_loop_lag_p95_s: float
    max_loop_lag_p99_s: float
    max_cpu_ratio: float
    judged: frozenset[tuple[str, str]] = PUBLISHED
    """Metric and statistic of every number that a late client must not have moved."""
    max_error_ratio: float = 0.01
    """The greatest of the tiers': above it, failures alone decide."""
    first_chunk_judged: bool = False
    """A tier is judged by the first-chunk speed, so it must be known for every answer."""
    simulator_keeps_time: bool = True
    """A simulator that its own machine slows down makes the phase invalid, not only suspect."""
    shared_system_prompt: bool = False
    """The salt leaves the first message shared: first prompts are cached on purpose."""
    salted: bool = True
    """First prompts are new to the server, so one that it knows came from another phase."""
    max_tool_s: float = 5.0
    """The longest time that an agent waits for a tool."""
    power_required: bool = False
    """A phase of whose power there is no figure is invalid, not only without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one phase."""

    name: str
    value: float | None
    limit: float | None
    ok: bool
    invalidates: bool
    """A miss makes the phase invalid; else it is a warning beside the number."""
    text: str
    """What it means and what to do, in one sentence; shown when it is missed."""
    unit: str = ""
    """Of value and limit; empty for a share or a count."""


def invalid_by(checks: Iterable[Check]) -> list[str]:
    """Say why a phase cannot be trusted; empty when it can."""
    return [f"{c.name}: {c.text}" for c in checks if c.invalidates and not c.ok]


def at_most(
    name: str,
    value: float | None,
    limit: float,
    text: str,
    *,
    warning: bool = False,
    unit: str = "",
) -> Check:
    """Return a check that a value which is not known passes."""
    return Check(
        name=name,
        value=value,
        limit=limit,
        ok=value is None or value <= limit,
        invalidates=not warning,
        text=text,
        unit=unit,
    )
