"""One request and its answer, as they pass: what is still to be sent on, and what was heard."""

import time

from pytest_agentperf.recorder.heard import Answer, Listener
from pytest_agentperf.recorder.http1 import (
    LAST_CHUNK,
    Event,
    Headers,
    RequestHead,
    ResponseHead,
    chunk,
    response_head,
)
from pytest_agentperf.recorder.journal import Journal, kind_of, read_request
from pytest_agentperf.recorder.upstream import Upstream, passed_on

__all__ = ["Exchange"]

_BAD_GATEWAY = 502
_now_ns = time.perf_counter_ns


class Exchange:
    """One request, and how far it and its answer have come."""

    def __init__(self, head: RequestHead, upstream: Upstream, *, came_ns: int) -> None:
        """Begin.

        Args:
            head: of the request.
            upstream: where it goes.
            came_ns: when its first byte came.
        """
        self.head = head
        self._upstream = upstream
        self._came_ns = came_ns
        self._onward = [upstream.head(head, head.length_bytes or 0)]
        """The request as it goes to the server, as far as it has come: its head, then the body."""
        self._sent = 0
        self._number = 0
        """In the journal; 0 while it is not open there."""
        self._status = _BAD_GATEWAY
        self._first_byte_ns: int | None = None
        self._end_ns = 0
        self._listener: Listener | None = None
        self._is_chunked = False
        """Whether the agent gets the answer in chunks."""
        self._unheard: list[bytes] = []
        """What came of the answer's body and was not looked at yet."""
        self.server_stays = False
        """Whether the server takes another request after this one."""
        self.sent_ns = 0
        """When the first of it was sent on; 0 before."""
        self.is_whole = False
        """Whether all of the request has come."""
        self.is_counted = False
        """Whether it was written down, or counted as passed on only."""
        self.failure: str | None = None
        """Why the server cannot answer."""

    @property
    def path(self) -> str:
        """What it asks for, without the query."""
        return self._target.partition("?")[0]

    @property
    def has_answer(self) -> bool:
        """Whether an answer has begun."""
        return self._first_byte_ns is not None

    @property
    def is_answered(self) -> bool:
        """Whether the answer has ended."""
        return self._end_ns > 0

    @property
    def _target(self) -> str:
        return self.head.target.decode("latin-1")

    def take(self, piece: bytes) -> None:
        """Take a piece of the request's body."""
        self._onward.append(piece)

    def end_request(self) -> None:
        """Take the end of the request."""
        self.is_whole = True
        if self.head.is_chunked:
            # Not every server takes chunks, so the length is told, which is known only now.
            self._onward[0] = self._upstream.head(self.head, len(self._body()))

    def unsent(self) -> list[bytes]:
        """Return what can go to the server now, each piece once."""
        if self.head.is_chunked and not self.is_whole:
            return []
        pieces = self._onward[self._sent :]
        self._sent = len(self._onward)
        self.sent_ns = self.sent_ns or _now_ns()
        return pieces

    def rewind(self) -> None:
        """Have it sent on once more, from its beginning."""
        self._sent = self.sent_ns = 0

    def answer(self, event: Event, at_ns: int) -> bytes:
        """Take a part of the answer that came at this instant; return what the agent gets."""
        if isinstance(event, ResponseHead):
            return self._open_answer(event, at_ns)
        if isinstance(event, bytes):
            self._unheard.append(event)
            return chunk(event) if self._is_chunked else event
        self._end_ns = at_ns
        return LAST_CHUNK if self._is_chunked else b""

    def _open_answer(self, head: ResponseHead, at_ns: int) -> bytes:
        self.server_stays = head.keeps_alive
        self._first_byte_ns = at_ns
        self._status = head.status
        kind = kind_of(self.head.method.decode("latin-1"), self._target)
        if kind is not None:
            named = {name: value.decode("latin-1").lower() for name, value in head.named.items()}
            self._listener = Listener(
                kind,
                status=head.status,
                content_type=named.get(b"content-type", ""),
                encoding=named.get(b"content-encoding", ""),
            )
        return response_head(head.status, head.reason, self._answer_headers(head))

    def _answer_headers(self, head: ResponseHead) -> Headers:
        headers = passed_on(head.headers)
        self._is_chunked = head.has_body and head.length_bytes is None
        if self._is_chunked and self.head.version == "1.0":
            self._is_chunked = False  # such an agent takes all until the connection's end
        if self._is_chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        if not self.head.keeps_alive:
            headers.append((b"Connection", b"close"))
        return headers

    def hear(self, at_ns: int) -> None:
        """Look at what has been passed on of the answer, which came at this instant."""
        data = b"".join(self._unheard)
        self._unheard.clear()
        if self._listener is not None:
            self._listener.feed(at_ns, data)

    def write_request(self, journal: Journal) -> bool:
        """Write the request down; return whether it is whole, and asks a model."""
        if not self.is_whole:
            return False
        names = [
            (name.lower().decode("latin-1"), value.decode("latin-1"))
            for name, value in self.head.headers
        ]
        method = self.head.method.decode("latin-1")
        asked = read_request(method, self._target, names, self._body())
        if asked is not None:
            self._number = journal.request(asked, self._came_ns)
        return asked is not None

    def write_answer(self, journal: Journal, *, broken: str | None = None) -> None:
        """Write down how the answer ended, if the request is written."""
        if not self._number:
            return
        end_ns = self._end_ns or _now_ns()
        heard = self._listener
        journal.answer(
            self._number,
            heard.finish(end_ns, broken=broken) if heard else Answer(error=broken),
            status=self._status,
            first_byte_ns=self._first_byte_ns,
            end_ns=end_ns,
        )

    def _body(self) -> bytes:
        return b"".join(self._onward[1:])
