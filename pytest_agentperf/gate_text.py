"""The comparison in words: for the terminal, a GitHub job, JUnit properties and other CI."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from pytest_agentperf.bundle import Bundle, finite
from pytest_agentperf.compare import Comparison, Row
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.outcome import Outcome, change_text, interval_text, row_text
from pytest_agentperf.tables import table
from pytest_agentperf.words import low_to_high, number

__all__ = [
    "annotations",
    "comparison_json",
    "comparison_table",
    "job_summary",
    "one_line",
    "properties",
]

_HEADS = ("Figure", "At", "Before", "Now", "Change", "Interval", "Verdict")


def comparison_table(comparison: Comparison, width: int) -> str:
    """Return the comparison as a table for the terminal."""
    rows = [tuple(_cells(row)) for row in comparison.rows]
    title = f"against {_baseline(comparison)}"
    parts = [table(title, _HEADS, rows, width)]
    parts += [f"{row_text(row)}" for row in comparison.of("not comparable")]
    parts += [f"COMPARED ANYWAY: {difference}" for difference in comparison.differences]
    sources = dict.fromkeys(row.by for row in comparison.rows if row.change is not None and row.by)
    parts += [f"Intervals: {'; '.join(sources)}"] if sources else []
    return "\n".join(part.rstrip("\n") for part in parts)


def job_summary(outcome: Outcome, bundle: Bundle | None, comparison: Comparison | None) -> str:
    """Return the session as Markdown."""
    lines = ["## agentperf", "", f"**{_plain(outcome.line)}**", ""]
    if bundle is not None and bundle.capacities:
        lines += _markdown(
            ("Model", "Tier", "Agents", "Allowed", "Status"),
            [
                (c.model, c.tier, c.label, low_to_high(c.agents_low, c.agents_high), c.status)
                for c in bundle.capacities
            ],
        )
    if comparison is not None:
        lines += [f"Against {_baseline(comparison)}:", ""]
        lines += _markdown(_HEADS, [tuple(_cells(row)) for row in comparison.rows])
        lines += [f"- compared anyway: {_plain(d)}" for d in comparison.differences]
    return "\n".join(lines) + "\n"


def annotations(outcome: Outcome, comparison: Comparison | None) -> Sequence[str]:
    """Return workflow commands for a GitHub job: an error for the whole and for every bad row."""
    if not outcome.code:
        return [_command("notice", outcome.line)]
    rows = comparison.of("regressed", "not comparable") if comparison is not None else ()
    return [
        _command("error", outcome.line),
        *(_command("error", f"{r.verdict}: {row_text(r)}") for r in rows),
    ]


def one_line(
    outcome: Outcome, bundle: Bundle | None, comparison: Comparison | None, *, results: str | None
) -> str:
    """Return the outcome as one line of JSON."""
    told: dict[str, Any] = {
        "cause": outcome.cause,
        "exit_code": outcome.code,
        "line": outcome.line,
        "run": bundle.provenance.run if bundle is not None else None,
        "results": results,
        "capacities": [_capacity(c) for c in bundle.capacities] if bundle is not None else [],
        "comparison": _plain_comparison(comparison) if comparison is not None else None,
    }
    return msgspec.json.encode(told).decode()


def comparison_json(comparison: Comparison) -> bytes:
    """Return a comparison as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(_plain_comparison(comparison)), indent=2) + b"\n"


def properties(
    capacity: Capacity, comparison: Comparison | None
) -> Sequence[tuple[str, str | int | None]]:
    """Return what a test's JUnit entry says of its tier."""
    said: list[tuple[str, str | int | None]] = [
        ("agentperf_capacity", capacity.agents),
        ("agentperf_interval", low_to_high(capacity.agents_low, capacity.agents_high)),
        ("agentperf_status", capacity.status),
    ]
    rows = comparison.rows if comparison is not None else ()
    own = (row for row in rows if row.model == capacity.model and capacity.tier in row.tiers)
    return [
        *said,
        *((f"agentperf_gate_{row.figure.name}", f"{row.verdict}: {row_text(row)}") for row in own),
    ]


def _baseline(comparison: Comparison) -> str:
    if comparison.in_turns:
        return f"endpoint {comparison.baseline}, in turns"
    return f"run {comparison.baseline}"


def _cells(row: Row) -> Iterator[str]:
    yield f"{row.figure.title}, {row.figure.unit}"
    yield ", ".join(row.tiers) if row.agents is None else str(row.agents)
    if row.labels is not None:
        yield from row.labels
    else:
        for reading in (row.before, row.now):
            yield "missing" if reading is None else number(reading.value)
    yield change_text(row)
    yield interval_text(row)
    yield row.verdict


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_plain, cells))} |"

    return [line(heads), line(["---"] * len(heads)), *map(line, rows), ""]


def _plain(text: str) -> str:
    for old, new in (("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        text = text.replace(old, new)
    return text


def _command(kind: str, text: str) -> str:
    for old, new in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(old, new)
    return f"::{kind} title=agentperf::{text}"


def _capacity(capacity: Capacity) -> Mapping[str, Any]:
    return {
        "model": capacity.model,
        "tier": capacity.tier,
        "agents": capacity.agents,
        "agents_low": capacity.agents_low,
        "agents_high": capacity.agents_high,
        "status": capacity.status,
    }


def _plain_comparison(comparison: Comparison) -> Mapping[str, Any]:
    return {"verdict": comparison.verdict, **finite(asdict(comparison))}
