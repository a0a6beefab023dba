"""How the simulated server speaks, apart from how fast: the ways in which real servers differ."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import isfinite

from pytest_agentperf.sim.config import convert_fields

__all__ = ["Traits", "take_traits"]

_CHOICES = {
    "reasoning_field": ("reasoning", "reasoning_content"),
    "usage": ("end", "every", "none"),
    "role_chunk": ("alone", "bundled"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the answers look like, and which of them are disturbed.

    Raises:
        ValueError: a field is none of its choices or out of range; names the field.
    """

    reasoning_field: str = "reasoning"
    """``reasoning`` as vLLM, ``reasoning_content`` as llama.cpp and older servers."""
    usage: str = "end"
    """``end``: after the last token, if the request asks for it; ``every``: on every event, asked
    for or not; ``none``: never."""
    role_chunk: str = "alone"
    """``alone``: the role in an event of its own, just before the first token; ``bundled``: in the
    same delta as the first token."""
    stream_interval: int = 1
    """Tokens of one event at least; the first token goes out at once, the last ones at the end."""
    stall_every: int = 0
    """Every n-th streamed answer pauses in its middle; 0: none does."""
    stall_s: float = 1.0
    reset_every: int = 0
    """Every n-th streamed answer is cut in its middle by a TCP reset; 0: none is."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(choices)}"
                )
        if self.stream_interval < 1:
            raise ValueError(f"stream_interval is {self.stream_interval}, but must be 1 or more")
        for name in ("stall_every", "reset_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be 0 or more")
        if not (self.stall_s > 0 and isfinite(self.stall_s)):
            raise ValueError(f"stall_s is {self.stall_s}, but must be positive and finite")


def take_traits(pairs: Iterable[tuple[str, str]]) -> tuple[Traits, list[tuple[str, str]]]:
    """Take the pairs ``(field, text)`` that name a trait; return the traits and the other pairs.

    Raises:
        ValueError: a text is none of its field's type or choices; names the field.
    """
    pairs = list(pairs)
    names = {field.name for field in fields(Traits)}
    taken = convert_fields(Traits, [pair for pair in pairs if pair[0] in names])
    return Traits(**taken), [pair for pair in pairs if pair[0] not in names]
