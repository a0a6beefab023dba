"""A run on disk while it goes.

Every request is written when it has ended, the bundle after every phase, replaced in one step. An
interrupted run is a shorter run, not a broken one.
"""

import contextlib
import os
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_agentperf.bundle import Bundle, encode_bundle, finite, now
from pytest_agentperf.errors import ConfigError, StorageError
from pytest_agentperf.profile import PhaseProfile
from pytest_agentperf.records import TokenCount, TurnRecord
from pytest_agentperf.timeline import Timeline

__all__ = ["RunFolder", "request_logs"]

_LOG = "requests.jsonl"
_MOST_LOG_BYTES = 1_000_000_000
"""Of one file, a million requests; then the log goes on in another one."""


class RunFolder:
    """The folder of one run."""

    def __init__(
        self,
        results: Path,
        bundle: Bundle,
        *,
        resumable: bool = True,
        most_log_bytes: int = _MOST_LOG_BYTES,
    ) -> None:
        """Make the folder and write a first bundle.

        Args:
            results: the folder of results.
            bundle: of the run.
            resumable: ``--agentperf-resume`` can take it; not a run of turns or of repeats.
            most_log_bytes: of one file of requests.

        Raises:
            ConfigError: the folder cannot be written.
        """
        self.path = results / bundle.provenance.run
        try:
            self.path.mkdir(parents=True)
            self._requests = (self.path / _LOG).open("wb")
        except OSError as failed:
            raise ConfigError(
                f"--agentperf-results {results}: cannot write there: {failed}"
            ) from failed
        self._logs = 1
        self._most_log_bytes = most_log_bytes
        self._resumable = resumable
        self._encode = msgspec.json.Encoder().encode
        self.bundle = bundle
        self.save()

    @property
    def how_to_go_on(self) -> str:
        """Return, in words, what to do once what broke the run off is mended."""
        if not self._resumable:
            return "measure anew: a part of turns or repeats is no answer"
        return f"go on with --agentperf-resume={self.bundle.provenance.run}"

    def turns(self, phase: int, turns: Iterable[TurnRecord]) -> None:
        """Write requests that have ended, a line each."""
        rows = ({"phase": phase, **msgspec.to_builtins(turn)} for turn in turns)
        with self._written():
            # Whole lines at once: who reads along sees no half one, but for a full disk's.
            lines = b"".join(self._encode(row) + b"\n" for row in rows)
            if self._requests.tell() + len(lines) > self._most_log_bytes and self._requests.tell():
                self._requests.close()
                self._logs += 1
                self._requests = (self.path / f"requests-{self._logs}.jsonl").open("wb")
            self._requests.write(lines)
            self._requests.flush()

    def timeline(self, phase: int, seconds: Timeline) -> None:
        """Write what went on in each second of a phase."""
        with self._written(), (self.path / "timeline.jsonl").open("ab") as out:
            out.write(self._encode({"phase": phase, **msgspec.to_builtins(seconds)}) + b"\n")

    def profile(self, phase: int, profile: PhaseProfile) -> None:
        """Write what the requests of a phase say in sum."""
        row = {"phase": phase, **finite(msgspec.to_builtins(profile))}
        with self._written(), (self.path / "profiles.jsonl").open("ab") as out:
            out.write(self._encode(row) + b"\n")

    def token_counts(self, phase: int, rows: Iterable[TokenCount]) -> None:
        """Write what the local tokenizer counted, which is known only after the phase."""
        with self._written(), (self.path / "token_counts.jsonl").open("ab") as out:
            for count in rows:
                row = {"phase": phase, **msgspec.to_builtins(count)}
                out.write(self._encode(row) + b"\n")

    def update(self, **changes: Any) -> None:
        """Replace fields of the bundle and save it."""
        self.bundle = replace(self.bundle, **changes)
        self.save()

    def save(self) -> None:
        """Write ``bundle.json``, whole or not at all."""
        with self._written():
            with (self.path / "bundle.json.part").open("wb") as part:
                part.write(encode_bundle(self.bundle))
                part.flush()
                os.fsync(part.fileno())  # before its name: a power cut leaves the old one or this
            Path(part.name).replace(self.path / "bundle.json")

    @contextlib.contextmanager
    def _written(self) -> Generator[None]:
        try:
            yield
        except OSError as failed:
            raise StorageError(
                f"results cannot be written to {self.path}: {failed}; make room, and "
                f"{self.how_to_go_on}"
            ) from failed

    def close(self) -> None:
        """Write the last bundle and close the request log."""
        if self._requests.closed:
            return
        with contextlib.suppress(OSError):
            self._requests.close()
        self.update(provenance=replace(self.bundle.provenance, ended_at=now()))


def request_logs(folder: Path) -> tuple[Path, ...]:
    """Return the files of a run's requests in the order in which they were written."""
    further = {
        int(number): path
        for path in folder.glob("requests-*.jsonl")
        if (number := path.stem.removeprefix("requests-")).isdecimal()
    }
    return (folder / _LOG, *(path for _, path in sorted(further.items())))
