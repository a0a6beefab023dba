"""Read what the recorder wrote: "agentperf-recording" version 1, one line a request or answer.

A line spells out only what its request does not share with the earlier one that it is most like.
The requests of a session are told by what they ask: one belongs to the session whose last answer
is the last one in its prompt. What goes on from nowhere, such as a sub-agent, a title or the prompt
after a compaction, begins a trajectory of its own. ``docs/recorder.md`` describes the format.
"""

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.lines import broken, misfit
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.recording_messages import read_message, read_system, read_tools
from pytest_agentperf.importers.recording_sessions import (
    NOTHING,
    Answer,
    Asked,
    Thread,
    Turn,
    Waiting,
    digests,
)
from pytest_agentperf.importers.sessions import Session
from pytest_agentperf.importers.sources import SourceFile, files
from pytest_agentperf.trajectory import Dataset, Trajectory

__all__ = ["FORMAT", "SESSION_HEADERS", "VERSION", "fits", "load"]

FORMAT = "agentperf-recording"
VERSION = 1

TORN = "{n} recordings were cut off inside their last line, which was left out"
OPEN = "{n} requests had no answer when the recording ended and are not replayed"
FAILED = "{n} requests failed or were broken off and are not replayed"
NO_USAGE = "{n} answers told no usage: the lengths of their prompts and answers are not known"
TWICE = "{n} recordings were there more than once and were taken once"

SESSION_HEADERS = ("x-session-id", "x-session-affinity", "x-opencode-session")

_OK = 200
MAX_TOKENS = 2**53


class _Header(msgspec.Struct):
    format: str
    version: int
    recording: str
    upstream: str | None = None


class _Request(msgspec.Struct):
    request: int
    at_ns: int
    kind: str
    messages: list[msgspec.Raw]
    body: dict[str, msgspec.Raw]
    headers: dict[str, str] = {}
    like: int | None = None
    kept: int = 0
    same: list[str] = []


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the recordings in a file, a folder or an archive as one dataset.

    ``None`` when there is no recording.

    Args:
        source: what the user gave.
        strict: whether a malformed line is an error.

    Raises:
        ConfigError: a recording is of a newer version or holds no answered request; or a line is
            malformed, and the import is strict.
    """
    losses = Losses(strict=strict)
    found: dict[str, list[Trajectory]] = {}
    for file in files(source):
        header = _header(file, source)
        if header is None:
            continue
        if header.recording in found:
            losses.count(TWICE)
            continue
        found[header.recording] = list(_Recording(file.name, header, losses).read(file))
    if not found:
        return None
    trajectories = tuple(one for recording in found.values() for one in recording)
    if not trajectories:
        raise ConfigError(
            f"{source}: the recording holds no request that was answered; record a session first"
        )
    name = source.rstrip("/").rpartition("/")[2].partition(".")[0]
    return Dataset(name=name, trajectories=trajectories, losses=losses.sentences())


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is a recording."""
    return _header(file, file.name) is not None


def _header(file: SourceFile, source: str) -> _Header | None:
    try:
        first = file.head().partition(b"\n")[0]
    except ConfigError:
        if file.name == source:
            raise
        # Whose it is cannot be told, and it does not spoil the recordings beside it.
        return None
    if FORMAT.encode() not in first:
        return None
    try:
        header = msgspec.json.decode(first, type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if header.format != FORMAT:
        return None
    if header.version != VERSION:
        problem = f"version {header.version} cannot be read, only {VERSION}; upgrade this package"
        raise broken(file.name, 1, "version", problem)
    return header


class _Recording:
    """One file, line by line."""

    def __init__(self, where: str, header: _Header, losses: Losses) -> None:
        self._where = where
        self._header = header
        self._losses = losses
        self._asked: dict[int, Asked] = {}
        self._open: set[int] = set()
        self._threads: list[Thread] = []
        self._waiting = Waiting()
        self._torn: ConfigError | None = None

    def read(self, file: SourceFile) -> Iterator[Trajectory]:
        """Yield the trajectories."""
        for number, line in file.lines():
            if self._torn is not None:
                self._losses.skip(self._torn)
                self._torn = None
            if number > 1:
                self._take(number, line)
        self._losses.count(TORN, self._torn is not None)
        self._losses.count(OPEN, len(self._open))
        for thread in self._threads:
            trajectory = self._trajectory(thread)
            if trajectory is not None:
                yield trajectory

    def _take(self, number: int, line: bytes) -> None:
        try:
            # The first word tells the kind of a line; most of it may be a long prompt.
            if line.startswith(b'{"request"'):
                self._request(number, msgspec.json.decode(line, type=_Request))
            else:
                self._answer(number, msgspec.json.decode(line, type=Answer))
        except (msgspec.ValidationError, RecursionError) as error:
            self._losses.skip(misfit(self._where, number, error))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Only the next line tells whether this one is broken, or the last one and cut off.
            self._torn = misfit(self._where, number, error)
        except ConfigError as error:
            self._losses.skip(error)

    def _request(self, number: int, line: _Request) -> None:
        like = self._asked.get(line.like) if line.like is not None else NOTHING
        if like is None or line.kept > len(like.raw) or set(line.same) - like.body.keys():
            problem = f"request {line.like} does not hold what is kept of it; it is left out"
            raise broken(self._where, number, "like", problem)
        kind, losses = line.kind, self._losses
        body = {name: like.body[name] for name in line.same} | line.body
        system = (
            like.system if "system" in line.same else read_system(kind, body.get("system"), losses)
        )
        raw = like.raw[: line.kept] + line.messages
        asked = Asked(
            at_ns=line.at_ns,
            key=_session_key(line.headers, body),
            agent=line.headers.get("user-agent"),
            raw=raw,
            body=body,
            messages=like.messages[: line.kept]
            + [read_message(kind, raw, losses) for raw in line.messages],
            system=system,
            tools=like.tools
            if "tools" in line.same
            else read_tools(kind, body.get("tools"), losses),
            digests=digests(like, line.kept if system == like.system else -1, system, raw),
        )
        self._asked[line.request] = asked
        self._open.add(line.request)
        self._place(line.request, asked)

    def _place(self, number: int, asked: Asked) -> None:
        """Find the session that a request goes on with, and end the pause before it."""
        thread = self._waiting.take(asked)
        if thread is None:
            thread = Thread(first=number, key=asked.key, last=asked)
            self._threads.append(thread)
        elif thread.turns and thread.turns[-1].pause_s is None:
            before = thread.turns[-1]
            before.pause_s = max(0, asked.at_ns - before.answer.end_ns) / 1e9
        thread.open += 1
        asked.thread = thread

    def _answer(self, number: int, line: Answer) -> None:
        asked = self._asked.get(line.answer)
        if asked is None or asked.thread is None or line.answer not in self._open:
            problem = f"there is no open request {line.answer}; it is left out"
            raise broken(self._where, number, "answer", problem)
        self._open.discard(line.answer)
        thread = asked.thread
        thread.open -= 1
        if line.error is not None or line.status != _OK:
            self._losses.count(FAILED)
        else:
            thread.turns.append(Turn(asked=asked, answer=line))
            thread.last = asked
        self._waiting.add(thread)

    def _trajectory(self, thread: Thread) -> Trajectory | None:
        session = Session()
        for turn in thread.turns:
            isl_tokens, osl_tokens = _lengths(turn.answer.usage or {})
            self._losses.count(NO_USAGE, osl_tokens is None)
            session.ask(
                turn.asked.prompt,
                tools=turn.asked.tools,
                isl_tokens=isl_tokens,
                osl_tokens=osl_tokens,
                tool_s=turn.pause_s,
            )
        return session.trajectory(
            f"{self._header.recording}-{thread.first}",
            harness=thread.last.agent,
            source=self._header.upstream,
        )


def _session_key(headers: dict[str, str], body: dict[str, msgspec.Raw]) -> str:
    """Return what the agent calls its session; empty when it does not tell."""
    for name in SESSION_HEADERS:
        if name in headers:
            return headers[name]
    for raw in (body.get("metadata"), body.get("prompt_cache_key")):
        told = None if raw is None else msgspec.json.decode(raw)
        # Anthropic's ``metadata`` holds the id of the user, and Claude Code's of the session in it.
        key = cast("dict[str, Any]", told).get("user_id") if isinstance(told, dict) else told
        if isinstance(key, str):
            return key
    return ""


def _lengths(usage: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return ISL, cached tokens included, and OSL, reasoning included."""
    if "input_tokens" in usage:
        # Anthropic counts what is read from and written to its cache apart from the rest.
        parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        isl_tokens = sum(_tokens(usage.get(part)) or 0 for part in parts)
        return isl_tokens, _tokens(usage.get("output_tokens"))
    return _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))


def _tokens(told: object) -> int | None:
    return told if type(told) is int and 0 <= told <= MAX_TOKENS else None
