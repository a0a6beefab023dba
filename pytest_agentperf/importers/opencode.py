"""Read what ``opencode export`` writes: one JSON object a session, ``{info, messages}``.

A step of an assistant message is one request. The export tells when each tool started and ended,
and how many tokens each request took and gave, but neither the system prompt nor the tools. What a
prompt held is rendered as OpenCode 1.4 does (its ``session/message-v2.ts``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from pytest_agentperf.importers.gather import begins, gather
from pytest_agentperf.importers.harness import opening
from pytest_agentperf.importers.lines import Count, compact, decode, parts
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session, busy_s
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, ToolCall, Trajectory

__all__ = ["fits", "load"]

NAME = "opencode"
CLEARED = "[Old tool result content cleared]"
INTERRUPTED = "[Tool execution was interrupted]"
COMPACTION = "What did we do so far?"
READ_AS_TEXT = ("text/plain", "application/x-directory")
"""Files of these types are rendered by a text part beside them."""


class _Cache(msgspec.Struct):
    read: Count = 0
    write: Count = 0


class _Tokens(msgspec.Struct):
    input: Count = 0
    output: Count = 0
    reasoning: Count = 0
    cache: _Cache = msgspec.field(default_factory=_Cache)

    @property
    def isl(self) -> int:
        return self.input + self.cache.read + self.cache.write


class _Time(msgspec.Struct):
    created: float = 0
    start: float | None = None
    end: float | None = None
    compacted: float | None = None


class _State(msgspec.Struct):
    status: str = "pending"
    input: msgspec.Raw = msgspec.Raw(b"{}")
    output: str = ""
    error: str = ""
    time: _Time = msgspec.field(default_factory=_Time)
    attachments: list[msgspec.Raw] | None = None


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    ignored: bool = False
    mime: str = ""
    tool: str = ""
    call_id: str = msgspec.field(default="", name="callID")
    state: _State = msgspec.field(default_factory=_State)
    tokens: _Tokens | None = None
    tail_start_id: str | None = None


class _Info(msgspec.Struct):
    role: str
    id: str = ""
    system: str | None = None
    summary: msgspec.Raw = msgspec.Raw(b"null")
    """True in the answer to a compaction; in other messages an object, or absent."""
    finish: str | None = None
    tokens: _Tokens | None = None
    time: _Time = msgspec.field(default_factory=_Time)


class _Entry(msgspec.Struct):
    info: _Info
    parts: list[msgspec.Raw] = []


class _Session(msgspec.Struct):
    id: str


class _Export(msgspec.Struct):
    info: _Session
    messages: list[msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """One message of the history, and what stands for it once its output was cleared."""

    message: Message
    entry: str
    """Id of the entry that it is part of."""
    cleared_at: float = float("inf")

    def at(self, time: float) -> Message:
        if time < self.cleared_at:
            return self.message
        return Message(role="tool", content=CLEARED, tool_call_id=self.message.tool_call_id)


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions in one export, or in all of a folder or archive.

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
    is_marked = begins(file, (".json", ".jsonl"), b'"info"', b'"ses_')
    return is_marked and file.head().lstrip().startswith(b"{")


def _read(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    export = decode(file.read(), _Export, file.name, 1)
    replay = _Replay(file.name, losses)
    for index, entry in enumerate(parts(export.messages, _Entry, file.name, "messages", losses)):
        inside = f"messages[{index}].parts"
        replay.add(entry.info, list(parts(entry.parts, _Part, file.name, inside, losses)))
    trajectory = replay.session.trajectory(
        export.info.id, harness=NAME, source=f"{NAME} {file.stem_name}"
    )
    if trajectory:
        yield trajectory


class _Replay:
    """One session while it is read: what was said so far, and the requests."""

    def __init__(self, where: str, losses: Losses) -> None:
        self.session = Session()
        self._where = where
        self._losses = losses
        self._said: list[_Said] = []
        self._head: list[Message] = []
        self._tools: tuple[dict[str, object], ...] = ()
        self._tail: str | None = None
        self._system = ""

    def add(self, info: _Info, shown: Sequence[_Part]) -> None:
        """Go on to the next message."""
        if info.role == "user":
            self._system = self._system or info.system or ""
            self._user(info, shown)
            return
        before = len(self._said)
        steps = _steps(shown)
        for step in steps:
            self._step(info, step, alone=len(steps) == 1)
        if bytes(info.summary) == b"true" and info.finish:
            self._compact(before)

    def _user(self, info: _Info, shown: Sequence[_Part]) -> None:
        texts: list[str] = []
        for part in shown:
            if part.type == "text" and not part.ignored:
                texts.append(part.text)
            elif part.type == "compaction":
                self._losses.count("the instruction of {n} compactions is not recorded")
                self._tail = part.tail_start_id
                texts.append(COMPACTION)
            elif part.type == "file" and part.mime not in READ_AS_TEXT:
                self._losses.count("{n} images and other files were left out")
        if content := "\n".join(texts):
            self._said.append(_Said(message=Message(role="user", content=content), entry=info.id))

    def _step(self, info: _Info, step: Sequence[_Part], *, alone: bool) -> None:
        finish = next((part for part in step if part.type == "step-finish"), None)
        tokens = (finish and finish.tokens) or (info.tokens if alone else None)
        answer = _answer(step)
        if answer is None and not (tokens and tokens.isl):
            self._losses.count("{n} requests without an answer were left out")
            return
        calls = [part for part in step if part.type == "tool"]
        self._ask(info.time.created, tokens, _tool_s(calls))
        if answer:
            self._said.append(_Said(message=answer, entry=info.id))
        self._said += [self._result(info.id, part) for part in calls]

    def _ask(self, time: float, tokens: _Tokens | None, tool_s: float | None) -> None:
        isl = tokens.isl if tokens and tokens.isl else None
        said = [one.at(time) for one in self._said]
        if not len(self.session):
            own = [Message(role="system", content=self._system)] if self._system else []
            text, self._tools = opening(NAME, isl, [*own, *said], self._losses)
            system = "\n".join(filter(None, (text, self._system)))
            self._head = [Message(role="system", content=system)] if system else []
        self.session.ask(
            [*self._head, *said],
            tools=self._tools,
            isl_tokens=isl,
            osl_tokens=tokens.output + tokens.reasoning if tokens and isl else None,
            tool_s=tool_s,
        )

    def _result(self, entry: str, part: _Part) -> _Said:
        state = part.state
        if state.attachments:
            self._losses.count("{n} images and other files were left out", len(state.attachments))
        content = {"completed": state.output, "error": state.error}.get(state.status, INTERRUPTED)
        return _Said(
            message=Message(role="tool", content=content, tool_call_id=part.call_id),
            entry=entry,
            cleared_at=float("inf") if state.time.compacted is None else state.time.compacted,
        )

    def _compact(self, before: int) -> None:
        """Leave only the question that asked for a summary, the summary, and a tail if kept."""
        question, summary = self._said[max(0, before - 1) : before], self._said[before:]
        ids = [one.entry for one in self._said[: max(0, before - 1)]]
        tail = self._said[ids.index(self._tail) : len(ids)] if self._tail in ids else []
        self._said = [*question, *summary, *tail]


def _steps(shown: Sequence[_Part]) -> list[list[_Part]]:
    """Split the parts of an assistant message at each start of a step."""
    steps: list[list[_Part]] = [[]]
    for part in shown:
        if part.type == "step-start" and steps[-1]:
            steps.append([])
        steps[-1].append(part)
    return steps


def _answer(step: Sequence[_Part]) -> Message | None:
    content = "".join(part.text for part in step if part.type == "text")
    reasoning = "\n".join(part.text for part in step if part.type == "reasoning" and part.text)
    calls = tuple(
        ToolCall(id=part.call_id, name=part.tool, arguments=compact(part.state.input))
        for part in step
        if part.type == "tool"
    )
    if not (content or reasoning or calls):
        return None
    return Message(
        role="assistant", content=content or None, reasoning=reasoning or None, tool_calls=calls
    )


def _tool_s(calls: Sequence[_Part]) -> float | None:
    if not calls:
        return 0.0
    times = [part.state.time for part in calls]
    spans = [(t.start, t.end) for t in times if t.start is not None and t.end is not None]
    busy_ms = busy_s(spans)
    return None if busy_ms is None else busy_ms / 1000
