"""What a run's folder tells of its phases besides the bundle: seconds and distributions.

A line is decoded when it is asked for, so that a hundred phases are never in memory at once. What
is missing or damaged is not there; the bundle's own figures stand without it.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.profile import PhaseProfile
from pytest_agentperf.run_folder import request_logs
from pytest_agentperf.timeline import Timeline

__all__ = ["FILES", "RawFile", "RunRecords", "raw_files"]

FILES: dict[str, str] = {
    "bundle.json": "everything but the single requests",
    "requests.jsonl": "every request, a line each",
    "timeline.jsonl": "every second of every phase",
    "profiles.jsonl": "distributions of every phase",
    "token_counts.jsonl": "what the local tokenizer counted",
    "comparison.json": "the comparison with a baseline",
}

T = TypeVar("T", Timeline, PhaseProfile)


class _Numbered(msgspec.Struct):
    phase: int


class RunRecords:
    """Reads the records of phases, those that an earlier run measured from its own folder."""

    def __init__(self, folder: Path | None) -> None:
        """Look into a folder; ``None``: nothing is known."""
        self._folder = folder
        self._places: dict[Path, Mapping[int, tuple[int, int]]] = {}

    def timeline(self, phase: PhaseResult) -> Timeline | None:
        """Return the seconds of a phase."""
        return self._read(phase, "timeline.jsonl", Timeline)

    def profile(self, phase: PhaseResult) -> PhaseProfile | None:
        """Return the distributions of a phase."""
        return self._read(phase, "profiles.jsonl", PhaseProfile)

    def _read(self, phase: PhaseResult, name: str, kind: type[T]) -> T | None:
        if self._folder is None:
            return None
        folder = self._folder
        if phase.measured_in is not None:
            folder = folder.parent / Path(phase.measured_in).name
        path = folder / name
        if path not in self._places:
            self._places[path] = _places(path)
        place = self._places[path].get(phase.number)
        if place is None:
            return None
        with path.open("rb") as lines:
            lines.seek(place[0])
            try:
                return msgspec.convert(
                    msgspec.json.decode(lines.read(place[1])), kind, strict=False
                )
            except (msgspec.DecodeError, msgspec.ValidationError):
                return None


def _places(path: Path) -> Mapping[int, tuple[int, int]]:
    """Return where the line of each phase begins, and its length; the last one counts."""
    found: dict[int, tuple[int, int]] = {}
    if not path.is_file():
        return found
    decode = msgspec.json.Decoder(_Numbered).decode
    with path.open("rb") as lines:
        at = 0
        for line in lines:
            # A run that was killed ends in half a line.
            with suppress(msgspec.DecodeError, msgspec.ValidationError):
                found[decode(line).phase] = (at, len(line))
            at += len(line)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A file of a run."""

    name: str
    content: str
    size_bytes: int


def raw_files(folder: Path | None) -> tuple[RawFile, ...]:
    """Return the files of a run that are there."""
    if folder is None:
        return ()
    contents = FILES | {path.name: "requests that came later" for path in request_logs(folder)[1:]}
    return tuple(
        RawFile(name=name, content=content, size_bytes=(folder / name).stat().st_size)
        for name, content in contents.items()
        if (folder / name).is_file()
    )
