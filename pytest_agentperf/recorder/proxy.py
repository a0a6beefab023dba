"""Passes requests to the server and answers back as they come, and has the journal write them down.

Every connection of an agent has one of its own to the server, as without the proxy. Each piece of a
request or an answer is passed on before anybody looks at it, save the last one of an answer: what
the agent has seen the end of is in the journal.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from pytest_agentperf.recorder.exchange import Exchange
from pytest_agentperf.recorder.http1 import (
    CONTINUE,
    Event,
    HttpError,
    RequestHead,
    RequestParser,
    ResponseParser,
    response_head,
)
from pytest_agentperf.recorder.journal import Journal
from pytest_agentperf.recorder.peer import Peer
from pytest_agentperf.recorder.upstream import Upstream

__all__ = ["Proxy"]

_BAD_REQUEST, _BAD_GATEWAY = 400, 502
_GONE = "the agent closed the connection before the answer ended"
_ENDED = "the recorder was ended before the answer did"
_BROKEN_OFF = "the server broke the answer off"
_DEAD_WITHIN_NS = 1_000_000_000
"""A reused connection that was closed while idle shows at once; later, the server did it."""
_WRITE_AFTER_S = 0.005
"""When a request has just come, the server may need the CPU to read it."""


@dataclass(slots=True, kw_only=True)
class Proxy:
    """What all connections share."""

    upstream: Upstream
    journal: Journal
    passed_only: Counter[str] = field(default_factory=Counter[str])
    """Requests that were passed on and not written down, by path."""
    _clients: "set[_Client]" = field(default_factory=set["_Client"])

    def serve(self) -> asyncio.Protocol:
        """Return what serves one connection of an agent."""
        client = _Client(self)
        self._clients.add(client)
        return client.agent

    def end(self) -> None:
        """Cut all connections, and write down that what was open did not end."""
        for client in tuple(self._clients):
            client.end(_ENDED)

    def forget(self, client: "_Client") -> None:
        """Take note that a connection has ended."""
        self._clients.discard(client)


class _Client:
    """One connection of an agent, and its own to the server."""

    def __init__(self, proxy: Proxy) -> None:
        self.agent = Peer(RequestParser(), hear=self._hear_agent, lose=self._lose_agent)
        self._proxy = proxy
        self._server: Peer | None = None
        self._answers = ResponseParser()
        self._connecting: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None

    def end(self, broken: str) -> None:
        """Close both connections; a request that is open has failed for this reason."""
        exchange, self._exchange = self._exchange, None
        self._proxy.forget(self)
        self._drop_server()
        if exchange is None:
            self.agent.close()
            return
        self.agent.abort()
        self._write_answer(exchange, broken=broken)

    def _hear_agent(self, agent: Peer) -> None:
        if self._exchange is not None and self._exchange.is_whole:
            agent.pause()  # this is the next request, whose turn comes when this one is answered
            return
        try:
            for event in agent.events():
                self._take(event, agent)
        except HttpError as error:
            self._reject(error)
            return
        if self._exchange is not None:
            self._send_on(self._exchange)

    def _take(self, event: Event, agent: Peer) -> None:
        if isinstance(event, RequestHead):
            if not event.target.startswith(b"/"):
                raise HttpError("this is no forward proxy; set the agent's base URL to it")
            self._exchange = Exchange(event, self._proxy.upstream, came_ns=agent.began_ns)
            if event.awaits_continue and not agent.has_more:
                agent.send(CONTINUE)
        elif self._exchange is not None and isinstance(event, bytes):
            self._exchange.take(event)
        elif self._exchange is not None:
            self._exchange.end_request()

    def _reject(self, error: HttpError) -> None:
        """Answer what cannot be read; nobody knows where the next request would begin."""
        exchange, self._exchange = self._exchange, None
        self._drop_server()
        if exchange is not None and exchange.has_answer:
            self.agent.abort()
        else:
            self._refuse(_BAD_REQUEST, b"Bad Request", f"cannot take the request: {error}")

    def _send_on(self, exchange: Exchange) -> None:
        """Pass on what has come of a request."""
        if exchange.failure is None and not exchange.is_answered:
            self._send(exchange)
        if not exchange.is_whole:
            return
        if exchange.failure is not None:
            self._write_answer(exchange, broken=exchange.failure)
            self._exchange = None
            self._refuse(_BAD_GATEWAY, b"Bad Gateway", exchange.failure)
        elif exchange.is_answered:  # before it was whole, as some errors are
            self._write_answer(exchange)
            self._next_request(exchange)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(_WRITE_AFTER_S, self._write_request, exchange)

    def _send(self, exchange: Exchange) -> None:
        if self._server is not None:
            self._answers.method = exchange.head.method
            self._server.send(*exchange.unsent())
        elif self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect(exchange))

    async def _connect(self, exchange: Exchange) -> None:
        """Open a connection to the server for a request, and send what has come of that."""
        self._answers = ResponseParser()
        server = Peer(self._answers, hear=self._hear_server, lose=self._lose_server)
        try:
            await self._proxy.upstream.connect(lambda: server)
        except OSError as error:
            self._fail(exchange, str(error) or type(error).__name__)
            return
        finally:
            self._connecting = None
        if self._exchange is not exchange:  # the agent has gone
            server.abort()
            return
        if not server.is_open:
            self._fail(exchange, "it closed the connection at once")
            return
        self._server = server
        self.agent.source, server.source = server, self.agent
        if self.agent.is_full:
            server.pause()
        self._send_on(exchange)

    def _fail(self, exchange: Exchange, reason: str) -> None:
        """Have a request answered in the server's place, when it is whole."""
        if self._exchange is exchange:
            url = self._proxy.upstream.url
            exchange.failure = f"upstream {url} cannot be reached ({reason}); is the server up?"
            self._send_on(exchange)

    def _hear_server(self, server: Peer) -> None:
        """Pass on what the server sends, then look at it."""
        exchange = self._exchange
        if exchange is None or not exchange.sent_ns:
            server.abort()  # nobody asked it
            return
        try:
            passed = [exchange.answer(event, server.read_ns) for event in server.events()]
        except HttpError as error:
            self._lose_server(server, str(error))
            return
        if exchange.is_answered:
            self._end_answer(exchange, server, passed)
        else:
            self.agent.send(*passed)
            exchange.hear(server.read_ns)

    def _end_answer(self, exchange: Exchange, server: Peer, passed: list[bytes]) -> None:
        exchange.hear(server.read_ns)
        if exchange.is_whole:
            self._write_answer(exchange)
        self.agent.send(*passed)
        server.is_used = True
        if not (exchange.server_stays and exchange.is_whole) or server.has_more:
            self._drop_server()
        if exchange.is_whole:
            self._next_request(exchange)

    def _next_request(self, exchange: Exchange) -> None:
        """Take the next request, which may have come already."""
        self._exchange = None
        if exchange.head.keeps_alive:
            self.agent.resume()
            self._hear_agent(self.agent)
        else:
            self.agent.close()

    def _lose_server(self, server: Peer, reason: str) -> None:
        """Tell the agent that the server has gone, or ask once more."""
        exchange = self._exchange
        if server is not self._server:
            return
        self._drop_server()
        if exchange is None or exchange.is_answered or not exchange.sent_ns:
            return
        if exchange.has_answer:
            self.end(_BROKEN_OFF)
        elif server.is_used and time.perf_counter_ns() - exchange.sent_ns < _DEAD_WITHIN_NS:
            # A server may close an idle connection at the instant that it is used again.
            exchange.rewind()
            self._send_on(exchange)
        else:
            self._fail(exchange, reason)

    def _drop_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.abort()
            self.agent.source = None
            self.agent.resume()

    def _lose_agent(self, agent: Peer, reason: str) -> None:
        del agent, reason
        self.end(_GONE)

    def _write_request(self, exchange: Exchange) -> None:
        """Have the journal write a request down, once."""
        if not exchange.is_counted:
            exchange.is_counted = True
            if not exchange.write_request(self._proxy.journal):
                self._proxy.passed_only[exchange.path] += 1

    def _write_answer(self, exchange: Exchange, *, broken: str | None = None) -> None:
        self._write_request(exchange)
        exchange.write_answer(self._proxy.journal, broken=broken)

    def _refuse(self, status: int, reason: bytes, message: str) -> None:
        """Answer in the server's place, and close."""
        error = {"message": message, "type": "agentperf_recorder", "code": status}
        body = msgspec.json.encode({"error": error})
        headers = [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Connection", b"close"),
        ]
        self.agent.send(response_head(status, reason, headers), body)
        self.agent.close()
