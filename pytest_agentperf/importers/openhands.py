"""Read OpenHands: event streams as it saves them, and the sets of whole conversations made of them.

An event stream is a list of actions and observations. An action of the agent's carries the model's
response that it came from; actions of one response are one request. What the model saw is what the
events before amount to, less those that a condensation has forgotten. A file holds one stream, or
records with a ``history`` or ``trajectory``; the latter may be OpenAI messages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.chat import (
    Call,
    Chat,
    Function,
    Usage,
    ask_all,
    convert,
    decode,
    messages,
    misplaced,
    schemas,
)
from pytest_agentperf.importers.gather import begins, gather, made_up_front, records, stem
from pytest_agentperf.importers.lines import Count
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session, busy_s
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, Trajectory

__all__ = ["fits", "load"]

HARNESS = "OpenHands"
ENDINGS = (".json", ".jsonl", ".ndjson")
MARKS = (
    (b'"source"', b'"action"'),
    (b'"history"', b'"source"'),
    (b'"trajectory"', b'"role"'),
    (b'"trajectory"', b'\\"role\\"'),
)
"""The last are of a set whose conversations are JSON in a text."""
DAMAGED_MARKS = (
    (b'"source"', b'"action"', b'"args"', b'"timestamp"'),
    (b'"trajectory"', b'"role"', b'"trajectory_id"'),
    (b'"trajectory"', b'"role"', b'"instance_id"'),
)
"""Together they are nobody else's, so a file that cannot be read is told to be damaged."""
NOT_SEEN = {"agent_state_changed", "change_agent_state", "null", "condensation_request"}
"""Actions and observations that are no part of what a condensation counts."""
NOT_ASKED = NOT_SEEN | {"system", "recall", "condensation", "pause", "resume", "stop"}
"""Actions of the agent's that no model was asked for."""


class _Choice(msgspec.Struct):
    message: Chat


class _Response(msgspec.Struct):
    id: str | None = None
    choices: list[_Choice] = []
    usage: Usage | None = None


class _Metadata(msgspec.Struct):
    tool_call_id: str | None = None
    function_name: str = ""
    model_response: _Response | None = None


class _Event(msgspec.Struct):
    id: int | None = None
    source: str | None = None
    timestamp: str | None = None
    action: str | None = None
    observation: str | None = None
    content: Any = None
    args: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    cause: int | None = None
    tool_call_metadata: _Metadata | None = None


class _Record(msgspec.Struct):
    trajectory: list[Any] | str | None = None
    history: list[Any] | None = None
    tools: Any = None
    trajectory_id: str | None = None
    instance_id: str | None = None


class _Condensation(msgspec.Struct):
    forgotten_event_ids: list[int] | None = None
    forgotten_events_start_id: int | None = None
    forgotten_events_end_id: int | None = None
    summary: str | None = None
    summary_offset: Count | None = None


@dataclass(kw_only=True)
class _Request:
    prompt: tuple[Message, ...]
    usage: Usage
    started: dict[int, float] = field(default_factory=dict[int, float])
    spans: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions of one file, or of all in a folder or archive.

    Args:
        source: what the user named.
        strict: whether a record that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: no session can be read, or one cannot and the import is strict.
    """
    return gather(source, fits, _sessions, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    if not any(begins(file, ENDINGS, *marks) for marks in MARKS):
        return False
    try:
        text = next((text for _, text in records(file)), b"")
        first = decode(text, dict[str, Any], "")
    except ConfigError:
        return any(begins(file, ENDINGS, *marks) for marks in DAMAGED_MARKS)
    try:
        recorded = convert(first, _Record, "")
        items = _items(recorded, "") or [first]
    except ConfigError:
        return False
    return _is_event(items[0]) or ("role" in items[0] and recorded.trajectory is not None)


def _is_event(item: dict[str, Any]) -> bool:
    return "source" in item and any(isinstance(item.get(k), str) for k in ("action", "observation"))


def _sessions(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    listed = list(records(file))
    if listed and file.head().lstrip().startswith(b"[") and _is_event(_loose(listed[0][1])):
        events = [decode(text, _Event, where) for where, text in listed]
        if trajectory := _from_events(events, stem(file.stem_name), file.stem_name, losses):
            yield trajectory
        return
    for where, text in listed:
        try:
            recorded = decode(text, _Record, where)
            name = recorded.trajectory_id or recorded.instance_id or stem(file.stem_name)
            trajectory = _trajectory(recorded, where, name, file.stem_name, losses)
        except ConfigError as error:
            losses.skip(error)
            continue
        if trajectory is not None:
            yield trajectory


def _loose(text: bytes) -> dict[str, Any]:
    try:
        return decode(text, dict[str, Any], "")
    except ConfigError:
        return {}


def _trajectory(
    recorded: _Record, where: str, name: str, source: str, losses: Losses
) -> Trajectory | None:
    items = _items(recorded, where)
    if not items:
        raise misplaced(where, "trajectory", "it is empty or missing; remove the record")
    if "role" not in items[0]:
        events = convert(items, list[_Event], where, "history")
        return _from_events(events, name, source, losses)
    session = Session()
    conversation = messages(convert(items, list[Chat], where, "trajectory"))
    ask_all(session, conversation, schemas(recorded.tools, where))
    return session.trajectory(name, harness=HARNESS, source=source)


def _items(recorded: _Record, where: str) -> list[dict[str, Any]]:
    """Return the events or messages of a record; its first releases wrote events in pairs."""
    listed = recorded.history or recorded.trajectory or []
    if isinstance(listed, str):
        listed = decode(listed.encode(), list[Any], f"{where}, field 'trajectory'")
    if listed and isinstance(listed[0], list):
        listed = [event for pair in convert(listed, list[list[Any]], where) for event in pair]
    return convert(listed, list[dict[str, Any]], where, "history")


def _from_events(
    events: Sequence[_Event], name: str, source: str, losses: Losses
) -> Trajectory | None:
    stream = _Stream(losses)
    for number, event in enumerate(events):
        stream.add(number if event.id is None else event.id, event)
    front, tools = (), stream.tools
    if stream.requests and not stream.has_system:
        first = stream.requests[0]
        isl_tokens = first.usage.prompt_tokens
        front, tools = made_up_front(HARNESS, first.prompt, tools, isl_tokens, losses)
    session = Session()
    for request in stream.requests:
        session.ask(
            front + request.prompt,
            tools=tools,
            isl_tokens=request.usage.prompt_tokens,
            osl_tokens=request.usage.completion_tokens,
            tool_s=busy_s(request.spans),
        )
    return session.trajectory(name, harness=HARNESS, source=source)


class _Stream:
    """What a model saw of the events so far, and the requests that were made."""

    def __init__(self, losses: Losses) -> None:
        self.requests: list[_Request] = []
        self.tools: tuple[dict[str, Any], ...] = ()
        self.has_system = False
        self._losses = losses
        self._seen: list[tuple[int, tuple[Message, ...]]] = []
        self._forgotten: set[int] = set()
        self._summary: tuple[str, int] | None = None
        self._response: str | None = None

    def add(self, number: int, event: _Event) -> None:
        """Take the next event of the stream."""
        what = event.action or event.observation
        if what in NOT_SEEN or what is None:
            return
        if event.action == "condensation":
            self._condense(event.args)
            return
        if event.action is None:
            told = list(self._observed(event))
        elif event.source == "agent" and event.action not in NOT_ASKED:
            told = self._asked(number, event)
        else:
            told = list(self._told(event))
        self._seen.append((number, messages(told)))

    def _prompt(self) -> tuple[Message, ...]:
        kept = [told for number, told in self._seen if number not in self._forgotten]
        if self._summary:
            text, offset = self._summary
            kept.insert(offset, (Message(role="user", content=text),))
        return tuple(message for told in kept for message in told)

    def _condense(self, args: dict[str, Any]) -> None:
        self._losses.count("{n} times the history was condensed; what that cost is not recorded")
        asked = convert(args, _Condensation, "action 'condensation'", "args")
        start, end = asked.forgotten_events_start_id, asked.forgotten_events_end_id
        if asked.forgotten_event_ids is not None:
            self._forgotten.update(asked.forgotten_event_ids)
        elif start is not None and end is not None:
            self._forgotten.update(number for number, _ in self._seen if start <= number <= end)
        if asked.summary:
            self._summary = (asked.summary, asked.summary_offset or 0)

    def _asked(self, number: int, event: _Event) -> list[Chat]:
        """Return the answer that an action came from; nothing where an earlier one came from it."""
        metadata = event.tool_call_metadata
        response = (metadata and metadata.model_response) or _Response()
        repeated = response.id is not None and response.id == self._response
        self._response = response.id
        if not repeated:
            prompt = self._prompt()
            if not prompt:
                return []
            self.requests.append(_Request(prompt=prompt, usage=response.usage or Usage()))
        start = _time(event)
        if start is not None and self.requests and event.action not in {"message", "finish"}:
            self.requests[-1].started[number] = start
        return [] if repeated else [self._answer(event, metadata, response)]

    def _answer(self, event: _Event, metadata: _Metadata | None, response: _Response) -> Chat:
        if event.action == "message":
            return Chat(role="assistant", content=_text(event.args.get("content")))
        recorded = response.choices[0].message if response.choices else None
        if event.action == "finish":
            # Its call has no result, and is sent as text.
            text = recorded.content if recorded and recorded.content else event.args.get("thought")
            return Chat(role="assistant", content=_text(text or event.args.get("final_thought")))
        if recorded is not None:
            recorded.role = "assistant"
            return recorded
        self._losses.count("{n} answers were put together from their action")
        thought = event.args.get("thought")
        arguments = {k: v for k, v in event.args.items() if k != "thought"}
        if metadata is None:
            return Chat(role="assistant", content=f"{_text(thought)}\n{_text(arguments)}".strip())
        call = Call(
            id=metadata.tool_call_id,
            function=Function(name=metadata.function_name, arguments=arguments),
        )
        return Chat(role="assistant", content=_text(thought), tool_calls=[call])

    def _told(self, event: _Event) -> Iterator[Chat]:
        images: Any = event.args.get("image_urls")
        self._losses.count("{n} images were left out", len(_listed(images, "image_urls")))
        text = _text(event.args.get("content"))
        if event.action == "system":
            self.has_system = True
            self.tools = schemas(event.args.get("tools"), "action 'system'", "args.tools")
            yield Chat(role="system", content=text)
        elif event.action == "message":
            yield Chat(role="user", content=text)

    def _observed(self, event: _Event) -> Iterator[Chat]:
        self._end(event)
        metadata = event.tool_call_metadata
        if event.observation == "recall":
            if text := _recalled(event.extras):
                self._losses.count("{n} recalled notes stand without the text around them")
                yield Chat(role="user", content=text)
        elif metadata is not None:
            yield Chat(
                role="tool",
                content=_output(event),
                tool_call_id=metadata.tool_call_id,
                name=metadata.function_name or None,
            )
        else:
            yield Chat(role="user", content=_output(event))

    def _end(self, event: _Event) -> None:
        end = _time(event)
        for request in reversed(self.requests):
            if event.cause in request.started:
                start = request.started.pop(event.cause)
                request.spans += [] if end is None else [(start, end)]
                return


def _listed(value: object, field: str) -> list[Any]:
    return convert(value or [], list[Any], "action 'message'", f"args.{field}")


def _output(event: _Event) -> str:
    metadata = event.extras.get("metadata")
    around: dict[str, Any] = convert(metadata or {}, dict[str, Any], "observation", "metadata")
    prefix, suffix = (_text(around.get(name)) for name in ("prefix", "suffix"))
    return prefix + _text(event.content) + suffix


def _recalled(extras: dict[str, Any]) -> str:
    notes: Any = extras.get("microagent_knowledge") or []
    listed = convert(notes, list[dict[str, Any]], "observation 'recall'", "microagent_knowledge")
    texts = [extras.get("repo_instructions"), extras.get("additional_agent_instructions")]
    return "\n\n".join(
        _text(text) for text in [*texts, *(n.get("content") for n in listed)] if text
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _time(event: _Event) -> float | None:
    try:
        return datetime.fromisoformat(event.timestamp or "").timestamp()
    except ValueError:
        return None
