"""Read SWE-agent's ``.traj``: one session a file, in the old schema or the one since version 1.

``history`` holds the messages, ``trajectory`` one step for each answer. A model may have seen less
than the history: old observations are cut from its prompts. Where a step tells what was sent, that
is taken: ``query`` is the step's own prompt, ``messages`` of the first releases the next one's.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pytest_agentperf.importers.chat import Chat, decode, messages
from pytest_agentperf.importers.gather import gather, stem
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, Trajectory

__all__ = ["fits", "load"]


class _Thinking(msgspec.Struct):
    thinking: str = ""


class _Message(Chat):
    is_demo: bool = False
    thought: str | None = None
    action: str | None = None
    tool_call_ids: list[str] | None = None
    thinking_blocks: list[_Thinking] | None = None


class _Step(msgspec.Struct):
    response: str | None = None
    execution_time: float | None = None
    query: list[_Message] | None = None
    messages: list[_Message] | None = None


class _Stats(msgspec.Struct):
    api_calls: int = 0


class _Info(msgspec.Struct):
    model_stats: _Stats | None = None


class _Agent(msgspec.Struct):
    history_processors: list[dict[str, Any]] | None = None


class _Config(msgspec.Struct):
    agent: _Agent | None = None


class _File(msgspec.Struct):
    history: list[_Message]
    trajectory: list[_Step] = []
    info: _Info | None = None
    replay_config: _Config | str | None = None


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions of one ``.traj``, or of all in a folder or archive.

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
    if not file.stem_name.endswith(".traj"):
        return False
    head = file.head()
    return b'"history"' in head or (b'"trajectory"' in head and b'"observation"' in head)


def _sessions(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    recorded = decode(file.read(), _File, file.name)
    history = _conversation(recorded.history)
    session = Session()
    for number, prompt in enumerate(_prompts(recorded, history)):
        step = recorded.trajectory[number] if number < len(recorded.trajectory) else None
        time_s = step.execution_time if step else None
        session.ask(prompt, tool_s=time_s if time_s is None or time_s >= 0 else None)
    _tell_losses(recorded, len(session), losses)
    name = stem(file.stem_name)
    trajectory = session.trajectory(name, harness="SWE-agent", source=file.stem_name)
    if trajectory is not None:
        yield trajectory


def _prompts(recorded: _File, history: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Yield the prompt of each answer, in order."""
    answers = [
        place
        for place, message in enumerate(recorded.history)
        if message.role == "assistant" and not message.is_demo
    ]
    steps = recorded.trajectory
    # The last answer may stand only among the steps; the history is then its prompt.
    if len(steps) > len(answers) and steps[len(answers)].response and answers:
        answers.append(len(history))
    for number, place in enumerate(answers):
        sent = _sent(steps, number)
        prompt = history[:place] if sent is None else _conversation(sent)
        if prompt and prompt[-1].role != "assistant":
            yield prompt


def _sent(steps: Sequence[_Step], number: int) -> list[_Message] | None:
    if number < len(steps) and steps[number].query:
        return steps[number].query
    if 0 < number <= len(steps):
        return steps[number - 1].messages or None
    return None


def _conversation(recorded: Sequence[_Message]) -> tuple[Message, ...]:
    for message in recorded:
        if message.content is None and message.thought is not None:
            message.content = f"{message.thought}\n{message.action or ''}".strip()
        if message.role == "tool" and message.tool_call_id is None and message.tool_call_ids:
            message.tool_call_id = message.tool_call_ids[0]
        if message.thinking_blocks and message.reasoning_content is None:
            message.reasoning_content = "".join(one.thinking for one in message.thinking_blocks)
    return messages(recorded)


def _tell_losses(recorded: _File, turns: int, losses: Losses) -> None:
    if not turns:
        losses.count("{n} sessions without an answer were left out")
    if any(message.tool_calls for message in recorded.history):
        losses.count("{n} sessions do not hold the schemas of their tools and are sent without")
    stats = recorded.info.model_stats if recorded.info else None
    unanswered = stats.api_calls - turns if stats else 0
    losses.count("{n} requests whose answer is not recorded were left out", max(0, unanswered))
    if _cut(recorded) and not any(step.query or step.messages for step in recorded.trajectory):
        losses.count(
            "{n} sessions cut their history by rules whose outcome is not recorded; "
            "it is sent whole"
        )


def _cut(recorded: _File) -> bool:
    config = recorded.replay_config
    if isinstance(config, str):
        config = decode(config.encode(), _Config, "replay_config")
    processors = (config.agent and config.agent.history_processors) if config else None
    return any(one.get("type") != "cache_control" for one in processors or ())
