"""What precedes a phase, as values: a warm-up before a model's first one, a rest before each."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Rest", "WarmUp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What came before a phase."""

    waited_s: float
    idle: bool
    """The server was; else the wait was as long as it may be."""
    evidence: Literal["metrics", "canary", "none"]
    text: str
    """What was seen last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """What a model was sent before its first phase, none of it of the dataset."""

    model: str
    agents: int
    seconds: float
    requests: int
    failed: int
    first_ttft_s: float | None
    """Median of the first requests, one an agent."""
    last_ttft_s: float | None
    """Median of as many at the end."""
    sent_in: str | None = None
    """The earlier run that sent it, before phases that are taken over; ``None``: this one."""
