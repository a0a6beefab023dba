"""Read Claude Code's session files: JSON lines, linked by ``uuid`` and ``parentUuid``.

An answer is written as several lines, one a content block, that share ``message.id``; results of
its tools may stand between them. The chain of parents of an answer is its prompt. Neither the
system prompt nor the tools are in the file, nor how long a tool ran (people are asked before some
do), and the logged ``output_tokens`` are those of the moment when the answer began.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.gather import gather
from pytest_agentperf.importers.harness import estimate, opening
from pytest_agentperf.importers.lines import Count, compact, decode
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, ToolCall, Trajectory

__all__ = ["fits", "load"]

NAME = "claude-code"
SYNTHETIC = "<synthetic>"
"""The model of messages that the harness itself wrote, such as of an error."""
INTERRUPTED = "[Request interrupted by user for tool use]"
HEAD_BYTES = 2**20
"""A session may begin with long snapshots of files."""


class _Usage(msgspec.Struct):
    input_tokens: Count = 0
    cache_creation_input_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    output_tokens: Count = 0


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")
    tool_use_id: str = ""
    content: "str | list[_Block] | None" = None


class _Message(msgspec.Struct):
    content: str | list[_Block] = ""
    id: str = ""
    model: str = ""
    usage: _Usage | None = None


class _Line(msgspec.Struct):
    type: str
    uuid: str | None = None
    parent: str | None = msgspec.field(default=None, name="parentUuid")
    session: str = msgspec.field(default="", name="sessionId")
    agent: str | None = msgspec.field(default=None, name="agentId")
    is_side: bool = msgspec.field(default=False, name="isSidechain")
    is_summary: bool = msgspec.field(default=False, name="isCompactSummary")
    message: _Message | None = None


@dataclass(slots=True)
class _Log:
    """The lines of one file, and what is found by their ids."""

    lines: dict[str, _Line] = field(default_factory=dict[str, _Line])
    before: dict[str, str] = field(default_factory=dict[str, str])
    """The line that stands before each in the file."""
    answers: dict[str, list[_Line]] = field(default_factory=lambda: defaultdict(list))
    """The lines of each answer by the id of its message, in order."""
    results: dict[str, _Block] = field(default_factory=dict[str, _Block])
    orphans: set[str] = field(default_factory=set[str])
    """Lines whose parent is missing."""


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions in one session file, or in all of a folder or archive.

    ``None`` when there is none. The work of a sub-agent is a trajectory of its own.

    Args:
        source: what the user gave.
        strict: whether the first malformed record ends the import.

    Raises:
        ConfigError: no request can be replayed, or a record is malformed and ``strict``.
    """
    return gather(source, fits, _read, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    if not file.stem_name.endswith((".jsonl", ".json")):
        return False
    head = file.head(HEAD_BYTES)
    return head.lstrip().startswith(b"{") and b'"parentUuid"' in head and b'"isSidechain"' in head


def _read(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    log = _log(file, losses)
    threads: dict[str, _Thread] = {}
    for lines in log.answers.values():
        past = _past(lines[0], log, losses)
        name = _thread_name(lines[0], past, file)
        if name not in threads:
            losses.count("{n} trajectories are those of sub-agents", int(lines[0].is_side))
        threads.setdefault(name, _Thread(log, losses)).ask(lines, past)
    for name, thread in threads.items():
        trajectory = thread.session.trajectory(
            name, harness=NAME, source=f"{NAME} {file.stem_name}"
        )
        if trajectory:
            yield trajectory


def _log(file: SourceFile, losses: Losses) -> _Log:
    log = _Log()
    last = ""
    for number, text in file.lines():
        try:
            line = decode(text, _Line, file.name, number)
        except ConfigError as error:
            losses.skip(error)
            continue
        if line.uuid is None or line.uuid in log.lines:
            continue
        log.lines[line.uuid] = line
        log.before[line.uuid] = last
        last = line.uuid
        _index(line, log, losses)
    return log


def _index(line: _Line, log: _Log, losses: Losses) -> None:
    message = line.message
    if line.type == "attachment":
        losses.count("{n} attachments were left out")
    if message is None:
        return
    if line.is_summary:
        losses.count("the requests that wrote {n} summaries are not in the file")
    if line.type == "assistant" and message.model != SYNTHETIC:
        log.answers[_answer_id(line)].append(line)
    for block in message.content if isinstance(message.content, list) else ():
        if block.type == "tool_result":
            log.results[block.tool_use_id] = block


def _past(line: _Line, log: _Log, losses: Losses) -> list[_Line]:
    """Return the line's predecessors, oldest first."""
    past: list[_Line] = []
    seen = {line.uuid}
    current = line
    while current.parent is not None:
        parent = log.lines.get(current.parent)
        if parent is None:
            uuid = current.uuid or ""
            if uuid not in log.orphans:
                losses.count("{n} times an earlier line is missing; the one before stands for it")
            log.orphans.add(uuid)
            parent = log.lines.get(log.before[uuid])
        if parent is None or parent.uuid in seen:
            break
        seen.add(parent.uuid)
        past.append(parent)
        current = parent
    return past[::-1]


def _thread_name(line: _Line, past: Sequence[_Line], file: SourceFile) -> str:
    session = line.session or file.stem_name
    if not line.is_side:
        return session
    return f"{session}/{line.agent or (past[0] if past else line).uuid}"


class _Thread:
    """The requests of one agent, main or sub."""

    def __init__(self, log: _Log, losses: Losses) -> None:
        self.session = Session()
        self._log = log
        self._losses = losses
        self._head: list[Message] = []
        self._tools: tuple[dict[str, Any], ...] = ()
        self._shown: dict[str, list[Message]] = {}

    def ask(self, lines: Sequence[_Line], past: Sequence[_Line]) -> None:
        """Add the request that these lines answer."""
        said = self._said(past)
        usages = [line.message.usage for line in lines if line.message and line.message.usage]
        if not len(self.session):
            text, self._tools = opening(NAME, _isl(usages), said, self._losses)
            self._head = [Message(role="system", content=text)] if text else []
        answer = self._once(_answer_id(lines[0]), lines)[:1]
        calls = any(message.tool_calls for message in answer)
        self._losses.count("the lengths of {n} answers are estimated from their text")
        self.session.ask(
            [*self._head, *said],
            tools=self._tools,
            isl_tokens=_isl(usages),
            # The logged count is too small, but not where thoughts were left out of the file.
            osl_tokens=max(estimate(answer), *(usage.output_tokens for usage in usages), 1),
            tool_s=None if calls else 0.0,
        )

    def _said(self, past: Sequence[_Line]) -> list[Message]:
        said: dict[str, list[Message]] = {}
        for line in past:
            if line.message is None or line.message.model == SYNTHETIC:
                continue
            if line.type == "user":
                name = line.uuid or ""
                said.setdefault(name, self._once(name, [line]))
            elif line.type == "assistant":
                name = _answer_id(line)
                said.setdefault(name, self._once(name, self._log.answers[name]))
        return [message for messages in said.values() for message in messages]

    def _once(self, name: str, lines: Sequence[_Line]) -> list[Message]:
        """Return the messages that lines spell; what they lose is counted once."""
        if name not in self._shown:
            told = self._user if lines[0].type == "user" else self._answer
            self._shown[name] = list(told([block for line in lines for block in _blocks(line)]))
        return self._shown[name]

    def _user(self, blocks: Sequence[_Block]) -> Iterator[Message]:
        told = [block for block in blocks if block.type != "tool_result"]
        if text := _text(told, self._losses):
            yield Message(role="user", content=text)

    def _answer(self, blocks: Sequence[_Block]) -> Iterator[Message]:
        """Yield an answer and the results of its calls."""
        thoughts = [block.thinking for block in blocks if block.type == "thinking"]
        hidden = any(block.type == "redacted_thinking" for block in blocks) or "" in thoughts
        self._losses.count("thoughts of {n} answers are not in the file", int(hidden))
        uses = [block for block in blocks if block.type == "tool_use"]
        texts = [block for block in blocks if block.type == "text"]
        calls = (ToolCall(id=b.id, name=b.name, arguments=compact(b.input)) for b in uses)
        yield Message(
            role="assistant",
            content=_text(texts, self._losses) or None,
            reasoning="\n".join(filter(None, thoughts)) or None,
            tool_calls=tuple(calls),
        )
        for use in uses:
            result = self._log.results.get(use.id)
            self._losses.count("{n} tool calls have no recorded result", int(result is None))
            content = INTERRUPTED if result is None else _content(result, self._losses)
            yield Message(role="tool", content=content, tool_call_id=use.id)


def _answer_id(line: _Line) -> str:
    return (line.message and line.message.id) or f"line {line.uuid}"


def _blocks(line: _Line) -> list[_Block]:
    content = line.message.content if line.message else ""
    return [_Block(type="text", text=content)] if isinstance(content, str) else content


def _content(result: _Block, losses: Losses) -> str:
    if isinstance(result.content, list):
        return _text(result.content, losses)
    return result.content or ""


def _text(blocks: Sequence[_Block], losses: Losses) -> str:
    losses.count("{n} images and other blocks were left out", sum(b.type != "text" for b in blocks))
    return "\n".join(block.text for block in blocks if block.type == "text" and block.text)


def _isl(usages: Sequence[_Usage]) -> int | None:
    tokens = (
        one.input_tokens + one.cache_creation_input_tokens + one.cache_read_input_tokens
        for one in usages
    )
    return max(tokens, default=0) or None
