"""Read JSON lines of OpenAI chat ``messages``: training sets, and the logs of recording proxies.

A record whose messages end in an answer, and that tells nothing of a request, is a whole
conversation: each answer in it is one request. Any other is one request with its whole prompt; the
requests of a session are found by an id, or else by prompts that continue each other.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.chat import (
    Chat,
    Usage,
    ask_all,
    convert,
    decode,
    messages,
    misplaced,
    schemas,
)
from pytest_agentperf.importers.gather import begins, gather, records
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, Trajectory

__all__ = ["fits", "load"]

Record = dict[str, Any]

LOOKED_AT = 3
"""Records at the beginning of a file; one of them has to be of this format."""
BODIES = ((), ("body",), ("request",), ("request", "body"))
ANSWERS = ((), ("response",), ("response", "body"))
SESSION_IDS = ("session_id", "conversation_id", "trace_id")
NAMES = ("id", "instance_id", "trajectory_id", *SESSION_IDS)
OTHERS_FIELDS = ("info", "trajectory_format")
"""Of records that have messages and belong to other formats."""
ANTHROPIC_PARTS = ("tool_use", "tool_result")


class _WithRole(msgspec.Struct):
    role: str


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions of one file, or of all in a folder or archive.

    Args:
        source: what the user named.
        strict: whether a record that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: no record can be read, or one cannot and the import is strict.
    """
    return gather(source, fits, _sessions, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    if not begins(file, (".jsonl", ".ndjson", ".json"), b'"messages"', b'"role"'):
        return False
    return any(_is_record(text) for _, text in islice(records(file), LOOKED_AT))


def _is_record(text: bytes) -> bool:
    try:
        record = decode(text, Record, "")
    except ConfigError:
        # Damaged, and nobody else is asked after this importer: it tells where.
        return True
    try:
        listed = convert(_body(record).get("messages"), list[_WithRole], "")
    except ConfigError:
        return False
    return bool(listed) and not any(name in record for name in OTHERS_FIELDS)


def _sessions(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    requests = _Requests(file.stem_name)
    for where, text in records(file):
        try:
            record = decode(text, Record, where)
            body = _body(record)
            prompt = _prompt(body, where)
            tools = schemas(body.get("tools"), where)
            usage = _usage(record, where)
        except ConfigError as error:
            losses.skip(error)
            continue
        if prompt[-1].role == "assistant" and usage is None and body is record:
            session = Session()
            ask_all(session, prompt, tools)
            name = _first_text(record, NAMES) or _digests(prompt)[-1].hex()[:16]
            if trajectory := session.trajectory(name, source=file.stem_name):
                yield trajectory
        else:
            requests.add(_session_id(record, body), prompt, tools, usage or Usage())
    yield from requests.trajectories(losses)


class _Requests:
    """Single requests on their way into sessions."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._named: dict[str, Session] = {}
        self._unnamed: dict[str, list[Session]] = defaultdict(list)
        self._open: dict[bytes, list[Session]] = defaultdict(list)

    def add(
        self,
        name: str | None,
        prompt: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        usage: Usage,
    ) -> None:
        """Add a request to the session of that name, or to the one whose prompt it continues."""
        session = self._continued(prompt) if name is None else self._of(name)
        session.ask(
            prompt,
            tools=tools,
            isl_tokens=usage.prompt_tokens,
            osl_tokens=usage.completion_tokens,
        )

    def trajectories(self, losses: Losses) -> Iterator[Trajectory]:
        """Yield the sessions, and tell how many were put together without an id."""
        made_up = [(name, one) for name, ones in self._unnamed.items() for one in ones]
        losses.count(
            "{n} sessions have no id and are put together from prompts that continue each other",
            len(made_up),
        )
        for name, session in [*self._named.items(), *made_up]:
            if trajectory := session.trajectory(name, source=self._source):
                yield trajectory

    def _of(self, name: str) -> Session:
        return self._named.setdefault(name, Session())

    def _continued(self, prompt: Sequence[Message]) -> Session:
        digests = _digests(prompt)
        for digest in reversed(digests[:-1]):
            if waiting := self._open.get(digest):
                session = waiting.pop()
                break
        else:
            session = Session()
            self._unnamed[digests[-1].hex()[:16]].append(session)
        self._open[digests[-1]].append(session)
        return session


def _body(record: Record) -> Record:
    """Return the part of a record that holds the messages."""
    return next((body for body in _parts(record, BODIES) if "messages" in body), record)


def _parts(record: Record, paths: Sequence[Sequence[str]]) -> Iterator[Record]:
    for path in paths:
        value: Any = record
        for name in path:
            value = cast("Record", value).get(name) if isinstance(value, dict) else None
        if isinstance(value, dict):
            yield cast("Record", value)


def _prompt(body: Record, where: str) -> tuple[Message, ...]:
    recorded = convert(body.get("messages"), list[Chat], where, "messages")
    if not recorded:
        raise misplaced(where, "messages", "it is empty; remove the record")
    for number, message in enumerate(recorded):
        for part in message.content if isinstance(message.content, list) else ():
            if part.get("type") in ANTHROPIC_PARTS:
                problem = (
                    f"a part of type {part['type']!r} is of Anthropic's form; "
                    "write tool calls and results in OpenAI's"
                )
                raise misplaced(where, f"messages[{number}].content", problem)
    return messages(recorded)


def _usage(record: Record, where: str) -> Usage | None:
    """Return the token counts; ``None`` when the record tells nothing of an answer."""
    answers = list(_parts(record, ANSWERS))
    for answer in answers:
        counts = answer.get("usage") or answer
        if isinstance(counts, dict) and {"prompt_tokens", "completion_tokens"} & counts.keys():
            return convert(counts, Usage, where, "usage")
    return Usage() if len(answers) > 1 else None


def _session_id(record: Record, body: Record) -> str | None:
    headers = [v for sent in _parts(record, (("headers",),)) for v in sent.items()]
    plain = {name.lower().removeprefix("x-").replace("-", "_"): v for name, v in headers}
    places = (record, body, *_parts(record, (("metadata",),)), *_parts(body, (("metadata",),)))
    found = (_first_text(place, SESSION_IDS) for place in (*places, plain))
    return next((name for name in found if name), None)


def _first_text(place: Mapping[str, Any], names: Sequence[str]) -> str | None:
    values = (place.get(name) for name in names)
    return next((str(value) for value in values if isinstance(value, str | int) and value), None)


def _digests(prompt: Sequence[Message]) -> list[bytes]:
    """Return a digest for each beginning of a prompt, the whole of it last."""
    rolling = hashlib.sha256()
    out: list[bytes] = []
    for message in prompt:
        rolling.update(msgspec.json.encode(message) + b"\n")
        out.append(rolling.digest())
    return out
