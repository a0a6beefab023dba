"""HTTP/1.1 as far as the simulator needs it: requests out of bytes, and responses as bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from pytest_agentperf.sim.chat import RefusedError, error_body

__all__ = [
    "LAST_CHUNK",
    "STREAM_HEAD",
    "HTTPRequest",
    "chunk",
    "refusal",
    "response",
    "take_request",
]

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: agentperf-sim\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"

_MOST_REQUEST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRequest:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


def take_request(buffer: bytearray) -> HTTPRequest | None:
    """Cut the first whole request off the buffer; ``None`` while it is not whole.

    Raises:
        RefusedError: it is malformed, or has a body without Content-Length, or is too large.
    """
    end = buffer.find(b"\r\n\r\n")
    if len(buffer) > _MOST_REQUEST_BYTES:
        raise RefusedError("the request is too large", status=413)
    if end < 0:
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = headers.get("content-length", "0")
    words = first.split(" ")
    if len(words) != 3 or not length.isdecimal() or "transfer-encoding" in headers:  # noqa: PLR2004
        raise RefusedError(f"cannot read the request {first!r}")
    whole = end + 4 + int(length)
    if len(buffer) < whole:
        return None
    with memoryview(buffer) as view:
        body = bytes(view[end + 4 : whole])
    del buffer[:whole]
    path = words[1].partition("?")[0]
    return HTTPRequest(method=words[0], path=path, headers=headers, body=body)


def response(body: bytes, *, status: int = 200, content_type: str = "application/json") -> bytes:
    """Return a response whose body is known."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nserver: agentperf-sim\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def refusal(error: RefusedError) -> bytes:
    """Return the response to a request that is refused."""
    return response(error_body(error), status=error.status)


def chunk(data: bytes) -> bytes:
    """Return a piece of a body whose length is not known."""
    return b"%x\r\n%b\r\n" % (len(data), data)
