"""Read the hashed traces of kv-cache-tester, also known as Weka's: JSON, one conversation a file.

A request tells its length (``in``), the hashes of its whole blocks, the length of the answer
(``out``) and how long the client waited before it (``think_time``); there is no text. Hashes count
from the conversation's first token and mean something in that conversation alone, unless
``hash_id_scope`` is global. Some sets hash the last, partial block too, and some stand as JSON
lines, one conversation each. A sub-agent starts with a fresh prompt, so it is a session of its own.
Format: ``docs/TRACE_FORMAT.md`` of agentic-coding-analysis.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeVar

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.blocks import BlockTokens, Length, Scope, Texts
from pytest_agentperf.importers.gather import begins, stem
from pytest_agentperf.importers.lines import Count, decode, misfit
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.shapes import Asked, Shape, shape_up, tell_hashes
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset

__all__ = ["fits", "load"]

Kind = TypeVar("Kind")


class _Conversation(msgspec.Struct):
    requests: list[dict[str, Any]]
    block_size: BlockTokens
    id: str | None = None
    hash_id_scope: str = "local"
    tool_tokens: Count = 0
    system_tokens: Count = 0


class _SubAgent(msgspec.Struct):
    requests: list[dict[str, Any]]
    agent_id: str | None = None
    tool_tokens: Count = 0
    system_tokens: Count = 0


class _Request(msgspec.Struct):
    in_: Length = msgspec.field(name="in")
    hash_ids: list[int]
    out: Count | None = None
    t: float | None = None
    api_time: float | None = None
    think_time: float | None = None
    stop: str | None = None
    input_types: list[str] = []
    output_types: list[str] = []


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the conversations in a file, folder or archive.

    Args:
        source: path of it.
        strict: whether a request that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: no conversation could be read, or one not wholly and the import is strict.
    """
    return shape_up(source, fits, _Reader().read, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    return begins(file, (".json", ".jsonl"), b'"requests"', b'"hash_ids"', b'"block_size"')


class _Reader:
    """Reads the files of one source."""

    def __init__(self) -> None:
        self._global: dict[int, Scope] = {}
        """By block size; conversations with hashes that are valid everywhere share one."""

    def read(self, file: SourceFile, texts: Texts, losses: Losses) -> Iterator[Shape]:
        """Yield the sessions of one file."""
        lines = file.lines() if file.stem_name.endswith(".jsonl") else [(1, file.read())]
        for line, text in lines:
            try:
                conversation = decode(text, _Conversation, file.name, line)
            except ConfigError as error:
                losses.skip(error)
                continue
            name = conversation.id or (stem(file.stem_name) + (f"-{line}" if line > 1 else ""))
            scope = self._scope(conversation, name, texts)
            yield from _Conversing(scope, file.name, line, losses).sessions(conversation, name)

    def _scope(self, conversation: _Conversation, name: str, texts: Texts) -> Scope:
        size = conversation.block_size
        if conversation.hash_id_scope != "global":
            return Scope(texts, name, size)
        return self._global.setdefault(size, Scope(texts, f"blocks of {size}", size))


class _Conversing:
    """Reads one conversation and its sub-agents."""

    def __init__(self, scope: Scope, where: str, line: int, losses: Losses) -> None:
        self._scope = scope
        self._where = where
        self._line = line
        self._losses = losses

    def sessions(
        self, part: "_Conversation | _SubAgent", name: str, inside: str = ""
    ) -> Iterator[Shape]:
        """Yield the session of a conversation or sub-agent, then those of its sub-agents."""
        own: list[_Request] = []
        nested: list[tuple[str, _SubAgent]] = []
        for index, raw in enumerate(part.requests):
            place = f"{inside}requests[{index}]"
            try:
                if raw.get("type") == "subagent":
                    nested.append((place, self._convert(raw, _SubAgent, place)))
                else:
                    own.append(self._convert(raw, _Request, place))
            except ConfigError as error:
                self._losses.skip(error)
        head = part.tool_tokens + part.system_tokens
        yield Shape(
            id=name,
            asked=list(self._ask(own, head)),
            source=f"kv-cache-tester {stem(self._where)}",
            harness="claude-code",
        )
        self._losses.count("{n} sub-agents are sessions of their own", len(nested))
        for number, (place, agent) in enumerate(nested, 1):
            called = agent.agent_id or f"agent_{number:03}"
            yield from self.sessions(agent, f"{name}/{called}", f"{place}.")

    def _ask(self, requests: list[_Request], head_tokens: int) -> Iterator[Asked]:
        answer = 0
        pauses = [*(self._tool_s(*pair) for pair in pairwise(requests)), None]
        for request, tool_s in zip(requests, pauses[: len(requests)], strict=True):
            prompt = self._scope.add(
                request.hash_ids,
                request.in_,
                answer_tokens=answer,
                system_blocks=head_tokens // self._scope.block_tokens,
            )
            tell_hashes(len(request.hash_ids), request.in_, self._scope, self._losses)
            answer = request.out or 0
            yield Asked(
                prompt=prompt, isl_tokens=request.in_, osl_tokens=request.out, tool_s=tool_s
            )

    def _tool_s(self, request: _Request, following: _Request) -> float | None:
        """Return the time from one answer to the next request, if that was for tools."""
        if not _calls_tools(request, following):
            self._losses.count("{n} pauses of people are not taken for tool time")
            return None
        waits = [] if following.think_time is None else [following.think_time]
        if request.t is not None and following.t is not None:
            # Requests without an api_time were streamed; their think_time may span several.
            elapsed = following.t - request.t
            waits += [elapsed - (request.api_time or 0)] if waits or request.api_time else []
        return max(0.0, round(min(waits), 3)) if waits else None

    def _convert(self, raw: dict[str, Any], kind: type[Kind], place: str) -> Kind:
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            raise misfit(self._where, self._line, error, place) from error


def _calls_tools(request: _Request, following: _Request) -> bool:
    told = request.stop or request.output_types or following.input_types
    return (
        not told
        or request.stop == "tool_use"
        or "tool_use" in request.output_types
        or "tool_result" in following.input_types
    )
