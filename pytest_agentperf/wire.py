"""The bytes of a chat completion request.

Messages are encoded once and joined per request, so that a prompt costs a copy and not a
serialisation, and equal messages are equal bytes, which keeps the server's prefix cache honest.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pytest_agentperf.trajectory import Message

__all__ = ["MAX_TOKENS", "Body", "ChatEncoder", "encode_message", "joined", "split_message"]

Body = bytes | Sequence[bytes | memoryview]
"""Of a request: whole, or in pieces that nobody has to join to send them."""

MAX_TOKENS = ("max_tokens", "max_completion_tokens")
"""What servers call the cap on an answer; some take only one of the two."""

_json = msgspec.json.Encoder().encode
_PER_REQUEST = ("tools", "ignore_eos")
"""Fields that a request may bring its own value for; a key that stood twice is an error to some."""
_ANY_SALT = "0 0"


def encode_message(message: Message, reasoning_field: str, *, salt: str = "") -> bytes:
    """Encode one message, with the salt on a line of its own before its content.

    Args:
        message: as recorded.
        reasoning_field: message field in which recorded reasoning goes back.
        salt: nothing when empty.
    """
    fields: dict[str, Any] = {"role": message.role, "content": _salted(message.content, salt)}
    if message.reasoning is not None:
        fields[reasoning_field] = message.reasoning
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        fields["name"] = message.name
    return _json(fields)


def split_message(message: Message, reasoning_field: str) -> tuple[bytes, bytes]:
    """Encode one message in two parts, for a salt of digits and blanks to be put between."""
    encoded = encode_message(message, reasoning_field, salt=_ANY_SALT)
    # The role stands before the content, and may be any text.
    seam = encoded.index(_ANY_SALT.encode(), len(_json({"role": message.role})) - 1)
    return encoded[:seam], encoded[seam + len(_ANY_SALT) :]


def joined(body: Body) -> bytes:
    """Return a body as one piece."""
    return body if isinstance(body, bytes) else b"".join(body)


class ChatEncoder:
    """Encode requests for one model."""

    def __init__(
        self,
        *,
        model: str,
        request: Mapping[str, Any],
        max_tokens: int,
        output: str,
        max_tokens_field: str = MAX_TOKENS[0],
    ) -> None:
        """Fix what all requests share.

        Args:
            model: name as the server knows it.
            request: further body fields, such as sampling; ours win over theirs.
            max_tokens: cap of one answer.
            output: ``natural``, ``recorded`` (recorded length as cap) or ``exact`` (and no less).
            max_tokens_field: what the server calls that cap.
        """
        self._max_tokens_field = max_tokens_field
        self._max_tokens = max_tokens
        self._output = output
        fields = {
            **request,
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._tail = {key: fields.pop(key) for key in _PER_REQUEST if key in fields}
        for key in ("messages", *MAX_TOKENS):
            fields.pop(key, None)
        self._head = _json(fields)[:-1] + b',"messages":['

    def pieces(
        self,
        messages: Iterable[bytes | memoryview],
        tools: bytes | memoryview,
        recorded_osl_tokens: int | None,
    ) -> list[bytes | memoryview]:
        """Return a request body in pieces: a long prompt is not copied to be sent.

        Args:
            messages: one or more of them each, with commas between.
            tools: tool schemas as JSON; nothing where there are none.
            recorded_osl_tokens: length of the recorded answer, where that is known.
        """
        pieces: list[bytes | memoryview] = [self._head]
        for message in messages:
            pieces += (message, b",")
        if len(pieces) > 1:
            pieces.pop()
        return [*pieces, self._end(tools, recorded_osl_tokens)]

    def body(
        self,
        messages: Iterable[bytes | memoryview],
        tools: bytes | memoryview,
        recorded_osl_tokens: int | None,
    ) -> bytes:
        """Return a request body as one piece; see `pieces`."""
        return joined(self.pieces(messages, tools, recorded_osl_tokens))

    def _end(self, tools: bytes | memoryview, recorded_osl_tokens: int | None) -> bytes:
        tail: dict[str, Any] = {self._max_tokens_field: self._max_tokens, **self._tail}
        if self._output != "natural" and recorded_osl_tokens:
            tail[self._max_tokens_field] = min(recorded_osl_tokens, self._max_tokens)
            if self._output == "exact":
                tail["ignore_eos"] = True
        if tools:
            tail["tools"] = msgspec.Raw(tools)
        return b"]," + _json(tail)[1:]


def _salted(
    content: str | list[dict[str, Any]] | None, salt: str
) -> str | list[dict[str, Any]] | None:
    if not salt:
        return content
    if isinstance(content, list):
        return [{"type": "text", "text": salt + "\n"}, *content]
    return f"{salt}\n{content or ''}"
