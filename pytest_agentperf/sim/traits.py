"""How the simulated server speaks, apart from how fast: the ways in which real servers differ."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import isfinite

from pytest_agentperf.sim.config import convert_fields

__all__ = ["Traits", "take_traits"]

_CHOICES = {
    "reasoning_field": (
        "reasoning", "reasoning_content", "reasoning_details", "content", "hidden",
    ),
    "usage": ("end", "every", "none", "last"),
    "role_chunk": ("alone", "bundled"),
    "stream": ("events", "whole"),
    "done": ("sent", "missing"),
    "cached_tokens": ("told", "absent"),
    "prefix_cache": ("on", "off"),
    "salt": ("kept", "ignored"),
    "tools": ("called", "refused", "as-text"),
    "tool_calls": ("pieces", "whole"),
    "max_tokens": ("kept", "refused", "ignored"),
    "ignore_eos": ("obeyed", "ignored", "refused"),
    "refusal": ("named", "silent"),
    "history": ("kept", "reasoning", "reasoning_content", "dropped"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the answers look like, and which of them are disturbed.

    Raises:
        ValueError: a field is none of its choices or out of range; names the field.
    """

    reasoning_field: str = "reasoning"
    """``reasoning`` as vLLM, ``reasoning_content`` as llama.cpp and older servers,
    ``reasoning_details`` as OpenRouter; ``content``: nothing parses it; ``hidden``: counted, but in
    a field that no client knows."""
    usage: str = "end"
    """``end``: in an event of its own after the last token, if the request asks for it; ``last``:
    in the event of the finish reason, asked for or not; ``every``: on every event, asked for or
    not; ``none``: never."""
    role_chunk: str = "alone"
    """``alone``: the role in an event of its own, just before the first token; ``bundled``: in the
    same delta as the first token."""
    stream: str = "events"
    """``whole``: an answer is never streamed, whatever the request asks for."""
    done: str = "sent"
    """``missing``: a stream ends without ``[DONE]``, as transformers' does."""
    cached_tokens: str = "told"
    """``absent``: usage says nothing of the prefix cache."""
    prefix_cache: str = "on"
    salt: str = "kept"
    """``ignored``: the cache does not see a line of digits before the first message."""
    tools: str = "called"
    """``refused``: a request with tools is, in vLLM's words; ``as-text``: calls come as content."""
    tool_calls: str = "pieces"
    """``whole``: a call comes in one event."""
    max_tokens: str = "kept"
    """``refused``: only ``max_completion_tokens`` is taken; ``ignored``: neither counts."""
    ignore_eos: str = "obeyed"
    history: str = "kept"
    """Message field whose reasoning the template writes into the prompt; ``kept``: any."""
    refuses: str = ""
    """A request that has this field is refused."""
    refusal: str = "named"
    """``silent``: such a refusal does not say why."""
    stream_interval: int = 1
    """Tokens of one event at least; the first token goes out at once, the last ones at the end."""
    stall_every: int = 0
    """Every n-th streamed answer pauses in its middle; 0: none does."""
    stall_s: float = 1.0
    reset_every: int = 0
    """Every n-th streamed answer is cut in its middle by a TCP reset; 0: none is."""

    @property
    def takes_all(self) -> bool:
        """Tell whether every request is taken as it is."""
        usual = (self.stream, self.salt, self.max_tokens, self.ignore_eos, self.history)
        return (
            usual == ("events", "kept", "kept", "obeyed", "kept")
            and self.tools != "refused"
            and not self.refuses
        )

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
