"""A proxy that passes bytes on and looks at none of them: what any proxy adds to a request."""

import asyncio
import sys
from typing import Any
from urllib.parse import urlsplit

try:
    from uvloop import run
except ImportError:  # it has no build for Windows
    from asyncio import run


class _Server(asyncio.Protocol):
    def __init__(self, agent: asyncio.Transport) -> None:
        self._agent = agent

    def data_received(self, data: bytes) -> None:
        self._agent.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._agent.close()


class _Agent(asyncio.Protocol):
    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self._waiting: list[bytes] = []
        self._server: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._connecting = asyncio.ensure_future(self._connect(transport))

    async def _connect(self, agent: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self._server, _ = await loop.create_connection(lambda: _Server(agent), *self._place)
        self._server.writelines(self._waiting)

    def data_received(self, data: bytes) -> None:
        if self._server is None:
            self._waiting.append(data)
        else:
            self._server.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._server is not None:
            self._server.close()


async def _pass_on(upstream: str) -> None:
    parts = urlsplit(upstream)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Agent(parts.hostname or "", parts.port or 80), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    print(f"point the agent at http://127.0.0.1:{port}{parts.path}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    run(_pass_on(sys.argv[1]))
