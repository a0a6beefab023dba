"""A server that streams tokens on time, computes nothing, and remembers when it did what.

Runs as ``python -m pytest_agentperf.selfcheck.nullserver [PEM]`` in a process of its own, over TLS
with the key and certificate of a file; prints its port and ends with its stdin. ``GET /truth``
returns, by the number that a request carried, when its last byte was read and its first and last
tokens were handed to the kernel, in ns of the machine's monotonic clock, which is the client's too.
"""

import asyncio
import ssl
import sys
import time
from typing import cast

import msgspec
import uvloop

__all__ = ["NUMBER_HEADER", "RATE_HEADER", "TOKENS_HEADER", "Truth"]

NUMBER_HEADER, TOKENS_HEADER, RATE_HEADER = "x-null-number", "x-null-tokens", "x-null-rate"
_TICK_NS = 1_000_000
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_COMMON = b'"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1,"model":"m"'


class Truth(msgspec.Struct, array_like=True):
    """What happened to one request."""

    read_ns: int
    first_ns: int
    last_ns: int
    late_ns: int
    """How late the server itself was, at most."""


def _event(data: bytes) -> bytes:
    event = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(event), event)


_ROLE = _event(b'{%b,"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}' % _COMMON)
_TOKEN = _event(b'{%b,"choices":[{"index":0,"delta":{"content":" token"}}]}' % _COMMON)
_STOP = _event(b'{%b,"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}' % _COMMON)


def _end(tokens: int) -> bytes:
    usage = b'{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}' % (tokens, tokens + 1)
    return b"%b%b%b0\r\n\r\n" % (
        _STOP,
        _event(b'{%b,"choices":[],"usage":%b}' % (_COMMON, usage)),
        _event(b"[DONE]"),
    )


class _Stream:
    """One answer that is being sent."""

    __slots__ = ("due_ns", "left", "period_ns", "tokens", "transport", "truth")

    def __init__(
        self, transport: asyncio.Transport, truth: Truth, tokens: int, rate: float
    ) -> None:
        self.transport = transport
        self.truth = truth
        self.tokens = self.left = tokens
        self.period_ns = int(1e9 / rate)
        self.due_ns = truth.read_ns + self.period_ns

    def send(self, now_ns: int) -> bool:
        """Send the next token; tell whether another one is due later."""
        truth = self.truth
        truth.late_ns = max(truth.late_ns, now_ns - self.due_ns)
        self.left -= 1
        truth.last_ns = now_ns
        if not truth.first_ns:
            truth.first_ns = now_ns
        self.transport.write(_TOKEN if self.left else _TOKEN + _end(self.tokens))
        self.due_ns += self.period_ns
        return self.left > 0


class _Server:
    def __init__(self) -> None:
        self.truths: dict[int, Truth] = {}
        self._due: dict[int, list[_Stream]] = {}

    def add(self, stream: _Stream) -> None:
        self._due.setdefault(stream.due_ns // _TICK_NS, []).append(stream)

    async def run(self) -> None:
        """Send what is due, millisecond by millisecond."""
        tick = time.perf_counter_ns() // _TICK_NS
        while True:
            now_ns = time.perf_counter_ns()
            while tick <= now_ns // _TICK_NS:
                for stream in self._due.pop(tick, ()):
                    at_ns = time.perf_counter_ns()
                    if not stream.transport.is_closing() and stream.send(at_ns):
                        self.add(stream)
                tick += 1
            left_ns = tick * _TICK_NS - time.perf_counter_ns()
            await asyncio.sleep(max(0, left_ns) / 1e9)


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        line, *rest = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in rest)}
        if len(body) < int(headers.get("content-length", "0")):
            return
        self._data = b""
        if line.startswith("GET"):
            self._tell()
        else:
            self._answer(headers)

    def _tell(self) -> None:
        assert self._transport is not None
        body = msgspec.json.encode({str(n): truth for n, truth in self._server.truths.items()})
        self._server.truths.clear()
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def _answer(self, headers: dict[str, str]) -> None:
        assert self._transport is not None
        now_ns = time.perf_counter_ns()
        truth = Truth(read_ns=now_ns, first_ns=0, last_ns=0, late_ns=0)
        self._server.truths[int(headers[NUMBER_HEADER])] = truth
        tokens, rate = int(headers[TOKENS_HEADER]), float(headers[RATE_HEADER])
        self._transport.write(_HEAD + _ROLE)
        self._server.add(_Stream(self._transport, truth, tokens, rate))


async def _main(pem: str | None) -> None:
    state = _Server()
    loop = asyncio.get_running_loop()
    tls = None
    if pem is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pem)
    server = await loop.create_server(
        lambda: _Connection(state), "127.0.0.1", 0, backlog=4096, ssl=tls
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 told to whoever started it
    running = asyncio.create_task(state.run())
    await loop.run_in_executor(None, sys.stdin.read)
    running.cancel()
    server.close()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1] if len(sys.argv) > 1 else None))
