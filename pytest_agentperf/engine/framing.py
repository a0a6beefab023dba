"""Where an HTTP/1.1 answer begins and ends: bytes of a connection in, bytes of its body out.

Written against RFC 9112. What a server may not send is refused and never guessed at, and what is
kept of an answer is bounded: its head, the line of a chunk's size, its trailer.
"""

import re
from functools import lru_cache

__all__ = ["Framing", "MalformedError"]

_MOST_HEAD_BYTES = 65_536
_MOST_LINE_BYTES = 4_096
_MOST_LENGTH_DIGITS = 15
_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\x0a\x0d]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\x0a\x0d]*)?")
_LONGEST_SIZE_LINE = 18
_INFORMS = range(100, 200)
_SWITCHES = 101
_WITHOUT_BODY = (204, 304)
_HEAD, _CHUNKS, _TRAILER, _COUNTED, _UNTIL_CLOSED, _BEHIND = range(6)
"""What the next byte belongs to."""


class MalformedError(Exception):
    """What came is no HTTP/1.1 answer, or ended before it was whole."""


@lru_cache(maxsize=1024)
def _chunk_size(line: bytes) -> int:
    size = _CHUNK_SIZE.fullmatch(line)
    if size is None:
        raise MalformedError(f"no chunk size: {line[:40]!r}")
    return int(size[1], 16)


class Framing:
    """One answer, read by read."""

    __slots__ = (
        "_after",
        "_http_1_0",
        "_in_chunks",
        "_left",
        "_rest",
        "_stands",
        "done",
        "headers",
        "keeps_alive",
        "status",
        "surplus",
    )

    def __init__(self) -> None:
        self.status = 0
        """0 until the head is known."""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case."""
        self.done = False
        self.surplus = False
        """More came than the answer: the connection cannot be used again."""
        self.keeps_alive = False
        """The connection can carry another request when the answer is whole."""
        self._stands = _HEAD
        self._rest: bytes = b""
        """The beginning of something that is not whole yet: a head, or a line."""
        self._left = 0
        """Bytes of the body, or of its current chunk, that are still to come."""
        self._in_chunks = False
        """Chunks follow, and nothing is left over from the read before."""
        self._after = False
        """The line end behind a chunk is still to come."""
        self._http_1_0 = False

    def feed(self, data: bytes) -> bytes:
        """Take the bytes of one read and return what they hold of the body.

        Raises:
            MalformedError: they are not what may stand here.
        """
        if self._in_chunks:
            # One whole chunk, as most servers write an event.
            end = data.find(b"\r\n", 0, _LONGEST_SIZE_LINE)
            if end > 0 and data[-2:] == b"\r\n":
                size = _chunk_size(data[:end])
                if size and size == len(data) - end - 4:
                    return data[end + 2 : -2]
        return self._take(data) if data else b""

    def _take(self, data: bytes) -> bytes:
        # Not kept as a bound method: that would be a cycle, which nothing frees under load.
        stands = self._stands
        if stands == _CHUNKS:
            return self._chunks(data)
        if stands == _UNTIL_CLOSED:
            return data
        if stands == _COUNTED:
            return self._counted(data)
        if stands == _HEAD:
            return self._head(data)
        if stands == _TRAILER:
            return self._trailer(data)
        self.surplus = True
        return b""

    def ends_with(self, data: bytes) -> bool:
        """Tell whether the answer may be whole with this read, so that it has to be looked at.

        The end of a chunked body is an empty line that another line stands before. A read that is
        too short to show that may hold a part of it.
        """
        return (
            (data[-4:] == b"\r\n\r\n" and data[-6:-4] != b"\r\n")
            or len(data) < 6  # noqa: PLR2004 the bytes looked at above
            or self._stands != _CHUNKS
        )

    def end(self) -> None:
        """Take the end of the connection.

        Raises:
            MalformedError: the answer was not whole.
        """
        if self.done:
            return
        if not self.status:
            began = "in its head" if self._rest else "without sending a response"
            raise MalformedError(f"Server disconnected {began}.")
        if self._stands != _UNTIL_CLOSED:
            kind = "incomplete chunked read" if self._stands != _COUNTED else "too short"
            raise MalformedError(
                f"peer closed connection without sending complete message body ({kind})"
            )
        self.done = True

    def _head(self, data: bytes) -> bytes:
        before, data = len(self._rest), self._rest + data
        at = 0
        while found := _HEAD_END.search(data, at or max(0, before - 2)):
            if found.end() - at > _MOST_HEAD_BYTES:
                break
            self._read_head(data[at : found.start()])
            at = found.end()
            if self.status not in _INFORMS:
                self._rest = b""
                self._choose_body()
                return self._take(data[at:]) if data[at:] else b""
            if self.status == _SWITCHES:
                raise MalformedError("Server switched protocols")
            self.status = 0
        self._rest = data[at:]
        if len(self._rest) > _MOST_HEAD_BYTES:
            raise MalformedError(f"head of more than {_MOST_HEAD_BYTES} bytes")
        if not self._rest.startswith(b"HTTP/1."[: len(self._rest)]):
            raise MalformedError(f"no HTTP/1.1 answer: {self._rest[:40]!r}")
        return b""

    def _read_head(self, head: bytes) -> None:
        first, *lines = (line.removesuffix(b"\r") for line in head.split(b"\n"))
        status = _STATUS_LINE.fullmatch(first)
        if status is None:
            raise MalformedError(f"no HTTP/1.1 answer: {first[:40]!r}")
        headers: list[tuple[bytes, bytes]] = []
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None:
                raise MalformedError(f"no header: {line[:40]!r}")
            headers.append((header[1].lower(), header[2]))
        self.headers = headers
        self._http_1_0 = status[1] == b"0"
        self.status = int(status[2])

    def _all(self, name: bytes) -> list[bytes]:
        """Return the members of a header that is a list, in lower case."""
        return [
            member.strip().lower()
            for key, value in self.headers
            if key == name
            for member in value.split(b",")
        ]

    def _choose_body(self) -> None:
        connection = self._all(b"connection")
        if self._http_1_0:
            self.keeps_alive = b"keep-alive" in connection
        else:
            self.keeps_alive = b"close" not in connection
        if self.status in _WITHOUT_BODY:
            self.done = True
            self._stands = _BEHIND
        elif codings := self._all(b"transfer-encoding"):
            if codings != [b"chunked"]:
                raise MalformedError(f"unknown transfer-encoding: {b', '.join(codings)[:40]!r}")
            self._stands = _CHUNKS
            self._in_chunks = True
        elif lengths := set(self._all(b"content-length")):
            self._left = _only_length(lengths)
            self.done = not self._left
            self._stands = _BEHIND if self.done else _COUNTED
        else:
            self._stands = _UNTIL_CLOSED
            self.keeps_alive = False

    def _counted(self, data: bytes) -> bytes:
        taken = data[: self._left]
        self._left -= len(taken)
        if not self._left:
            self.done = True
            self._stands = _BEHIND
            self.surplus = len(data) > len(taken)
        return taken

    def _chunks(self, data: bytes) -> bytes:
        data, self._rest = self._rest + data, b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and self._stands == _CHUNKS:
            if self._left:
                pieces.append(data[at : at + self._left])
                at += len(pieces[-1])
                self._left -= len(pieces[-1])
                self._after = not self._left
                continue
            end = data.find(b"\r\n", at)
            if end < 0 and (not self._after or data[at:] == b"\r"):
                break
            if self._after:
                if end != at:
                    raise MalformedError(f"chunk without its end: {data[at : at + 40]!r}")
                at, self._after = end + 2, False
                continue
            size = _chunk_size(data[at : min(end, at + _MOST_LINE_BYTES)])
            at, after = end + 2, end + 2 + size
            if not size:
                self._stands = _TRAILER
            elif data[after : after + 2] == b"\r\n":  # all of it is there
                pieces.append(data[at:after])
                at = after + 2
            else:
                self._left = size
        self._rest = data[at:]
        return self._went_on(pieces)

    def _went_on(self, pieces: list[bytes]) -> bytes:
        """Say what is awaited behind a read of chunks, and return what it held."""
        self._in_chunks = self._stands == _CHUNKS and not (self._left or self._after or self._rest)
        if self._stands == _TRAILER:
            self._trailer(b"")
        elif len(self._rest) > _MOST_LINE_BYTES:
            raise MalformedError(f"chunk size of more than {_MOST_LINE_BYTES} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _trailer(self, data: bytes) -> bytes:
        """Skip what stands behind the last chunk, up to its empty line."""
        data = self._rest + data
        found = 0 if data[:2] == b"\r\n" else data.find(b"\r\n\r\n") + 2
        if found == 1:
            if len(data) > _MOST_HEAD_BYTES:
                raise MalformedError(f"trailer of more than {_MOST_HEAD_BYTES} bytes")
            self._rest = data
            return b""
        self.done = True
        self._rest = b""
        self._stands = _BEHIND
        self.surplus = len(data) > found + 2
        return b""


def _only_length(lengths: set[bytes]) -> int:
    """Return the one length that was told; the same one may be told twice."""
    (length, *others) = lengths
    if others or not length.isdigit() or len(length) > _MOST_LENGTH_DIGITS:
        raise MalformedError(f"no content-length: {b', '.join(sorted(lengths))[:40]!r}")
    return int(length)
