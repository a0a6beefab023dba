"""One agent's way to one server: a connection that lives as long as both sides like.

A *reused* connection that turns out dead before any byte of the answer is opened anew once, and
that is counted: some servers close after every streamed answer, or while a tool runs. A close that
is seen before the request is sent costs a connect and nothing else.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult

from pytest_agentperf.engine.exchange import BrokenError, Exchange, Sink
from pytest_agentperf.engine.framing import Framing
from pytest_agentperf.engine.hub import Hub
from pytest_agentperf.engine.link import Link, PlainLink, TlsLink, dial
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.records import RawAnswer

__all__ = ["Channel", "host_header"]

_DEAD_WITHIN_NS = 1_000_000_000
"""A reused connection that was closed while idle shows at once; later, the server did it."""
_ENDS_COOKIE = re.compile(rb"(?i)max-age\s*=\s*(?:0|-)")
_PORTS = {"http": 80, "https": 443}


def host_header(url: SplitResult) -> str:
    """Return the ``Host`` of a URL: without the port where that is the scheme's own."""
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host.encode("idna").decode() if host else ""
    is_usual = url.port in {None, _PORTS.get(url.scheme)}
    return host if is_usual else f"{host}:{url.port}"


class _UnheardError(BrokenError):
    """Nothing of an answer had come."""


class Channel:
    """Sends one request at a time; opened by the first, and belongs to that one's event loop."""

    def __init__(
        self, url: SplitResult, *, tls: ssl.SSLContext, lags: ReadLags | None = None
    ) -> None:
        self._host = url.hostname or ""
        self._port = url.port or _PORTS[url.scheme]
        self._tls = tls if url.scheme == "https" else None
        self._lags = ReadLags() if lags is None else lags
        self.cookies: dict[bytes, bytes] = {}
        """Of its answers, by name: what a balancer knows this agent by."""
        self._hub: Hub | None = None
        self._link: Link | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether a request would find a connection that nobody has closed."""
        return self._link is not None and self._link.is_open

    async def request(
        self,
        pieces: Sequence[bytes | memoryview],
        into: RawAnswer,
        on_head: Callable[[Framing], Sink] | None = None,
    ) -> None:
        """Send a request, and return when its answer is whole.

        When it is cancelled, the connection is closed.

        Args:
            pieces: head and body.
            into: gets the stamps, and the body if nobody else does.
            on_head: called with the head; says where the body goes.

        Raises:
            BrokenError: it has failed below HTTP.
        """
        link = self._link
        if link is None or not link.is_open:
            link = await self._open(into)
            await self._exchange(link, pieces, into, on_head)
            return
        try:
            await self._exchange(link, pieces, into, on_head)
        except _UnheardError:
            if time.perf_counter_ns() - into.sent_ns > _DEAD_WITHIN_NS:
                raise
        else:
            return
        into.reconnected = True
        await self._exchange(await self._open(into), pieces, into, on_head)

    def close(self) -> None:
        """Close the connection, if one is open."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._hub is not None:
            self._hub.leave()
            self._hub = None

    async def _open(self, into: RawAnswer) -> Link:
        hub = self._hub = self._hub or Hub.of_running_loop()
        from_ns = time.perf_counter_ns()
        try:
            sock = await dial(hub, self._host, self._port)
            if self._tls is None:
                link: Link = PlainLink(hub, sock, self._lags)
            else:
                link = await TlsLink.over(sock, self._tls, self._host, self._lags)
        except (OSError, ssl.CertificateError) as failed:
            raise BrokenError(f"ConnectError: {failed}") from None
        into.connect_ns = time.perf_counter_ns() - from_ns
        self._link = link
        return link

    async def _exchange(
        self,
        link: Link,
        pieces: Sequence[bytes | memoryview],
        into: RawAnswer,
        on_head: Callable[[Framing], Sink] | None,
    ) -> None:
        hub = self._hub
        if hub is None:
            raise RuntimeError("a request on a channel that is closed")
        exchange = Exchange(hub, into, on_head)
        goes_on = False
        try:
            link.send(pieces, exchange)
            try:
                await exchange.whole
            except asyncio.CancelledError:
                exchange.give_up()
                raise
            framing = exchange.framing
            self._keep_cookies(framing)
            goes_on = exchange.failure is None and framing.keeps_alive and not framing.surplus
        finally:
            if goes_on:
                link.free()
            else:
                link.close()
        if exchange.failure is not None:
            kind = BrokenError if exchange.heard else _UnheardError
            raise kind(exchange.failure)

    def _keep_cookies(self, framing: Framing) -> None:
        for name, value in framing.headers:
            if name == b"set-cookie":
                cookie, _, attributes = value.partition(b";")
                key, is_cookie, content = cookie.strip().partition(b"=")
                if _ENDS_COOKIE.search(attributes):
                    self.cookies.pop(key, None)
                elif is_cookie and key:
                    self.cookies[key] = content
