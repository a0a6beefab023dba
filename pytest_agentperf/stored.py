"""A run's folder read back: its bundle, and phase by phase its requests and its timeline.

Files are read line by line and in step, so that a run of any length needs no more memory than what
its reader keeps of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from pytest_agentperf.bundle import Bundle, PhaseResult, read_bundle
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.records import TokenCount, TurnRecord, Window
from pytest_agentperf.run_folder import request_logs
from pytest_agentperf.timeline import Timeline

__all__ = ["StoredPhase", "StoredRun", "open_run"]

_TIMELINE, _COUNTS = "timeline.jsonl", "token_counts.jsonl"
_OFFSET_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPhase:
    """One phase as a run's folder has it."""

    result: PhaseResult
    window: Window
    """The steady window, by the clock of the requests."""
    timeline: Timeline
    turns: Iterable[TurnRecord]
    """Every request, in the order in which they ended, with what a local tokenizer counted. They
    come from the file: to be read once, before the next phase is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run's folder."""

    path: Path
    data: bytes
    """``bundle.json`` as it lies there."""
    bundle: Bundle

    def phases(self) -> Iterator[StoredPhase]:
        """Yield the phases in the order of their numbers.

        Those that an earlier run has measured are read in its folder, which must lie beside.

        Raises:
            ConfigError: a file is missing or broken, or lacks a phase.
        """
        sources: dict[str | None, _Source] = {}
        for result in sorted(self.bundle.phases, key=lambda p: p.number):
            run = result.measured_in
            if run not in sources:
                sources[run] = _Source(self._folder_of(run))
            yield sources[run].phase(result)

    def _folder_of(self, run: str | None) -> Path:
        folder = self.path if run is None else self.path.resolve().parent / run
        if not folder.is_dir():
            numbers = ", ".join(str(p.number) for p in self.bundle.phases if p.measured_in == run)
            raise ConfigError(
                f"{self.path}: phases {numbers} were measured in run {run}, and there is no folder "
                f"{folder}; put it there"
            )
        return folder


def open_run(path: Path) -> StoredRun:
    """Open a run's folder; nothing is written there.

    Raises:
        ConfigError: there is none, it cannot be read, or it holds no requests of its own.
    """
    file = path / "bundle.json"
    try:
        data = file.read_bytes()
    except OSError as failed:
        raise ConfigError(
            f"{path}: no run's folder: {failed}; name one that holds bundle.json and its requests"
        ) from failed
    bundle = read_bundle(data, str(file))
    if bundle.rescored is not None:
        raise ConfigError(
            f"{path}: it judges run {bundle.rescored.run} again and holds no requests; name that "
            "run's folder"
        )
    return StoredRun(path=path, data=data, bundle=bundle)


class _Numbered(Protocol):
    @property
    def phase(self) -> int: ...


Row = TypeVar("Row", bound=_Numbered)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request(TurnRecord):
    phase: int

    def __post_init__(self) -> None:
        if len(self.token_offsets_us) % _OFFSET_BYTES:
            raise ValueError(
                f"token_offsets_us has {len(self.token_offsets_us)} bytes, no multiple of "
                f"{_OFFSET_BYTES}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seconds(Timeline):
    phase: int

    def __post_init__(self) -> None:
        seconds = [
            ("started", len(self.started)),
            ("in_flight", len(self.in_flight)),
            ("waiting", len(self.waiting)),
            ("output_tokens", len(self.output_tokens)),
            *((f"server {name}", len(values)) for name, values in self.server.items()),
        ]
        if len({count for _, count in seconds}) > 1:
            told = ", ".join(f"{name} {count}" for name, count in seconds)
            raise ValueError(f"its columns have not as many seconds: {told}")


class _Sent(msgspec.Struct, frozen=True):
    phase: int
    sent_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count(TokenCount):
    phase: int


class _Log(Generic[Row]):
    """Files of lines that belong to phases, whose numbers grow."""

    def __init__(self, paths: Sequence[Path], kind: type[Row]) -> None:
        self._rows = _rows(paths, kind)
        self._next = next(self._rows, None)

    def of(self, number: int) -> Iterator[Row]:
        """Yield the rows of one phase; what lies before them is passed over."""
        while (row := self._next) is not None and row.phase <= number:
            self._next = next(self._rows, None)
            if row.phase == number:
                yield row


def _rows(paths: Sequence[Path], kind: type[Row]) -> Iterator[Row]:
    last = 0
    for path in paths:
        for number, row in _rows_of(path, kind):
            if row.phase < last:
                raise ConfigError(f"{path}, line {number}: phase {row.phase} after {last}")
            last = row.phase
            yield row


def _rows_of(path: Path, kind: type[Row]) -> Iterator[tuple[int, Row]]:
    decode = msgspec.json.Decoder(kind).decode
    number = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return  # it is being written, or the run was killed meanwhile
                yield number, decode(line)
    except OSError as failed:
        raise ConfigError(f"{path} cannot be read: {failed}") from failed
    except msgspec.DecodeError as broken:
        raise ConfigError(f"{path}, line {number} cannot be read: {broken}") from broken


class _Source:
    """The files of one folder, read in step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._requests = _Log(request_logs(folder), _Request)
        self._timelines = _Log([folder / _TIMELINE], _Seconds)
        counts = folder / _COUNTS
        self._counts = _Log([counts], _Count) if counts.exists() else None
        self._first_sent_ns: Mapping[int, int] | None = None

    def phase(self, result: PhaseResult) -> StoredPhase:
        seconds = next(self._timelines.of(result.number), None)
        if seconds is None:
            raise ConfigError(
                f"{self._folder / _TIMELINE} does not tell of phase {result.number} where its "
                "steady window lies: the file is not whole, or the run older than that file"
            )
        return StoredPhase(
            result=result,
            window=self._window(result.number, seconds),
            timeline=seconds,
            turns=self._turns(result.number),
        )

    def _turns(self, number: int) -> Iterator[TurnRecord]:
        rows = self._requests.of(number)
        if self._counts is None:
            return rows
        counts = {count.request: count for count in self._counts.of(number)}
        if not counts:
            return rows
        return (t.counted(counts.get((t.agent, t.ordinal, t.turn))) for t in rows)

    def _window(self, number: int, seconds: Timeline) -> Window:
        began_ns = seconds.began_ns
        if began_ns is None:  # an older run: its seconds begin with the first request
            began_ns = self._first_sends().get(number, 0)
        start_ns, end_ns = (began_ns + round(at_s * 1e9) for at_s in seconds.window_s)
        return Window(start_ns=start_ns, end_ns=end_ns)

    def _first_sends(self) -> Mapping[int, int]:
        if self._first_sent_ns is None:
            first: dict[int, int] = {}
            for row in _rows(request_logs(self._folder), _Sent):
                first[row.phase] = min(row.sent_ns, first.get(row.phase, row.sent_ns))
            self._first_sent_ns = first
        return self._first_sent_ns
