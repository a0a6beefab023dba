"""A proxy that lets so many connections, or requests, through at a time and makes others wait.

    python -m tests.servers.proxy http://127.0.0.1:8000/v1 --connections=4

``--connections``: a connection holds its place until it is closed, as behind HAProxy's ``maxconn``.
``--requests``: it holds it for one request, as behind a pool of connections to the server.
"""

import argparse
import asyncio
import json
import sys
from urllib.parse import urlsplit

_READ = 65_536
_LAST = b"0\r\n\r\n"
"""The end of a streamed answer."""


class Proxy:
    """Copies bytes both ways."""

    def __init__(self, url: str, *, connections: int, requests: int) -> None:
        parts = urlsplit(url)
        self._peer = parts.hostname, parts.port
        self._connections = asyncio.Semaphore(connections or sys.maxsize)
        self._requests = asyncio.Semaphore(requests or sys.maxsize)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        try:
            async with self._connections:
                await self._relay(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._peer)
        try:
            while head := await reader.read(_READ):
                async with self._requests:
                    await _exchange(head, (reader, writer), (up_reader, up_writer))
        finally:
            up_writer.close()


async def _exchange(
    head: bytes,
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Pass one request up and its answer down, until its last chunk."""

    async def up() -> None:
        while data := await client[0].read(_READ):
            server[1].write(data)
            await server[1].drain()
        server[1].close()  # the client has given up

    server[1].write(head)
    rest = asyncio.create_task(up())
    try:
        while data := await server[0].read(_READ):
            client[1].write(data)
            await client[1].drain()
            if data.endswith(_LAST):
                return
    finally:
        rest.cancel()
        await asyncio.gather(rest, return_exceptions=True)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=0)
    parser.add_argument("--requests", type=int, default=0)
    asked = parser.parse_args()
    proxy = Proxy(asked.url, connections=asked.connections, requests=asked.requests)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1")
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)  # noqa: T201 the parent reads it
    # Our stdin closes when the test run ends, however it does.
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
