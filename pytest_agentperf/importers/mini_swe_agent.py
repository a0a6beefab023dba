"""Read mini-swe-agent's ``.traj.json``: one session a file, its messages as they were sent.

An answer carries the provider's whole response with its token counts. Tools run one after another,
also those that were called together, and each result has the time at which it was there; so the
tool time of a turn is that of its last result less that of the answer. The tool's schema is not in
the file: mini-swe-agent has one tool, ``bash``, and it is put in again.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from pytest_agentperf.importers.chat import Chat, Usage, decode, messages
from pytest_agentperf.importers.gather import begins, gather, stem
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Trajectory

__all__ = ["fits", "load"]

BASH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run a command in bash",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string", "description": "What bash is to run"}},
            "required": ["command"],
        },
    },
}
NOT_SENT = "exit"
"""Role of the message in which the agent notes how the run ended."""


class _Response(msgspec.Struct):
    usage: Usage | None = None


class _Extra(msgspec.Struct):
    response: _Response | None = None
    timestamp: float | None = None


class _Message(Chat):
    extra: _Extra | None = None
    timestamp: float | None = None


class _Stats(msgspec.Struct):
    api_calls: int = 0


class _Info(msgspec.Struct):
    model_stats: _Stats | None = None


class _File(msgspec.Struct):
    messages: list[_Message]
    info: _Info | None = None
    instance_id: str | None = None


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions of one ``.traj.json``, or of all in a folder or archive.

    Args:
        source: what the user named.
        strict: whether a file that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: none of the files can be read, or one cannot and the import is strict.
    """
    return gather(source, fits, _sessions, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    # The format's name stands at the end of the file, behind the messages.
    return begins(file, (".json",), b'"messages"', b'"instance_cost"') or begins(
        file, (".traj.json",), b'"info"', b'"mini_version"'
    )


def _sessions(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    recorded = decode(file.read(), _File, file.name)
    sent = [message for message in recorded.messages if message.role != NOT_SENT]
    conversation = messages(sent)
    tools = (BASH,) if any(message.tool_calls for message in sent) else ()
    session = Session()
    for place, answer in enumerate(sent):
        if answer.role != "assistant" or not place:
            continue
        usage = _usage(answer)
        session.ask(
            conversation[:place],
            tools=tools,
            isl_tokens=usage.prompt_tokens,
            osl_tokens=usage.completion_tokens,
            tool_s=_tool_s(answer, sent[place + 1 :]),
        )
    _tell_losses(recorded, len(session), tools, losses)
    name = recorded.instance_id or stem(file.stem_name)
    trajectory = session.trajectory(name, harness="mini-swe-agent", source=file.stem_name)
    if trajectory is not None:
        yield trajectory


def _usage(answer: _Message) -> Usage:
    response = answer.extra.response if answer.extra else None
    return (response.usage if response else None) or Usage()


def _tool_s(answer: _Message, following: Sequence[_Message]) -> float | None:
    results = takewhile(lambda message: message.role != "assistant", following)
    ends = [end for result in results if (end := _time(result)) is not None]
    start = _time(answer)
    if start is None or not ends or ends[-1] < start:
        return None
    return ends[-1] - start


def _time(message: _Message) -> float | None:
    inner = message.extra.timestamp if message.extra else None
    return message.timestamp if inner is None else inner


def _tell_losses(recorded: _File, turns: int, tools: Iterable[Any], losses: Losses) -> None:
    if not turns:
        losses.count("{n} sessions without an answer were left out")
    if tools:
        losses.count("{n} sessions do not hold the schema of their tool; one of bash stands for it")
    stats = recorded.info.model_stats if recorded.info else None
    unanswered = stats.api_calls - turns if stats else 0
    losses.count("{n} requests whose answer is not recorded were left out", max(0, unanswered))
