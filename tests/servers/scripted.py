"""A streaming chat server whose timing is the truth that a client's measurements are held against.

Token k of an answer is due at (request read + first-token time + k / rate), never later because its
predecessor was. asyncio's timers round to 1 ms, and uvloop's may fire early; so the whole schedule
hangs on one Linux timerfd, which the loop watches like a socket. The stamps in the log are taken
immediately before the write; uvloop hands it to the kernel at the end of the same turn of its loop,
some tens of microseconds later when several streams are due
at once. Nothing here is shared with the client.
"""

import argparse
import asyncio
import ctypes
import gc
import heapq
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import msgspec
import uvloop

CLOSE_IDLE_S = 0.2
TOKEN_TEXT = " the"
"""One token in every common vocabulary, wherever it stands in an answer."""
BROKEN_AFTER_TOKENS = 3
BREAKS = ("cut", "error-in-stream")
BUNDLE_TOKENS = 4
FAULTS = (
    "bundled-first",
    "close-after-answer",
    "close-idle",
    "cut",
    "empty",
    "error-in-stream",
    "error-status",
    "hang",
    "no-finish",
    "no-usage",
    "slow-status-429",
    "usage-every-chunk",
)
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the server does with every request."""

    first_token_ns: int
    tokens_per_s: float
    tokens: int
    model: str
    fault: str | None

    @property
    def tokens_per_event(self) -> int:
        return BUNDLE_TOKENS if self.fault == "bundled-first" else 1

    def due_ns(self, read_ns: int, token: int) -> int:
        return read_ns + self.first_token_ns + round(token * 1e9 / self.tokens_per_s)


class ChatRequest(msgspec.Struct):
    """The fields of a request that change the answer."""

    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class Schedule:
    """Calls back at absolute `perf_counter_ns` times, tens of microseconds late."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # perf_counter_ns reads CLOCK_MONOTONIC on Linux, so both count from the same zero.
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        loop.add_reader(self._timer, self._run_due)

    def call_at(self, due_ns: int, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (due_ns, self._count, call))
        if self._due[0][1] == self._count:
            self._arm()

    def _run_due(self) -> None:
        os.read(self._timer, 8)
        while self._due and self._due[0][0] <= time.perf_counter_ns():
            heapq.heappop(self._due)[2]()
        if self._due:
            self._arm()

    def _arm(self) -> None:
        absolute, interval = 1, (0, 0)
        setting = struct.pack("qqqq", *interval, *divmod(self._due[0][0], 1_000_000_000))
        self._libc.timerfd_settime(self._timer, absolute, setting, None)


@dataclass(slots=True, kw_only=True)
class Answer:
    """One request, and how far its answer has come."""

    request_id: str
    read_ns: int
    limit: int
    requested: int | None
    prompt_tokens: int
    model: str
    sent_tokens: int = 0
    first_ns: int | None = None
    last_ns: int | None = None

    @property
    def tokens(self) -> int:
        return self.limit if self.requested is None else min(self.limit, self.requested)

    @property
    def finish_reason(self) -> str:
        return "length" if self.tokens == self.requested else "stop"

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.sent_tokens,
            "total_tokens": self.prompt_tokens + self.sent_tokens,
        }

    def record(self, count: int, sent_ns: int) -> None:
        self.sent_tokens += count
        self.first_ns = self.first_ns or sent_ns
        self.last_ns = sent_ns

    def chunk(
        self, delta: dict[str, str], *, finish_reason: str | None = None, **extra: object
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._event(choices=[choice], **extra)

    def usage_event(self) -> bytes:
        return self._event(choices=[], usage=self.usage)

    def _event(self, **content: object) -> bytes:
        head = {"id": self.request_id, "object": "chat.completion.chunk", "model": self.model}
        return http_chunk(sse_event(head | content))

    def log_line(self) -> str:
        return json.dumps(
            {
                "id": self.request_id,
                "read_ns": self.read_ns,
                "first_ns": self.first_ns,
                "last_ns": self.last_ns,
                "tokens": self.sent_tokens,
            }
        )


@dataclass(slots=True, kw_only=True)
class Server:
    """What all connections share."""

    script: Script
    schedule: Schedule
    log: TextIO
    requests: int = 0


class Connection(asyncio.Protocol):
    """Reads requests, one at a time, and plays the script for each."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._script = server.script
        self._received = bytearray()
        self._answer: Answer | None = None
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports write, but do not derive from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._end_answer()

    def data_received(self, data: bytes) -> None:
        read_ns = time.perf_counter_ns()
        if self._idle is not None:
            self._idle.cancel()
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        request_line, headers = parse_head(head)
        if len(body) < int(headers.get("content-length", "0")):
            return
        self._received.clear()
        if request_line.startswith("POST /v1/chat/completions "):
            self._server.requests += 1
            request_id = headers.get("x-request-id", str(self._server.requests))
            self._start_chat(read_ns, request_id, bytes(body))
        elif request_line.startswith("GET /v1/models "):
            models = [{"id": self._script.model, "object": "model"}]
            self._transport.write(json_response(200, {"object": "list", "data": models}))
        else:
            self._transport.write(error_response(404, f"no such page: {request_line}"))

    def _start_chat(self, read_ns: int, request_id: str, body: bytes) -> None:
        try:
            request = msgspec.json.decode(body, type=ChatRequest)
        except msgspec.DecodeError as error:
            self._transport.write(error_response(400, str(error)))
            return
        self._answer = answer = Answer(
            request_id=request_id,
            read_ns=read_ns,
            limit=self._script.tokens if self._script.fault != "empty" else 0,
            requested=request.max_completion_tokens or request.max_tokens,
            prompt_tokens=len(body) // 4,
            model=self._script.model,
        )
        match self._script.fault:
            case "error-status":
                self._fail(500)
            case "slow-status-429":
                self._call_at(self._script.due_ns(read_ns, 0), lambda: self._fail(429))
            case "hang":
                pass
            case _:
                self._transport.write(STREAM_HEAD + answer.chunk({"role": "assistant"}))
                self._call_at(self._script.due_ns(read_ns, 0), self._send_tokens)

    def _call_at(self, due_ns: int, call: Callable[[], None]) -> None:
        answer = self._answer

        def unless_over() -> None:
            if self._answer is answer:
                call()

        self._server.schedule.call_at(due_ns, unless_over)

    def _send_tokens(self) -> None:
        answer = self._answer
        assert answer is not None
        count = min(self._script.tokens_per_event, answer.tokens - answer.sent_tokens)
        if count:
            event = self._token_event(answer, count)
            sent_ns = time.perf_counter_ns()
            self._transport.write(event)
            answer.record(count, sent_ns)
        if self._script.fault in BREAKS and answer.sent_tokens >= BROKEN_AFTER_TOKENS:
            self._break(answer)
        elif answer.sent_tokens >= answer.tokens:
            self._finish(answer)
        else:
            due_ns = self._script.due_ns(answer.read_ns, answer.sent_tokens)
            self._call_at(due_ns, self._send_tokens)

    def _token_event(self, answer: Answer, count: int) -> bytes:
        delta = {"content": TOKEN_TEXT * count}
        if self._script.fault != "usage-every-chunk":
            return answer.chunk(delta)
        usage = answer.usage | {"completion_tokens": answer.sent_tokens + count}
        return answer.chunk(delta, usage=usage)

    def _finish(self, answer: Answer) -> None:
        fault = self._script.fault
        if fault != "no-finish":
            self._transport.write(answer.chunk({}, finish_reason=answer.finish_reason))
        if fault not in {"no-finish", "no-usage"}:
            self._transport.write(answer.usage_event())
        self._end_answer()
        self._transport.write(LAST_CHUNK if fault == "no-finish" else DONE + LAST_CHUNK)
        if fault == "close-after-answer":
            self._transport.close()
        elif fault == "close-idle":
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(CLOSE_IDLE_S, self._transport.close)

    def _break(self, answer: Answer) -> None:
        self._end_answer()
        if self._script.fault == "cut":
            # A lingering time of zero makes the kernel send RST instead of FIN.
            peer = self._transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            error = {"error": {"message": f"{answer.request_id} failed", "code": 500}}
            self._transport.write(http_chunk(sse_event(error)) + DONE + LAST_CHUNK)

    def _fail(self, status: int) -> None:
        self._end_answer()
        self._transport.write(error_response(status, "as the script says"))

    def _end_answer(self) -> None:
        """Log before the last bytes go out, so that whoever has the answer finds it logged."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._server.log.write(answer.log_line() + "\n")
            self._server.log.flush()


def parse_head(head: bytes | bytearray) -> tuple[str, dict[str, str]]:
    request_line, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return request_line, {name.strip().lower(): value.strip() for name, _, value in fields}


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse_event(message: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(message).encode()


def json_response(status: int, message: object) -> bytes:
    body = json.dumps(message).encode()
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def error_response(status: int, message: str) -> bytes:
    return json_response(status, {"error": {"message": message, "code": status}})


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
DONE = http_chunk(b"data: [DONE]\n\n")
LAST_CHUNK = b"0\r\n\r\n"


async def serve(script: Script, log: TextIO) -> None:
    """Serve until stdin closes; print one JSON line with the port."""
    loop = asyncio.get_running_loop()
    server = Server(script=script, schedule=Schedule(loop), log=log)
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=1024)
    port = listener.sockets[0].getsockname()[1]
    print(json.dumps({"port": port}), flush=True)  # noqa: T201 - the parent reads it
    # What lives now lives to the end: without it, each collection would walk all modules.
    gc.freeze()
    await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.scripted")
    parser.add_argument("--first-token-ms", type=float, default=50.0)
    parser.add_argument("--tokens-per-s", type=float, default=100.0)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--model", default="scripted")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    script = Script(
        first_token_ns=round(options.first_token_ms * 1e6),
        tokens_per_s=options.tokens_per_s,
        tokens=options.tokens,
        model=options.model,
        fault=options.fault,
    )
    with options.log.open("a", encoding="utf-8") as log:
        uvloop.run(serve(script, log))


if __name__ == "__main__":
    main()
