"""A run as typed tables in Parquet, for pandas, polars and DuckDB.

Rows go into row groups as they are read, so that a run of any length needs the memory of one group.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_agentperf import __version__
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.metrics import (
    Distribution,
    Metrics,
    e2e_s,
    first_chunk_speed_tok_per_s,
    output_speed_tok_per_s,
    ttft_s,
)
from pytest_agentperf.records import TurnRecord
from pytest_agentperf.stored import StoredPhase, StoredRun
from pytest_agentperf.token_check import Ratios, TokenCheck

__all__ = ["COLUMNS", "load_pyarrow", "write_tables"]

_GROUP_ROWS = 16_384
"""Rows of a row group; one of 16,384 requests with 300 tokens each is about 20 MB."""
_OF_PHASE = {"model": "string", "phase": "int32", "agents": "int32"}
_STATISTICS = {f.name: "int64" if f.name == "n" else "float64" for f in fields(Distribution)}
_RATIOS = {f.name: "int64" if f.name == "n" else "float64" for f in fields(Ratios)}
_TOKENS = {
    "answers": "int64", "verified": "int64",
    **{f"{of}_{name}": kind for of in ("osl", "isl") for name, kind in _RATIOS.items()},
}  # fmt: skip
"""Of a check of tokens; the answers that are the farthest apart stand in the bundle."""


def _metric_columns() -> dict[str, str]:
    found: dict[str, str] = {}
    for each in fields(Metrics):
        if each.name == "agents":
            continue
        if each.name == "errors":
            found["errors_json"] = "string"
        elif each.name == "tokens":
            found |= {f"tokens_{name}": kind for name, kind in _TOKENS.items()}
        elif each.type == Distribution | None:
            found |= {f"{each.name}_{name}": kind for name, kind in _STATISTICS.items()}
        else:
            found[each.name] = "int64" if each.type is int else "float64"
    return found


COLUMNS: Mapping[str, Mapping[str, str]] = {
    "requests": {
        **_OF_PHASE,
        "in_window": "bool_",
        "agent": "int32", "ordinal": "int32", "trajectory": "string", "turn": "int32",
        "last_turn": "bool_", "from_turn": "int32",
        "scheduled_ns": "int64", "sent_ns": "int64", "end_ns": "int64", "connect_ns": "int64",
        "written_ns": "int64",
        "first_byte_ns": "int64", "first_token_ns": "int64", "last_token_ns": "int64",
        "ttft_s": "float64", "e2e_s": "float64", "output_speed_tok_per_s": "float64",
        "usage_speed_tok_per_s": "float64", "first_chunk_speed_tok_per_s": "float64",
        "isl_tokens": "int32", "osl_tokens": "int32", "reasoning_tokens": "int32",
        "cached_tokens": "int32", "local_osl_tokens": "int32", "local_isl_tokens": "int32",
        "recorded_osl_tokens": "int32", "first_chunk_tokens": "int32",
        "largest_read_ratio": "float64", "first_token_merged": "bool_",
        "reasoning_streamed": "bool_", "tool_calls": "int32",
        "finish_reason": "string", "reconnected": "bool_", "loops": "bool_", "error": "string",
        "token_offsets_us": "list<uint32>",
    },
    "phases": {
        **_OF_PHASE,
        "short": "bool_", "measured_in": "string", "started_s": "float64", "duration_s": "float64",
        "window_start_ns": "int64", "window_end_ns": "int64", "invalid": "string",
        **_metric_columns(),
        "output_speed_tok_per_s_p25_low": "float64", "output_speed_tok_per_s_p25_high": "float64",
        "ttft_s_p95_low": "float64", "ttft_s_p95_high": "float64",
        "throughput_tok_per_s_low": "float64", "throughput_tok_per_s_high": "float64",
        "power_mean_w": "float64", "power_energy_j": "float64", "power_coverage_ratio": "float64",
        "wall_power_mean_w": "float64", "wall_power_energy_j": "float64",
    },
    "verdicts": {
        **_OF_PHASE,
        "tier": "string", "outcome": "string", "evidence": "string", "limit": "string",
        "sign": "string", "bound": "float64", "observed": "float64", "n": "int64", "met": "bool_",
    },
    "timeline": {
        **_OF_PHASE,
        "second": "int32", "start_ns": "int64", "in_window": "bool_", "started_agents": "int32",
        "in_flight_requests": "float64", "waiting_requests": "float64", "output_tokens": "float64",
    },
    "server": {**_OF_PHASE, "second": "int32", "series": "string", "value": "float64"},
}  # fmt: skip
"""Columns of every table, with their types' names in pyarrow."""


def load_pyarrow() -> tuple[Any, Any]:
    """Return ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as missing:
        raise ConfigError(
            "Parquet is written by pyarrow, which is not installed: "
            "pip install 'pytest-agentperf[parquet]'"
        ) from missing


def write_tables(
    run: StoredRun, folder: Path, *, group_rows: int = _GROUP_ROWS
) -> Mapping[str, int]:
    """Write a run's tables into a folder, each whole or not at all.

    Args:
        run: the run.
        folder: where they go.
        group_rows: rows of a row group, which are in memory at once.

    Returns:
        By table, how many rows it has.

    Raises:
        ConfigError: pyarrow is not installed, or the run's files are broken.
    """
    arrow, parquet = load_pyarrow()
    metadata = {
        "agentperf_run": run.bundle.provenance.run,
        "agentperf_bundle_schema": run.bundle.schema,
        "agentperf_bundle_sha256": hashlib.sha256(run.data).hexdigest(),
        "agentperf_judged_speed": run.bundle.settings.speed,
        "agentperf_exported_by": f"pytest-agentperf {__version__}",
    }
    makers = _rows(run.bundle.settings.speed)
    tables = {
        name: _Table(folder / f"{name}.parquet", columns, metadata, (arrow, parquet))
        for name, columns in COLUMNS.items()
    }
    try:
        for phase in run.phases():
            for name, rows in makers.items():
                tables[name].add(rows(phase), _of_phase(phase.result), group_rows)
        counts = {name: table.close() for name, table in tables.items()}
    except BaseException:
        for table in tables.values():
            table.drop()
        raise
    for table in tables.values():
        table.publish()
    return counts


class _Table:
    """One file, written by row groups beside its name and then given it."""

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, str],
        metadata: Mapping[str, str],
        libraries: tuple[Any, Any],
    ) -> None:
        self._arrow, parquet = libraries
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._schema = self._arrow.schema(
            [(name, self._type(kind)) for name, kind in columns.items()], metadata=metadata
        )
        self._writer = parquet.ParquetWriter(self._part, self._schema, compression="zstd")
        self._kept: list[Mapping[str, Any]] = []
        self._rows = 0

    def add(
        self, rows: Iterator[Mapping[str, Any]], of_phase: Mapping[str, Any], group_rows: int
    ) -> None:
        for row in rows:
            self._kept.append({**of_phase, **row})
            if len(self._kept) >= group_rows:
                self._flush()

    def close(self) -> int:
        """End the file and return how many rows it has."""
        self._flush()
        self._writer.close()
        return self._rows

    def publish(self) -> None:
        """Give the ended file its name."""
        self._part.replace(self._path)

    def drop(self) -> None:
        """Remove what was written, ended or not."""
        with suppress(Exception):  # a disk that is full; why is told already
            self._writer.close()
        self._part.unlink(missing_ok=True)

    def _type(self, kind: str) -> Any:
        if kind.startswith("list<"):
            return self._arrow.list_(self._type(kind[5:-1]))
        return getattr(self._arrow, kind)()

    def _flush(self) -> None:
        if self._kept:
            group = self._arrow.Table.from_pylist(self._kept, schema=self._schema)
            self._writer.write_table(group)
            self._rows += len(self._kept)
            self._kept.clear()


def _of_phase(phase: PhaseResult) -> dict[str, Any]:
    return {"model": phase.model, "phase": phase.number, "agents": phase.agents}


_AS_KEPT = [f.name for f in fields(TurnRecord) if f.name != "token_offsets_us"]


def _requests(phase: StoredPhase, speed: str) -> Iterator[dict[str, Any]]:
    judged = "first_chunk_speed_tok_per_s" if speed == "first-chunk" else "usage_speed_tok_per_s"
    inside = 0
    for turn in phase.turns:
        row = {name: getattr(turn, name) for name in _AS_KEPT}
        row["in_window"] = phase.window.holds(turn.sent_ns)
        inside += row["in_window"]
        row["ttft_s"], row["e2e_s"] = ttft_s(turn), e2e_s(turn)
        row["usage_speed_tok_per_s"] = output_speed_tok_per_s(turn)
        row["first_chunk_speed_tok_per_s"] = first_chunk_speed_tok_per_s(turn)
        row["output_speed_tok_per_s"] = row[judged]
        row["token_offsets_us"] = np.frombuffer(turn.token_offsets_us, dtype="<u4")
        yield row
    was = phase.result
    if inside != was.metrics.requests:
        raise ConfigError(
            f"phase {was.number}: {inside} requests of its window are kept, and the run judged "
            f"{was.metrics.requests}: its files are not whole; copy the run's folder again"
        )


def _phases(phase: StoredPhase) -> Iterator[dict[str, Any]]:
    was = phase.result
    row: dict[str, Any] = {
        "short": was.short,
        "measured_in": was.measured_in,
        "started_s": was.started_s,
        "duration_s": was.duration_s,
        "window_start_ns": phase.window.start_ns,
        "window_end_ns": phase.window.end_ns,
        "invalid": "; ".join(was.invalid) or None,
        "errors_json": msgspec.json.encode(was.metrics.errors).decode(),
        "power_mean_w": was.power.mean_w,
        "power_energy_j": was.power.energy_j,
        "power_coverage_ratio": was.power.coverage,
        "wall_power_mean_w": was.wall.mean_w,
        "wall_power_energy_j": was.wall.energy_j,
    }
    for each in fields(Metrics):
        value = getattr(was.metrics, each.name)
        if isinstance(value, Distribution):
            row |= {f"{each.name}_{s}": getattr(value, s) for s in _STATISTICS}
        elif isinstance(value, TokenCheck):
            row |= _tokens(value)
        elif each.name not in {"agents", "errors", "tokens"}:
            row[each.name] = value
    for name, interval in was.intervals.items():
        column = name.replace(".", "_")
        row |= {f"{column}_low": interval.low, f"{column}_high": interval.high}
    yield row


def _tokens(check: TokenCheck) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens_answers": check.answers, "tokens_verified": check.verified}
    for of, ratios in (("osl", check.osl), ("isl", check.isl)):
        if ratios is not None:
            row |= {f"tokens_{of}_{name}": getattr(ratios, name) for name in _RATIOS}
    return row


def _verdicts(phase: StoredPhase) -> Iterator[dict[str, Any]]:
    for verdict in phase.result.verdicts:
        of_tier = {
            "tier": verdict.tier, "outcome": verdict.outcome, "evidence": verdict.evidence
        }  # fmt: skip
        for finding in verdict.findings:
            yield of_tier | {f.name: getattr(finding, f.name) for f in fields(finding)}


def _timeline(phase: StoredPhase) -> Iterator[dict[str, Any]]:
    seen, window = phase.timeline, phase.window
    began_ns = window.start_ns - round(seen.window_s[0] * 1e9)
    columns = (seen.started, seen.in_flight, seen.waiting, seen.output_tokens)
    for second, row in enumerate(zip(*columns, strict=True)):
        start_ns = began_ns + second * 1_000_000_000
        yield {
            "second": second,
            "start_ns": start_ns,
            "in_window": window.holds(start_ns),
            "started_agents": row[0],
            "in_flight_requests": row[1],
            "waiting_requests": row[2],
            "output_tokens": row[3],
        }


def _server(phase: StoredPhase) -> Iterator[dict[str, Any]]:
    for series, values in phase.timeline.server.items():
        for second, value in enumerate(values):
            if value is not None:
                yield {"second": second, "series": series, "value": value}


def _rows(speed: str) -> Mapping[str, Callable[[StoredPhase], Iterator[Mapping[str, Any]]]]:
    """Return, by table, what makes its rows of a phase.

    Args:
        speed: which output speed the run judged; in every table ``output_speed`` is that one.
    """
    return {
        "requests": partial(_requests, speed=speed),
        "phases": _phases,
        "verdicts": _verdicts,
        "timeline": _timeline,
        "server": _server,
    }
