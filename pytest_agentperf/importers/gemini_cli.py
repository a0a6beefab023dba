"""Read the chats that Gemini CLI saves: one JSON object a session, ``{sessionId, messages}``.

A message of type ``gemini`` is one request. System prompt and tools are not in the file; thoughts
are, as summaries, but the CLI does not send them back.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from pytest_agentperf.importers.gather import begins, gather
from pytest_agentperf.importers.harness import opening
from pytest_agentperf.importers.lines import Count, compact, decode, parts
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session, busy_s
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, ToolCall, Trajectory

__all__ = ["fits", "load"]

NAME = "gemini-cli"


class _Tokens(msgspec.Struct):
    input: Count = 0
    output: Count = 0
    thoughts: Count = 0


class _Part(msgspec.Struct):
    text: str | None = None


class _Response(msgspec.Struct):
    response: dict[str, Any] = {}


class _ResultPart(msgspec.Struct):
    text: str | None = None
    function_response: _Response | None = msgspec.field(default=None, name="functionResponse")


class _Call(msgspec.Struct):
    id: str
    name: str
    args: msgspec.Raw = msgspec.Raw(b"{}")
    result: str | list[_ResultPart] | None = None
    timestamp: datetime | None = None


class _Entry(msgspec.Struct):
    type: str
    content: str | list[str | _Part] | _Part = ""
    timestamp: datetime | None = None
    thoughts: list[msgspec.Raw] | None = None
    tokens: _Tokens | None = None
    calls: list[_Call] | None = msgspec.field(default=None, name="toolCalls")


class _Chat(msgspec.Struct):
    id: str = msgspec.field(name="sessionId")
    messages: list[msgspec.Raw]


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions in one saved chat, or in all of a folder or archive.

    ``None`` when there is none.

    Args:
        source: what the user gave.
        strict: whether the first malformed record ends the import.

    Raises:
        ConfigError: no request can be replayed, or a record is malformed and ``strict``.
    """
    return gather(source, fits, _read, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    is_marked = begins(file, (".json", ".jsonl"), b'"projectHash"', b'"sessionId"')
    return is_marked and file.head().lstrip().startswith(b"{")


def _read(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    chat = decode(file.read(), _Chat, file.name, 1)
    session = Session()
    said: list[Message] = []
    start: list[Message] = []
    tools: tuple[dict[str, Any], ...] = ()
    for entry in parts(chat.messages, _Entry, file.name, "messages", losses):
        if entry.type == "user":
            said.append(Message(role="user", content=_text(entry.content, losses)))
        if entry.type != "gemini":
            continue
        isl = entry.tokens.input if entry.tokens and entry.tokens.input else None
        if not len(session):
            text, tools = opening(NAME, isl, said, losses)
            start = [Message(role="system", content=text)] if text else []
        session.ask(
            [*start, *said],
            tools=tools,
            isl_tokens=isl,
            osl_tokens=entry.tokens.output + entry.tokens.thoughts if entry.tokens else None,
            tool_s=_tool_s(entry, losses),
        )
        said += _exchange(entry, losses)
    trajectory = session.trajectory(chat.id, harness=NAME, source=f"{NAME} {file.stem_name}")
    if trajectory:
        yield trajectory


def _exchange(entry: _Entry, losses: Losses) -> Iterator[Message]:
    """Yield an answer and the results of its calls."""
    if entry.thoughts:
        losses.count("the thoughts of {n} answers are summaries, and not replayed")
    calls = entry.calls or []
    content = _text(entry.content, losses)
    if content or calls:
        yield Message(
            role="assistant",
            content=content or None,
            tool_calls=tuple(
                ToolCall(id=call.id, name=call.name, arguments=compact(call.args)) for call in calls
            ),
        )
    for call in calls:
        yield Message(role="tool", content=_result(call, losses), tool_call_id=call.id)


def _text(content: str | Sequence[str | _Part] | _Part, losses: Losses) -> str:
    if isinstance(content, str):
        return content
    shown = [content] if isinstance(content, _Part) else content
    texts = [part if isinstance(part, str) else part.text for part in shown]
    losses.count("{n} images and other files were left out", texts.count(None))
    return "".join(text for text in texts if text is not None)


def _result(call: _Call, losses: Losses) -> str:
    if not isinstance(call.result, list):
        return call.result or ""
    return "\n".join(_result_text(part, losses) for part in call.result)


def _result_text(part: _ResultPart, losses: Losses) -> str:
    if part.function_response is None:
        losses.count("{n} images and other files were left out", int(part.text is None))
        return part.text or ""
    response = part.function_response.response
    told = response.get("output", response.get("error"))
    return told if isinstance(told, str) else msgspec.json.encode(response).decode()


def _tool_s(entry: _Entry, losses: Losses) -> float | None:
    calls = entry.calls or []
    if not calls:
        return 0.0
    start = entry.timestamp
    if start is None:
        return None
    ends = [call.timestamp for call in calls if call.timestamp is not None]
    losses.count("the tool time of {n} answers runs from the answer to the last result")
    try:
        return busy_s((0.0, (end - start).total_seconds()) for end in ends)
    except TypeError:
        # One of the two times has no time zone.
        return None
