"""Tables of text: any, and capacities per accelerator, system, megawatt, dollar and rack."""

import io
from collections.abc import Sequence
from typing import Any

from pytest_agentperf import words
from pytest_agentperf.foreign import printable
from pytest_agentperf.normalize import Capacity, Normalized

__all__ = ["normalized_table", "table"]

_LEFT = frozenset({"Tier", "Limited by", "Per", "Not given", "Figure", "Verdict"})
_UNITS = {
    "per_accelerator": "accelerator",
    "per_system": "system",
    "per_megawatt": "MW, accelerators measured",
    "per_megawatt_wall": "MW, at the wall",
    "per_kw_tdp": "kW TDP",
    "per_usd_per_hour": "$/hour",
    "per_rack": "rack",
}
_ENERGY = "energy_j_per_output_token"


def normalized_table(capacities: Sequence[Capacity], width: int) -> str:
    """Return agents and output throughput of each tier per unit, and why one is not given.

    Returns:
        Nothing where there is nothing to divide, or nothing to divide by.
    """
    known = [c for c in capacities if c.status not in {"open", "invalid"}]
    rows = [
        (words_of, *(_pair(c, name) for c in known), _reason(known, name))
        for name, words_of in _UNITS.items()
    ]
    energies = [c.energy_j_per_output_token for c in known]
    if not known or not (any(energies) or any(_given(c.per) for c in known)):
        return ""
    rows.append(("J per output token", *map(_figure, energies), _reason(known, _ENERGY)))
    heads = ["Per", *(c.tier for c in known), "Not given"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    title = f"{known[0].model}: agents · output tok/s"
    return table(title, heads, rows, width)


def _given(per: Normalized) -> bool:
    return any(getattr(per, name) is not None for name in _UNITS)


def _pair(capacity: Capacity, name: str) -> str:
    agents, tokens = getattr(capacity.per, name), getattr(capacity.throughput_per, name)
    least = "≥ " if capacity.status == "at-limit" else ""
    return "-" if agents is None else f"{least}{_figure(agents)} · {_figure(tokens)}"


def _figure(value: float | None) -> str:
    return "-" if value is None else words.number(value)


def _reason(capacities: Sequence[Capacity], name: str) -> str:
    """Return why a value is not given, once however many tiers lack it for the same reason."""
    reasons = (c.throughput_per.missing.get(name) for c in capacities)
    return "; ".join(dict.fromkeys(r for r in reasons if r))


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return a table that is as wide as the terminal, at least 80 characters."""
    from rich.console import Console  # noqa: PLC0415 only at the end of a session that measured
    from rich.table import Table  # noqa: PLC0415 the same

    made: Any = Table()
    for head in heads:
        made.add_column(head, justify="left" if head in _LEFT else "right")
    for row in rows:
        made.add_row(*map(printable, row))
    out = io.StringIO()
    Console(file=out, width=max(width, 80), color_system=None, markup=False, emoji=False).print(
        made
    )
    return f"{printable(title)}\n{out.getvalue()}"
