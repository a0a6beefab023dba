"""Read MLCommons' agentic JSON lines: a row for each message, the rows of a conversation together.

``delay_seconds`` of a row is the pause before the request that ends in it, so it follows the answer
before. The system prompt and the tools stand in the first row. A conversation may end in a question
or a tool's result: that request was meant to be sent too. Results of tools are a list, its JSON
text, or its text as Python prints it.
"""

import ast
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.chat import Call, Chat, convert, decode, messages, misplaced
from pytest_agentperf.importers.gather import begins, gather
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Trajectory

__all__ = ["fits", "load"]

MAX_LITERAL_CHARS = 4 * 2**20
"""Of a list that is written as Python prints it: parsing one takes a hundred times its size."""


class _Row(msgspec.Struct):
    conversation_id: str | int
    turn: int
    role: str
    content: str | list[dict[str, Any]] | None = None
    system: str | None = None
    tools: list[dict[str, Any]] | str | None = None
    tool_calls: list[Call] | str | None = None
    tool_results: list[dict[str, Any]] | str | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    delay_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None


class _Result(msgspec.Struct):
    tool_call_id: str | None = None
    content: Any = None


class _Conversation:
    """The rows of one conversation so far."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, _Row]] = []
        self.broken = False

    def add(self, where: str, row: _Row) -> None:
        last = self.rows[-1][1].turn if self.rows else None
        if last is not None and row.turn <= last:
            problem = f"{row.turn} follows {last}; number the rows of a conversation upwards"
            raise misplaced(where, "turn", problem)
        self.rows.append((where, row))


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the conversations of one file, or of all in a folder or archive.

    Args:
        source: what the user named.
        strict: whether a row that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: no conversation can be read, or a row cannot and the import is strict.
    """
    return gather(source, fits, _sessions, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    return begins(file, (".jsonl", ".ndjson"), b'"conversation_id"', b'"turn"', b'"role"')


def _sessions(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    for name, conversation in _conversations(file, losses).items():
        if conversation.broken:
            losses.count("{n} conversations with a malformed row were left out")
            continue
        try:
            trajectory = _trajectory(name, conversation.rows, file.stem_name)
        except ConfigError as error:
            losses.skip(error)
            continue
        if trajectory is not None:
            yield trajectory


def _conversations(file: SourceFile, losses: Losses) -> dict[str, _Conversation]:
    found: dict[str, _Conversation] = {}
    current = _Conversation()
    for number, line in file.lines():
        where = f"{file.name}, line {number}"
        try:
            row = decode(line, _Row, where)
            current = found.setdefault(str(row.conversation_id), _Conversation())
            current.add(where, row)
        except ConfigError as error:
            # What a row said that cannot be read is missing from all prompts after it.
            current.broken = True
            losses.skip(error)
    return found


def _trajectory(name: str, rows: Sequence[tuple[str, _Row]], source: str) -> Trajectory | None:
    where, first = rows[0]
    tools = tuple(_list(first.tools, where, "tools"))
    recorded = [Chat(role="system", content=first.system)] if first.system else []
    ends: list[tuple[int, float | None]] = []
    for place, (where, row) in enumerate(rows):
        if row.role == "assistant" and place:
            ends.append((len(recorded), rows[place - 1][1].delay_seconds))
        recorded.extend(_chats(row, where))
    if rows[-1][1].role != "assistant":
        ends.append((len(recorded), rows[-1][1].delay_seconds))
    if not ends:
        return None
    conversation = messages(recorded)
    session = Session()
    # The pause before a request is that after the answer before it; nothing follows the last.
    pauses = [pause for _, pause in ends[1:]] + [None]
    for (end, _), pause in zip(ends, pauses, strict=True):
        session.ask(conversation[:end], tools=tools, tool_s=pause)
    return session.trajectory(name, source=source)


def _chats(row: _Row, where: str) -> Iterator[Chat]:
    if row.tool_results is not None:
        for one in _list(row.tool_results, where, "tool_results"):
            result = convert(one, _Result, where, "tool_results")
            yield Chat(role="tool", content=_text(result.content), tool_call_id=result.tool_call_id)
        return
    calls = row.tool_calls
    if isinstance(calls, str):
        calls = convert(_list(calls, where, "tool_calls"), list[Call], where, "tool_calls")
    yield Chat(
        role=row.role,
        content=row.content,
        reasoning_content=row.reasoning_content,
        tool_calls=calls,
        tool_call_id=row.tool_call_id,
    )


def _text(content: object) -> str:
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()


def _list(value: list[dict[str, Any]] | str | None, where: str, field: str) -> list[dict[str, Any]]:
    if not isinstance(value, str):
        return value or []
    return convert(_parsed(value, where, field), list[dict[str, Any]], where, field)


def _parsed(text: str, where: str, field: str) -> object:
    with suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(text)
    if len(text) > MAX_LITERAL_CHARS:
        problem = f"{len(text)} characters that are no JSON are too many to parse; write JSON"
        raise misplaced(where, field, problem)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        problem = f"neither JSON nor a Python literal ({text[:40]!r}); write JSON"
        raise misplaced(where, field, problem) from error
