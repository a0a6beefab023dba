"""What a preflight saw of one model: a line for each thing that a run needs of its server."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pytest_agentperf.dialect import Dialect
from pytest_agentperf.mends import mend
from pytest_agentperf.plan import Demands
from pytest_agentperf.slo import ModelSpec

__all__ = ["Line", "Needs", "Observed", "State"]

State = Literal["ok", "missing", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that was looked for."""

    name: str
    state: State
    text: str
    """What was seen."""
    mend: str = ""
    """What brings it, where it is missing: usually a flag of the server."""
    refuses: bool = False
    """Without it no number can be trusted: there is no load."""

    def __str__(self) -> str:
        mend = f"; {self.mend}" if self.mend and self.state != "ok" else ""
        return f"{self.state:<7} {self.name}: {self.text}{mend}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run needs of its server for one model, and what the server tells without asking."""

    spec: ModelSpec
    demands: Demands
    max_tokens: int
    output: str = "natural"
    salted: bool = True
    counts_locally: bool = False
    """A tokenizer is given."""
    first_chunk: bool = False
    """A tier is judged by first-chunk speed."""
    served: tuple[str, ...] = ()
    limit_tokens: int | None = None
    """Longest context that the server tells."""
    engine: str | None = None
    key: str = "preflight"
    """New for each run, where the server may remember an earlier one."""
    prefix_hits: Callable[[], float | None] = lambda: None
    """The server's own count of what it found in its prefix cache."""

    def line(
        self, name: str, state: State, text: str, *, mends: str | None = None, refuses: bool = False
    ) -> Line:
        """Return a line; the mend of what is not ok is the server's flag, if none is given."""
        mends = mend(name, self.engine) if mends is None else mends
        return Line(
            name=name,
            state=state,
            text=" ".join(text.split()),
            mend="" if state == "ok" else mends,
            refuses=refuses,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One model, seen before the load."""

    model: str
    lines: tuple[Line, ...]
    dialect: Dialect
    requests: int
    took_s: float = 0.0
    """In the endpoint's own time."""

    @property
    def refused(self) -> tuple[Line, ...]:
        """What forbids a load."""
        return tuple(line for line in self.lines if line.refuses)

    @property
    def refusal(self) -> str:
        """Return, in words, what forbids a load."""
        return "; ".join(
            f"{x.text}{'; ' + x.mend if x.mend else ''} ({x.name})" for x in self.refused
        )

    def line(self, name: str) -> Line | None:
        """Return a line by name; ``None``: it was not asked."""
        return next((line for line in self.lines if line.name == name), None)
