"""httpx over the engine: `httpx.AsyncClient(transport=EngineTransport())`.

The public face of the engine, for who wants its stamps behind an interface that he knows. A
response's ``extensions["agentperf"]`` is the `pytest_agentperf.records.RawAnswer` of the exchange,
whose stamps are written as things happen; its ``reads`` stay empty, since the stream brings them.
``extensions["agentperf_read_ns"]`` grows by the stamp of every piece of the stream.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from pytest_agentperf.engine.channel import Channel
from pytest_agentperf.engine.exchange import BrokenError, Sink
from pytest_agentperf.engine.framing import Framing
from pytest_agentperf.records import RawAnswer

__all__ = ["EngineTransport"]

_KINDS: dict[str, type[httpx.TransportError]] = {
    "ConnectError": httpx.ConnectError,
    "ReadError": httpx.ReadError,
    "RemoteProtocolError": httpx.RemoteProtocolError,
}


class EngineTransport(httpx.AsyncBaseTransport):
    """A connection for every request that is open at once, kept for the next one to its origin."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        """Open nothing yet.

        Args:
            tls: for ``https``; the system's authorities are trusted where there is none.
        """
        self._tls = tls
        self._idle: dict[tuple[str, str, int | None], list[Channel]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the response is there when its head is."""
        body = await request.aread()
        url = request.url
        idle = self._idle.setdefault((url.scheme, url.host, url.port), [])
        channel = idle.pop() if idle else self._channel(url)
        head = [
            b"%b %b HTTP/1.1\r\n" % (request.method.encode(), url.raw_path),
            *(b"%b: %b\r\n" % header for header in request.headers.raw),
            b"\r\n",
        ]
        into = RawAnswer()
        under_way = _UnderWay()
        task = asyncio.create_task(
            under_way.run(channel.request((b"".join(head), body), into, under_way.begin))
        )
        stream = _Stream(under_way, task, channel, idle)
        try:
            async with asyncio.timeout(_longest_s(request)):
                framing = await under_way.head()
        except BaseException as failed:
            await stream.aclose()
            if isinstance(failed, TimeoutError):
                raise httpx.ReadTimeout("no answer in time", request=request) from None
            raise
        return httpx.Response(
            framing.status,
            headers=framing.headers,
            stream=stream,
            extensions={
                "http_version": b"HTTP/1.1",
                "agentperf": into,
                "agentperf_read_ns": under_way.read_ns,
            },
        )

    async def aclose(self) -> None:
        """Close the connections that no request uses."""
        idle, self._idle = self._idle, {}
        for channels in idle.values():
            for channel in channels:
                channel.close()

    def _channel(self, url: httpx.URL) -> Channel:
        if url.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        tls = self._tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return Channel(urlsplit(str(url)), tls=tls)


class _UnderWay:
    """An exchange whose head and body somebody waits for, piece by piece."""

    def __init__(self) -> None:
        self.read_ns: list[int] = []
        self._pieces: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._more: asyncio.Future[None] = self._loop.create_future()
        """Done when there is a piece, or will be none."""
        self._ended = False
        self._framing: asyncio.Future[Framing] = self._loop.create_future()
        self._failed: Exception | None = None

    async def run(self, exchange: Any) -> None:
        try:
            await exchange
        except BrokenError as broken:
            kind, _, text = str(broken).partition(": ")
            self._failed = _KINDS.get(kind, httpx.ReadError)(text)
        except asyncio.CancelledError:
            self._failed = httpx.ReadError("the request was cancelled")
            raise
        except Exception as bug:  # noqa: BLE001 whoever iterates raises it
            self._failed = bug
        finally:
            self._ended = True
            self._tell()
            if not self._framing.done():
                self._framing.cancel()

    def begin(self, framing: Framing) -> Sink:
        if not self._framing.done():
            self._framing.set_result(framing)
        return self._take

    def _take(self, at_ns: int, data: bytes) -> None:
        self.read_ns.append(at_ns)
        self._pieces.append(data)
        self._tell()

    def _tell(self) -> None:
        if not self._more.done():
            self._more.set_result(None)

    async def head(self) -> Framing:
        await asyncio.wait([self._framing])
        if self._framing.cancelled():
            raise self._failed or httpx.ReadError("the request was cancelled")
        return self._framing.result()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield every piece as it comes."""
        pieces = self._pieces
        while True:
            while pieces:
                yield pieces.popleft()
            if self._ended:
                break
            self._more = self._loop.create_future()
            await self._more
        if self._failed is not None:
            raise self._failed


class _Stream(httpx.AsyncByteStream):
    def __init__(
        self,
        under_way: _UnderWay,
        task: "asyncio.Task[None]",
        channel: Channel,
        idle: list[Channel],
    ) -> None:
        self._under_way = under_way
        self._task = task
        self._channel = channel
        self._idle = idle

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._under_way)

    async def aclose(self) -> None:
        """Keep the connection for another request if the answer is whole, and close it if not."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._channel.is_open:
            self._idle.append(self._channel)
        else:
            self._channel.close()


def _longest_s(request: httpx.Request) -> float | None:
    """Return how long the head may take by the request's own timeouts."""
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    limits = [timeouts.get(kind) for kind in ("connect", "read", "write")]
    return None if None in limits else sum(limit or 0.0 for limit in limits)
