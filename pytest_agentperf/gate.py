"""The end of a session that measured: compare, tell the CI, and name the exit code."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.compare import Comparison, compare
from pytest_agentperf.gate_text import annotations, comparison_json, job_summary, one_line
from pytest_agentperf.outcome import Facts, Outcome, outcome
from pytest_agentperf.spread import Noise

__all__ = ["Compares", "Gate", "end", "tell"]

_NO_ANSWER = frozenset({"open", "invalid"})


class Compares(Protocol):
    """Knows what a run is compared with."""

    def compare(self, now: Bundle) -> Comparison:
        """Compare a run with it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The baseline of a session, accepted."""

    baseline: Bundle
    noise: Noise | None
    differences: tuple[str, ...]

    def compare(self, now: Bundle) -> Comparison:
        """Compare a run with the baseline."""
        return compare(self.baseline, now, noise=self.noise, differences=self.differences)


def end(
    gate: Compares | None, folder: Any, seen: Facts, *, wanted: bool
) -> tuple[Outcome, Comparison | None]:
    """Return what a session came to; its comparison is written beside its bundle.

    Args:
        gate: what to compare with; ``None`` without a baseline.
        folder: the `RunFolder`; ``None`` where nothing was measured.
        seen: what the tests came to, and why phases cannot be trusted that the folder may not hold.
        wanted: whether a comparison was asked for.
    """
    comparison = None
    if gate is not None and folder is not None:
        comparison = gate.compare(folder.bundle)
        (folder.path / "comparison.json").write_bytes(comparison_json(comparison))
    phases = folder.bundle.phases if folder is not None else ()
    capacities = folder.bundle.capacities if folder is not None else ()
    facts = replace(
        seen,
        invalid=[reasons for reasons in (*seen.invalid, *_never_trusted(phases)) if reasons],
        phases=len(phases),
        answers=sum(found.status not in _NO_ANSWER for found in capacities),
        comparison=comparison,
        lost="nothing was compared" if wanted and comparison is None else None,
    )
    return outcome(facts), comparison


def _never_trusted(phases: Sequence[PhaseResult]) -> list[Sequence[str]]:
    """Return why phases cannot be trusted, without those that were measured again and can."""
    good = {(p.model, p.agents): p.number for p in phases if not p.invalid}
    return [p.invalid for p in phases if p.number > good.get((p.model, p.agents), -1)]


def tell(
    found: Outcome,
    comparison: Comparison | None,
    folder: Any,
    *,
    ci_json: str | None,
    environ: Mapping[str, str] = os.environ,
    write_line: Callable[[str], None],
) -> None:
    """Tell a CI what a session came to: a job summary, annotations, one line of JSON."""
    bundle = folder.bundle if folder is not None else None
    if environ.get("GITHUB_ACTIONS") == "true":
        for line in annotations(found, comparison):
            write_line(line)
    if summary := environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as out:
            out.write(job_summary(found, bundle, comparison))
    if ci_json is not None:
        results = str(folder.path) if folder is not None else None
        line = one_line(found, bundle, comparison, results=results)
        if ci_json == "-":
            write_line(line)
        else:
            Path(ci_json).write_text(line + "\n", "utf-8")
