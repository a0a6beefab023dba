"""One event of a streamed answer, as servers write it in JSON; and what an error's body says."""

import re
from typing import Any

import msgspec

from pytest_agentperf.foreign import one_line

__all__ = [
    "Choice",
    "Chunk",
    "Delta",
    "Detail",
    "MalformedEventError",
    "ToolCall",
    "Usage",
    "decode_chunk",
    "message_of",
]

_MOST_MESSAGE_BYTES = 65_536
_MOST_REASON_CHARS = 300
_ECHO = re.compile(r"""(?:(['"])input\1: ?|\binput_value=).*""", re.DOTALL)
"""From here on a fault of FastAPI or Pydantic that is printed into a message quotes the request."""
_LEFT_OUT = "(what was sent is left out)"


class MalformedEventError(Exception):
    """An event that is no chunk of an answer; says why."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    """A piece of one call."""

    id: str | None = None
    function: _Function | None = None


class Detail(msgspec.Struct, gc=False):
    """A piece of reasoning, as OpenRouter writes it."""

    text: str | None = None
    summary: str | None = None


class Delta(msgspec.Struct, gc=False):
    """What one event adds."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[Detail] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct, gc=False):
    """One answer of those asked for, of which there is one."""

    delta: Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Token counts as the server reports them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk, strict=False).decode


def decode_chunk(data: bytes) -> Chunk:
    """Decode the payload of one event.

    Raises:
        MalformedEventError: it is no chunk.
    """
    try:
        return _decode(data)
    except RecursionError:
        raise MalformedEventError("nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        raise MalformedEventError(one_line(str(broken))) from None


def message_of(body: bytes) -> str:
    """Find the human part of an error body; servers use four shapes, lists and plain text.

    What it quotes of the request is left out: prompts belong into no report.
    """
    try:
        found: Any = msgspec.json.decode(body[:_MOST_MESSAGE_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:_MOST_MESSAGE_BYTES].decode("utf-8", "replace").strip()
        return one_line(_ECHO.sub(_LEFT_OUT, text))[:_MOST_REASON_CHARS] or "(no body)"
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]  # pyright: ignore[reportUnknownVariableType] foreign JSON
    try:
        text = _of_list(found) if isinstance(found, list) else str(found)  # pyright: ignore[reportUnknownArgumentType] foreign JSON
    except RecursionError:
        return "(nested too deep)"
    return one_line(_ECHO.sub(_LEFT_OUT, text))[:_MOST_REASON_CHARS]


def _of_list(details: list[Any]) -> str:
    """Return where each of several faults is, and what it is; never the request they quote."""
    return "; ".join(_of_detail(each) for each in details)


def _of_detail(detail: Any) -> str:
    if not isinstance(detail, dict):
        return str(detail)
    told: dict[str, Any] = detail  # pyright: ignore[reportUnknownVariableType] foreign JSON
    place = told.get("loc", ())
    where = ".".join(map(str, place)) if isinstance(place, list) else str(place or "")  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] foreign JSON
    return ": ".join(text for text in (where, str(told.get("msg", "no message"))) if text)
