"""Small requests to a server before any load, and what each of them brought back."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.dialect import Heard, hear
from pytest_agentperf.plan import salt
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.trajectory import Message, ToolCall
from pytest_agentperf.wire import MAX_TOKENS, ChatEncoder, encode_message

__all__ = ["EXACT_TOKENS", "FEW_TOKENS", "Ask", "Probes", "Seen", "named_field"]

Ask = Callable[[bytes, bool], Awaitable[RawAnswer]]
"""Sends a body; ``True``: hangs up at the first token."""

FEW_TOKENS = 16
EXACT_TOKENS = 128
"""More than one word needs, and most thoughts about it."""
_CALL_TOKENS = 96
"""So long a model may think before it calls a tool."""
_REFUSALS = range(400, 500)
_BUSY = 429
_HELLO = "Say hello."
_ONE_WORD = "Answer with the one word yes."
_TOOLS = (
    b'[{"type":"function","function":{"name":"list_files","description":"List the files of a '
    b'folder.","parameters":{"type":"object","properties":{"path":{"type":"string"}},'
    b'"required":["path"]}}}]'
)
_LINES = 80
"""Of the text that is sent twice: about a thousand tokens, several blocks of any prefix cache."""
_THOUGHT = " ".join(f"Step {i}: look at file {i} and note what it does." for i in range(1, 13))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one request brought back."""

    status: int
    answer: Answer
    heard: Heard
    ttft_s: float | None
    end_s: float
    """Until all of it was there."""
    max_tokens: int = FEW_TOKENS
    """The cap that was asked for."""

    @property
    def rejected(self) -> bool:
        """Tell whether the server does not take this request, however often it is sent."""
        return self.status in _REFUSALS and self.status != _BUSY

    @property
    def error(self) -> str:
        """Return why it failed, or an empty text."""
        return self.answer.error or ""

    @property
    def began(self) -> bool:
        """Tell whether a token came."""
        return bool(self.answer.token_ns)

    @property
    def spent_unseen(self) -> bool:
        """Tell whether the whole cap went into what the server does not show."""
        return self.answer.finish_reason == "length" and not self.began

    @property
    def answered_s(self) -> float | None:
        """Return when its first token came, or its end where no token was to be seen; s."""
        return self.end_s if self.spent_unseen else self.ttft_s

    @property
    def osl_tokens(self) -> int:
        """Return the tokens of the answer: by usage, else the events that brought any."""
        told = self.answer.osl_tokens
        return len(self.answer.token_ns) if told is None else told

    @property
    def came_at_once(self) -> bool:
        """Tell whether everything came in one read, though it was many tokens."""
        is_long = self.osl_tokens >= FEW_TOKENS // 2
        return self.began and is_long and len(set(self.answer.token_ns)) == 1


class Probes:
    """Asks one model, in the words of the load: its fields, its salt, its names."""

    def __init__(
        self, ask: Ask, spec: ModelSpec, *, key: str, max_tokens_field: str = MAX_TOKENS[0]
    ) -> None:
        """Ask nothing yet.

        Args:
            ask: sends a request.
            spec: the model.
            key: makes the prompts new to the server's cache.
            max_tokens_field: what the server calls the cap on an answer.
        """
        self._ask = ask
        self._spec = spec
        self._key = key
        self.max_tokens_field = max_tokens_field
        self.all: list[Seen] = []
        """Everything that was seen, in order."""

    async def hello(
        self,
        *,
        max_tokens: int = FEW_TOKENS,
        without: str | None = None,
        exact: bool = False,
        hang_up: bool = False,
    ) -> Seen:
        """Ask for a greeting.

        Args:
            max_tokens: cap of the answer.
            without: a field of the tier file to leave out.
            exact: ask for just `EXACT_TOKENS`, and no end before.
            hang_up: at the first token.
        """
        request = {k: v for k, v in self._spec.request.items() if k != without}
        cap = EXACT_TOKENS if exact else max_tokens
        encoder = self._encoder(cap, "exact" if exact else "natural", request)
        body = encoder.body(
            [self._said("user", _ONE_WORD if exact else _HELLO)], b"", cap if exact else None
        )
        return await self._seen(body, hang_up=hang_up, max_tokens=cap)

    async def repeated(self, number: int) -> Seen:
        """Send a long prompt under salt ``number``: a number anew is a prompt that is known."""
        lines = "\n".join(f"{i}. {salt(f'line {i}')[:20]}" for i in range(_LINES))
        text = f"{salt(f'{self._key}/{number}')}\n{lines}\nHow many lines are these?"
        return await self._seen(self._encoder().body([self._said("user", text)], b"", None))

    async def call(self) -> Seen:
        """Ask for a tool call."""
        text = "List the files of the folder src. Call the tool list_files."
        encoder = self._encoder(_CALL_TOKENS)
        return await self._seen(encoder.body([self._said("user", text)], _TOOLS, None))

    async def history(self, field: str | None, *, tools: bool) -> Seen:
        """Send a recorded turn back, its reasoning in a message field or left out."""
        call = ToolCall(id="call_1", name="list_files", arguments='{"path": "src"}')
        answered = Message(
            role="assistant",
            content=None if tools else "I have listed them.",
            reasoning=None if field is None else _THOUGHT,
            tool_calls=(call,) if tools else (),
        )
        result = (
            Message(role="tool", content="a.py\nb.py", tool_call_id="call_1")
            if tools
            else Message(role="user", content="Go on.")
        )
        asked = Message(role="user", content="List the files of the folder src.")
        messages = [encode_message(m, field or "reasoning") for m in (asked, answered, result)]
        return await self._seen(self._encoder().body(messages, _TOOLS if tools else b"", None))

    def _encoder(
        self,
        max_tokens: int = FEW_TOKENS,
        output: str = "natural",
        request: Mapping[str, Any] | None = None,
    ) -> ChatEncoder:
        return ChatEncoder(
            model=self._spec.model,
            request=self._spec.request if request is None else request,
            max_tokens=max_tokens,
            output=output,
            max_tokens_field=self.max_tokens_field,
        )

    def _said(self, role: str, text: str) -> bytes:
        return encode_message(Message(role=role, content=text), self._spec.reasoning_field)

    async def _seen(
        self, body: bytes, *, hang_up: bool = False, max_tokens: int = FEW_TOKENS
    ) -> Seen:
        raw = await self._ask(body, hang_up)
        reader = AnswerReader()
        for at_ns, data in raw.reads:
            reader.feed(at_ns, data)
        answer = reader.finish(raw)
        first_ns = answer.token_ns[0] if answer.token_ns else None
        seen = Seen(
            status=raw.status,
            answer=answer,
            heard=hear(data for _, data in raw.reads),
            ttft_s=None if first_ns is None else (first_ns - raw.sent_ns) / 1e9,
            end_s=(raw.end_ns - raw.sent_ns) / 1e9,
            max_tokens=max_tokens,
        )
        self.all.append(seen)
        return seen


def named_field(message: str, request: Mapping[str, Any]) -> str | None:
    """Return the field of a request that an error message names, nested ones as ``outer.inner``."""
    for name, value in request.items():
        inner = [f"{name}.{key}" for key in value] if isinstance(value, dict) else []  # pyright: ignore[reportUnknownVariableType] a tier file's JSON
        for each in (*inner, name):
            if re.search(rf"\b{re.escape(each.rpartition('.')[2])}\b", message):
                return each
    return None
