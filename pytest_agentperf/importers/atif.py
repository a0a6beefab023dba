"""Read the Agent Trajectory Interchange Format, ATIF-v1.0 to v1.8: a JSON object a trajectory.

An agent's step is one request, and the results of its tools stand in the same step. Steps that were
copied from an earlier trajectory, and those that no model was asked for, are history only. So are
steps that stand for several model calls: what was sent in between is not told.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.chat import Call, Chat, Function, decode, messages, misplaced
from pytest_agentperf.importers.gather import begins, gather, made_up_front, records, stem
from pytest_agentperf.importers.lines import Count
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import Session
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, Trajectory

__all__ = ["fits", "load"]

VERSIONS = "ATIF-v1."

Content = str | list[dict[str, Any]] | None


class _ToolCall(msgspec.Struct):
    tool_call_id: str
    function_name: str
    arguments: dict[str, Any]


class _Result(msgspec.Struct):
    source_call_id: str | None = None
    content: Content = None


class _Observation(msgspec.Struct):
    results: list[_Result] = []


class _Metrics(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class _Step(msgspec.Struct):
    source: str
    message: Content = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    observation: _Observation | None = None
    metrics: _Metrics | None = None
    llm_call_count: int | None = None
    is_copied_context: bool | None = None


class _Agent(msgspec.Struct):
    name: str
    tool_definitions: list[dict[str, Any]] | None = None


class _Trajectory(msgspec.Struct):
    schema_version: str
    agent: _Agent
    steps: list[_Step]
    session_id: str | None = None
    trajectory_id: str | None = None
    continued_trajectory_ref: str | None = None
    subagent_trajectories: "list[_Trajectory] | None" = None


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the trajectories of one file, or of all in a folder or archive.

    A subagent's trajectory inside another becomes one of its own.

    Args:
        source: what the user named.
        strict: whether a trajectory that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: no trajectory can be read, or one cannot and the import is strict.
    """
    return gather(source, fits, _sessions, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    return begins(file, (".json", ".jsonl", ".ndjson"), b'"schema_version"', b'"ATIF-v')


def _sessions(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    for where, text in records(file):
        try:
            recorded = decode(text, _Trajectory, where)
            if not recorded.schema_version.startswith(VERSIONS):
                problem = f"{recorded.schema_version!r} is not read, only {VERSIONS}x; convert it"
                raise misplaced(where, "schema_version", problem)
        except ConfigError as error:
            losses.skip(error)
            continue
        name = recorded.trajectory_id or recorded.session_id or stem(file.stem_name)
        yield from _with_subagents(recorded, name, file.stem_name, losses)


def _with_subagents(
    recorded: _Trajectory, name: str, source: str, losses: Losses
) -> Iterator[Trajectory]:
    losses.count(
        "{n} trajectories go on in another file, which is read as one of its own",
        int(recorded.continued_trajectory_ref is not None),
    )
    trajectory = _session(recorded, losses).trajectory(
        name, harness=recorded.agent.name, source=source
    )
    if trajectory is None:
        losses.count("{n} trajectories without a request were left out")
    else:
        yield trajectory
    for number, one in enumerate(recorded.subagent_trajectories or (), 1):
        own = one.trajectory_id or f"{name}/{number}"
        yield from _with_subagents(one, own, source, losses)


def _session(recorded: _Trajectory, losses: Losses) -> Session:
    tools = tuple(recorded.agent.tool_definitions or ())
    front: tuple[Message, ...] = ()
    # A step's messages are made once: a prompt is all those of the steps before it.
    history: list[Message] = []
    session = Session()
    has_system = any(step.source == "system" for step in recorded.steps)
    for step in recorded.steps:
        if history and _is_request(step, losses):
            metrics = step.metrics or _Metrics()
            if not len(session) and not has_system:
                front, tools = made_up_front(
                    recorded.agent.name, history, tools, metrics.prompt_tokens, losses
                )
            session.ask(
                [*front, *history],
                tools=tools,
                isl_tokens=metrics.prompt_tokens,
                osl_tokens=metrics.completion_tokens,
            )
        history.extend(messages(list(_chats(step, losses))))
    return session


def _is_request(step: _Step, losses: Losses) -> bool:
    if step.source != "agent" or step.llm_call_count == 0:
        return False
    if step.is_copied_context:
        losses.count("{n} answers were copied from an earlier trajectory and are not asked for")
        return False
    if step.llm_call_count is not None and step.llm_call_count > 1:
        losses.count("{n} steps stand for several model calls each and are not asked for")
        return False
    return True


def _chats(step: _Step, losses: Losses) -> Iterator[Chat]:
    calls = [
        Call(id=call.tool_call_id, function=Function(call.function_name, call.arguments))
        for call in step.tool_calls or ()
    ]
    text = _text(step.message, losses)
    if text or calls or step.reasoning_content:
        yield Chat(
            role="assistant" if step.source == "agent" else step.source,
            content=text,
            reasoning_content=step.reasoning_content,
            tool_calls=calls,
        )
    asked = {call.id for call in calls}
    for result in step.observation.results if step.observation else ():
        content = _text(result.content, losses)
        if result.source_call_id in asked:
            yield Chat(role="tool", content=content, tool_call_id=result.source_call_id)
        elif content:
            # Feedback that no call asked for reaches a model as somebody's words.
            yield Chat(role="user", content=content)


def _text(content: Content, losses: Losses) -> str:
    if not isinstance(content, list):
        return content or ""
    texts = [part for part in content if part.get("type") == "text"]
    losses.count("{n} images and recordings of sound were left out", len(content) - len(texts))
    return "\n".join(str(part.get("text", "")) for part in texts)
