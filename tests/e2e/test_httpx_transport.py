"""A plain httpx client over the engine."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from pytest_agentperf.httpx_transport import EngineTransport
from tests.servers.process import start
from tests.servers.sockets import Server, answered, serve

pytestmark = pytest.mark.e2e

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


def _with_client(work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        transport = EngineTransport(tls=ssl.create_default_context())
        async with httpx.AsyncClient(transport=transport, timeout=10) as client:
            await work(client)

    asyncio.run(run())


def test_a_stream_comes_piece_by_piece_with_the_stamp_of_each(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", f"{url}/chat/completions", json=BODY) as response:
            pieces = [piece async for piece in response.aiter_raw()]
            raw = response.extensions["agentperf"]
            read_ns = response.extensions["agentperf_read_ns"]
        assert response.status_code == 200
        assert len(pieces) == len(read_ns) > 10
        assert raw.sent_ns < read_ns[0] <= read_ns[-1] <= raw.end_ns
        assert read_ns == sorted(read_ns)

    options = ("--first-token-ms=5", "--tokens=20", f"--log={tmp_path / 'log'}")
    with start("tests.servers.scripted", *options) as server:
        url = server.url
        _with_client(work)


def test_a_piece_is_there_before_the_next_one_is_sent() -> None:
    heard = threading.Event()

    def answers(server: Server, _request: bytes) -> list[bytes]:
        server.open[0].sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            server.open[0].sendall(b"8\r\none more\r\n")
            assert heard.wait(10)
            heard.clear()
        return [b"0\r\n\r\n"]

    async def work(client: httpx.AsyncClient) -> None:
        pieces = 0
        async with client.stream("GET", server.url) as response:
            async for piece in response.aiter_raw():
                assert piece == b"one more"
                pieces += 1
                heard.set()
        assert pieces == 3

    with serve(answers) as server:
        _with_client(work)


def test_one_connection_serves_requests_that_follow_each_other() -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            assert (await client.get(server.url)).text == "hello"
        assert server.connections == 1
        await asyncio.gather(*(client.get(server.url) for _ in range(3)))
        assert server.connections <= 3

    with serve(answered(b"hello")) as server:
        _with_client(work)


def test_a_server_that_hangs_up_is_an_error_of_httpx() -> None:
    def hang_up(_server: Server, _request: bytes) -> list[bytes]:
        return [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel"]

    async def work(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            await client.get(server.url)

    with serve(hang_up, closes=True) as server:
        _with_client(work)


def test_a_server_that_is_not_there_is_an_error_of_httpx() -> None:
    async def work(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ConnectError):
            await client.get(server.url)

    with serve(answered(b"")) as server:
        pass
    _with_client(work)


def test_an_answer_that_nobody_reads_to_its_end_closes_its_connection() -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", server.url) as response:
            assert response.status_code == 200
        await client.get(server.url.replace("/v1", "/v1/short"))
        assert server.connections == 2

    def endless(_server: Server, request: bytes) -> list[bytes]:
        if b"/short" in request:
            return [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
        return [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx"]

    with serve(endless) as server:
        _with_client(work)


def test_an_answer_that_does_not_begin_in_time_is_a_timeout_of_httpx() -> None:
    async def work(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(server.url, timeout=0.05)

    with serve(lambda _server, _request: []) as server:
        _with_client(work)
