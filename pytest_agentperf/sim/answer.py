"""An answer in vLLM's wire form, event by event: reasoning, then content, then a tool call.

It knows neither sockets nor a clock: it is told how many tokens there are and what time it is, and
returns the bytes that are due.
"""

from itertools import count
from math import inf
from typing import Any

import msgspec

from pytest_agentperf.sim.chat import BYTES_PER_TOKEN, ChatRequest
from pytest_agentperf.sim.traits import Traits

__all__ = ["Answer", "Speaker"]

_REASONING_RATIO = 0.4
_CREATED_S = 1_767_225_600  # a fixed date: the same request is answered with the same bytes
_WORDS = b" the test fails in one path so read that file then run it again and see what is new"
_DONE = b"data: [DONE]\n\n"
_FEWEST_TOKENS_WITH_MEMBER = 5


class Speaker:
    """Plans the answers, numbers them, and picks those that are disturbed."""

    def __init__(self, traits: Traits) -> None:
        self.traits = traits
        self._numbers = count(1)
        self._stream_numbers = count(1)

    def answer(self, request: ChatRequest) -> "Answer":
        """Return the answer to a request, of which nothing is sent yet."""
        traits, stalls, resets = self.traits, False, False
        if request.stream:
            number = next(self._stream_numbers)
            stalls = traits.stall_every > 0 and number % traits.stall_every == 0
            resets = traits.reset_every > 0 and number % traits.reset_every == 0
        return Answer(request, next(self._numbers), traits, stalls=stalls, resets=resets)


class Answer:
    """The answer to one request: events for a stream, or the whole of it.

    Everything that does not change from event to event is encoded once, here.
    """

    def __init__(
        self,
        request: ChatRequest,
        number: int,
        traits: Traits,
        *,
        stalls: bool = False,
        resets: bool = False,
    ) -> None:
        """Plan it.

        Args:
            request: what is answered.
            number: tells it from all others.
            traits: how it is sent.
            stalls: whether it pauses in its middle, for ``traits.stall_s``.
            resets: whether it is cut in its middle.
        """
        self.request = request
        self.id = f"chatcmpl-{number:016x}"
        self.sent_tokens = 0
        self.held_until_s = -inf
        """When an answer that stalls goes on; before, nothing is sent."""
        self.is_cut = False
        """Whether the connection is to be reset now."""
        self._traits = traits
        self._stalls, self._resets = stalls, resets
        self._middle_tokens = request.osl_tokens // 2 if stalls or resets else request.osl_tokens
        spoken = request.planned_tokens - request.tool_call_tokens
        self._reasoning_tokens = min(spoken, round(_REASONING_RATIO * request.planned_tokens))
        self._spoken_tokens = spoken
        self._spoken = _text(spoken)
        self._arguments = _arguments(max(0, request.tool_call_tokens - 1))
        self._tool_call_id = f"chatcmpl-tool-{number:016x}"
        self._holds_call = traits.tool_calls == "whole" and request.tool_call_tokens > 0
        asked = request.continuous_usage and traits.usage != "none"
        self._usage_on_all = asked or traits.usage == "every"
        self._encode(traits)

    def _encode(self, traits: Traits) -> None:
        """Encode what all events of a kind have in common."""
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": _CREATED_S,
            "model": self.request.model,
        }
        self._head = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['
        self._open = self._head + b'{"index":0,"delta":{'
        self._open_thought, self._close_thought = b'"%b":"' % traits.reasoning_field.encode(), b'"'
        if traits.reasoning_field == "reasoning_details":
            self._open_thought = b'"reasoning_details":[{"type":"reasoning.text","text":"'
            self._close_thought = b'"}]'
        self._open_reasoning = self._open + self._open_thought
        self._open_content = self._open + b'"content":"'
        self._end = b"}]" if self._usage_on_all else b"}]}\n\n"
        self._close = b'},"logprobs":null,"finish_reason":null' + self._end
        self._close_reasoning = self._close_thought + self._close
        self._close_text = b'"' + self._close
        self._open_arguments = self._open + b'"tool_calls":[{"index":0,"function":{"arguments":"'
        self._close_arguments = b'"}}]' + self._close
        if traits.tools == "as-text":
            self._open_arguments, self._close_arguments = self._open_content, self._close_text

    def take(self, tokens: int, cached_tokens: int, now_s: float) -> bytes:
        """Return the events that are due now that the answer has so many tokens; often none.

        The role comes with the first token; the finish reason, the usage and ``[DONE]`` come with
        the last one. An answer that is held has to be asked again at ``held_until_s``.
        """
        start, osl = self.sent_tokens, self.request.osl_tokens
        if self._holds_call and self._spoken_tokens < tokens < osl:
            tokens = self._spoken_tokens
            if tokens <= start:
                return b""
        if tokens - start < self._traits.stream_interval and start and tokens < osl:
            return b""
        if now_s < self.held_until_s or (tokens > self._middle_tokens and self._is_held(now_s)):
            return b""
        self.sent_tokens = tokens
        event = self._inner_event(start, tokens) if start and tokens < osl else b""
        if not event:
            return self._border(start, tokens, cached_tokens)
        if self._usage_on_all:
            return self._with_usage(event, tokens, cached_tokens)
        return event

    def _inner_event(self, start: int, end: int) -> bytes:
        """Return the event of tokens that all belong to one part of the answer; else nothing."""
        first, last = start * BYTES_PER_TOKEN, end * BYTES_PER_TOKEN
        if end <= self._reasoning_tokens:
            return self._open_reasoning + self._spoken[first:last] + self._close_reasoning
        if start > self._spoken_tokens:
            skipped = (self._spoken_tokens + 1) * BYTES_PER_TOKEN
            piece = self._arguments[first - skipped : last - skipped]
            return self._open_arguments + piece.replace(b'"', b'\\"') + self._close_arguments
        if start >= self._reasoning_tokens and end <= self._spoken_tokens:
            return self._open_content + self._spoken[first:last] + self._close_text
        return b""

    def _is_held(self, now_s: float) -> bool:
        """Whether a disturbed answer, now in its middle, is held or cut."""
        if self._stalls:
            self._stalls = False
            self.held_until_s = now_s + self._traits.stall_s
            return True
        self.is_cut = self._resets
        return self._resets

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
            self._traits.reasoning_field: self._spoken[:reasoning_bytes].decode() or None,
            "tool_calls": [call] if call_tokens > 0 else [],
        }
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion",
            "created": _CREATED_S,
            "model": request.model,
            "choices": [{"index": 0, "message": message, "finish_reason": request.finish_reason}],
        }
        if self._traits.usage != "none":
            body["usage"] = msgspec.Raw(self._usage(request.osl_tokens, cached_tokens))
        return msgspec.json.encode(body)

    def _border(self, start: int, end: int, cached_tokens: int) -> bytes:
        """Return the events of a step that begins or ends the answer or one of its parts."""
        role = b'"role":"assistant"'
        pieces = self._pieces(start, end)
        deltas = [(b",".join(pieces), end)]
        if start == 0 and self._traits.role_chunk == "alone":
            deltas.insert(0, (role + b',"content":""', 0))
        elif start == 0:
            deltas = [(b",".join([role, *pieces]), end)]
        events = [(self._open + delta + self._close, tokens) for delta, tokens in deltas]
        if end == self.request.osl_tokens:
            form = b'%b},"logprobs":null,"finish_reason":"%b"%b'
            reason = self.request.finish_reason.encode()
            events.append((form % (self._open, reason, self._end), end))
        if self._usage_on_all:
            sent = [self._with_usage(event, tokens, cached_tokens) for event, tokens in events]
        else:
            sent = [event for event, _ in events]
        if end == self.request.osl_tokens:
            sent += self._end_events(sent.pop(), end, cached_tokens)
        return b"".join(sent)

    def _end_events(self, last: bytes, end: int, cached_tokens: int) -> list[bytes]:
        """Return the event of the finish reason as it is sent, and what follows it."""
        sent = [last]
        if self._traits.usage == "last":
            sent = [self._with_usage(last.removesuffix(b"}\n\n"), end, cached_tokens)]
        elif self.request.include_usage and self._traits.usage != "none":
            usage = self._usage(end, cached_tokens)
            sent.append(self._head + b'],"usage":' + usage + b"}\n\n")
        return [*sent, _DONE] if self._traits.done == "sent" else sent

    def _pieces(self, start: int, end: int) -> list[bytes]:
        """Return one delta's members; a burst that crosses a border holds pieces of both sides."""
        reasoning_end, spoken_end = self._reasoning_tokens, self._spoken_tokens
        pieces: list[bytes] = []
        if start < reasoning_end:
            words = self._words(start, min(end, reasoning_end))
            pieces.append(self._open_thought + words + self._close_thought)
        if start < spoken_end and end > reasoning_end:
            words = self._words(max(start, reasoning_end), min(end, spoken_end))
            pieces.append(b'"content":"%b"' % words)
        if end > spoken_end:
            call = self._tool_call(start - spoken_end, end - spoken_end)
            if self._traits.tools == "as-text" and pieces and pieces[-1].startswith(b'"content'):
                # One text, not a key that stands twice.
                call = pieces.pop()[:-1] + call.removeprefix(b'"content":"')
            pieces.append(call)
        return pieces

    def _words(self, start: int, end: int) -> bytes:
        return self._spoken[start * BYTES_PER_TOKEN : end * BYTES_PER_TOKEN]

    def _tool_call(self, start: int, end: int) -> bytes:
        """Return the part of the call between two of its tokens, of which the first is its name."""
        piece = self._arguments[max(0, start - 1) * BYTES_PER_TOKEN : (end - 1) * BYTES_PER_TOKEN]
        if self._traits.tools == "as-text":
            tag = b"" if start > 0 else b"<tool_call>"
            return b'"content":"%b"' % (tag + piece.replace(b'"', b'\\"'))
        arguments = b'"arguments":"%b"' % piece.replace(b'"', b'\\"') if piece else b""
        if start > 0:
            return b'"tool_calls":[{"index":0,"function":{%b}}]' % arguments
        name = b'"name":%b' % msgspec.json.encode(self.request.tool_name)
        return b'"tool_calls":[{"index":0,"id":"%b","type":"function","function":{%b}}]' % (
            self._tool_call_id.encode(),
            name + b"," + arguments if arguments else name,
        )

    def _with_usage(self, event: bytes, tokens: int, cached_tokens: int) -> bytes:
        return b'%b,"usage":%b}\n\n' % (event, self._usage(tokens, cached_tokens))

    def _usage(self, tokens: int, cached_tokens: int) -> bytes:
        prompt_tokens = self.request.prompt_tokens
        form = (
            b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,'
            b'"prompt_tokens_details":%b,'
            b'"completion_tokens_details":{"reasoning_tokens":%d}}'
        )
        is_told = self._traits.cached_tokens == "told"
        reasoning_tokens = min(self._reasoning_tokens, tokens)
        return form % (
            prompt_tokens,
            prompt_tokens + tokens,
            tokens,
            b'{"cached_tokens":%d}' % cached_tokens if is_told else b"null",
            reasoning_tokens,
        )


def _text(tokens: int) -> bytes:
    size = tokens * BYTES_PER_TOKEN
    return (_WORDS * (size // len(_WORDS) + 1))[:size]


def _arguments(tokens: int) -> bytes:
    """Return a JSON object of that many tokens."""
    if tokens < _FEWEST_TOKENS_WITH_MEMBER:
        return b"{}".ljust(tokens * BYTES_PER_TOKEN)
    return b'{"cmd":"' + _text(tokens - 3) + b'" } '
