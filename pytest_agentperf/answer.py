"""Stored socket reads → tokens in time, text by channel, usage, failure. Runs after the stream.

A token is the first non-empty ``content``, ``reasoning`` / ``reasoning_content`` /
``reasoning_details`` text, ``refusal``, or tool-call name or arguments; role-only and empty deltas,
the usage chunk and ``[DONE]`` are none (METHODOLOGY, section 3). A stream that holds an ``error``
object, or ends without a finish_reason, or brings no token, has failed whatever its status was.
"""

from array import array
from dataclasses import dataclass

import msgspec

from pytest_agentperf.chunks import (
    Choice,
    Chunk,
    Delta,
    MalformedEventError,
    ToolCall,
    Usage,
    decode_chunk,
    message_of,
)
from pytest_agentperf.foreign import one_line
from pytest_agentperf.looping import loops
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.sse import SSEDecoder

__all__ = ["Answer", "AnswerReader"]

_OK = 200
_MOST_TOKENS = 2**31
"""No count is so large; a larger one could not even be passed on."""
_MOST_TOKENS_PER_BYTE, _MOST_UNSEEN_TOKENS = 2, 256
"""No vocabulary has tokens of less than a byte; a template's own tokens are counted and not sent.
Twice as many leave room for text that a server's parsers take away."""
_MOST_REASON_CHARS = 100
_SHOWN_BYTES = 40
_REDIRECTS = range(300, 400)
_GAVE_UP = frozenset({"abort", "error"})
"""How vLLM, SGLang and gateways end a stream that they could not finish."""
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
"""Characters that stand for themselves in JSON."""


_string = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, decoded."""

    first_byte_ns: int | None
    first_token_merged: bool
    """The read that brought the first token brought more behind it."""
    token_ns: tuple[int, ...]
    """Stamp of every token-bearing event."""
    first_chunk_tokens: int | None
    largest_read_ratio: float | None
    usage: Usage | None
    first_text: str
    """What the first token-bearing event brought."""
    reasoning: str
    content: str
    calls: tuple[tuple[str, str], ...]
    """Name and arguments of every tool call."""
    finish_reason: str | None
    error: str | None

    @property
    def finished(self) -> bool:
        """Tell whether the server ended it of itself, whatever is wrong with what came."""
        return self.finish_reason is not None and self.finish_reason not in _GAVE_UP

    @property
    def text(self) -> str:
        """Content, then tool calls as ``name`` and ``arguments``."""
        return self.content + "".join(name + arguments for name, arguments in self.calls)

    @property
    def reasoning_streamed(self) -> bool:
        """Tell whether any reasoning came."""
        return bool(self.reasoning)

    @property
    def tool_calls(self) -> int:
        """Tool calls that have a name."""
        return sum(bool(name) for name, _ in self.calls)

    @property
    def osl_tokens(self) -> int | None:
        """Output tokens by usage; ``None`` when the server reported none, or a negative number."""
        return _count(self.usage.completion_tokens if self.usage else None)

    @property
    def isl_tokens(self) -> int | None:
        """Prompt tokens by usage."""
        return _count(self.usage.prompt_tokens if self.usage else None)

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the server had cached; ``None`` when it does not say."""
        details = self.usage.prompt_tokens_details if self.usage else None
        return _count(details.cached_tokens if details else None)

    @property
    def reasoning_tokens(self) -> int | None:
        """Output tokens that were reasoning; ``None`` when the server does not say."""
        details = self.usage.completion_tokens_details if self.usage else None
        return _count(details.reasoning_tokens if details else None)

    @property
    def loops(self) -> bool:
        """Tell whether reasoning or text ended in one short piece, repeated without end."""
        return loops(self.reasoning) or loops(self.text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "surrogatepass")


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < _MOST_TOKENS else None


class AnswerReader:
    """Decode one answer, read by read."""

    def __init__(self) -> None:
        self._sse = SSEDecoder()
        self._strange = b""
        """The beginning of what is no stream of events: nothing in it was one so far."""
        self._first_byte_ns: int | None = None
        self._last_ns = 0
        self._first_token_merged = False
        """Events in the read that brought the first token."""
        self._token_ns = array("q")
        self._chars = 0
        """Characters of all reads."""
        self._read_chars = 0
        self._largest_read_chars = 0
        # Of every token its text and eight bytes: thousands of answers grow at once.
        self._reasoning, self._content, self._tools = bytearray(), bytearray(), bytearray()
        self._calls: list[tuple[int, int]] = []
        """Where in ``_tools`` a call begins, and where its name ends."""
        self._usage: Usage | None = None
        self._first_chunk_tokens: int | None = None
        self._first_text = ""
        self._finish_reason: str | None = None
        self._error: str | None = None
        self._like = b"", b"", self._content
        """What is before and behind the text of the last event, and where that text belongs."""
        self._head, self._tail = b"", b""
        """The same of a read that is one such event."""
        self._is_plain = False
        """A read that begins and ends so would be one."""

    @property
    def first_byte_ns(self) -> int | None:
        """Stamp of the first read; see `pytest_agentperf.records.Reader`."""
        return self._first_byte_ns

    @property
    def first_token_ns(self) -> int | None:
        """Stamp of the first token so far."""
        return self._token_ns[0] if self._token_ns else None

    def feed(self, at_ns: int, data: bytes) -> None:
        """Take the bytes of one read."""
        if self._is_plain and data.startswith(self._head) and data.endswith(self._tail):
            # One event, like the last one but for its text, as most reads are.
            piece = data[len(self._head) : -len(self._tail)]
            chars = 0 if b"\n" in piece else self._piece(piece)
            if chars:
                self._token_ns.append(at_ns)
                self._read_chars = chars
                self._chars += chars
                self._largest_read_chars = max(self._largest_read_chars, chars)
                return
        self._feed_events(at_ns, data)

    def _feed_events(self, at_ns: int, data: bytes) -> None:
        self._last_ns = at_ns
        if self._first_byte_ns is None:
            self._first_byte_ns = at_ns
            self._strange = data[:_SHOWN_BYTES]
        chars = 0
        is_first = not self._token_ns
        for event in self._sse.feed(data):
            self._strange = b""
            if is_first and chars:
                self._first_token_merged = True
            chars += self._event(at_ns, event)
        if is_first and chars and not self._sse.is_between_events:
            self._first_token_merged = True
        self._read_chars = chars
        self._chars += chars
        if chars > self._largest_read_chars:  # noqa: PLR1730 max() costs a tenth of all this
            self._largest_read_chars = chars
        self._is_plain = bool(self._head) and self._sse.is_between_events

    def finish(self, raw: RawAnswer) -> Answer:
        """Return the whole answer, and why it failed if it did."""
        last_ns = self._last_ns or raw.end_ns
        rest = sum(self._event(last_ns, event) for event in self._sse.close())
        chars = self._chars + rest
        largest_chars = max(self._largest_read_chars, self._read_chars + rest)
        return Answer(
            first_byte_ns=self._first_byte_ns,
            first_token_merged=self._first_token_merged,
            token_ns=tuple(self._token_ns),
            first_chunk_tokens=self._first_chunk(),
            largest_read_ratio=largest_chars / chars if chars else None,
            usage=self._usage,
            first_text=self._first_text,
            reasoning=_text(self._reasoning),
            content=_text(self._content),
            calls=self._named_calls(),
            finish_reason=self._finish_reason,
            error=raw.error or self._failure(raw),
        )

    def _failure(self, raw: RawAnswer) -> str | None:
        if raw.status != _OK:
            body = b"".join(data for _, data in raw.reads)
            redirects = "a redirect, which is not followed: " if raw.status in _REDIRECTS else ""
            return f"HTTP {raw.status}: {redirects}{message_of(body)}"
        if self._error is not None:
            return self._error
        if self._finish_reason is None and self._strange:
            began = self._strange.decode("utf-8", "replace")
            return f"no event stream: it begins with {began!r}"
        return self._bad_end()

    def _bad_end(self) -> str | None:
        if self._finish_reason is None:
            return "stream ended without finish_reason"
        if self._finish_reason in _GAVE_UP:
            return f"server gave up: finish_reason {self._finish_reason!r}"
        return self._impossible_usage() if self._token_ns else "empty answer"

    def _impossible_usage(self) -> str | None:
        """Say so where more tokens are counted than there can be in what came."""
        told = self._usage.completion_tokens if self._usage else None
        details = self._usage.completion_tokens_details if self._usage else None
        hidden = (details.reasoning_tokens or 0) if details and not self._reasoning else 0
        most = _MOST_TOKENS_PER_BYTE * self._bytes + _MOST_UNSEEN_TOKENS + hidden
        if told is None or told <= most:
            return None
        return f"usage cannot be: {told:.4g} tokens in {self._bytes} bytes of text"

    @property
    def _bytes(self) -> int:
        return len(self._reasoning) + len(self._content) + len(self._tools)

    def _first_chunk(self) -> int | None:
        if self._first_chunk_tokens is not None:
            return self._first_chunk_tokens
        told = self._usage.completion_tokens if self._usage else None
        # As many events as tokens: each brought one.
        return 1 if told and told == len(self._token_ns) else None

    def _event(self, at_ns: int, data: bytes) -> int:
        """Keep what an event brings; return its characters.

        Most events of a stream differ from the one before in one piece of text only.
        """
        head, tail, _ = self._like
        if head and data.startswith(head) and data.endswith(tail):
            chars = self._piece(data[len(head) : -len(tail)])
            if chars:
                self._token_ns.append(at_ns)
                return chars
        return self._new_event(at_ns, data)

    def _piece(self, piece: bytes) -> int:
        """Keep what stands where the text of the last event stood; return its characters.

        0 where that is no text, or more than one.
        """
        channel = self._like[2]
        if not piece.translate(None, _PLAIN):
            channel += piece
            return len(piece)
        try:
            text = _string(b'"%b"' % piece)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0
        channel += _bytes(text)
        return len(text)

    def _new_event(self, at_ns: int, data: bytes) -> int:
        if data.strip() == b"[DONE]":
            return 0
        try:
            chunk = decode_chunk(data)
        except MalformedEventError as broken:
            self._error = self._error or f"malformed event: {broken}"
            return 0
        if chunk.error is not None:
            self._error = self._error or f"error in stream: {message_of(data)}"
            return 0
        chars = self._choices(chunk.choices) if chunk.choices else 0
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chars:
            if not self._token_ns and chunk.usage is not None:
                # 0 beside a token is a server that counts only at the end.
                self._first_chunk_tokens = _count(chunk.usage.completion_tokens) or None
            self._token_ns.append(at_ns)
            self._learn(data, chunk)
        return chars

    def _learn(self, data: bytes, chunk: Chunk) -> None:
        """Remember what is around the text of this event, if it has one piece and nothing else."""
        choices = chunk.choices or ()
        if len(choices) != 1 or choices[0].finish_reason or chunk.usage is not None:
            return
        text, channel = self._only_text(choices[0].delta or Delta())
        quoted = b'"%b"' % text.encode()
        if text and data.count(quoted) == 1:
            at = data.index(quoted) + 1
            self._like = data[:at], data[at + len(quoted) - 2 :], channel
            self._head, self._tail = b"data: %b" % data[:at], b"%b\n\n" % self._like[1]

    def _only_text(self, delta: Delta) -> tuple[str, bytearray]:
        """Return the text of a delta and its channel; no text where there is more than one."""
        function = None
        if delta.tool_calls and len(delta.tool_calls) == 1:
            function = delta.tool_calls[0].function
        texts = (
            (delta.reasoning or delta.reasoning_content, self._reasoning),
            (delta.content or delta.refusal, self._content),
            (function.arguments if function and not function.name else None, self._tools),
        )
        found = [(text, channel) for text, channel in texts if text]
        if len(found) != 1 or delta.reasoning_details or (delta.tool_calls and not function):
            return "", self._content
        return found[0]

    def _choices(self, choices: list[Choice]) -> int:
        """Keep what the choices bring; return the characters."""
        chars = 0
        for choice in choices:
            if choice.finish_reason:
                self._finish_reason = one_line(choice.finish_reason, _MOST_REASON_CHARS)
            if choice.delta is not None:
                chars += self._delta(choice.delta)
        return chars

    def _delta(self, delta: Delta) -> int:
        """Keep the text of one delta; return its characters."""
        # Both names with the same text are one text, sent twice for old clients.
        thought = delta.reasoning or delta.reasoning_content or ""
        if delta.reasoning_details and not thought:
            thought = "".join(d.text or d.summary or "" for d in delta.reasoning_details)
        said = delta.content or delta.refusal or ""
        called = self._called(delta.tool_calls) if delta.tool_calls else ""
        if thought:
            self._reasoning += _bytes(thought)
        if said:
            self._content += _bytes(said)
        if not self._token_ns:
            self._first_text += thought + said + called
        return len(thought) + len(said) + len(called)

    def _called(self, calls: list[ToolCall]) -> str:
        """Keep the text of tool calls; return it."""
        begin = len(self._tools)
        for function in [call.function for call in calls if call.function is not None]:
            name, arguments = function.name or "", function.arguments or ""
            if name or (arguments and not self._calls):
                start = len(self._tools)
                self._calls.append((start, start + len(_bytes(name))))
            self._tools += _bytes(name + arguments)
        return _text(self._tools[begin:])

    def _named_calls(self) -> tuple[tuple[str, str], ...]:
        ends = [*(start for start, _ in self._calls[1:]), len(self._tools)]
        return tuple(
            (_text(self._tools[start:named]), _text(self._tools[named:end]))
            for (start, named), end in zip(self._calls, ends, strict=False)
        )
