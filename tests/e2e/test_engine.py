"""The engine's connections over real sockets: servers here send the very bytes of a test."""

import asyncio
import json
import select
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.api_key import API_KEY_VARIABLE
from pytest_agentperf.engine.connection import EngineConnection
from pytest_agentperf.engine.hub import Hub
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.sim import launch
from tests.servers.certificate import make_certificate, speaks
from tests.servers.sockets import Answers, Server, answered, serve

pytestmark = pytest.mark.e2e

EVENT = b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n'
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT)
Run = Callable[[Awaitable[None]], None]


def sends(*writes: bytes) -> Answers:
    return lambda _server, _request: list(writes)


@pytest.fixture(params=[uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run on one loop and on the other."""
    return request.param


def engine(url: str, **options: object) -> EngineConnection:
    settings = {"timeout_s": 20.0, "tls": ssl.create_default_context(), **options}
    return EngineConnection(EndpointInfo(url=url), **settings)  # pyright: ignore[reportArgumentType] as named


async def ask(connection: EngineConnection, body: bytes = b"{}") -> tuple[RawAnswer, Answer]:
    reader = AnswerReader()
    raw = RawAnswer(reader=reader)
    await connection.chat(body, raw, osl_tokens=None)
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
    return raw, reader.finish(raw)


async def ask_once(server: Server, **options: object) -> tuple[RawAnswer, Answer]:
    connection = engine(server.url, **options)
    try:
        return await ask(connection)
    finally:
        await connection.close()


async def until_seen(connection: EngineConnection) -> None:
    while connection.is_open:  # noqa: ASYNC110 the loop has to see it, whenever that is
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("writes", "error"),
    [
        ([WHOLE], None),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", WHOLE], None),
        ([WHOLE.replace(b"chunked", b"chunked\r\nconnection: close")], None),
        ([WHOLE + b"HTTP/1.1 200 OK\r\n"], None),
        ([b"HTTP/1.1 429 No\r\ncontent-length: 19\r\n\r\n", b'{"error": "too many'], "HTTP 429: "),
        ([CHUNKED + b"xyz\r\n"], "connection: RemoteProtocolError: no chunk size: b'xyz'"),
        ([b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000], "connection: RemoteProtocolError: head"),
    ],
    ids=[
        "a whole answer",
        "early hints",
        "its last answer",
        "more than an answer",
        "an error with a body",
        "a broken chunk",
        "an endless head",
    ],
)
def test_what_a_server_sends(run: Run, writes: list[bytes], error: str | None) -> None:
    async def work() -> None:
        connection = engine(server.url)
        for _ in range(2):
            raw, answer = await ask(connection)
            assert (answer.error or "").startswith(error or "none" if answer.error else "")
            assert (answer.error is None) is (error is None)
            assert 0 < raw.sent_ns <= raw.end_ns
            assert not raw.reconnected
        await connection.close()

    with serve(sends(*writes)) as server:
        run(work())


@pytest.mark.parametrize(
    ("writes", "connections"),
    [
        ([WHOLE], 1),
        ([WHOLE.replace(b"chunked", b"chunked\r\nconnection: close")], 3),
        ([WHOLE + b"HTTP/1.1 200 OK\r\n"], 3),
    ],
    ids=["are one", "are new where the server wants that", "are new where more came"],
)
def test_connections_of_three_requests(run: Run, writes: list[bytes], connections: int) -> None:
    async def work() -> None:
        connection = engine(server.url)
        for _ in range(3):
            await ask(connection)
        await connection.close()

    with serve(sends(*writes)) as server:
        run(work())
        assert server.connections == connections


def test_a_close_in_a_pause_is_seen_at_once_and_costs_a_connect(run: Run) -> None:
    async def work() -> None:
        connection = engine(server.url)
        await ask(connection)
        await until_seen(connection)
        raw, answer = await ask(connection)
        assert (answer.error, raw.reconnected) == (None, False)
        assert raw.connect_ns > 0
        await connection.close()

    with serve(sends(WHOLE), closes=True) as server:
        run(work())


def test_bytes_in_a_pause_close_the_connection(run: Run) -> None:
    async def work() -> None:
        connection = engine(server.url)
        await ask(connection)
        server.open[0].sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await until_seen(connection)
        assert (await ask(connection))[1].error is None
        await connection.close()

    with serve(sends(WHOLE)) as server:
        run(work())


def test_a_reused_connection_that_dies_unanswered_is_opened_anew_once(run: Run) -> None:
    def answers(server: Server, _request: bytes) -> list[bytes]:
        if len(server.requests) > 1 and server.connections == 1:
            server.open[0].shutdown(socket.SHUT_RDWR)
            return []
        return [WHOLE]

    async def work() -> None:
        connection = engine(server.url)
        await ask(connection)
        raw, answer = await ask(connection)
        assert (answer.error, raw.reconnected) == (None, True)
        assert raw.connect_ns > 0
        await connection.close()

    with serve(answers) as server:
        run(work())


def test_a_new_connection_that_dies_unanswered_is_a_failure(run: Run) -> None:
    async def work() -> None:
        raw, answer = await ask_once(server)
        said = "connection: RemoteProtocolError: Server disconnected without sending a response."
        assert (answer.error, raw.reconnected) == (said, False)

    with serve(sends(), closes=True) as server:
        run(work())


def test_an_answer_that_was_begun_is_never_asked_for_again(run: Run) -> None:
    def answers(server: Server, _request: bytes) -> list[bytes]:
        return [WHOLE] if len(server.requests) == 1 else [WHOLE[:-30]]

    async def work() -> None:
        connection = engine(server.url)
        assert (await ask(connection))[1].error is None
        asking = asyncio.create_task(ask(connection))
        while len(server.requests) < 2:  # noqa: ASYNC110 told by a thread
            await asyncio.sleep(0.001)
        server.open[0].shutdown(socket.SHUT_WR)
        raw, answer = await asking
        assert (answer.error or "").endswith("(incomplete chunked read)")
        assert not raw.reconnected
        await connection.close()

    with serve(answers) as server:
        run(work())
        assert server.connections == 1


def test_a_request_that_is_cancelled_closes_its_connection(run: Run) -> None:
    async def work() -> None:
        connection = engine(server.url)
        asking = asyncio.create_task(ask(connection))
        while not server.requests:  # noqa: ASYNC110 told by a thread
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert not connection.is_open
        await asyncio.to_thread(server.closed.wait, 10)
        await connection.close()

    with serve(sends()) as server:
        run(work())
        assert server.closed.is_set()


def test_a_long_prompt_goes_out_in_pieces_to_a_server_that_reads_slowly(run: Run) -> None:
    pieces = [b"%07d," % number * 1000 for number in range(2000)]  # 16 MB, above all buffers

    async def work() -> None:
        connection = engine(server.url)
        raw = RawAnswer()
        views = [memoryview(piece) for piece in pieces]
        await connection.chat(views, raw, osl_tokens=None)
        assert raw.sent_ns < raw.written_ns <= raw.end_ns
        assert raw.error is None
        await connection.close()

    with serve(sends(WHOLE)) as server:
        run(work())
        assert server.requests[0].endswith(b"\r\n\r\n" + b"".join(pieces))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_tls(run: Run, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=certificate)

    async def work() -> None:
        lags = ReadLags()
        connection = engine(server.url, tls=trusting, lags=lags)
        long = b"x" * 1_000_000
        for body in (b"{}", long, b"{}"):
            raw, answer = await ask(connection, body)
            assert answer.error is None
            assert raw.sent_ns <= raw.written_ns <= raw.end_ns
        seen = lags.take()
        assert (seen.stamped, seen.unstamped) >= (0, 3)
        await connection.close()
        _, refused = await ask_once(server)
        assert (refused.error or "").startswith(
            "connection: ConnectError: [SSL: CERTIFICATE_VERIFY"
        )

    with serve(sends(WHOLE), tls=speaks(certificate)) as server:
        run(work())
        assert server.connections == 2


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_hosts(run: Run, host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        serving = serve(sends(WHOLE), host="127.0.0.1" if host == "localhost" else host)
        with serving as server:
            server.url = server.url.replace("127.0.0.1", host)

            async def work() -> None:
                assert (await ask_once(server))[1].error is None

            run(work())
            shown = b"host: [::1]:" if host == "::1" else b"host: localhost:"
            assert shown in server.requests[0]
    except OSError as refused:
        pytest.skip(f"no such address here: {refused}")


def test_a_host_that_is_none_is_a_failed_request(run: Run) -> None:
    async def work() -> None:
        connection = engine("http://no-such-host.invalid/v1")
        _, answer = await ask(connection)
        assert (answer.error or "").startswith("connection: ConnectError: ")
        await connection.close()

    run(work())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux stamps")
def test_the_kernels_stamps_are_of_our_clock(run: Run) -> None:
    async def work() -> None:
        lags = ReadLags()
        raw, answer = await ask_once(server, lags=lags)
        assert raw.sent_ns < answer.token_ns[0] <= raw.end_ns
        seen = lags.take()
        assert seen.stamped + seen.unstamped >= 1
        assert 0 <= seen.p50_s <= seen.p95_s <= seen.p99_s <= seen.most_s
        assert lags.take().stamped == 0

    with serve(sends(WHOLE)) as server:
        run(work())


def test_what_the_loop_reads_late_has_the_time_of_its_arrival(run: Run) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux stamps")
    stands_still, sent = threading.Event(), threading.Event()

    def answers(server: Server, _request: bytes) -> list[bytes]:
        if server.requests[1:]:
            assert stands_still.wait(10)
        server.open[0].sendall(WHOLE)
        sent.set()
        return []

    async def work() -> None:
        lags = ReadLags()
        connection = engine(server.url, lags=lags)
        await ask(connection)
        lags.take()
        sent.clear()
        asking = asyncio.create_task(ask(connection))
        while not server.requests[1:]:  # noqa: ASYNC110 told by a thread
            await asyncio.sleep(0)
        # The loop stands still from here until the answer has come, and 50 ms more.
        stands_still.set()
        assert sent.wait(10)
        select.select([], [], [], 0.05)
        raw, _ = await asking
        seen = lags.take()
        assert seen.most_s >= 0.05 or not seen.stamped
        assert raw.end_ns > raw.sent_ns
        await connection.close()

    with serve(answers) as server:
        run(work())


def test_the_simulator_is_understood(run: Run) -> None:
    info = launch.connect("sim:", models=("m",))
    body = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 40,
        }
    ).encode()

    async def work() -> None:
        connection = EngineConnection(info, timeout_s=20, tls=ssl.create_default_context())
        reader = AnswerReader()
        raw = RawAnswer(reader=reader)
        await connection.chat([body[:9], memoryview(body)[9:]], raw, osl_tokens=30)
        answer = reader.finish(raw)
        assert (answer.error, answer.osl_tokens) == (None, 30)
        assert raw.reads == []
        await connection.close()

    try:
        run(work())
    finally:
        info.close()


def test_the_last_connection_takes_the_hub_with_it() -> None:
    async def work() -> None:
        one, other = engine(server.url), engine(server.url)
        await asyncio.gather(ask(one), ask(other))
        hub = Hub.of_running_loop()
        hub.leave()
        await one.close()
        again = Hub.of_running_loop()
        again.leave()
        assert again is hub
        await other.close()
        new = Hub.of_running_loop()
        new.leave()
        assert new is not hub

    with serve(sends(WHOLE)) as server:
        asyncio.run(work())


def test_a_key_that_a_server_echoes_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-planted-9f3b")

    async def work() -> None:
        _, answer = await ask_once(server)
        assert answer.error is not None
        assert "[key]" in answer.error
        assert "planted" not in answer.error

    with serve(sends(b"sk-planted-9f3b is no key\r\n\r\n")) as server:
        asyncio.run(work())
        assert b"authorization: Bearer sk-planted-9f3b\r\n" in server.requests[0]


def test_a_header_with_a_line_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="header 'x-a' cannot be sent"):
        engine("http://h/v1", headers={"X-A": "b\r\nc: d"})


def test_a_header_that_is_named_replaces_ours() -> None:
    async def work() -> None:
        await ask_once(server, headers={"Accept": "text/plain"})

    with serve(answered(b"")) as server:
        asyncio.run(work())
        assert server.requests[0].lower().count(b"accept: ") == 1
