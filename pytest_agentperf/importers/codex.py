"""Read Codex CLI rollouts: JSON lines of ``{timestamp, type, payload}``, one file a session.

Response items are what went over the wire; a ``token_count`` event ends a request. System prompt
(``base_instructions``) and project instructions are in the file, tool schemas are not, and
reasoning is encrypted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.gather import gather
from pytest_agentperf.importers.harness import opening
from pytest_agentperf.importers.lines import Count, decode
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session, busy_s, epoch_s
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, ToolCall, Trajectory

__all__ = ["fits", "load"]

NAME = "codex"
ABORTED = "aborted"
"""What Codex itself sends for a call without a result."""
CALLS = ("function_call", "custom_tool_call")
RESULTS = ("function_call_output", "custom_tool_call_output")


class _Text(msgspec.Struct):
    text: str | None = None


class _Instructions(msgspec.Struct):
    text: str = ""


class _Usage(msgspec.Struct):
    input_tokens: Count = 0
    output_tokens: Count = 0
    total_tokens: Count = 0


class _Count(msgspec.Struct):
    last_token_usage: _Usage
    total_token_usage: _Usage = msgspec.field(default_factory=_Usage)


class _Duration(msgspec.Struct):
    secs: float = 0
    nanos: float = 0


class _Output(msgspec.Struct):
    content: str = ""


class _Payload(msgspec.Struct):
    type: str = ""
    id: str = ""
    role: str = ""
    content: str | list[_Text] | None = None
    summary: list[_Text] | None = None
    name: str = ""
    arguments: str = "{}"
    input: str = ""
    call_id: str = ""
    output: str | list[_Text] | _Output | None = None
    info: _Count | None = None
    duration: _Duration | None = None
    base_instructions: _Instructions | None = None
    message: str = ""
    replacement_history: list["_Payload"] | None = None


class _Line(msgspec.Struct):
    type: str
    payload: msgspec.Raw
    timestamp: datetime | None = None


_KINDS = {"session_meta", "response_item", "event_msg", "compacted"}
_EVENTS = {b'"token_count"', b'"exec_command_end"'}


@dataclass(slots=True)
class _Result:
    """What is known of a tool call beside the call itself."""

    text: str = ABORTED
    called_s: float | None = None
    ended_s: float | None = None
    took_s: float | None = None

    def span(self) -> tuple[float, float] | None:
        """Return start and end; by the tool's own clock where that is told."""
        if self.ended_s is None:
            return None
        if self.took_s is not None:
            return self.ended_s - self.took_s, self.ended_s
        return None if self.called_s is None else (self.called_s, self.ended_s)


@dataclass(slots=True)
class _Answer:
    """The items that one request brought."""

    texts: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    has_results: bool = False

    def message(self) -> Message | None:
        """Return it as one message; ``None`` when it holds nothing that can be sent."""
        if not (self.texts or self.reasoning or self.calls):
            return None
        return Message(
            role="assistant",
            content="\n\n".join(self.texts) or None,
            reasoning="\n\n".join(self.reasoning) or None,
            tool_calls=tuple(self.calls),
        )


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions in one rollout, or in all of a folder or archive.

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
    if not file.stem_name.endswith((".jsonl", ".json")):
        return False
    first = file.head().lstrip().partition(b"\n")[0]
    return first.startswith(b"{") and b'"session_meta"' in first and b'"payload"' in first


def _read(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    lines = list(_lines(file, losses))
    results = _results(lines)
    replay = _Replay(results, losses)
    for kind, payload, _ in lines:
        replay.add(kind, payload)
    replay.close()
    meta = next((payload for kind, payload, _ in lines if kind == "session_meta"), None)
    name = (meta and meta.id) or file.stem_name
    trajectory = replay.session.trajectory(name, harness=NAME, source=f"{NAME} {file.stem_name}")
    if trajectory:
        yield trajectory


def _lines(file: SourceFile, losses: Losses) -> Iterator[tuple[str, _Payload, float | None]]:
    for number, text in file.lines():
        try:
            line = decode(text, _Line, file.name, number)
            if line.type not in _KINDS:
                continue
            if line.type == "event_msg" and not any(one in text for one in _EVENTS):
                # Events repeat what response items say, in shapes of their own.
                continue
            payload = decode(line.payload, _Payload, file.name, number, "payload")
        except ConfigError as error:
            losses.skip(error)
            continue
        yield line.type, payload, epoch_s(line.timestamp)


def _results(lines: Sequence[tuple[str, _Payload, float | None]]) -> dict[str, _Result]:
    """Map each call to its result, wherever in the file that is."""
    results: dict[str, _Result] = {}
    for _, payload, time in lines:
        if not payload.call_id:
            continue
        result = results.setdefault(payload.call_id, _Result())
        if payload.type in CALLS:
            result.called_s = time
        elif payload.type == "exec_command_end" and payload.duration:
            result.took_s = payload.duration.secs + payload.duration.nanos / 1e9
            result.ended_s = time
        elif payload.type in RESULTS:
            result.text = _output(payload.output)
            result.ended_s = time if result.ended_s is None else result.ended_s
    return results


class _Replay:
    """One session while it is read: what was said so far, and the requests."""

    def __init__(self, results: dict[str, _Result], losses: Losses) -> None:
        self.session = Session()
        self._results = results
        self._losses = losses
        self._system: list[str] = []
        self._said: list[Message] = []
        self._tools: tuple[dict[str, Any], ...] = ()
        self._answer: _Answer | None = None
        self._total = -1

    def add(self, kind: str, payload: _Payload) -> None:
        """Go on to the next line."""
        if kind == "session_meta":
            if payload.base_instructions and not self._system:
                self._system.append(payload.base_instructions.text)
        elif kind == "compacted":
            self._compact(payload)
        elif payload.type == "token_count":
            self._count(payload.info)
        elif kind == "response_item":
            self._item(payload)

    def close(self, usage: _Usage | None = None) -> None:
        """End the answer under way, if there is one, with its request's usage where known."""
        answer, self._answer = self._answer, None
        if answer is None and usage is None:
            return
        if answer is None:
            self._losses.count("the answers to {n} requests are not in the file")
        answer = answer or _Answer()
        results = [self._results.get(call.id, _Result()) for call in answer.calls]
        self._ask(usage, _tool_s(results, self._losses))
        if not answer.reasoning:
            self._losses.count("the reasoning of {n} answers is encrypted, and not replayed")
        if message := answer.message():
            self._said.append(message)
        for call, result in zip(answer.calls, results, strict=True):
            self._said.append(Message(role="tool", content=result.text, tool_call_id=call.id))

    def _count(self, info: _Count | None) -> None:
        if info is None:
            return
        if info.total_token_usage.total_tokens == self._total and self._answer is None:
            self._losses.count("{n} usage events are repeats")
            return
        self._total = info.total_token_usage.total_tokens
        self.close(info.last_token_usage)

    def _item(self, payload: _Payload) -> None:
        if payload.type in RESULTS:
            if self._answer:
                self._answer.has_results = True
        elif payload.type == "message" and payload.role != "assistant":
            self._told(payload.role, _text(payload.content, self._losses))
        elif payload.type in CALLS:
            self._open().calls.append(_call(payload))
        elif payload.type in {"message", "reasoning"}:
            if self._answer and self._answer.has_results:
                self.close()
            self._write(payload)
        else:
            self._losses.count("{n} items of other types, such as web searches, were left out")

    def _write(self, payload: _Payload) -> None:
        answer = self._open()
        if payload.type == "message":
            answer.texts.append(_text(payload.content, self._losses))
        elif summary := [part.text for part in payload.summary or () if part.text]:
            answer.reasoning += summary

    def _open(self) -> _Answer:
        self._answer = self._answer or _Answer()
        return self._answer

    def _told(self, role: str, text: str) -> None:
        # Many chat templates know no "developer", and a system message only at the front.
        if role != "user" and not self._said:
            self._system.append(text)
            return
        if role != "user":
            self._losses.count("{n} later developer messages are sent as user messages")
        self._said.append(Message(role="user", content=text))

    def _ask(self, usage: _Usage | None, tool_s: float | None) -> None:
        isl = usage.input_tokens if usage else None
        if not len(self.session):
            own = [Message(role="system", content=text) for text in self._system]
            text, self._tools = opening(NAME, isl, [*own, *self._said], self._losses)
            self._system += [text] if text else []
        system = Message(role="system", content="\n\n".join(self._system))
        self.session.ask(
            [system, *self._said] if system.content else self._said,
            tools=self._tools,
            isl_tokens=isl,
            osl_tokens=usage.output_tokens if usage else None,
            tool_s=tool_s,
        )

    def _compact(self, payload: _Payload) -> None:
        """Replace the history by what the harness kept: what users said, and a summary."""
        self.close()
        self._losses.count("{n} compactions were taken over as far as the file tells")
        if payload.replacement_history is None:
            kept = [message for message in self._said if message.role == "user"]
            self._said = [*kept, Message(role="user", content=payload.message)]
            return
        self._said = []
        for item in payload.replacement_history:
            text = _text(item.content, self._losses)
            if item.type == "message" and item.role in {"user", "assistant"} and text:
                self._said.append(Message(role=item.role, content=text))


def _call(payload: _Payload) -> ToolCall:
    arguments = payload.arguments
    if payload.type == "custom_tool_call":
        # Free text, which only the Responses API can carry; other APIs want JSON.
        arguments = msgspec.json.encode({"input": payload.input}).decode()
    return ToolCall(id=payload.call_id, name=payload.name, arguments=arguments)


def _text(content: str | Sequence[_Text] | None, losses: Losses) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    losses.count("{n} images were left out", sum(part.text is None for part in content))
    return "\n".join(part.text for part in content if part.text is not None)


def _output(output: str | list[_Text] | _Output | None) -> str:
    if isinstance(output, _Output):
        return output.content
    if isinstance(output, list):
        return "\n".join(part.text for part in output if part.text is not None)
    return output or ""


def _tool_s(results: Sequence[_Result], losses: Losses) -> float | None:
    if not results:
        return 0.0
    spans = [span for result in results if (span := result.span()) is not None]
    timed = sum(result.took_s is not None for result in results)
    losses.count("the time of {n} tool calls runs from call to result", len(spans) - timed)
    losses.count("{n} tool calls have no recorded time", len(results) - len(spans))
    return busy_s(spans)
