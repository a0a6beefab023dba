"""A server of a few lines: it sends the very bytes that a test wants, and hangs up when told to."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

LIMIT_S = 20.0


@dataclass(slots=True)
class Server:
    """A running server, and what it has seen."""

    url: str
    connections: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])
    open: list[socket.socket] = field(default_factory=list[socket.socket])
    closed: threading.Event = field(default_factory=threading.Event)
    """A connection was closed by the client."""

    ending: threading.Event = field(default_factory=threading.Event)
    """The server is to end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for so long."""

    s: float


Act = Literal["reset", "hang up"]
"""Cut the connection: by a TCP reset, or in good order."""
Piece = bytes | Pause | Act
Answers = Callable[[Server, bytes], Iterable[Piece]]
"""Takes one request, returns what is sent in answer, one write each, and what else is done."""


def answered(body: bytes) -> Answers:
    """Return what answers every request with a body."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    return lambda _server, _request: [head + body]


@contextlib.contextmanager
def serve(
    answers: Answers,
    *,
    closes: bool = False,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> Generator[Server]:
    """Answer requests on a port of ours until the block ends.

    Args:
        answers: what is said to a request.
        closes: hang up after every answer.
        tls: speak TLS by it.
        host: address to listen on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    server = Server(f"http{'s' if tls else ''}://{shown}:{port}/v1")
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connection.settimeout(LIMIT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.connections += 1
            threads.append(
                threading.Thread(target=_converse, args=(server, connection, answers, closes, tls))
            )
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        server.ending.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join()
        for connection in server.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def _converse(
    server: Server,
    connection: socket.socket,
    answers: Answers,
    closes: bool,  # noqa: FBT001 an argument of a thread
    tls: ssl.SSLContext | None,
) -> None:
    with connection, contextlib.suppress(OSError):
        talking = tls.wrap_socket(connection, server_side=True) if tls else connection
        server.open.append(talking)
        with talking, talking.makefile("rb") as reading:
            while request := _request(reading):
                server.requests.append(request)
                for piece in answers(server, request):
                    if isinstance(piece, bytes):
                        talking.sendall(piece)
                    elif isinstance(piece, Pause):
                        server.ending.wait(piece.s)
                    else:
                        _cut(talking, piece)
                        return
                if closes:
                    return
    server.closed.set()


def _cut(talking: socket.socket, how: Act) -> None:
    if how == "reset":  # a lingering time of zero makes the kernel send RST instead of FIN
        talking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        talking.shutdown(socket.SHUT_RDWR)


def _request(reading: BinaryIO) -> bytes:
    read = reading.readline
    lines: list[bytes] = []
    while line := read():
        lines.append(line)
        if line == b"\r\n":
            break
    length = next(
        (int(v[15:]) for v in (x.lower() for x in lines) if v.startswith(b"content-length:")), 0
    )
    return b"".join(lines) + reading.read(length)
