"""The simulator's HTTP face: an OpenAI-compatible server around the engine.

``python -m pytest_agentperf.sim.server --model NAME [--port 0] [--config 'field=value&…']``
prints one JSON line, ``{"port": 12345}``, when it listens, and ends on SIGTERM or when its
standard input does, so that it never outlives the process that started it.
"""

import asyncio
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from math import ceil
from threading import Thread
from time import perf_counter
from typing import cast

import msgspec

from pytest_agentperf.sim.chat import Answer, RefusedError, error_body, read_chat
from pytest_agentperf.sim.engine import (
    Emission,
    Engine,
    EngineConfig,
    Request,
    StepResult,
    parse_config,
)

try:
    from uvloop import new_event_loop
except ImportError:  # it has no build for Windows
    from asyncio import new_event_loop

__all__ = ["Connection", "HTTPRequest", "Pacer", "Server", "main", "take_request"]

_MOST_REQUEST_BYTES = 64 * 2**20
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: agentperf-sim\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


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
    body = bytes(buffer[end + 4 : whole])
    del buffer[:whole]
    path = words[1].partition("?")[0]
    return HTTPRequest(method=words[0], path=path, headers=headers, body=body)


def _response(body: bytes, *, status: int = 200, content_type: str = "application/json") -> bytes:
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nserver: agentperf-sim\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Pacer:
    """Runs the engine in real time.

    A step ends at an absolute deadline, the last deadline plus its duration, and the next one
    begins there, however late the event loop woke up: timers of 1 ms blur single steps and leave
    their mean exact. A loop that is behind runs the missed steps one turn of the loop each, so
    that requests are still read between them.
    """

    def __init__(
        self, engine: Engine, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]
    ) -> None:
        self.engine = engine
        self._loop = loop
        self._clock = clock
        self._receivers: dict[str, Callable[[Emission], None]] = {}
        self._result: StepResult | None = None
        self._deadline_s = 0.0

    def submit(self, request: Request, receiver: Callable[[Emission], None]) -> None:
        """Have the engine answer a request; ``receiver`` is called at the end of each step."""
        now_s = self._clock()
        self.engine.submit(request, now_s)
        self._receivers[request.id] = receiver
        if self._result is None:
            self._begin(now_s)

    def cancel(self, request_id: str) -> None:
        """Stop answering; nothing is received of what is under way."""
        self._receivers.pop(request_id, None)
        self.engine.cancel(request_id)

    def _begin(self, now_s: float) -> None:
        self._result = None
        if self.engine.busy:
            start_s = self.engine.next_start_s(now_s)
            self._result = self.engine.step(start_s)
            self._deadline_s = start_s + self._result.duration_s
            self._await_deadline()

    def _await_deadline(self) -> None:
        left_s = self._deadline_s - self._clock()
        if left_s > 0:
            # Rounded up, as uvloop rounds to the nearest millisecond, and would wake too early.
            self._loop.call_later(ceil(left_s * 1000) / 1000, self._wake)
        else:
            self._loop.call_soon(self._end)

    def _wake(self) -> None:
        if self._clock() < self._deadline_s:
            self._await_deadline()
        else:
            self._end()

    def _end(self) -> None:
        result = cast("StepResult", self._result)
        for emission in result.emissions:
            receiver = self._receivers.get(emission.request_id)
            if receiver is None:
                continue
            if emission.finished:
                del self._receivers[emission.request_id]
            receiver(emission)
        self._begin(self._deadline_s)


class Server:
    """What all connections share: the endpoints."""

    def __init__(self, pacer: Pacer, models: Sequence[str]) -> None:
        self.pacer = pacer
        self._models = models
        self._numbers = count(1)
        self._get = {
            "/health": lambda: _response(b"", content_type="text/plain"),
            "/metrics": lambda: _response(self._metrics(), content_type="text/plain"),
            "/v1/models": lambda: _response(self._model_list()),
        }

    def get(self, request: HTTPRequest) -> bytes:
        """Answer everything that needs no engine.

        Raises:
            RefusedError: there is no such path, or not with this method.
        """
        if request.path not in self._get and request.path != "/v1/chat/completions":
            raise RefusedError("Not Found", status=404)
        if request.method != "GET" or request.path not in self._get:
            raise RefusedError("Method Not Allowed", status=405)
        return self._get[request.path]()

    def answer_to(self, request: HTTPRequest) -> Answer:
        """Read a chat completion request and plan its answer.

        Raises:
            RefusedError: it is not valid.
        """
        chat = read_chat(
            request.body,
            osl_header=request.headers.get("x-agentperf-osl"),
            models=self._models,
            context_limit_tokens=self.pacer.engine.config.context_limit_tokens,
        )
        return Answer(chat, next(self._numbers))

    def _model_list(self) -> bytes:
        limit = self.pacer.engine.config.context_limit_tokens
        rows = [
            {"id": name, "object": "model", "owned_by": "agentperf-sim", "max_model_len": limit}
            for name in self._models
        ]
        return msgspec.json.encode({"object": "list", "data": rows})

    def _metrics(self) -> bytes:
        engine, counters = self.pacer.engine, self.pacer.engine.counters
        rows = [
            ("num_requests_running", "gauge", engine.running),
            ("num_requests_waiting", "gauge", engine.waiting),
            ("kv_cache_usage_perc", "gauge", engine.kv_use_ratio),
            ("prefix_cache_queries_total", "counter", counters.prefix_queries_tokens),
            ("prefix_cache_hits_total", "counter", counters.prefix_hits_tokens),
            ("prompt_tokens_total", "counter", counters.prompt_tokens),
            ("generation_tokens_total", "counter", counters.generation_tokens),
        ]
        label = f'{{engine="0",model_name="{self._models[0]}"}}'
        return "".join(
            f"# TYPE vllm:{name} {kind}\nvllm:{name}{label} {float(value)}\n"
            for name, kind, value in rows
        ).encode()


class Connection(asyncio.Protocol):
    """One client: its requests are answered one after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._closes_after = False
        self._answer: Answer | None = None
        self._sent_tokens = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Have the engine forget what nobody will read."""
        del exc
        if self._answer is not None:
            self._server.pacer.cancel(self._answer.id)

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
                self._finish(_response(error_body(error), status=error.status))
                return
            if request is None:
                return
            self._closes_after = request.headers.get("connection", "").lower() == "close"
            self._begin(request)

    def _begin(self, request: HTTPRequest) -> None:
        try:
            if (request.method, request.path) == ("POST", "/v1/chat/completions"):
                self._submit(self._server.answer_to(request))
            else:
                self._finish(self._server.get(request))
        except RefusedError as error:
            self._finish(_response(error_body(error), status=error.status))

    def _submit(self, answer: Answer) -> None:
        self._answer, self._sent_tokens = answer, 0
        if answer.request.stream:
            self._transport.write(_STREAM_HEAD)
        self._server.pacer.submit(
            Request(
                id=answer.id,
                prompt_tokens=answer.request.prompt_tokens,
                osl_tokens=answer.request.osl_tokens,
                blocks=answer.request.blocks,
            ),
            self._receive,
        )

    def _receive(self, emission: Emission) -> None:
        answer = cast("Answer", self._answer)
        start, self._sent_tokens = self._sent_tokens, self._sent_tokens + emission.tokens
        if answer.request.stream:
            events = answer.events(start, self._sent_tokens, emission.cached_tokens)
            piece = b"%x\r\n%b\r\n" % (len(events), events)
            if not emission.finished:
                self._transport.write(piece)
                return
            self._finish(piece + b"0\r\n\r\n")
        elif emission.finished:
            self._finish(_response(answer.whole(emission.cached_tokens)))
        if emission.finished:
            self._serve()

    def _finish(self, last: bytes) -> None:
        self._answer = None
        self._transport.write(last)
        if self._closes_after:
            self._transport.close()


async def _run(arguments: Namespace, config: EngineConfig) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    server = Server(Pacer(Engine(config), loop, perf_counter), arguments.model)
    listener = await loop.create_server(
        lambda: Connection(server), "127.0.0.1", arguments.port, backlog=4096
    )
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    Thread(target=_watch_stdin, args=(loop, stopped), daemon=True).start()
    port = listener.sockets[0].getsockname()[1]
    sys.stdout.write(f'{{"port": {port}}}\n')
    sys.stdout.flush()
    await stopped.wait()
    listener.close()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    # os.read, as a daemon thread inside sys.stdin holds a lock that the interpreter's end needs.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stopped.set)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until standard input ends or SIGTERM comes."""
    parser = ArgumentParser(prog="python -m pytest_agentperf.sim.server", description=__doc__)
    parser.add_argument("--model", action="append", required=True, help="may be given again")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--config", default="", help="field=value&field=value of EngineConfig")
    arguments = parser.parse_args(argv)
    try:
        config = parse_config(arguments.config)
    except ValueError as error:
        parser.error(f"--config: {error}")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(arguments, config))


if __name__ == "__main__":
    main()
