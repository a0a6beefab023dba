"""One connection of the proxy: bytes out, and the parts of messages that come in."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import cast

from pytest_agentperf.recorder.http1 import End, Event, HttpError, RequestParser, ResponseParser

__all__ = ["Peer"]

_CLOSED = "the connection was closed"


class Peer(asyncio.Protocol):
    """One connection, to the agent or to the server."""

    def __init__(
        self,
        parser: RequestParser | ResponseParser,
        *,
        hear: Callable[["Peer"], None],
        lose: Callable[["Peer", str], None],
    ) -> None:
        """Prepare for a connection.

        Args:
            parser: of what comes.
            hear: called after each read.
            lose: called with the reason when the other side sends no more; again when it is closed.
        """
        self._parser = parser
        self.source: Peer | None = None
        """Whose bytes go out here. It is not read while this one cannot send them."""
        self.is_full = False
        """Whether more waits to be sent than should."""
        self.is_used = False
        """Whether an exchange went over it before."""
        self.began_ns = 0
        """When the first byte of this message came; 0 while none did."""
        self.read_ns = 0
        """When the last bytes came."""
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Event] = deque()
        self._hear = hear
        self._lose = lose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take the bytes of one read."""
        self.read_ns = time.perf_counter_ns()
        self.began_ns = self.began_ns or self.read_ns
        self._waiting += self._parser.feed(data)
        self._hear(self)

    def eof_received(self) -> None:
        """Take the end of what the other side sends: of an answer without a length, its end."""
        self.read_ns = time.perf_counter_ns()
        self._waiting += self._parser.feed_end()
        self._hear(self)
        self._lose(self, _CLOSED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._lose(self, str(exc or _CLOSED))

    def pause_writing(self) -> None:
        """Stop the source."""
        self.is_full = True
        if self.source is not None:
            self.source.pause()

    def resume_writing(self) -> None:
        """Let the source go on."""
        self.is_full = False
        if self.source is not None:
            self.source.resume()

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None and self.is_open:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and self.is_open:
            self._transport.resume_reading()

    def events(self) -> Iterator[Event]:
        """Yield what has come, up to the end of a message.

        Raises:
            HttpError: what comes next cannot be read.
        """
        while self._waiting:
            event = self._waiting.popleft()
            if isinstance(event, HttpError):
                raise event
            if event is End.END:
                self.began_ns = self.read_ns if self._waiting else 0
                yield event
                return
            yield event

    @property
    def has_more(self) -> bool:
        """Whether something has come that was not taken yet."""
        return bool(self._waiting)

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, *pieces: bytes) -> None:
        """Send some bytes, at once and in one piece."""
        if pieces and self._transport is not None and self.is_open:
            self._transport.writelines(pieces)

    def close(self) -> None:
        """Close the connection when all is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection, so that the other side sees that it did not end well."""
        if self._transport is not None:
            self._transport.abort()
