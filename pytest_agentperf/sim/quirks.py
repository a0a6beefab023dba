"""What a server of other habits makes of a request: refuses it, or reads it differently."""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import msgspec

from pytest_agentperf.sim.chat import ChatRequest, PrefixHasher, RefusedError, read_chat
from pytest_agentperf.sim.traits import Traits

__all__ = ["read_as"]

_SALT = re.compile(r"\A\d(?: \d)*\n")
_REASONING = ("reasoning", "reasoning_content")
_IGNORED = {
    "max_tokens": ("max_tokens", "max_completion_tokens"),
    "ignore_eos": ("ignore_eos",),
}


def read_as(
    traits: Traits,
    body: bytes,
    *,
    osl_header: str | None,
    models: Collection[str],
    context_limit_tokens: int,
    hasher: PrefixHasher,
) -> ChatRequest:
    """Read a request as a server with these traits does; see `chat.read_chat`.

    Raises:
        RefusedError: it is not valid, or of a kind that this server does not take.
    """
    chat = read_chat(
        body if traits.takes_all else _as_taken(traits, body),
        osl_header=osl_header,
        models=models,
        context_limit_tokens=context_limit_tokens,
        hasher=hasher,
    )
    if traits.tools == "as-text" and chat.finish_reason == "tool_calls":
        chat = replace(chat, finish_reason="stop")
    return chat if traits.prefix_cache == "on" else replace(chat, blocks=())


def _as_taken(traits: Traits, body: bytes) -> bytes:
    try:
        fields: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body  # read_chat says what is wrong with it
    _refuse(traits, fields)
    left_out = _IGNORED["max_tokens"] if traits.max_tokens == "ignored" else ()
    left_out += _IGNORED["ignore_eos"] if traits.ignore_eos == "ignored" else ()
    for name in left_out:
        fields.pop(name, None)
    if traits.stream == "whole":
        fields["stream"] = False
    fields["messages"] = _as_templated(traits, fields.get("messages") or [])
    return msgspec.json.encode(fields)


def _as_templated(traits: Traits, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with what the template and the cache see of them."""
    dropped = [f for f in _REASONING if traits.history not in {"kept", f}]
    seen = [{k: v for k, v in message.items() if k not in dropped} for message in messages]
    if traits.salt == "ignored" and seen and isinstance(seen[0].get("content"), str):
        seen[0]["content"] = _SALT.sub("", seen[0]["content"])
    return seen


def _refuse(traits: Traits, fields: dict[str, Any]) -> None:
    if traits.refuses and traits.refuses in fields:
        is_named = traits.refusal == "named"
        why = f"Unexpected fields in the request: {{{traits.refuses!r}}}"
        raise RefusedError(why if is_named else "Bad request")
    if traits.tools == "refused" and fields.get("tools"):
        raise RefusedError(
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        )
    if traits.max_tokens == "refused" and "max_tokens" in fields:
        raise RefusedError(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead."
        )
    if traits.ignore_eos == "refused" and "ignore_eos" in fields:
        raise RefusedError("Unexpected fields in the request: {'ignore_eos'}")
