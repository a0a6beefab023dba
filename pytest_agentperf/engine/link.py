"""One open connection: request bytes out, stamped reads in.

Plain TCP has sockets of our own, since the kernel's stamp comes beside what is read and no
transport passes that on. TLS has a transport of the loop, and our own stamp.
"""

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Protocol, cast

from pytest_agentperf.engine.exchange import Exchange
from pytest_agentperf.engine.hub import WRITE, Hub
from pytest_agentperf.engine.stamps import ANCILLARY_BYTES, ReadLags, ask_for_stamps

__all__ = ["Link", "PlainLink", "TlsLink", "dial"]

Piece = bytes | memoryview

_READ_BYTES = 32_768
_MOST_PIECES = 512
"""The kernel takes 1,024 at once."""


class Link(Protocol):
    """An open connection that carries one exchange at a time."""

    @property
    def is_open(self) -> bool:
        """Tell whether it can still be used."""
        ...

    def send(self, pieces: Sequence[Piece], exchange: Exchange) -> None:
        """Send a request, and give what comes to an exchange."""
        ...

    def free(self) -> None:
        """Expect nothing until the next request; what comes nevertheless closes it."""
        ...

    def close(self) -> None:
        """Close it at once."""
        ...


def _failed_reading(failed: Exception | None) -> str:
    """Return what a connection's end is called; no text where it was closed in order."""
    return f"ReadError: {failed}" if failed else ""


class PlainLink:
    """A connection over a socket of our own."""

    def __init__(self, hub: Hub, sock: socket.socket, lags: ReadLags) -> None:
        """Take a connected socket that does not block."""
        self._hub = hub
        self._sock = sock
        self._fd = sock.fileno()
        self._lags = lags
        self._exchange: Exchange | None = None
        self._out: list[memoryview] = []
        self._room = ANCILLARY_BYTES if ask_for_stamps(sock) else 0
        hub.watch(self._fd, self._ready)

    @property
    def is_open(self) -> bool:
        """Tell whether nobody has closed it yet."""
        return self._fd >= 0

    def send(self, pieces: Sequence[Piece], exchange: Exchange) -> None:
        """Hand a request to the kernel, without joining its pieces."""
        self._exchange = exchange
        self._out = [memoryview(piece) for piece in pieces if len(piece)]
        into = exchange.into
        into.sent_ns = into.sent_ns or time.perf_counter_ns()
        self._write()
        if self._out:
            self._hub.watch_writing(self._fd, self._ready)

    def free(self) -> None:
        """Let go of the exchange; a request that was answered before it was sent ends all."""
        self._exchange = None
        if self._out:
            self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._fd >= 0:
            self._hub.forget(self._fd)
            self._fd = -1
            self._sock.close()
        self._out = []
        self._exchange = None

    def _write(self) -> None:
        try:
            taken = self._sock.sendmsg(self._out[:_MOST_PIECES])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # What it has said before is still to be read, and then its end.
            self._out = []
            return
        done = 0
        for piece in self._out:
            if taken < len(piece):
                break
            taken -= len(piece)
            done += 1
        del self._out[:done]
        if taken:
            self._out[0] = self._out[0][taken:]
        if not self._out and self._exchange is not None:
            self._exchange.into.written_ns = time.perf_counter_ns()

    def _ready(self, events: int) -> None:
        if events & WRITE and self._out:
            self._write()
            if not self._out:
                self._hub.watch_writing(self._fd, None)
        if events == WRITE:
            return
        stamp = None
        try:
            if self._room:
                data, told, _, _ = self._sock.recvmsg(_READ_BYTES, self._room)
                stamp = told[0][2] if told else None
            else:
                data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as failed:
            self._lost(failed)
            return
        if data and self._exchange is not None:
            self._keep(self._exchange, data, stamp)
        else:
            self._lost(None)  # its end, or an answer that nobody has asked for

    def _keep(self, exchange: Exchange, data: bytes, stamp: bytes | None) -> None:
        at_ns = time.perf_counter_ns()
        if stamp is None:
            self._lags.unstamped += 1
        else:
            read_ns, at_ns = at_ns, self._hub.clock.event_ns(stamp, at_ns)
            self._lags.add(read_ns - at_ns)
        exchange.read(at_ns, data)

    def _lost(self, failed: OSError | None) -> None:
        exchange = self._exchange
        self.close()
        if exchange is not None:
            exchange.end(_failed_reading(failed))


class TlsLink(asyncio.BufferedProtocol):
    """A connection over a transport of the loop."""

    def __init__(self, lags: ReadLags) -> None:
        self._lags = lags
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport | None = None
        self._flushes = False

    @staticmethod
    async def over(
        sock: socket.socket, tls: ssl.SSLContext, host: str, lags: ReadLags
    ) -> "TlsLink":
        """Shake hands over a connected socket.

        Raises:
            OSError: it failed; ``ssl.SSLError`` is one.
        """
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(
            lambda: TlsLink(lags), sock=sock, ssl=tls, server_hostname=host
        )
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, once hands are shaken."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        # Not 0: asyncio would call that exceeded by nothing.
        self._transport.set_write_buffer_limits(high=1)

    @property
    def is_open(self) -> bool:
        """Tell whether nobody has closed it yet."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, pieces: Sequence[Piece], exchange: Exchange) -> None:
        """Hand a request to the transport."""
        if self._transport is None:
            exchange.end(_failed_reading(None))
            return
        self._exchange = exchange
        into = exchange.into
        into.sent_ns = into.sent_ns or time.perf_counter_ns()
        self._transport.writelines(pieces)
        if not self._flushes:
            into.written_ns = time.perf_counter_ns()

    def pause_writing(self) -> None:
        """Hear that the kernel has not taken all of a request."""
        self._flushes = True

    def resume_writing(self) -> None:
        """Hear that the kernel has taken all of a request."""
        self._flushes = False
        if self._exchange is not None:
            self._exchange.into.written_ns = time.perf_counter_ns()

    def free(self) -> None:
        """Let go of the exchange; a request that was answered before it was sent ends all."""
        self._exchange = None
        if self._flushes:
            self.close()

    def close(self) -> None:
        """Close the transport without waiting for the peer's farewell."""
        transport, self._transport, self._exchange = self._transport, None, None
        if transport is not None:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next read goes."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take a read."""
        at_ns = time.perf_counter_ns()
        exchange = self._exchange
        if exchange is None:
            self.close()
            return
        self._lags.unstamped += 1
        exchange.read(at_ns, bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        """Hear that the peer sends no more; the transport closes itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear of the end."""
        exchange, self._exchange, self._transport = self._exchange, None, None
        if exchange is not None:
            exchange.end(_failed_reading(exc))


async def dial(hub: Hub, host: str, port: int) -> socket.socket:
    """Connect to the first address of a host that answers.

    Raises:
        OSError: none does.
    """
    failed: OSError | None = None
    for family, address in await hub.addresses(host, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await hub.loop.sock_connect(sock, address)
        except OSError as refused:
            sock.close()
            failed = refused
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failed or OSError(errno.EHOSTUNREACH, f"{host} has no address")
