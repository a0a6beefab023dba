"""How the statistics of a dataset are shown in a terminal."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from pytest_agentperf import words
from pytest_agentperf.dataset_statistics import (
    PUBLISHED,
    PUBLISHED_PROMPTS,
    PUBLISHED_TRAJECTORIES,
    Quantiles,
    Statistics,
)

__all__ = ["shown"]

_COLUMNS = {
    "turns": "turns",
    "isl_tokens": "ISL, tokens",
    "osl_tokens": "OSL, tokens",
    "tool_s": "tool delay, s",
}
_WIDTH = 100
_MOST_TOOLS = 20
_NOTHING = "-"


def shown(found: Statistics) -> str:
    """Return a text for people; a name that the dataset gives cannot steer the terminal."""
    text = "\n".join((*_head(found), _table(found), *_lengths(found), *_repetition(found)))
    lines = (*text.splitlines(), *_names(found), *_losses(found))
    return "".join(_printable(line) + "\n" for line in lines)


def _head(found: Statistics) -> Iterator[str]:
    yield (
        f"{found.name}: {found.trajectories:,} trajectories, {found.prompts:,} prompts "
        f"(AA-AgentPerf's tuning set: {PUBLISHED_TRAJECTORIES:,}, {PUBLISHED_PROMPTS:,})"
    )
    yield f"sha256 {found.sha256}"


def _table(found: Statistics) -> str:
    table: Any = Table(box=None, pad_edge=False)
    table.add_column("")
    for head in _COLUMNS.values():
        table.add_column(head, justify="right")
        table.add_column("AA", justify="right")
    measured: list[tuple[Quantiles | None, Mapping[str, float]]] = [
        (getattr(found, name), PUBLISHED[name]) for name in _COLUMNS
    ]
    for statistic in (field.name for field in fields(Quantiles) if field.name != "n"):
        cells = [
            cell
            for quantiles, published in measured
            for cell in (
                _number(getattr(quantiles, statistic) if quantiles else None),
                _number(published.get(statistic)),
            )
        ]
        table.add_row(statistic.replace("p", "P"), *cells)
    out = io.StringIO()
    Console(file=out, width=_WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _number(value: float | None) -> str:
    return _NOTHING if value is None else words.number(value)


def _lengths(found: Statistics) -> Iterator[str]:
    yield "turns: prompts of one trajectory; AA: published for AA-AgentPerf, rounded"
    if found.estimated_isl:
        yield (
            f"ISL: of {found.estimated_isl:,} of {found.prompts:,} prompts it is not recorded, but "
            "estimated at 4 characters a token"
        )
    told = {"OSL": found.osl_tokens, "tool delay": found.tool_s}
    for name, quantiles in told.items():
        n = quantiles.n if quantiles else 0
        if n < found.prompts:
            yield f"{name}: recorded for {n:,} of {found.prompts:,} answers"


def _repetition(found: Statistics) -> Iterator[str]:
    yield (
        f"prompts that extend their predecessor: {words.percent(found.extending_ratio)} of "
        f"{found.following:,}"
    )
    yield (
        f"ideal cache-hit ratio: {words.percent(found.ideal_cache_hit_ratio)} of all prompt tokens "
        "(kept messages, and the last"
    )
    yield "answer where it follows them; one perfect prefix cache for each trajectory)"


def _names(found: Statistics) -> Iterator[str]:
    if found.private:
        yield "name, languages, harnesses, tools and losses are withheld: the dataset is private"
        return
    told = f"; of {found.languages_by_files:,} by the files that calls name"
    by_files = told if found.languages_by_files else ""
    yield f"languages (trajectories{by_files}): {_counts(found.languages)}; AA: 12, Python most"
    yield f"harnesses (trajectories): {_counts(found.harnesses)}; AA: OpenCode"
    yield f"tools (calls): {_counts(found.tools)}"


def _counts(counts: Mapping[str, int]) -> str:
    told = [f"{name} {n:,}" for name, n in list(counts.items())[:_MOST_TOOLS]]
    rest = len(counts) - len(told)
    return ", ".join(told + [f"and {rest} more"] * (rest > 0)) or "none is told"


def _losses(found: Statistics) -> Iterator[str]:
    if not found.private:
        yield "losses:" if found.losses else "losses: none"
        yield from (f"  {loss}" for loss in found.losses)


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
