"""Which agent sends what, when: cut to the context, tool times, assignments, salts. All seeded."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.tool_times import shipped_tool_times
from pytest_agentperf.trajectory import Dataset, Message, Trajectory, Turn, prompts

__all__ = [
    "MOST_SALTED",
    "Assignment",
    "Demands",
    "Plan",
    "Position",
    "balanced_start",
    "demands",
    "make_plan",
    "mean_isl_tokens",
    "salt",
    "salts",
    "start_offsets_s",
    "turns_by_isl",
]

Position = tuple[int, int]
"""A trajectory of the plan, by its place, and one of its turns."""


_BYTES_PER_TOKEN = 4
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, modulo 1, are spread as evenly as can be, however many are taken."""
MOST_SALTED = 2
"""Messages at the front of a prompt that `salts` may have a salt for."""
_SALT_DIGITS = 32
_SALT_TOKENS = 64
"""A digit and its blank are at most two tokens; the recorded ISL knows nothing of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A dataset as one model will be asked to replay it."""

    trajectories: tuple[Trajectory, ...] = field(repr=False)
    """In order of id; every turn's ``tool_s`` is final."""
    prompts: int
    cut_turns: int
    """Turns left out because their prompt and answer would not fit the model's context."""
    dropped: int
    """Trajectories of which not even the first turn fits."""
    estimated_isl: int
    """Turns without a recorded ISL, judged by four bytes a token."""
    sampled_tools: int
    """Turns whose tool time was drawn instead of recorded."""


def make_plan(
    dataset: Dataset,
    *,
    context_tokens: int,
    max_tokens: int,
    tool_delay: str,
    max_tool_s: float,
    seed: int,
    salted: bool = False,
) -> Plan:
    """Cut every trajectory to the context and fix every tool time.

    A trajectory ends before its first prompt whose ISL + max_tokens passes the limit.

    Raises:
        ConfigError: nothing is left to replay.
    """
    limit = context_tokens - max_tokens - (_SALT_TOKENS if salted else 0)
    kept: list[Trajectory] = []
    cut = estimated = sampled = 0
    for trajectory in sorted(dataset.trajectories, key=lambda t: t.id):
        lengths, guessed = _isl_tokens(trajectory)
        fits = next((i for i, isl in enumerate(lengths) if isl > limit), len(lengths))
        cut += len(lengths) - fits
        estimated += guessed
        if fits:
            turns, drawn = _with_tool_times(trajectory, fits, tool_delay, max_tool_s, seed)
            sampled += drawn
            kept.append(replace(trajectory, turns=turns))
    if not kept:
        raise ConfigError(
            f"dataset {dataset.name!r}: no trajectory fits a context of {context_tokens} tokens "
            f"with {max_tokens} for the answer; lower --agentperf-max-tokens or take another one"
        )
    return Plan(
        trajectories=tuple(kept),
        prompts=sum(len(t.turns) for t in kept),
        cut_turns=cut,
        dropped=len(dataset.trajectories) - len(kept),
        estimated_isl=estimated,
        sampled_tools=sampled,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What the requests of a plan ask of a server."""

    longest_prompt_tokens: int
    """Its salt included."""
    tools: bool
    """Some bring tools."""
    reasoning: bool
    """Some send recorded reasoning back."""


def demands(
    dataset: Dataset, *, context_tokens: int, max_tokens: int, salted: bool = False
) -> Demands:
    """Return what the requests of `make_plan`'s plan ask of a server.

    Args:
        dataset: what is replayed.
        context_tokens: of the model, to which trajectories are cut.
        max_tokens: cap of one answer.
        salted: prompts get a salt.
    """
    salt_tokens = _SALT_TOKENS if salted else 0
    limit = context_tokens - max_tokens - salt_tokens
    longest = 0
    tools = reasoning = False
    for trajectory in dataset.trajectories:
        fits = list(itertools.takewhile(lambda isl: isl <= limit, _isl_tokens(trajectory)[0]))
        turns = trajectory.turns[: len(fits)]
        longest = max(longest, *fits, 0)
        tools = tools or any(bool(trajectory.tools or turn.tools) for turn in turns)
        reasoning = reasoning or any(m.reasoning for turn in turns for m in turn.appended)
    return Demands(longest_prompt_tokens=longest + salt_tokens, tools=tools, reasoning=reasoning)


def _isl_tokens(trajectory: Trajectory) -> tuple[list[int], int]:
    lengths: list[int] = []
    guessed = 0
    for turn, prompt in zip(trajectory.turns, prompts(trajectory), strict=True):
        if turn.recorded_isl_tokens is None:
            guessed += 1
            tools = trajectory.tools if turn.tools is None else turn.tools
            size = sum(map(_size, prompt)) + sum(len(str(tool)) for tool in tools)
            lengths.append(size // _BYTES_PER_TOKEN)
        else:
            lengths.append(turn.recorded_isl_tokens)
    return lengths, guessed


def _size(message: Message) -> int:
    calls = sum(len(c.name) + len(c.arguments) for c in message.tool_calls)
    return len(str(message.content or "")) + len(message.reasoning or "") + calls


def _with_tool_times(
    trajectory: Trajectory, fits: int, tool_delay: str, max_tool_s: float, seed: int
) -> tuple[tuple[Turn, ...], int]:
    turns: list[Turn] = []
    drawn = 0
    for index, turn in enumerate(trajectory.turns[:fits]):
        seconds = None if tool_delay == "sampled" else turn.tool_s
        if tool_delay == "none" or (index == len(trajectory.turns) - 1 and seconds is None):
            seconds = 0.0
        elif seconds is None:
            drawn += 1
            seconds = _draw_tool_s(f"{seed}/{trajectory.id}/{index}", _called(trajectory, index))
        turns.append(replace(turn, tool_s=min(seconds, max_tool_s)))
    return tuple(turns), drawn


def _called(trajectory: Trajectory, index: int) -> set[str]:
    """Return the tools that the answer to a turn called, as the next prompt tells."""
    following = trajectory.turns[index + 1 : index + 2]
    answers = [m for turn in following for m in turn.appended if m.role == "assistant"]
    # After a compaction the whole history is appended: the last answer is this turn's.
    return {call.name for answer in answers[-1:] for call in answer.tool_calls}


def _draw_tool_s(key: str, tools: set[str]) -> float:
    """Return the longest of one draw a tool: calls made together run together.

    Each is from the recorded times of its tool (METHODOLOGY, section 1, "sampled per tool name"),
    or from those of all tools where the recording names none.
    """
    times = shipped_tool_times()
    return max(
        times.quantile_s(tool, int.from_bytes(_digest(f"{key}/{tool}")[:8], "big") / 2**64)
        for tool in tools or {""}
    )


class Assignment:
    """Which trajectory an agent replays: its own endless shuffle of the dataset.

    A function of (seed, agent) alone, so the same in every phase whatever the number of agents.
    """

    def __init__(self, *, seed: int, agent: int, trajectories: int) -> None:
        self._key = f"{seed}/{agent}"
        self._count = trajectories
        self._cycle = -1
        self._order: Sequence[int] = ()

    def index(self, ordinal: int) -> int:
        """Return the trajectory of the agent's ``ordinal``-th run, counted from 0."""
        cycle, place = divmod(ordinal, self._count)
        if cycle != self._cycle:
            self._cycle = cycle
            self._order = sorted(
                range(self._count), key=lambda i: _digest(f"{self._key}/{cycle}/{i}")
            )
        return self._order[place]


def turns_by_isl(trajectories: Sequence[Trajectory]) -> tuple[Position, ...]:
    """Return all recorded turns in order of their ISL, for `balanced_start`."""
    return tuple(
        (place, turn)
        for _, place, turn in sorted(
            (isl, place, turn)
            for place, trajectory in enumerate(trajectories)
            for turn, isl in enumerate(_isl_tokens(trajectory)[0])
        )
    )


def mean_isl_tokens(trajectories: Sequence[Trajectory]) -> float:
    """Return the mean input tokens of all prompts, as recorded or by four bytes a token."""
    lengths = [isl for trajectory in trajectories for isl in _isl_tokens(trajectory)[0]]
    return sum(lengths) / max(1, len(lengths))


def balanced_start(turns: Sequence[Position], agent: int) -> Position:
    """Return where an agent begins, so that contexts are from the start as long as they become.

    The turn at quantile frac(0.5 + 0.618 agent) of all turns by ISL: a function of the plan and the
    agent alone, so that the starts of few agents are among those of many.

    Args:
        turns: all turns in order, from `turns_by_isl`.
        agent: number of the agent.
    """
    return turns[int((0.5 + _GOLDEN * agent) % 1.0 * len(turns))]


def salt(key: str) -> str:
    """Return 32 digits separated by blanks: always the same number of tokens."""
    number = int.from_bytes(_digest(key), "big") % 10**_SALT_DIGITS
    return " ".join(f"{number:0{_SALT_DIGITS}d}")


def salts(
    kind: str, *, run: str, phase: int, agent: int, ordinal: int, shares_head: bool = True
) -> tuple[str, ...]:
    """Return the salts of the first messages of one trajectory's run.

    Args:
        kind: ``trajectory`` salts the first message; ``two-level`` gives all trajectories of a
            phase one salt there, so that a shared system prompt stays shared, and salts the second
            message by itself; ``none`` salts nothing.
        run: id of the run; phase, agent and ordinal say which trajectory.
        phase: number of the phase.
        agent: number of the agent.
        ordinal: which trajectory of the agent's sequence.
        shares_head: the first message is a system prompt; without one there is nothing to share.
    """
    own = salt(f"{run}/{phase}/{agent}/{ordinal}")
    if kind == "trajectory" or (kind == "two-level" and not shares_head):
        return (own,)
    return (salt(f"{run}/{phase}"), own) if kind == "two-level" else ()


def start_offsets_s(agents: int, spread_s: float) -> tuple[float, ...]:
    """Spread the starts evenly over a span, the first at 0; never in one burst."""
    return tuple(spread_s * i / agents for i in range(agents))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
