"""How a server speaks, as its answers show it: no name and no version is asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pytest_agentperf.sse import SSEDecoder
from pytest_agentperf.wire import MAX_TOKENS

__all__ = ["REASONING_FIELDS", "Dialect", "Heard", "ToolCalls", "hear"]

REASONING_FIELDS = ("reasoning", "reasoning_content", "reasoning_details")
"""Where servers put reasoning, in a delta as in a message."""

Usage = Literal["its own event", "the last event", "every event", "none"]
ToolCalls = Literal["pieces", "whole", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What is known of a server's speech before the load, and what the load adopts of it."""

    max_tokens_field: str = MAX_TOKENS[0]
    """Request field that caps an answer."""
    history_field: str | None = None
    """Message field in which recorded reasoning goes back; ``None``: the tier file's."""
    reasoning_fields: tuple[str, ...] = ()
    """Fields of a delta in which reasoning came."""
    usage: Usage = "none"
    tool_calls: ToolCalls = "none"
    done: bool = False
    """Streams end with ``[DONE]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one answer showed."""

    events: int
    """0: it was no stream."""
    reasoning_fields: tuple[str, ...]
    usage: Usage
    tool_calls: ToolCalls
    done: bool


def hear(reads: Iterable[bytes]) -> Heard:
    """Return what the bytes of an answer show of the server's speech."""
    decoder = SSEDecoder()
    data = [event for read in reads for event in decoder.feed(read)] + decoder.close()
    events = [event for event in map(_object, data) if event is not None]
    deltas = [delta for event in events for delta in _deltas(event)]
    return Heard(
        events=len(data),
        reasoning_fields=tuple(f for f in REASONING_FIELDS if any(d.get(f) for d in deltas)),
        usage=_usage(events),
        tool_calls=_tool_calls(deltas),
        done=any(event.strip() == b"[DONE]" for event in data),
    )


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for c in event.get("choices") or () if isinstance(c, dict)]


def _deltas(event: dict[str, Any]) -> list[dict[str, Any]]:
    return [c["delta"] for c in _choices(event) if isinstance(c.get("delta"), dict)]


def _usage(events: list[dict[str, Any]]) -> Usage:
    told = [event for event in events if event.get("usage")]
    if not told:
        return "none"
    if len(told) > 1 and len(told) >= sum(bool(_choices(event)) for event in events):
        return "every event"
    # Some gateways put a choice beside it that holds nothing.
    holds = any(choice.get("finish_reason") or choice.get("delta") for choice in _choices(told[-1]))
    return "the last event" if holds else "its own event"


def _tool_calls(deltas: list[dict[str, Any]]) -> ToolCalls:
    calls: list[Any] = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    functions = [c["function"] for c in calls if isinstance(c, dict) and c.get("function")]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] foreign JSON
    if not functions:
        return "none"
    named = [f for f in functions if isinstance(f, dict) and f.get("name")]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] foreign JSON
    return "whole" if len(named) == len(functions) else "pieces"  # pyright: ignore[reportUnknownArgumentType] foreign JSON
