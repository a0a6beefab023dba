"""What is replayed: messages, turns, trajectories, and the dataset that holds them."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

__all__ = ["WITHHELD", "Dataset", "Message", "ToolCall", "Trajectory", "Turn", "prompts"]


WITHHELD = "private dataset"
"""What results call a dataset of which nothing but digest and counts may be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call that the recorded model made."""

    id: str
    name: str
    arguments: str
    """The JSON text as the model wrote it, never re-encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message; reasoning, content and tool calls stay in fields of their own."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request, and the tool time that follows its answer."""

    kept: int
    """Messages of the previous turn's prompt that stay at the front of this one. Fewer than all
    after a compaction, or where a reminder was shown once and taken away again."""
    appended: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    """Tool schemas of this request; ``None`` means those of the trajectory."""
    recorded_isl_tokens: int | None = None
    recorded_osl_tokens: int | None = None
    tool_s: float | None = None
    """Seconds the tools took after this answer; ``None`` when the recording does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One whole session of a coding agent."""

    id: str
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    """OpenAI tool schemas, verbatim."""
    language: str | None = None
    harness: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A named set of trajectories."""

    name: str
    trajectories: tuple[Trajectory, ...] = field(repr=False)
    """Not shown: a traceback writes out every argument, and these take seconds or minutes."""
    losses: tuple[str, ...] = ()
    """What the importer had to leave out or make up, one sentence each."""
    private: bool = False
    """Nothing of it but digest and statistics may stand in what is passed on."""

    @property
    def sha256(self) -> str:
        """Digest of the content; neither the name nor the order of trajectories changes it."""
        encode = msgspec.json.Encoder(order="deterministic").encode
        digests = sorted(hashlib.sha256(encode(t)).digest() for t in self.trajectories)
        return hashlib.sha256(b"".join(digests)).hexdigest()


def prompts(trajectory: Trajectory) -> list[tuple[Message, ...]]:
    """Return the whole prompt of every turn, each the kept front of the last plus what came."""
    prompt: tuple[Message, ...] = ()
    out: list[tuple[Message, ...]] = []
    for turn in trajectory.turns:
        prompt = prompt[: turn.kept] + turn.appended
        out.append(prompt)
    return out
