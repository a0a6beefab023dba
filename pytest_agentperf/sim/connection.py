"""One client of the simulated server: requests in, events out, as soon as they are due."""

import asyncio
import os
import socket
from struct import pack
from time import perf_counter
from typing import cast

from pytest_agentperf.sim.answer import Answer
from pytest_agentperf.sim.chat import RefusedError
from pytest_agentperf.sim.endpoints import CHAT_PATH, Endpoints
from pytest_agentperf.sim.http import (
    LAST_CHUNK,
    STREAM_HEAD,
    HTTPRequest,
    chunk,
    refusal,
    response,
    take_request,
)
from pytest_agentperf.sim.sequence import Gain, QueueFullError, Request
from pytest_agentperf.sim.watch import Sent

__all__ = ["Connection"]

_LINGER_NOT = pack("ii", 1, 0)  # close() then sends a reset


class Connection(asyncio.Protocol):
    """One client: its requests are answered one after the other."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._hasher = endpoints.new_hasher()
        self._buffer = bytearray()
        self._closes_after = False
        self._answer: Answer | None = None
        self._sent: Sent | None = None
        self._held: Gain | None = None
        """What is sent when a stalled answer goes on."""
        self._queued = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._fd = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        """Have the engine forget what nobody will read."""
        del exc
        if self._answer is not None:
            self._endpoints.pacer.cancel(self._answer.id)
            self._endpoints.finished["abort"] += 1
            self._end_answer()

    def data_received(self, data: bytes) -> None:
        """Collect and serve requests."""
        self._buffer += data
        self._serve()

    def _serve(self) -> None:
        while self._answer is None and not self._transport.is_closing():
            try:
                request = take_request(self._buffer)
            except RefusedError as error:
                self._closes_after = True
                self._finish(refusal(error))
                return
            if request is None:
                return
            self._closes_after = request.headers.get("connection", "").lower() == "close"
            self._begin(request)

    def _begin(self, request: HTTPRequest) -> None:
        try:
            self._endpoints.check_key(request)
            if request.path == CHAT_PATH and request.method == "POST":
                self._submit(request)
            else:
                self._finish(self._endpoints.rest(request))
        except RefusedError as error:
            self._finish(refusal(error))

    def _submit(self, request: HTTPRequest) -> None:
        received_s = perf_counter()
        answer = self._endpoints.answer_to(request, self._hasher)
        chat = answer.request
        asked = Request(
            id=answer.id,
            prompt_tokens=chat.prompt_tokens,
            osl_tokens=chat.osl_tokens,
            blocks=chat.blocks,
            seed=chat.seed,
        )
        try:
            self._endpoints.pacer.submit(asked, self._stream if chat.stream else self._wait)
        except QueueFullError as error:
            raise RefusedError(f"The request queue is full: {error}.", status=503) from error
        self._answer = answer
        if chat.stream:
            self._write(STREAM_HEAD)
            self._sent = Sent(
                id=answer.id,
                request_id=request.headers.get("x-request-id"),
                received_s=received_s,
                prompt_tokens=chat.prompt_tokens,
            )

    def _wait(self, gain: Gain) -> None:
        """Send an answer when it is whole."""
        if gain.finished:
            answer = cast("Answer", self._answer)
            self._complete(response(answer.whole(gain.cached_tokens)))

    def _stream(self, gain: Gain) -> None:
        """Send what a step brought."""
        if self._held is not None:
            self._held = gain
        else:
            self._advance(gain, gain.ends_s[-1])

    def _advance(self, gain: Gain, now_s: float) -> None:
        answer, sent = cast("Answer", self._answer), cast("Sent", self._sent)
        events = answer.take(gain.tokens[-1], gain.cached_tokens, now_s)
        if not events:
            self._hold(answer, gain, now_s)
            return
        if sent.first_token_sent_s is None:
            sent.cached_tokens = gain.cached_tokens
            sent.first_token_sent_s = perf_counter()
        if gain.finished:
            sent.last_token_sent_s = perf_counter()
            self._complete(chunk(events) + LAST_CHUNK)
        else:
            self._write(chunk(events))

    def _hold(self, answer: Answer, gain: Gain, now_s: float) -> None:
        if answer.is_cut:
            # connection_lost follows.
            peer = cast("socket.socket", self._transport.get_extra_info("socket"))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()
        elif now_s < answer.held_until_s:
            self._held = gain
            left_s = answer.held_until_s - self._endpoints.pacer.clock_s()
            asyncio.get_running_loop().call_later(left_s, self._go_on, answer)

    def _go_on(self, answer: Answer) -> None:
        if answer is self._answer and self._held is not None:
            gain, self._held = self._held, None
            self._advance(gain, answer.held_until_s)

    def _complete(self, last: bytes) -> None:
        answer = cast("Answer", self._answer)
        is_cut = answer.request.finish_reason == "length"
        self._endpoints.finished["length" if is_cut else "stop"] += 1
        self._end_answer()
        self._finish(last)
        self._serve()

    def _end_answer(self) -> None:
        if self._sent is not None and self._endpoints.log is not None:
            self._sent.osl_tokens = cast("Answer", self._answer).sent_tokens
            self._endpoints.log.add(self._sent)
        self._answer = self._sent = self._held = None

    def _finish(self, last: bytes) -> None:
        self._write(last)
        if self._closes_after:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        """Send now: at once to the socket, which is faster, as long as it takes everything."""
        transport = self._transport
        if transport.is_closing():
            return
        if not self._queued or transport.get_write_buffer_size() == 0:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError:  # the client has gone; connection_lost follows
                return
        self._queued = bool(data)
        if data:
            transport.write(data)
