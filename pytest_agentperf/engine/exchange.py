"""One answer on its way: reads are kept as they come, and decoded between turns of the loop."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable

from pytest_agentperf.engine.framing import Framing, MalformedError
from pytest_agentperf.engine.hub import Hub
from pytest_agentperf.records import MOST_ANSWER_BYTES, RawAnswer

__all__ = ["BrokenError", "Exchange", "into_answer"]

_PENDING_BYTES = 16_384
"""An answer that still goes on is decoded whenever so much of it waits, which bounds memory."""
_LOOK_BYTES, _LOOK_EVERY = 4_096, 16
"""The clock is looked at after so large a read, and after so many small ones."""


_OK = 200
_MOST_ERROR_READS = 64
"""What an error says stands in its beginning."""


class BrokenError(Exception):
    """A request that failed below HTTP; the text begins with the kind of failure."""


Sink = Callable[[int, bytes], object]
"""Takes a stamp and what its read held of the body."""


class Exchange:
    """One request's answer."""

    __slots__ = (
        "_body_bytes",
        "_eager",
        "_ended",
        "_hub",
        "_last_ns",
        "_on_head",
        "_pending",
        "_queued",
        "_reads",
        "_sink",
        "failure",
        "framing",
        "heard",
        "into",
        "whole",
    )

    def __init__(
        self, hub: Hub, into: RawAnswer, begin: Callable[[Framing], Sink] | None = None
    ) -> None:
        """Await the answer to one request.

        Args:
            hub: of the running loop.
            into: gets status and stamps.
            begin: called with the head, says where the body goes; ``into`` if there is none.
        """
        self._hub = hub
        self.into = into
        self.framing = Framing()
        self.failure: str | None = None
        """Not an exception: one that was raised and is kept is a cycle."""
        self.heard = False
        """Something had come before it failed."""
        self.whole: asyncio.Future[None] = hub.loop.create_future()
        """Done when the answer is whole or has failed; has no result."""
        self._on_head = begin
        self._sink: Sink | None = None
        self._reads: list[tuple[int, bytes]] = []
        self._pending = 0
        self._queued = False
        self._eager = True
        """Somebody waits for what comes next: for the head, the first token, or every piece."""
        self._last_ns = 0
        self._body_bytes = 0
        self._ended: str | None = None

    def read(self, at_ns: int, data: bytes) -> None:
        """Keep one read of the connection, which is never empty."""
        self._reads.append((at_ns, data))
        self._pending += len(data)
        if self._queued:
            return
        if self._eager or self._pending > _PENDING_BYTES or self.framing.ends_with(data):
            self._wake()

    def end(self, failure: str) -> None:
        """Take the end of the connection, behind what was read of it.

        Args:
            failure: why; no text where the server closed it in good order.
        """
        self._ended = failure
        self._wake()

    def give_up(self) -> None:
        """Decode what has come of an answer that nobody waits for any longer."""
        with contextlib.suppress(MalformedError):
            self._decode_reads(sys.maxsize)
        self._reads = []

    def _wake(self) -> None:
        if not self._queued:
            self._queued = True
            self._hub.decode_soon(self)

    def decode(self, until_ns: int) -> bool:
        """Decode what was read, until an instant; tell whether that was all."""
        if not self.whole.done():
            try:
                taken = self._decode_reads(until_ns)
            except MalformedError as malformed:
                self._fail(f"RemoteProtocolError: {malformed}")
            except Exception as bug:  # noqa: BLE001 whoever awaits the answer raises it
                self.whole.set_exception(bug)
            else:
                if taken < len(self._reads) and not self.framing.done:
                    self._pending -= sum(len(data) for _, data in self._reads[:taken])
                    del self._reads[:taken]
                    return False
                self._close()
        self._reads = []
        self._pending = 0
        self._queued = False
        return True

    def _decode_reads(self, until_ns: int) -> int:
        """Decode reads until an instant, or the end of the answer; return how many."""
        framing, sink = self.framing, self._sink
        last_ns = self._last_ns or self.into.sent_ns
        taken = 0
        for at_ns, data in self._reads:
            taken += 1
            body = framing.feed(data)
            # Stamps of the kernel and our own may disagree by a little; time does not go back.
            if at_ns > last_ns:  # noqa: PLR1730 max() costs more than the framing
                last_ns = at_ns
            if sink is None and framing.status:
                sink = self._sink = self._begin()
            if body and sink is not None:
                self._body_bytes += len(body)
                sink(last_ns, body)
            if framing.done:
                break
            is_time = not taken % _LOOK_EVERY or len(data) > _LOOK_BYTES
            if is_time and time.perf_counter_ns() > until_ns:
                break
        if taken:
            self._last_ns = last_ns
        self._check_length()
        self._eager = self._eager and self._is_awaited()
        return taken

    def _check_length(self) -> None:
        if self._body_bytes > MOST_ANSWER_BYTES and self._on_head is None:
            raise MalformedError(f"an answer of more than {MOST_ANSWER_BYTES >> 20} MB, given up")

    def _is_awaited(self) -> bool:
        """Tell whether somebody waits for what comes next."""
        if self._sink is None or self._on_head is not None:
            return True
        reader = self.into.reader
        return reader is not None and reader.first_token_ns is None

    def _begin(self) -> Sink:
        self.into.status = self.framing.status
        begin = self._on_head
        if begin is not None:
            return begin(self.framing)
        coding = dict(self.framing.headers).get(b"content-encoding", b"identity")
        if coding.lower() != b"identity":
            said = coding.decode("latin-1")[:40]
            raise MalformedError(f"content-encoding {said!r}, though identity was asked for")
        return into_answer(self.into)

    def _close(self) -> None:
        """End the answer if it is whole, or if its connection has ended."""
        if not self.framing.done and self._ended is not None:
            try:
                self.framing.end()
            except MalformedError as malformed:
                self._fail(self._ended or f"RemoteProtocolError: {malformed}")
                return
        if self.framing.done:
            self.into.end_ns = self._last_ns
            self.whole.set_result(None)

    def _fail(self, failure: str) -> None:
        self.failure = failure
        self.heard = bool(self._last_ns or self._reads)
        self.whole.set_result(None)


def into_answer(into: RawAnswer) -> Sink:
    """Return what takes the body of an answer: its reader, or where it is kept for one."""
    reads, reader = into.reads, into.reader
    if into.status != _OK:
        return lambda at_ns, data: len(reads) < _MOST_ERROR_READS and reads.append((at_ns, data))
    return reader.feed if reader is not None else lambda at_ns, data: reads.append((at_ns, data))
