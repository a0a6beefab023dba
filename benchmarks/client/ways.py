"""The ways to ask, in one event loop: ours, httpx as it comes, and the usual benchmark loop.

Each tells what it saw of an answer. What is true the origin knows; a header says to it which stream
asks.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

__all__ = ["Asked", "Seen", "Way", "message", "pieces", "way"]

Seen = tuple[int, ...]
"""Stream; sent, first and last token in nanoseconds; tokens; characters; of our own engine also 1
where the first token came in one read with more, and when the request was written."""

_SLICE_BYTES = 64 * 1024
_MESSAGES = 100
_WARM_UP = "first_us=1000000,gap_us=0,tokens=1"
"""For pools: held so long that every stream opens a connection of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked, and where."""

    port: int
    pace: str
    tokens: int
    body: bytes
    pieces: Callable[[], Any] | None = None
    """Makes the body of each request, where that is not always the same bytes."""
    uneven: bool = False
    """First tokens take from half to twenty times the pace's time, by stream; our engine only."""


class Way(Protocol):
    """Asks for all streams of a trial."""

    async def one(self, stream: int, *, warm_up: bool = False) -> Seen:
        """Ask once."""
        ...

    def kernel(self) -> dict[str, Any]:
        """Return how far it and its kernel were apart since the last call, where it knows that."""
        return {}


def message(body_bytes: int) -> dict[str, Any]:
    """Return a request of about so many bytes."""
    text = ("A line of a file that an agent has read.\n" * (body_bytes // 41 + 1))[:body_bytes]
    return {
        "model": "sim",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": text}],
    }


def pieces(body_bytes: int) -> Callable[[], Any]:
    """Return what puts a request together from encoded messages, as an agent does each turn."""
    from pytest_agentperf.wire import ChatEncoder  # noqa: PLC0415 not in every venv

    encoder = ChatEncoder(model="sim", request={}, max_tokens=4096, output="natural")
    one = json.dumps(message(body_bytes // _MESSAGES)["messages"][0]).encode()
    return lambda: encoder.pieces([one] * _MESSAGES, b"", None)


class _Ours(Way):
    """A connection for every stream, and answers decoded as `pytest_agentperf.agent` does."""

    def __init__(self, asked: Asked) -> None:
        from pytest_agentperf.engine.stamps import ReadLags  # noqa: PLC0415 not in every venv
        from pytest_agentperf.protocols import EndpointInfo  # noqa: PLC0415 as above

        self._lags = ReadLags()  # one for all, as in a load process
        self._info = lambda pace: EndpointInfo(
            url=f"http://127.0.0.1:{asked.port}/{pace}/v1", osl_header="x-agentperf-osl"
        )
        self._tls = ssl.create_default_context()
        self._asked = asked
        self._connections: dict[int, Any] = {}

    def connect(self, headers: dict[str, str], pace: str) -> Any:
        """Make the connection of one stream."""
        from pytest_agentperf.engine.connection import EngineConnection  # noqa: PLC0415 as above

        return EngineConnection(
            self._info(pace), timeout_s=600, tls=self._tls, headers=headers, lags=self._lags
        )

    async def one(self, stream: int, *, warm_up: bool = False) -> Seen:
        from pytest_agentperf.answer import AnswerReader  # noqa: PLC0415 not in every venv
        from pytest_agentperf.records import RawAnswer  # noqa: PLC0415 as above

        asked = self._asked
        connection = self._connections.get(stream)
        if connection is None:
            pace = _uneven(asked.pace, stream) if asked.uneven else asked.pace
            connection = self.connect({"x-stream": str(stream)}, pace)
            self._connections[stream] = connection
        reader = AnswerReader()
        raw = RawAnswer(reader=reader)
        body = asked.pieces() if asked.pieces else asked.body
        await connection.chat(body, raw, osl_tokens=1 if warm_up else asked.tokens)
        return _seen(stream, raw, await _decoded(raw, reader))

    def kernel(self) -> dict[str, Any]:
        return asdict(self._lags.take())


def _uneven(pace: str, stream: int) -> str:
    """Return a pace whose first token comes as those of a queue do: few of them very late."""
    first_us, _, rest = pace.removeprefix("first_us=").partition(",")
    share = (stream * 0.618034) % 1  # spread evenly, however many streams there are
    return f"first_us={int(int(first_us) * min(20, 0.5 / (1 - share)))},{rest}"


def _seen(stream: int, raw: Any, answer: Any) -> Seen:
    if answer.error:
        raise RuntimeError(answer.error)
    stamps = answer.token_ns
    seen = stream, raw.sent_ns, stamps[0], stamps[-1], len(stamps), len(answer.text)
    return *seen, int(answer.first_token_merged), raw.written_ns


async def _decoded(raw: Any, reader: Any) -> Any:
    """Decode what the connection has left to be decoded."""
    pending = 0
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
        pending += len(data)
        if pending > _SLICE_BYTES:
            pending = 0
            await asyncio.sleep(0)
    return reader.finish(raw)


class _UserStamps(_Ours):
    """As on a system whose kernel tells no stamps."""

    def __init__(self, asked: Asked) -> None:
        from pytest_agentperf.engine import link  # noqa: PLC0415 not in every venv

        super().__init__(asked)
        link.ask_for_stamps = lambda sock: False  # noqa: ARG005 what it would be asked


class _Connection(_Ours):
    def connect(self, headers: dict[str, str], pace: str) -> Any:
        from pytest_agentperf.endpoint import HttpConnection  # noqa: PLC0415 not in every venv

        return HttpConnection(self._info(pace), timeout_s=600, tls=self._tls, headers=headers)


class _Adapter(Way):
    """httpx over our engine: one client for all, and the engine's stamps."""

    def __init__(self, asked: Asked) -> None:
        import httpx  # noqa: PLC0415 not in every venv

        from pytest_agentperf.httpx_transport import EngineTransport  # noqa: PLC0415 as above

        self._url = f"http://127.0.0.1:{asked.port}/{{}}/v1/chat/completions"
        self._asked = asked
        self._client = httpx.AsyncClient(transport=EngineTransport(), timeout=None)

    async def one(self, stream: int, *, warm_up: bool = False) -> Seen:
        from pytest_agentperf.answer import AnswerReader  # noqa: PLC0415 not in every venv

        url = self._url.format(_WARM_UP if warm_up else self._asked.pace)
        headers = {"content-type": "application/json", "x-stream": str(stream)}
        body = self._asked.body
        reader = AnswerReader()
        async with self._client.stream("POST", url, content=body, headers=headers) as said:
            raw = said.extensions["agentperf"]
            read_ns = iter(said.extensions["agentperf_read_ns"])  # grows with the pieces
            async for data in said.aiter_raw():
                reader.feed(next(read_ns), data)
        return _seen(stream, raw, reader.finish(raw))


class _Httpx(Way):
    """One client with one pool for all, lines, and JSON for each event."""

    def __init__(self, asked: Asked) -> None:
        import httpx  # noqa: PLC0415 not in every venv

        self._url = f"http://127.0.0.1:{asked.port}/{{}}/v1/chat/completions"
        self._asked = asked
        self._client = httpx.AsyncClient(
            timeout=None,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def one(self, stream: int, *, warm_up: bool = False) -> Seen:
        url = self._url.format(_WARM_UP if warm_up else self._asked.pace)
        headers = {"content-type": "application/json", "x-stream": str(stream)}
        seen = _Fold(stream)
        body = self._asked.body
        async with self._client.stream("POST", url, content=body, headers=headers) as said:
            async for line in said.aiter_lines():
                if line.startswith("data: "):
                    seen.event(line[6:])
        return seen.result()


class _Naive(Way):
    """A session for all, text cut at blank lines, JSON for each event: the usual benchmark loop."""

    def __init__(self, asked: Asked) -> None:
        import aiohttp  # noqa: PLC0415 not in every venv

        self._url = f"http://127.0.0.1:{asked.port}/{{}}/v1/chat/completions"
        self._pace = asked.pace
        self._json = json.loads(asked.body)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def one(self, stream: int, *, warm_up: bool = False) -> Seen:
        seen = _Fold(stream)
        url = self._url.format(_WARM_UP if warm_up else self._pace)
        headers = {"x-stream": str(stream)}
        async with self._session.post(url, json=self._json, headers=headers) as said:
            async for event in _events(said.content.iter_any()):
                seen.event(event)
        return seen.result()


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    buffer = ""
    async for chunk in chunks:
        buffer += chunk.decode("utf-8")
        while "\n\n" in buffer:
            event, buffer = buffer.split("\n\n", 1)
            if event.startswith("data: "):
                yield event.removeprefix("data: ")


class _Fold:
    """What such a loop keeps of an answer: every stamp, and the text."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._sent_ns = time.perf_counter_ns()
        self._stamps: list[int] = []
        self._text: list[str] = []

    def event(self, data: str) -> None:
        """Take one event."""
        if data == "[DONE]":
            return
        at_ns = time.perf_counter_ns()
        choices = json.loads(data).get("choices")
        content = choices[0]["delta"].get("content") if choices else None
        if content:
            self._stamps.append(at_ns)
            self._text.append(content)

    def result(self) -> Seen:
        """Return what was seen of the whole answer."""
        stamps = self._stamps
        chars = len("".join(self._text))
        return self._stream, self._sent_ns, stamps[0], stamps[-1], len(stamps), chars


_WAYS: dict[str, Callable[[Asked], Way]] = {
    "engine": _Ours,
    "engine-user": _UserStamps,
    "adapter": _Adapter,
    "connection": _Connection,
    "httpx": _Httpx,
    "naive": _Naive,
    "naive-uvloop": _Naive,
}


def way(name: str) -> Callable[[Asked], Way]:
    """Return what makes a way to ask."""
    return _WAYS[name]
