"""What a request is about: the language of its session, and the tool whose result it brings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_agentperf.languages import language
from pytest_agentperf.trajectory import Trajectory

__all__ = ["FIRST", "NO_TOOL", "SEVERAL", "Labels", "labels"]

FIRST = "none: the first prompt"
NO_TOOL = "none: no call before it"
SEVERAL = "several tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Languages and tools by trajectory id; empty for a dataset that may not be told about."""

    languages: Mapping[str, str] = field(default_factory=dict[str, str])
    tools: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """For every turn, the name of the tool whose result it brings, or a word for none."""

    def language(self, trajectory: str) -> str | None:
        """Return the language of a session, or ``None`` where it may not be told."""
        return self.languages.get(trajectory)

    def tool(self, trajectory: str, turn: int) -> str | None:
        """Return the tool before a turn, or ``None`` where it may not be told."""
        known = self.tools.get(trajectory, ())
        return known[turn] if turn < len(known) else None


def labels(trajectories: Sequence[Trajectory]) -> Labels:
    """Label every turn of a plan."""
    return Labels(
        languages={one.id: language(one) for one in trajectories},
        tools={one.id: _tools(one) for one in trajectories},
    )


def _tools(trajectory: Trajectory) -> tuple[str, ...]:
    found = [FIRST]
    for turn in trajectory.turns[1:]:
        # After a compaction the whole history is appended: only the last answer is new.
        answers = [message for message in turn.appended if message.role == "assistant"]
        names = {call.name for call in answers[-1].tool_calls} if answers else set[str]()
        found.append(next(iter(names)) if len(names) == 1 else SEVERAL if names else NO_TOOL)
    return tuple(found)
