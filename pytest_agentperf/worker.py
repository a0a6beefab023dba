"""The load process: takes commands on stdin, sends reports on stdout, runs agents in between.

Frames are a four-byte little-endian length and msgpack. The coordinator decides when a phase
begins, closes and stops; this process obeys, and ends at once when its stdin does. Reports are
written every 50 ms, off the path of the agents' reads.
"""

import asyncio
import gc
import os
import resource
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pytest_agentperf.agent import encode_trajectory
from pytest_agentperf.answer import Answer
from pytest_agentperf.load import Load, Workload
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import TurnRecord
from pytest_agentperf.tokens import LocalTokenizer
from pytest_agentperf.trajectory import Trajectory
from pytest_agentperf.wire import ChatEncoder

__all__ = [
    "Begin",
    "Close",
    "Command",
    "Counted",
    "Drained",
    "Ended",
    "Failed",
    "Prepare",
    "Ready",
    "Report",
    "Setup",
    "Started",
    "Stop",
    "Stopped",
    "TokenCount",
    "pack",
    "read_frames",
]

_TICK_S = 0.05


class Setup(msgspec.Struct, tag=True, kw_only=True):
    """What stays the same in all phases of one model."""

    trajectories: str
    """Path of the planned trajectories, as a msgpack list."""
    url: str
    headers: dict[str, str]
    osl_header: str | None
    model: str
    request: dict[str, Any]
    reasoning_field: str
    max_tokens: int
    output: str
    salt: str
    seed: int
    run: str
    timeout_s: float
    tokenizer: str | None
    """Folder of the model's tokenizer; answers are counted after the phase."""


class Prepare(msgspec.Struct, tag=True, kw_only=True):
    """Make these agents for a phase, each to start so long after the phase begins."""

    phase: int
    agents: list[int]
    offsets_ns: list[int]


class Begin(msgspec.Struct, tag=True, kw_only=True):
    """Begin the prepared phase at an instant."""

    at_ns: int


class Close(msgspec.Struct, tag=True, kw_only=True):
    """The window has closed: say when no request is open that was sent before."""

    at_ns: int


class Stop(msgspec.Struct, tag=True, kw_only=True):
    """End the phase."""


Command = Setup | Prepare | Begin | Close | Stop


class Ready(msgspec.Struct, tag=True, kw_only=True):
    """Set up, or prepared."""


class Started(msgspec.Struct, tag=True, kw_only=True):
    """Agents that have sent their first request, and when."""

    first_sent_ns: dict[int, int]


class Ended(msgspec.Struct, tag=True, kw_only=True):
    """Requests that have ended."""

    turns: list[TurnRecord]


TokenCount = tuple[int, int, int, int, int | None]
"""Agent, ordinal, turn, tokens of the answer, tokens of its first chunk."""


class Counted(msgspec.Struct, tag=True, kw_only=True):
    """Local token counts of answers, sent after the load has stopped."""

    rows: list[TokenCount]


class Drained(msgspec.Struct, tag=True, kw_only=True):
    """No member of the window is open any more."""


class Stopped(msgspec.Struct, tag=True, kw_only=True):
    """The phase is over; how late this process was."""

    lag_s: list[float]
    cpu_ratio: float
    open_members: int


class Failed(msgspec.Struct, tag=True, kw_only=True):
    """This process cannot go on, and why."""

    text: str


Report = Ready | Started | Ended | Counted | Drained | Stopped | Failed

_encode = msgspec.msgpack.Encoder().encode


def pack(message: Command | Report) -> bytes:
    """Return a message as one frame."""
    data = _encode(message)
    return struct.pack("<I", len(data)) + data


async def read_frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield frames until the stream ends."""
    while True:
        try:
            (length,) = struct.unpack("<I", await reader.readexactly(4))
            yield await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return


@dataclass(slots=True, kw_only=True)
class _Phase:
    load: Load
    began_ns: int = 0
    cpu_s: float = 0.0
    turns: list[TurnRecord] = field(default_factory=list[TurnRecord])
    texts: list[tuple[TurnRecord, Answer]] = field(default_factory=list[tuple[TurnRecord, Answer]])
    """Answers to count after the phase; empty without a tokenizer."""
    close_ns: int | None = None
    drained: bool = False

    def begin(self, at_ns: int) -> None:
        gc.disable()
        self.began_ns = time.perf_counter_ns()
        self.cpu_s = _cpu_s()
        self.load.start(at_ns)


class _Worker:
    def __init__(self, out: asyncio.StreamWriter) -> None:
        self._out = out
        self._workload: Workload | None = None
        self._phase: _Phase | None = None
        self._tokenizer: LocalTokenizer | None = None

    async def obey(self, command: Command) -> None:
        match command:
            case Setup():
                self._set_up(command)
                await self._send(Ready())
            case Prepare():
                self._prepare(command)
                await self._send(Ready())
            case Stop():
                await self._stop()
            case Begin() | Close():
                self._direct(command)

    def _set_up(self, command: Setup) -> None:
        self._workload = _workload(command)
        if command.tokenizer is not None:
            self._tokenizer = LocalTokenizer(command.tokenizer)
        gc.collect()
        gc.freeze()

    def _direct(self, command: Begin | Close) -> None:
        if self._phase is None:
            raise RuntimeError(f"{type(command).__name__} without a phase")
        if isinstance(command, Begin):
            self._phase.begin(command.at_ns)
        else:
            self._phase.close_ns = command.at_ns

    async def tick(self) -> None:
        """Report what has happened since the last tick."""
        phase = self._phase
        if phase is None:
            return
        if fault := phase.load.fault():
            await self._send(Failed(text=f"{type(fault).__name__}: {fault}"))
        if first := phase.load.first_sent():
            await self._send(Started(first_sent_ns=first))
        if phase.turns:
            turns, phase.turns[:] = list(phase.turns), []
            await self._send(Ended(turns=turns))
        if phase is self._phase and phase.close_ns is not None and not phase.drained:
            phase.drained = phase.load.open_before(phase.close_ns) == 0
            if phase.drained:
                await self._send(Drained())

    def _prepare(self, command: Prepare) -> None:
        if self._workload is None or self._phase is not None:
            raise RuntimeError("Prepare before Setup, or while a phase runs")
        load = Load(
            self._workload,
            phase=command.phase,
            agents=command.agents,
            offsets_ns=command.offsets_ns,
            emit=self._emit,
        )
        self._phase = _Phase(load=load)

    def _emit(self, turn: TurnRecord, answer: Answer) -> None:
        if self._phase is None:
            return
        self._phase.turns.append(turn)
        if self._tokenizer is not None and turn.error is None:
            self._phase.texts.append((turn, answer))

    async def _stop(self) -> None:
        phase = self._phase
        if phase is None:
            return
        await self.tick()
        wall_s = (time.perf_counter_ns() - phase.began_ns) / 1e9
        cpu_ratio = (_cpu_s() - phase.cpu_s) / wall_s
        open_members = phase.load.open_before(phase.close_ns or 0)
        lag_s = await phase.load.stop()
        self._phase = None
        gc.enable()
        gc.collect()
        if phase.texts:
            await self._send(Counted(rows=self._counts(phase.texts)))
        await self._send(Stopped(lag_s=list(lag_s), cpu_ratio=cpu_ratio, open_members=open_members))

    def _counts(self, texts: list[tuple[TurnRecord, Answer]]) -> list[TokenCount]:
        if self._tokenizer is None:
            return []
        count = self._tokenizer.count
        return [
            (t.agent, t.ordinal, t.turn, count(a.reasoning) + count(a.text), count(a.first_text))
            for t, a in texts
        ]

    async def _send(self, report: Report) -> None:
        self._out.write(pack(report))
        await self._out.drain()


def _workload(command: Setup) -> Workload:
    encoder = ChatEncoder(
        model=command.model,
        request=command.request,
        reasoning_field=command.reasoning_field,
        max_tokens=command.max_tokens,
        output=command.output,
    )
    planned = msgspec.msgpack.decode(Path(command.trajectories).read_bytes(), type=list[Trajectory])
    return Workload(
        endpoint=EndpointInfo(
            url=command.url, headers=command.headers, osl_header=command.osl_header
        ),
        trajectories=tuple(encode_trajectory(t, encoder) for t in planned),
        encoder=encoder,
        seed=command.seed,
        run=command.run,
        salt=command.salt,
        timeout_s=command.timeout_s,
        tls=ssl.create_default_context(),
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _pipes() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # A library that prints must not break the frames: stdout is ours alone, prints go to stderr.
    ours = os.dup(1)
    os.dup2(2, 1)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(ours, "wb")
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def _main() -> None:
    reader, out = await _pipes()
    worker = _Worker(out)

    async def ticks() -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            await worker.tick()

    decode = msgspec.msgpack.Decoder(Command).decode
    # A fault in either ends the process, which the coordinator hears at once.
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(ticks())
        async for frame in read_frames(reader):
            await worker.obey(decode(frame))
        ticking.cancel()


def main() -> None:
    """Run one load process until its stdin ends."""
    try:
        import uvloop  # noqa: PLC0415 optional, and heavy to import where it is not needed
    except ImportError:
        asyncio.run(_main())
    else:
        uvloop.run(_main())


if __name__ == "__main__":
    main()
