"""What a request asks of the simulator: its prompt, its blocks and how long the answer shall be.

A token is four bytes of text, in prompts and in answers alike. A prompt is what the request's
JSON says, byte for byte: the first message, the tools, then the other messages.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from random import Random
from struct import unpack
from typing import Any, TypeVar

import msgspec

__all__ = [
    "BYTES_PER_TOKEN",
    "ChatRequest",
    "PrefixHasher",
    "RefusedError",
    "count_tokens",
    "error_body",
    "prefix_blocks",
    "read_chat",
    "tokenize",
]

T = TypeVar("T")

BYTES_PER_TOKEN = 4
"""The simulator's whole tokenizer."""

_HASH_BYTES = 16
_SEED_BYTES = 128
_TOOL_CALL_RATIO = 0.3
_FEWEST_TOKENS_WITH_TOOL_CALL = 5
_OSL_MEDIAN_TOKENS = 150
_OSL_LOG_SIGMA = log(2000 / 150) / 1.645  # P95 at 2,000 tokens
_MOST_TOKEN_ID = 0x7FFF_FFFF
_KINDS = {
    400: "BadRequestError",
    401: "Unauthorized",
    404: "NotFoundError",
    503: "ServiceUnavailableError",
}


class RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.kind = kind or _KINDS.get(status, "HTTPException")


def error_body(error: RefusedError) -> bytes:
    """Return the JSON body in vLLM's shape."""
    if error.status == 401:  # noqa: PLR2004 # vLLM checks the key outside its own error handling
        return b'{"error":"Unauthorized"}'
    detail = {
        "message": str(error),
        "type": error.kind,
        "param": error.param,
        "code": error.status,
    }
    return msgspec.json.encode({"error": detail})


def count_tokens(text: bytes) -> int:
    """Return the length in tokens; a started token counts whole."""
    return -(-len(text) // BYTES_PER_TOKEN)


def prefix_blocks(text: bytes, block_tokens: int) -> tuple[bytes, ...]:
    """Return one hash for each full block, each chained to the one before it.

    Equal hashes therefore mean an equal text from the very beginning to the end of that block.
    """
    return PrefixHasher(block_tokens).blocks(text)


class PrefixHasher:
    """Hashes the prompts of one client, each only from where it leaves the one before it."""

    def __init__(self, block_tokens: int) -> None:
        self.block_bytes = block_tokens * BYTES_PER_TOKEN
        self._text = b""
        self._chain: tuple[bytes, ...] = ()

    def blocks(self, text: bytes) -> tuple[bytes, ...]:
        """Return what ``prefix_blocks`` returns."""
        size = self.block_bytes
        common = self._common_blocks(text)
        chain = list(self._chain[:common])
        last = chain[-1] if chain else b""
        for start in range(common * size, len(text) - size + 1, size):
            last = blake2b(last + text[start : start + size], digest_size=_HASH_BYTES).digest()
            chain.append(last)
        self._text, self._chain = text, tuple(chain)
        return self._chain

    def _common_blocks(self, text: bytes) -> int:
        """Return how many blocks begin both this text and the last one."""
        low, high = 0, min(len(text) // self.block_bytes, len(self._chain))
        if text.startswith(self._text):
            return high
        while low < high:
            middle = (low + high + 1) // 2
            piece = slice(low * self.block_bytes, middle * self.block_bytes)
            if text[piece] == self._text[piece]:
                low = middle
            else:
                high = middle - 1
        return low


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Prompt(msgspec.Struct):
    """What ``/tokenize`` and chat completions have in common."""

    model: str
    messages: list[msgspec.Raw]
    tools: msgspec.Raw = msgspec.Raw()


class _Text(msgspec.Struct):
    model: str
    prompt: str


class _Body(_Prompt):
    """The fields that matter here; a server accepts many more."""

    tool_choice: Any = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class _Function(msgspec.Struct):
    name: str


class _Tool(msgspec.Struct):
    function: _Function


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_prompt = msgspec.json.Decoder(_Prompt).decode
_decode_text = msgspec.json.Decoder(_Text).decode
_decode_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_tools = msgspec.json.Decoder(list[_Tool] | None).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A valid chat completion request."""

    model: str
    prompt_tokens: int
    blocks: tuple[bytes, ...]
    seed: int
    """The request's own, else one drawn from the end of its last message."""
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
    continuous_usage: bool
    """Usage on every event, and not only in one of its own at the end."""


def read_chat(
    body: bytes,
    *,
    osl_header: str | None,
    models: Collection[str],
    context_limit_tokens: int,
    hasher: PrefixHasher,
) -> ChatRequest:
    """Read the body of ``POST /v1/chat/completions``.

    ``osl_header`` is the length the answer shall have, in tokens; ``None`` draws one. ``hasher``
    is the client's own.

    Raises:
        RefusedError: what is wrong, in vLLM's words where it has some.
    """
    fields = _decode(_decode_body, body)
    prompt = _render(fields, models)
    tool_name = _tool_name(fields.tools)
    prompt_tokens = count_tokens(prompt)
    most_tokens = _most_output_tokens(fields, prompt_tokens, context_limit_tokens)
    planned_tokens = most_tokens
    if not fields.ignore_eos:
        wanted_tokens = _wanted_tokens(osl_header, bytes(fields.messages[-1]), most_tokens)
        planned_tokens = min(wanted_tokens, context_limit_tokens)
    calls = tool_name is not None and fields.tool_choice != "none"
    tool_call_tokens = _tool_call_tokens(planned_tokens) if calls else 0
    is_cut = fields.ignore_eos or planned_tokens > most_tokens
    options = fields.stream_options or _StreamOptions()
    return ChatRequest(
        model=fields.model,
        prompt_tokens=prompt_tokens,
        blocks=hasher.blocks(prompt),
        seed=_seed(bytes(fields.messages[-1])) if fields.seed is None else fields.seed,
        planned_tokens=planned_tokens,
        osl_tokens=min(planned_tokens, most_tokens),
        finish_reason="length" if is_cut else "tool_calls" if tool_call_tokens else "stop",
        tool_call_tokens=tool_call_tokens,
        tool_name=tool_name or "",
        stream=bool(fields.stream),
        include_usage=options.include_usage,
        continuous_usage=options.include_usage and options.continuous_usage_stats,
    )


def tokenize(body: bytes, *, models: Collection[str], context_limit_tokens: int) -> bytes:
    """Answer the body of ``POST /tokenize``, which holds a ``prompt`` or ``messages``.

    The id of a token is its four bytes, read as a little-endian number, without the highest bit.

    Raises:
        RefusedError: what is wrong.
    """
    if "prompt" in _decode(_decode_names, body):
        text = _decode(_decode_text, body)
        _check_model(text.model, models)
        prompt = text.prompt.encode()
    else:
        prompt = _render(_decode(_decode_prompt, body), models)
    count = count_tokens(prompt)
    numbers = unpack(f"<{count}I", prompt.ljust(count * BYTES_PER_TOKEN, b"\0"))
    return msgspec.json.encode(
        {
            "count": count,
            "max_model_len": context_limit_tokens,
            "tokens": [number & _MOST_TOKEN_ID for number in numbers],
            "token_strs": None,
        }
    )


def _decode(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise RefusedError(str(error), kind="Bad Request") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # As pydantic's list of errors prints in vLLM's message.
        message = (
            "[{'type': 'json_invalid', 'loc': ('body',), 'msg': 'JSON decode error', "
            f"'input': {{}}, 'ctx': {{'error': {str(error)!r}}}}}]"
        )
        raise RefusedError(message, kind="Bad Request") from error


def _check_model(model: str, models: Collection[str]) -> None:
    if model not in models:
        raise RefusedError(f"The model `{model}` does not exist.", status=404, param="model")


def _render(fields: _Prompt, models: Collection[str]) -> bytes:
    # Real templates put tools and system message first and together. The first message leads
    # here, so that a salt in it keeps everything behind it, tools too, out of the prefix cache.
    _check_model(fields.model, models)
    if not fields.messages:
        raise RefusedError("messages: List should have at least 1 item", param="messages")
    messages = [bytes(message) for message in fields.messages]
    if not all(message.startswith(b"{") for message in messages):
        raise RefusedError("messages: each must be an object", param="messages")
    return b"".join([messages[0], bytes(fields.tools), *messages[1:]])


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


def _wanted_tokens(osl_header: str | None, last_message: bytes, most_tokens: int) -> int:
    if osl_header is not None:
        if not osl_header.isdecimal() or int(osl_header) < 1:
            raise RefusedError(f"x-agentperf-osl must be at least 1, got {osl_header}.")
        return int(osl_header)
    # Only the last message: a salt in the first one must not change the answer's length.
    random = Random(blake2b(last_message).digest())  # nosec B311 # lengths, not secrets
    drawn = round(random.lognormvariate(log(_OSL_MEDIAN_TOKENS), _OSL_LOG_SIGMA))
    return max(1, min(drawn, most_tokens))


def _seed(last_message: bytes) -> int:
    # Its end only: a salt before it must not change which drafts are accepted.
    return int.from_bytes(blake2b(last_message[-_SEED_BYTES:], digest_size=8).digest())


def _tool_call_tokens(planned_tokens: int) -> int:
    if planned_tokens < _FEWEST_TOKENS_WITH_TOOL_CALL:
        return 0
    return max(2, round(_TOOL_CALL_RATIO * planned_tokens))


def _tool_name(tools: msgspec.Raw) -> str | None:
    """Return the name of the first tool; ``None`` when there is none."""
    if not bytes(tools):
        return None
    try:
        found = _decode_tools(tools)
    except msgspec.ValidationError as error:
        raise RefusedError("tools: function.name is required", param="tools") from error
    return found[0].function.name if found else None
