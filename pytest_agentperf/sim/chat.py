"""What a chat completion request asks of the simulator, and its answer in vLLM's wire form.

A token is four bytes of text, in prompts and in answers alike. An answer is reasoning, then
content, then, if the request brought tools, one tool call.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from random import Random
from typing import Any

import msgspec

from pytest_agentperf.sim.engine import BYTES_PER_TOKEN, count_tokens, prefix_blocks

__all__ = ["Answer", "ChatRequest", "RefusedError", "error_body", "read_chat"]

_REASONING_RATIO = 0.4
_TOOL_CALL_RATIO = 0.3
_FEWEST_TOKENS_WITH_TOOL_CALL = 5
_OSL_MEDIAN_TOKENS = 150
_OSL_LOG_SIGMA = log(2000 / 150) / 1.645  # P95 at 2,000 tokens
_CREATED_S = 1_767_225_600  # a fixed date: the same request is answered with the same bytes
_WORDS = b" the test fails in one path so read that file then run it again and see what is new"


class RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


def error_body(error: RefusedError) -> bytes:
    """Return the JSON body in vLLM's shape."""
    kind = {400: "BadRequestError", 404: "NotFoundError"}.get(error.status, "HTTPException")
    detail = {"message": str(error), "type": kind, "param": error.param, "code": error.status}
    return msgspec.json.encode({"error": detail})


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    """The fields that matter here; a server accepts many more."""

    model: str
    messages: list[Any]
    tools: list[Any] | None = None
    tool_choice: Any = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A valid chat completion request."""

    model: str
    prompt_tokens: int
    blocks: tuple[bytes, ...]
    planned_tokens: int
    """Length of the whole answer."""
    osl_tokens: int
    """Length of what is sent of it: less when ``max_tokens`` cuts it."""
    finish_reason: str
    tool_call_tokens: int
    """Last tokens of the planned answer that make up the tool call, its name one of them."""
    tool_name: str
    stream: bool
    include_usage: bool


def read_chat(
    body: bytes, *, osl_header: str | None, models: Collection[str], context_limit_tokens: int
) -> ChatRequest:
    """Read the body of ``POST /v1/chat/completions``.

    ``osl_header`` is the length the answer shall have, in tokens; ``None`` draws one.

    Raises:
        RefusedError: what is wrong, in vLLM's words where it has some.
    """
    fields = _decode(body)
    if fields.model not in models:
        message = f"The model `{fields.model}` does not exist."
        raise RefusedError(message, status=404, param="model")
    prompt = _render(fields.messages, fields.tools)
    prompt_tokens = count_tokens(prompt)
    most_tokens = _most_output_tokens(fields, prompt_tokens, context_limit_tokens)
    planned_tokens = most_tokens
    if not fields.ignore_eos:
        wanted_tokens = _wanted_tokens(osl_header, fields.messages[-1], most_tokens)
        planned_tokens = min(wanted_tokens, context_limit_tokens)
    tool_call_tokens = 0
    if fields.tools and fields.tool_choice != "none":
        tool_call_tokens = _tool_call_tokens(planned_tokens)
    is_cut = fields.ignore_eos or planned_tokens > most_tokens
    return ChatRequest(
        model=fields.model,
        prompt_tokens=prompt_tokens,
        blocks=prefix_blocks(prompt),
        planned_tokens=planned_tokens,
        osl_tokens=min(planned_tokens, most_tokens),
        finish_reason="length" if is_cut else "tool_calls" if tool_call_tokens else "stop",
        tool_call_tokens=tool_call_tokens,
        tool_name=_tool_name(fields.tools),
        stream=bool(fields.stream),
        include_usage=fields.stream_options is not None and fields.stream_options.include_usage,
    )


def _decode(body: bytes) -> _Body:
    try:
        fields = msgspec.json.decode(body, type=_Body)
    except msgspec.ValidationError as error:
        raise RefusedError(str(error)) from error
    except msgspec.DecodeError as error:
        raise RefusedError(f"JSON decode error: {error}") from error
    if not fields.messages:
        raise RefusedError("messages: List should have at least 1 item", param="messages")
    return fields


def _render(messages: Sequence[Any], tools: Any) -> bytes:
    # Real templates put tools and system message first and together. The first message leads
    # here, so that a salt in it keeps everything behind it, tools too, out of the prefix cache.
    encode = msgspec.json.encode
    return b"".join([encode(messages[0]), encode(tools), *map(encode, messages[1:])])


def _most_output_tokens(fields: _Body, prompt_tokens: int, limit_tokens: int) -> int:
    most = fields.max_completion_tokens
    if most is None:
        most = fields.max_tokens
    if most is None:
        most = max(1, limit_tokens - prompt_tokens)
    if most < 1:
        raise RefusedError(f"max_tokens must be at least 1, got {most}.", param="max_tokens")
    if prompt_tokens + most > limit_tokens:
        raise RefusedError(
            f"This model's maximum context length is {limit_tokens} tokens. However, you "
            f"requested {most} output tokens and your prompt contains {prompt_tokens} input "
            f"tokens, for a total of {prompt_tokens + most} tokens. Please reduce the length of "
            "the input prompt or the number of requested output tokens.",
            param="input_tokens",
        )
    return most


def _wanted_tokens(osl_header: str | None, last_message: Any, most_tokens: int) -> int:
    if osl_header is not None:
        if not osl_header.isdecimal() or int(osl_header) < 1:
            raise RefusedError(f"x-agentperf-osl must be at least 1, got {osl_header}.")
        return int(osl_header)
    # Only the last message: a salt in the first one must not change the answer's length.
    random = Random(blake2b(msgspec.json.encode(last_message)).digest())
    drawn = round(random.lognormvariate(log(_OSL_MEDIAN_TOKENS), _OSL_LOG_SIGMA))
    return max(1, min(drawn, most_tokens))


def _tool_call_tokens(planned_tokens: int) -> int:
    if planned_tokens < _FEWEST_TOKENS_WITH_TOOL_CALL:
        return 0
    return max(2, round(_TOOL_CALL_RATIO * planned_tokens))


def _tool_name(tools: Sequence[Any] | None) -> str:
    try:
        return str(tools[0]["function"]["name"]) if tools else ""
    except (KeyError, TypeError) as error:
        raise RefusedError("tools: function.name is required", param="tools") from error


def _text(tokens: int) -> bytes:
    size = tokens * BYTES_PER_TOKEN
    return (_WORDS * (size // len(_WORDS) + 1))[:size]


def _arguments(tokens: int) -> bytes:
    """Return a JSON object of that many tokens."""
    if tokens < 5:  # noqa: PLR2004 # no room for a member
        return b"{}".ljust(tokens * BYTES_PER_TOKEN)
    return b'{"cmd":"' + _text(tokens - 3) + b'" } '


class Answer:
    """The answer to one request: pieces for a stream, or the whole of it.

    Everything that does not change from chunk to chunk is encoded once, here.
    """

    def __init__(self, request: ChatRequest, number: int) -> None:
        self.request = request
        self.id = f"chatcmpl-{number:016x}"
        spoken = request.planned_tokens - request.tool_call_tokens
        self._reasoning_tokens = min(spoken, round(_REASONING_RATIO * request.planned_tokens))
        self._spoken_tokens = spoken
        self._spoken = _text(spoken)
        self._arguments = _arguments(max(0, request.tool_call_tokens - 1))
        self._tool_call_id = f"chatcmpl-tool-{number:016x}"
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": _CREATED_S,
            "model": request.model,
        }
        self._head = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['

    def events(self, start: int, end: int, cached_tokens: int) -> bytes:
        """Return the events that carry the answer's tokens from ``start`` to ``end``.

        The role comes with the first token; the finish reason, the usage and ``[DONE]`` come with
        the last one.
        """
        role = self._choice(b'{"role":"assistant","content":""}') if start == 0 else b""
        tokens = self._choice(self._delta(start, end))
        if end < self.request.osl_tokens:
            return role + tokens
        usage = b""
        if self.request.include_usage:
            usage = self._head + b'],"usage":' + self._usage(cached_tokens) + b"}\n\n"
        finish = self._choice(b"{}", b'"' + self.request.finish_reason.encode() + b'"')
        return role + tokens + finish + usage + b"data: [DONE]\n\n"

    def whole(self, cached_tokens: int) -> bytes:
        """Return the body of an answer that is not streamed."""
        request = self.request
        spoken_bytes = min(self._spoken_tokens, request.osl_tokens) * BYTES_PER_TOKEN
        reasoning_bytes = min(self._reasoning_tokens, request.osl_tokens) * BYTES_PER_TOKEN
        call_tokens = request.osl_tokens - self._spoken_tokens
        arguments = self._arguments[: max(0, call_tokens - 1) * BYTES_PER_TOKEN].decode()
        function = {"name": request.tool_name, "arguments": arguments}
        call = {"id": self._tool_call_id, "type": "function", "function": function}
        message = {
            "role": "assistant",
            "content": self._spoken[reasoning_bytes:spoken_bytes].decode() or None,
            "reasoning": self._spoken[:reasoning_bytes].decode() or None,
            "tool_calls": [call] if call_tokens > 0 else [],
        }
        choice = {"index": 0, "message": message, "finish_reason": request.finish_reason}
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": _CREATED_S,
                "model": request.model,
                "choices": [choice],
                "usage": msgspec.Raw(self._usage(cached_tokens)),
            }
        )

    def _choice(self, delta: bytes, finish_reason: bytes = b"null") -> bytes:
        form = b'%b{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
        return form % (self._head, delta, finish_reason)

    def _delta(self, start: int, end: int) -> bytes:
        """Return one delta; a burst that crosses a border holds pieces of both sides."""
        reasoning_end, spoken_end = self._reasoning_tokens, self._spoken_tokens
        pieces: list[bytes] = []
        if start < reasoning_end:
            pieces.append(b'"reasoning":"%b"' % self._words(start, min(end, reasoning_end)))
        if start < spoken_end and end > reasoning_end:
            words = self._words(max(start, reasoning_end), min(end, spoken_end))
            pieces.append(b'"content":"%b"' % words)
        if end > spoken_end:
            pieces.append(self._tool_call(start - spoken_end, end - spoken_end))
        return b"{%b}" % b",".join(pieces)

    def _words(self, start: int, end: int) -> bytes:
        return self._spoken[start * BYTES_PER_TOKEN : end * BYTES_PER_TOKEN]

    def _tool_call(self, start: int, end: int) -> bytes:
        """Return the part of the call between two of its tokens, of which the first is its name."""
        piece = self._arguments[max(0, start - 1) * BYTES_PER_TOKEN : (end - 1) * BYTES_PER_TOKEN]
        function: dict[str, str] = {}
        call: dict[str, Any] = {"index": 0}
        if start <= 0:
            call |= {"id": self._tool_call_id, "type": "function"}
            function["name"] = self.request.tool_name
        if piece:
            function["arguments"] = piece.decode()
        return b'"tool_calls":[%b]' % msgspec.json.encode(call | {"function": function})

    def _usage(self, cached_tokens: int) -> bytes:
        request = self.request
        return msgspec.json.encode(
            {
                "prompt_tokens": request.prompt_tokens,
                "total_tokens": request.prompt_tokens + request.osl_tokens,
                "completion_tokens": request.osl_tokens,
                "prompt_tokens_details": {"cached_tokens": cached_tokens},
                "completion_tokens_details": {
                    "reasoning_tokens": min(self._reasoning_tokens, request.osl_tokens)
                },
            }
        )
