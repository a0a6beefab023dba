"""The load process: takes orders on stdin, sends reports on stdout, runs a crew in between.

Frames are a four-byte little-endian length and msgpack. The process ends at once when its stdin
does. Reports are written every 50 ms, off the path of the agents' reads.
"""

import asyncio
import gc
import os
import resource
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Callable

import msgspec

from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.crew import Crew, Place
from pytest_agentperf.endpoint import HttpConnection
from pytest_agentperf.orders import Command, Report, Setup
from pytest_agentperf.protocols import Connection, EndpointInfo
from pytest_agentperf.room import open_files_up

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


def _connections(setup: Setup) -> Callable[[], Connection]:
    info = EndpointInfo(url=setup.url, headers=setup.headers, osl_header=setup.osl_header)
    # Shared by all connections: making one takes tens of milliseconds.
    tls = ssl.create_default_context()
    return lambda: HttpConnection(info, timeout_s=setup.timeout_s, tls=tls)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _keep_for_good() -> None:
    gc.collect()
    gc.freeze()


def _collect_again() -> None:
    gc.enable()
    gc.collect()


_PROCESS = Place(
    clock=REAL_TIME,
    connections=_connections,
    cpu_s=_cpu_s,
    equipped=_keep_for_good,
    load_begins=gc.disable,
    load_ended=_collect_again,
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

    crew = Crew(_PROCESS, send=send)

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
    try:
        import uvloop  # noqa: PLC0415 optional, and heavy to import where it is not needed
    except ImportError:
        asyncio.run(_main())
    else:
        uvloop.run(_main())


if __name__ == "__main__":
    main()
