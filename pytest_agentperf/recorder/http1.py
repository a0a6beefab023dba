"""HTTP/1.1 as the proxy needs it, without I/O: bytes into heads, pieces and ends, and back.

What comes is parsed by llhttp (``httptools``), which is strict. A parser in Python was the largest
part of what the recorder added to TTFT: all its code has to come into the caches for one request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from httptools import (
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

__all__ = [
    "CONTINUE",
    "LAST_CHUNK",
    "End",
    "Event",
    "Headers",
    "HttpError",
    "RequestHead",
    "RequestParser",
    "ResponseHead",
    "ResponseParser",
    "chunk",
    "request_head",
    "response_head",
]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_SILENT_BYTES = 2**18
"""Most bytes that may come without anything to pass on: heads, trailers and chunk extensions."""
_OK = 200
_BODILESS = (204, 304)
_VERSIONS = ("1.0", "1.1")

Headers = list[tuple[bytes, bytes]]
"""Names and values, spelt as they came."""


class HttpError(Exception):
    """The other side breaks the protocol, or off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    headers: Headers
    named: Mapping[bytes, bytes]
    """The headers by their names in lower case."""
    version: str
    """``1.0`` or ``1.1``."""
    keeps_alive: bool
    """Whether its sender takes another exchange over this connection."""

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return b"transfer-encoding" in self.named

    @property
    def length_bytes(self) -> int | None:
        """The length of the body; ``None`` where it is not told."""
        told = self.named.get(b"content-length")
        return None if told is None else int(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead(_Head):
    """What stands before the body of a request."""

    method: bytes
    target: bytes

    @property
    def awaits_continue(self) -> bool:
        """Whether the body comes only when it is asked for."""
        told = self.named.get(b"expect", b"").lower()
        return told == b"100-continue" and self.version != "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead(_Head):
    """What stands before the body of a response."""

    status: int
    reason: bytes
    has_body: bool


class End(Enum):
    """The end of a message."""

    END = 0


Event = RequestHead | ResponseHead | bytes | End | HttpError
"""Of a message: its head, pieces of its body, its end; or why nothing more can be read."""


_P = TypeVar("_P", HttpRequestParser, HttpResponseParser)


class _Parser(Generic[_P]):
    """What one side sends, read by read."""

    _parser: _P

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._silent_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._first_line = b""
        """The target or the reason."""
        self._headers: Headers = []
        self._in_head = True

    def feed(self, data: bytes) -> list[Event]:
        """Return what the bytes of one read amount to; an error is the last of it."""
        self._events = []
        self._silent_bytes += len(data)
        self._parse(data)
        if self._silent_bytes > _SILENT_BYTES:
            self._events.append(HttpError(f"more than {_SILENT_BYTES} bytes hold no content"))
        return self._events

    def feed_end(self) -> list[Event]:
        """Return what it amounts to that no more bytes will come."""
        return []

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except HttpParserError as error:
            self._events.append(HttpError(str(error.__context__ or error)))

    def _decline(self, rest: bytes) -> None:
        del rest
        self._events.append(HttpError("another protocol than HTTP is not spoken here"))

    def on_url(self, piece: bytes) -> None:
        """Take a piece of a target."""
        self._first_line += piece

    def on_status(self, piece: bytes) -> None:
        """Take a piece of a reason."""
        self._first_line += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body are left out."""
        if self._in_head:
            self._headers.append((name, value))

    def on_body(self, piece: bytes) -> None:
        """Take a piece of a body."""
        self._add(piece)

    def on_message_complete(self) -> None:
        """Take the end of a message."""
        self._add(End.END)
        self._begin()

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._silent_bytes = 0

    def _framing(self) -> tuple[Mapping[bytes, bytes], str]:
        """Return the headers by name, and the version.

        Raises:
            HttpError: the body cannot be read, or the version is none of HTTP/1.
        """
        self._in_head = False
        named = {name.lower(): value for name, value in self._headers}
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            raise HttpError(f"HTTP/{version} is not spoken here")
        coding = named.get(b"transfer-encoding", b"chunked")
        if coding.lower() != b"chunked":
            raise HttpError(f"the transfer coding {coding.decode('latin-1')!r} is not known")
        return named, version


class RequestParser(_Parser[HttpRequestParser]):
    """What an agent sends."""

    def __init__(self) -> None:
        super().__init__()
        self._parser = HttpRequestParser(self)

    def on_headers_complete(self) -> None:
        """Take the end of a head."""
        if self._parser.should_upgrade():
            return
        named, version = self._framing()
        head = RequestHead(
            headers=self._headers,
            named=named,
            version=version,
            keeps_alive=self._parser.should_keep_alive() and version != "1.0",
            method=self._parser.get_method(),
            target=self._first_line,
        )
        self._add(head)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        if not self._parser.should_upgrade():
            super().on_message_complete()

    def _decline(self, rest: bytes) -> None:
        """Read a request once more, without the offer to change the protocol."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            super()._decline(rest)
            return
        kept = [(name, value) for name, value in self._headers if name.lower() != b"upgrade"]
        head = request_head(method, self._first_line, kept)
        self._parser = HttpRequestParser(self)
        self._begin()
        self._parse(head + rest)


class ResponseParser(_Parser[HttpResponseParser]):
    """What a server sends."""

    def __init__(self) -> None:
        super().__init__()
        self._parser = HttpResponseParser(self)
        self.method = b""
        """Of the request that is answered next."""
        self._skips = self._ends_with_connection = False

    def feed_end(self) -> list[Event]:
        """Return what it amounts to that no more bytes will come."""
        return [End.END if self._ends_with_connection else HttpError("the connection was closed")]

    def on_headers_complete(self) -> None:
        """Take the end of a head."""
        named, version = self._framing()
        status = self._parser.get_status_code()
        is_interim = status < _OK
        # The parser cannot be told that an answer to HEAD has no body, and waits for it.
        is_cut = self.method == b"HEAD"
        self._skips = is_interim or is_cut
        if is_interim:
            return
        head = ResponseHead(
            headers=self._headers,
            named=named,
            version=version,
            keeps_alive=self._parser.should_keep_alive() and not is_cut,
            status=status,
            reason=self._first_line,
            has_body=not is_cut and status not in _BODILESS,
        )
        told = head.is_chunked or head.length_bytes is not None
        self._ends_with_connection = head.has_body and not told
        self._add(head)
        if is_cut:
            self._add(End.END)

    def on_body(self, piece: bytes) -> None:
        """Take a piece of a body."""
        if not self._skips:
            super().on_body(piece)

    def on_message_complete(self) -> None:
        """Take the end of a response."""
        if self._skips:
            self._begin()
        else:
            super().on_message_complete()


def request_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Return what stands before the body of a request."""
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, _lines(headers))


def response_head(status: int, reason: bytes, headers: Headers) -> bytes:
    """Return what stands before the body of a response."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, _lines(headers))


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def chunk(data: bytes) -> bytes:
    """Return a piece of a body whose length is not known."""
    return b"%x\r\n%b\r\n" % (len(data), data)
