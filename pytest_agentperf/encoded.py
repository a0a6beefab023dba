"""Trajectories as bytes in one file, which all load processes map instead of holding a copy each.

The file is written once per model: for every trajectory its messages as JSON, one after the other
with a comma behind each, its tools, and what stands before and behind a salt in those messages that
may get one; then an index of all of it as msgpack, and eight bytes that say how long that is. A
prompt without compaction is thus one slice of the file.
"""

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from pytest_agentperf.errors import StorageError
from pytest_agentperf.plan import MOST_SALTED, Position, turns_by_isl
from pytest_agentperf.trajectory import Message, Trajectory
from pytest_agentperf.wire import encode_message, split_message

__all__ = [
    "EncodedTrajectories",
    "EncodedTrajectory",
    "EncodedTurn",
    "Prompt",
    "map_trajectories",
    "write_trajectories",
]

_LENGTH_BYTES = 8
_SYSTEM_ROLES = {"system", "developer"}

Span = tuple[int, int]
"""First byte in the file, and the one after the last."""


class EncodedTurn(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """One request, without its text."""

    kept: int
    """Messages of the previous turn's prompt that stay at the front of this one."""
    appended: int
    tools: Span
    """Tool schemas of this request as JSON; empty where it has none."""
    recorded_osl_tokens: int | None
    tool_s: float


class EncodedTrajectory(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Where the bytes of a trajectory are."""

    id: str
    shares_head: bool
    """The first message is a system prompt."""
    turns: tuple[EncodedTurn, ...]
    starts: tuple[int, ...]
    """First byte of every message, in order of appending, and the end of the last one's comma."""
    seams: dict[int, tuple[int, int, int, int]]
    """Of messages that may get a salt: start, place of the salt, end, and where in the message
    itself the rest begins."""


class _Index(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    trajectories: tuple[EncodedTrajectory, ...]
    turns_by_isl: tuple[Position, ...]


class EncodedTrajectories:
    """All trajectories of a plan, to be read where they are."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        length = int.from_bytes(data[-_LENGTH_BYTES:], "little")
        index = data[-_LENGTH_BYTES - length : -_LENGTH_BYTES]
        self._index = msgspec.msgpack.decode(index, type=_Index)

    def __len__(self) -> int:
        return len(self._index.trajectories)

    def __getitem__(self, place: int) -> EncodedTrajectory:
        return self._index.trajectories[place]

    @property
    def turns_by_isl(self) -> Sequence[Position]:
        """All turns in order of their ISL, for `pytest_agentperf.plan.balanced_start`."""
        return self._index.turns_by_isl

    def prompt(self, place: int, salts: Sequence[str]) -> "Prompt":
        """Return the prompt of a trajectory before its first turn.

        Args:
            place: which trajectory.
            salts: go before the first messages, one each.
        """
        return Prompt(self._data, self[place], salts)

    def tools(self, turn: EncodedTurn) -> memoryview:
        """Return the tool schemas of a turn as JSON; nothing where it has none."""
        start, end = turn.tools
        return self._data[start:end]


class Prompt:
    """The prompt of one trajectory, turn by turn; it holds numbers of messages, not their text."""

    def __init__(
        self, data: memoryview, trajectory: EncodedTrajectory, salts: Sequence[str]
    ) -> None:
        self._data = data
        self._trajectory = trajectory
        self._salts = [salt.encode() for salt in salts]
        self._messages: list[int] = []
        self._next = 0

    def go_on(self, turn: EncodedTurn) -> None:
        """Become the prompt of the next turn."""
        del self._messages[turn.kept :]
        after = self._next + turn.appended
        self._messages += range(self._next, after)
        self._next = after

    def pieces(self) -> list[bytes | memoryview]:
        """Return the messages as JSON, in pieces that commas are still missing between."""
        salted = [
            self._salted(message, salt)
            for message, salt in zip(self._messages, self._salts, strict=False)
        ]
        starts = self._trajectory.starts
        return [
            *salted,
            *(
                self._data[starts[first] : starts[after] - 1]
                for first, after in _runs(self._messages[len(salted) :])
            ),
        ]

    def _salted(self, message: int, salt: bytes) -> bytes:
        start, seam, end, rest = self._trajectory.seams[message]
        after = self._trajectory.starts[message + 1] - 1
        data = self._data
        return b"".join((data[start:seam], salt, data[seam:end], data[rest:after]))


def _runs(numbers: Iterable[int]) -> list[Span]:
    """Return, for all runs of consecutive numbers, the first and the one after the last."""
    runs: list[Span] = []
    first = after = -1
    for number in numbers:
        if number != after:
            runs.append((first, after))
            first = number
        after = number + 1
    return [*runs[1:], (first, after)] if first >= 0 else []


def map_trajectories(path: Path) -> EncodedTrajectories:
    """Map a file that `write_trajectories` has written; it may be unlinked afterwards."""
    with path.open("rb") as file:
        return EncodedTrajectories(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def write_trajectories(
    path: Path, trajectories: Sequence[Trajectory], *, reasoning_field: str
) -> None:
    """Write what `map_trajectories` maps; the path is there when all of it is.

    Args:
        path: where to.
        trajectories: of a plan, so that every tool time is known.
        reasoning_field: message field in which recorded reasoning goes back.

    Raises:
        StorageError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            out = _Out(file)
            index = _Index(
                trajectories=tuple(_encode(t, reasoning_field, out) for t in trajectories),
                turns_by_isl=turns_by_isl(trajectories),
            )
            start, end = out.put(msgspec.msgpack.encode(index))
            out.put((end - start).to_bytes(_LENGTH_BYTES, "little"))
        part.replace(path)
    except OSError as failed:
        raise StorageError(
            f"what is to be sent cannot be written to {path.parent}: {failed}; make room, "
            "or name another folder by TMPDIR"
        ) from failed


class _Out:
    """A file that grows, and how far it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def put(self, data: bytes) -> Span:
        start = self._at
        self._at += self._file.write(data)
        return start, self._at


def _encode(trajectory: Trajectory, reasoning_field: str, out: _Out) -> EncodedTrajectory:
    may_be_salted: dict[int, Message] = {}
    starts: list[int] = []
    prompt: list[int] = []
    end = 0
    for turn in trajectory.turns:
        del prompt[turn.kept :]
        for message in turn.appended:
            if len(prompt) < MOST_SALTED:
                may_be_salted[len(starts)] = message
            prompt.append(len(starts))
            start, end = out.put(encode_message(message, reasoning_field) + b",")
            starts.append(start)
    starts.append(end)
    return EncodedTrajectory(
        id=trajectory.id,
        shares_head=trajectory.turns[0].appended[0].role in _SYSTEM_ROLES,
        starts=tuple(starts),
        seams={
            number: _put_seam(message, reasoning_field, out, after=starts[number + 1] - 1)
            for number, message in may_be_salted.items()
        },
        turns=_encode_turns(trajectory, out),
    )


def _put_seam(
    message: Message, reasoning_field: str, out: _Out, *, after: int
) -> tuple[int, int, int, int]:
    before, behind = split_message(message, reasoning_field)
    plain = encode_message(message, reasoning_field)
    # All but a few bytes behind the salt end the message itself too, and stand there already.
    own = next(n for n in range(len(behind) + 1) if plain.endswith(behind[n:]))
    start, seam = out.put(before)
    _, end = out.put(behind[:own])
    return start, seam, end, after - len(behind) + own


def _encode_turns(trajectory: Trajectory, out: _Out) -> tuple[EncodedTurn, ...]:
    known: dict[bytes, Span] = {msgspec.json.encode(()): (0, 0)}

    def put_once(tools: object) -> Span:
        data = msgspec.json.encode(tools)
        if data not in known:
            known[data] = out.put(data)
        return known[data]

    shared = put_once(trajectory.tools)
    return tuple(
        EncodedTurn(
            kept=turn.kept,
            appended=len(turn.appended),
            tools=shared if turn.tools is None else put_once(turn.tools),
            recorded_osl_tokens=turn.recorded_osl_tokens,
            tool_s=turn.tool_s or 0.0,
        )
        for turn in trajectory.turns
    )
