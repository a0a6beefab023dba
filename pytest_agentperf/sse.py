"""Server-sent events: bytes in, the data of each event out (WHATWG HTML, section 9.2)."""

__all__ = ["SSEDecoder"]


_NEXT = b"\n\ndata: "


class SSEDecoder:
    """Split a byte stream into the ``data`` payloads of its events, however it was cut.

    Accepts LF, CRLF and CR line ends. Comments and other fields are skipped.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        """Pieces of a line that is not whole: joined once, however many they are."""
        self._data: list[bytes] = []
        self._after_cr = False

    @property
    def is_between_events(self) -> bool:
        """Tell whether nothing of an event waits for its rest."""
        return not (self._rest or self._data or self._after_cr)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take bytes and return the payload of every event that they complete."""
        if (
            chunk[-2:] == b"\n\n"
            and chunk[:6] == b"data: "
            and self.is_between_events
            and b"\r" not in chunk
        ):
            events = chunk[6:-2].split(_NEXT)
            if chunk.count(b"\n") == 2 * len(events):
                return events  # events of one line, as most servers send them
        return self._feed_lines(chunk)

    def _feed_lines(self, chunk: bytes) -> list[bytes]:
        *lines, last = self._unified(chunk).split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
        if last:
            self._rest.append(last)
        return [event for line in lines if (event := self._line(line)) is not None]

    def _unified(self, chunk: bytes) -> bytes:
        """Return bytes with every line end an LF."""
        if self._after_cr and chunk:
            # The last chunk ended in CR: a leading LF belongs to that same line end.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk.endswith(b"\r"):
            self._after_cr = True
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _line(self, line: bytes) -> bytes | None:
        """Take one line; return the event that it completes."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        if line or not self._data:
            return None
        data, self._data = self._data, []
        return b"\n".join(data)

    def close(self) -> list[bytes]:
        """Return an event that the stream's end left without its blank line.

        The standard drops it; servers that forget the last blank line are common, and their last
        event may hold the usage, so it is kept.
        """
        rest, self._rest = b"".join(self._rest), []
        if rest.startswith(b"data:"):
            self._data.append(rest[5:].removeprefix(b" "))
        data, self._data = self._data, []
        return [b"\n".join(data)] if data else []
