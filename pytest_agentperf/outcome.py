"""What a session came to: one cause, one exit code, and one line for whoever is called at night."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_agentperf import words
from pytest_agentperf.change import CAPACITY, REUSE
from pytest_agentperf.compare import Comparison, Row
from pytest_agentperf.foreign import plain

__all__ = [
    "INVALID",
    "MISSED",
    "UNREACHABLE",
    "Cause",
    "Facts",
    "Outcome",
    "change_text",
    "interval_text",
    "outcome",
    "row_text",
]

MISSED = 1
"""pytest's own code of failed tests: a tier was missed, or a figure regressed."""
INVALID = 10
"""Nothing can be said: a phase could not be trusted, or a figure is missing."""
UNREACHABLE = 11
"""The endpoint was down or cannot be used."""

Cause = Literal[
    "passed",
    "server regressed",
    "slo missed",
    "client too slow",
    "endpoint down",
    "server changed",
    "no answer",
    "not comparable",
    "unclear",
]
_CLIENT = ("client ", "schedule slip", "simulator late steps")
_STOPPED = "the endpoint stopped answering"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a session knows at its end."""

    missed: Sequence[str] = ()
    """Tests that measure and failed by what they measured."""
    unmeasured: Sequence[str] = ()
    """Tests without an answer, and why."""
    down: str | None = None
    """Why the endpoint cannot be used."""
    is_other: bool = False
    """That is because another server answers there."""
    invalid: Sequence[Sequence[str]] = ()
    """Why phases cannot be trusted, each ``CHECK: TEXT``; the last phase last."""
    phases: int = 0
    """How many were measured."""
    answers: int = 0
    """Of tiers, whatever they are."""
    comparison: Comparison | None = None
    lost: str | None = None
    """Why a comparison that was asked for could not be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a session."""

    cause: Cause
    code: int
    line: str


def outcome(facts: Facts) -> Outcome:
    """Return what a session came to; what is certain about the server comes before gaps."""
    compared = facts.comparison
    if facts.down is not None:
        cause: Cause = "server changed" if facts.is_other else "endpoint down"
        return _outcome(cause, UNREACHABLE, facts.down)
    if compared is not None and compared.of("regressed"):
        rows = sorted(compared.of("regressed"), key=_place)
        rest = len(rows) - 1
        more = f", and {rest} more figure{'s' if rest > 1 else ''}" if rest else ""
        return _outcome("server regressed", MISSED, f"{row_text(rows[0])}{more}")
    if facts.missed:
        return _outcome("slo missed", MISSED, "; ".join(facts.missed))
    if facts.unmeasured:
        return _no_answer(facts)
    return _compared(facts)


def _place(row: Row) -> int:
    """Put a cause before what it does: a cache that lost its prefixes, figures, a capacity."""
    return {REUSE.name: 0, CAPACITY.name: 2}.get(row.figure.name, 1)


def _no_answer(facts: Facts) -> Outcome:
    """Return why tests have no answer: what came last is what left them without."""
    for reasons in reversed(facts.invalid):
        stopped = next((reason for reason in reasons if _STOPPED in reason), None)
        if stopped is not None:
            return _outcome("endpoint down", UNREACHABLE, stopped.partition(": ")[2])
        late = next((reason for reason in reasons if reason.startswith(_CLIENT)), None)
        if late is not None:
            said = f"this says nothing of the server: {late}"
            return _outcome("client too slow", INVALID, said)
    test = facts.unmeasured[0].partition("\n")[0]
    why = f" {facts.invalid[-1][-1]}" if facts.invalid and test.endswith(":") else ""
    return _outcome("no answer", INVALID, test + why)


def _compared(facts: Facts) -> Outcome:
    compared = facts.comparison
    if facts.lost is not None:
        return _outcome("not comparable", INVALID, facts.lost)
    if compared is None:
        return _outcome("passed", 0, _unchecked(facts))
    gaps = compared.of("not comparable")
    if gaps or not compared.rows:
        said = "; ".join(row.reason for row in gaps) or "nothing was measured that could be"
        return _outcome("not comparable", INVALID, said)
    if compared.verdict == "unclear":
        return _outcome("unclear", INVALID, "no figure is sure enough to tell; measure the noise")
    unclear = len(compared.of("unclear"))
    rest = f", {unclear} unclear" if unclear else ""
    figures = len(compared.rows) - unclear
    said = f"nothing regressed against {compared.baseline}: {figures} figures held{rest}"
    return _outcome("passed", 0, said)


def _unchecked(facts: Facts) -> str:
    """Say what was held against nothing; tests that were skipped or may fail ask for nothing."""
    if facts.answers:
        return "every tier carries what was asked"
    if not facts.phases:
        return "nothing was measured"
    return f"no tier was asked about; phases measured: {facts.phases}"


def row_text(row: Row) -> str:
    """Return ``P25 speed at 40 agents 22.3 -> 21.1 tok/s (−5.2 %, −6.8 to −3.5 %)``."""
    figure = row.figure
    where = f" at {row.agents} agents" if row.agents is not None else f" of {row.tiers[0]}"
    if row.labels is not None:
        values = " -> ".join(row.labels)
    else:
        values = " -> ".join(
            words.number(reading.value) if reading else "missing"
            for reading in (row.before, row.now)
        )
    changed = f" ({change_text(row)}, {interval_text(row)})" if row.change is not None else ""
    reason = f": {row.reason}" if row.reason else ""
    return f"{figure.title}{where} {values} {figure.unit}{changed}{reason}"


def change_text(row: Row) -> str:
    """Return ``−5.2 %``; ``-`` where there is no change to tell."""
    return "-" if row.change is None else f"{_percent(row.change.ratio)} %"


def interval_text(row: Row) -> str:
    """Return ``−6.8 to −3.5 %``; ``-`` where there is none."""
    if row.change is None:
        return "-"
    return f"{_percent(row.change.low)} to {_percent(row.change.high)} %"


def _percent(ratio: float) -> str:
    if ratio in {float("inf"), float("-inf")}:
        return "∞"
    return f"{round(ratio * 100, 1) + 0.0:+.1f}".replace("-", "−")


def _outcome(cause: Cause, code: int, said: str) -> Outcome:
    return Outcome(cause=cause, code=code, line=f"{cause.upper()}: {plain(' '.join(said.split()))}")
