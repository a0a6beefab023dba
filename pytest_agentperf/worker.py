"""The load process: takes orders on stdin, sends reports on stdout, runs a crew in between.

Frames are a four-byte little-endian length and msgpack. The process ends at once when its stdin
does. Reports are written every 50 ms, off the path of the agents' reads.
"""

import asyncio
import gc
import os
import resource
import struct
import sys
import time
from collections.abc import AsyncIterator

import msgspec

from pytest_agentperf.clients import connections_of
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.crew import Crew, Place
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.orders import Command, Report
from pytest_agentperf.priority import ask_to_run_soon
from pytest_agentperf.records import ReadLag
from pytest_agentperf.room import open_files_up
from pytest_agentperf.stolen import StolenTime

__all__ = ["pack", "read_frames"]

_TICK_S = 0.05

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


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _keep_for_good() -> None:
    gc.collect()
    gc.freeze()


def _collect_again() -> None:
    gc.enable()
    gc.collect()


class _GcPauses:
    """The longest collection of garbage, by the collector's own callbacks."""

    def __init__(self) -> None:
        self._from_ns = 0
        self._longest_ns = 0
        gc.callbacks.append(self._note)

    def take_s(self) -> float:
        """Return the longest one since it was asked last."""
        longest_ns, self._longest_ns = self._longest_ns, 0
        return longest_ns / 1e9

    def _note(self, phase: str, info: dict[str, int]) -> None:
        del info
        now_ns = time.perf_counter_ns()
        if phase == "start":
            self._from_ns = now_ns
        else:
            self._longest_ns = max(self._longest_ns, now_ns - self._from_ns)


def _process() -> Place:
    lags = ReadLags()

    def reads() -> ReadLag | None:
        lag = lags.take()
        return lag if lag.stamped or lag.unstamped else None

    return Place(
        clock=REAL_TIME,
        connections=lambda setup: connections_of(setup, lags),
        cpu_s=_cpu_s,
        equipped=_keep_for_good,
        load_begins=gc.disable,
        load_ended=_collect_again,
        reads=reads,
        stolen_ratio=StolenTime().take_ratio,
        gc_pause_s=_GcPauses().take_s,
    )


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

    async def send(report: Report) -> None:
        out.write(pack(report))
        await out.drain()

    crew = Crew(_process(), send=send)

    async def ticks() -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            await crew.tick()

    decode = msgspec.msgpack.Decoder(Command).decode
    # A fault in either ends the process, which the coordinator hears at once.
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(ticks())
        async for frame in read_frames(reader):
            await crew.obey(decode(frame))
        ticking.cancel()


def main() -> None:
    """Run one load process until its stdin ends."""
    open_files_up()
    ask_to_run_soon()
    try:
        import uvloop  # noqa: PLC0415 optional, and heavy to import where it is not needed
    except ImportError:
        asyncio.run(_main())
    else:
        uvloop.run(_main())


if __name__ == "__main__":
    main()
