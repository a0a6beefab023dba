"""How the recorder passes requests and answers on, whatever the two sides do."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from pytest_agentperf.recorder.journal import Journal
from pytest_agentperf.recorder.proxy import Proxy
from pytest_agentperf.recorder.upstream import read_upstream
from tests.spoken import CALL, CHAT, lines

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Through = Callable[..., list[Any]]


async def _talk(upstream: Serve, talk: Serve, journal: Journal, *, ends: bool) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            await upstream(reader, writer)
            await reader.read()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = Proxy(upstream=read_upstream(f"http://127.0.0.1:{port}"), journal=journal)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(proxy.serve, "127.0.0.1", 0)
    agent = await asyncio.open_connection(*listener.sockets[0].getsockname()[:2])
    async with asyncio.timeout(60):
        await talk(*agent)
        if ends:
            proxy.end()
        agent[1].close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others)
        await asyncio.sleep(0)  # transports close in the next turn of the loop
    listener.close()
    server.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def through(request: pytest.FixtureRequest, tmp_path: Path) -> Through:
    """Return what runs a talk of an agent through a proxy to an upstream.

    It returns the journal's lines; with ``ends``, the recorder is ended after the talk.
    """

    def run(upstream: Serve, talk: Serve, *, ends: bool = False) -> list[Any]:
        path = tmp_path / "out.jsonl"
        journal = Journal(path, {}, began_ns=0)
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(_talk(upstream, talk, journal, ends=ends))
        journal.close()
        return lines(path)

    return run


BODY = b'{"messages":[]}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
GONE = "the agent closed the connection before the answer ended"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def take(reader: asyncio.StreamReader) -> bytes:
    """Read one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")),
        b"0",
    )
    return head + await reader.readexactly(int(length))


def test_each_piece_is_passed_on_before_the_next_one_comes(through: Through):
    heard = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(HEAD + chunked(CHAT[:60]))
        await heard.wait()
        writer.write(chunked(CHAT[60:]) + b"0\r\n\r\n")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST)
        await reader.readuntil(CHAT[:60])
        heard.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).count(b"data: ") == CHAT.count(b"data: ") - 1

    *_, answer = through(upstream, talk)
    assert answer["usage"] == {"prompt_tokens": 9, "completion_tokens": 5}
    assert answer["message"]["tool_calls"] == [msgspec.to_builtins(CALL)]


def test_an_answer_that_is_cut_arrives_cut(through: Through):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(HEAD + chunked(CHAT[:60]))
        await writer.drain()
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"0\r\n\r\n")

    *_, answer = through(upstream, talk)
    assert answer["error"] == "the server broke the answer off"


def test_the_server_learns_that_the_agent_has_gone(through: Through):
    learnt = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(HEAD)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        learnt.set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await learnt.wait()

    *_, answer = through(upstream, talk)
    assert answer["error"] == GONE


def test_a_connection_that_died_while_idle_is_opened_again(through: Through):
    seen: list[bytes] = []
    answer = HEAD + chunked(CHAT) + b"0\r\n\r\n"

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await take(reader))
        writer.write(answer)
        await writer.drain()
        writer.close()  # without a word, as some servers do

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(POST)
            await reader.readuntil(b"\r\n0\r\n\r\n")

    found = through(upstream, talk)
    assert [line["error"] for line in found if "answer" in line] == [None] * 3
    assert all(b"Accept-Encoding: identity" in request for request in seen)


def test_a_chunked_request_and_an_answer_without_length_go_through(through: Through):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await take(reader)).endswith(BODY)
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + CHAT)
        await writer.drain()
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _, _ = POST.partition(b"Content-Length")
        body = chunked(BODY[:4]) + chunked(BODY[4:]) + b"0\r\n\r\n"
        writer.write(head + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(body)
        await reader.readuntil(b"\r\n0\r\n\r\n")

    *_, answer = through(upstream, talk)
    assert (answer["error"], answer["finish_reason"]) == (None, "tool_calls")


@pytest.mark.parametrize(
    "request_", [b"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n", b"nonsense\r\n\r\n"]
)
def test_what_is_no_request_for_the_server_is_refused(through: Through, request_: bytes):
    async def upstream(*_: Any) -> None:
        raise AssertionError

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request_)
        assert (await reader.read()).startswith(b"HTTP/1.1 400")

    through(upstream, talk)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LARGE = b'{"messages":[{"role":"user","content":"%b"}]}' % (b"x" * 300_000)


def post(body: bytes = BODY, *headers: bytes, version: bytes = b"1.1") -> bytes:
    fields = (b"Host: x", b"Content-Length: %d" % len(body), *headers)
    head = b"POST /v1/chat/completions HTTP/%b\r\n%b\r\n\r\n" % (version, b"\r\n".join(fields))
    return head + body


def test_a_request_is_passed_on_as_it_comes(through: Through):
    heard = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(LARGE[:1000])
        heard.set()
        assert await reader.readexactly(len(LARGE) - 1000) == LARGE[1000:]
        writer.write(OK)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = post(LARGE)
        writer.write(request[:-200_000])
        await heard.wait()
        writer.write(request[-200_000:])
        await reader.readuntil(b"{}")

    _, asked, answer = through(upstream, talk)
    assert len(asked["messages"][0]["content"]) == 300_000
    assert answer["status"] == 200


def test_a_request_that_is_cut_arrives_cut_and_is_not_written_down(through: Through):
    heard, learnt = asyncio.Event(), asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.readuntil(LARGE[:1000])
        heard.set()
        with suppress(ConnectionError):
            assert len(await reader.read()) < len(LARGE) - 1000
        learnt.set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(post(LARGE)[:100_000])
        await heard.wait()
        writer.close()
        await learnt.wait()

    assert len(through(upstream, talk)) == 1


def test_an_answer_may_come_before_the_request_is_whole(through: Through):
    asked = 0

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await reader.readuntil(LARGE[:1000])
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        else:
            await take(reader)
            writer.write(OK)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = post(LARGE)
        writer.write(request[:100_000])
        assert (await reader.readuntil(b"no")).startswith(b"HTTP/1.1 413 Too Large")
        writer.write(request[100_000:] + POST)
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 OK")

    _, *told = through(upstream, talk)
    assert [line.get("status") for line in told] == [None, 413, None, 200]
    assert told[1]["error"] == "HTTP 413: no"


def test_a_server_that_breaks_off_amid_a_request_is_told_when_that_is_whole(through: Through):
    broken = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(LARGE[:1000])
        writer.transport.abort()
        broken.set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = post(LARGE)
        writer.write(request[:100_000])
        await broken.wait()
        writer.write(request[100_000:])
        assert (await reader.read()).startswith(b"HTTP/1.1 502 Bad Gateway")

    *_, answer = through(upstream, talk)
    assert "cannot be reached" in answer["error"]


@pytest.mark.parametrize("closes", [False, True])
def test_a_connection_is_used_for_as_many_requests_as_the_server_takes(
    through: Through,
    closes: bool,  # noqa: FBT001
):
    connections = 0

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while await take(reader):
                writer.write(
                    OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if closes else OK
                )

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST * 3)  # the second and third wait for their turn
        for _ in range(3):
            assert b"close" not in await reader.readuntil(b"{}")

    _, *told = through(upstream, talk)
    assert connections == (3 if closes else 1)
    assert [line.get("answer") for line in told] == [None, 1, None, 2, None, 3]
    assert all(line["at_ns"] > 0 for line in told[::2])


def test_what_a_server_says_unasked_is_no_answer(through: Through):
    connections = 0

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await take(reader)
        writer.write(OK)
        if connections == 1:
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(POST)
            assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200")

    through(upstream, talk)
    assert connections == 2


@pytest.mark.parametrize("headers", [(), (b"Connection: keep-alive",)])
def test_an_agent_of_http_1_0_gets_all_until_the_end(through: Through, headers: tuple[bytes, ...]):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b" HTTP/1.1\r\n" in await take(reader)
        writer.write(HEAD + chunked(CHAT[:60]) + chunked(CHAT[60:]) + b"0\r\n\r\n")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post(BODY, *headers, version=b"1.0"))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert b"chunked" not in head
        assert body == CHAT

    *_, answer = through(upstream, talk)
    assert answer["error"] is None


def test_answers_without_a_body_end_with_their_head(through: Through):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while (request := await take(reader))[:4] != b"HEAD":
                writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
                writer.write(OK if b"/b" in request else b"HTTP/1.1 204 No Content\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for request in (b"GET /a", b"HEAD /b", b"GET /b"):
            writer.write(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        heads = [await reader.readuntil(b"\r\n\r\n") for _ in range(3)]
        assert [head.split()[1] for head in heads] == [b"204", b"200", b"200"]
        assert b"Content-Length: 999" in heads[1]
        assert await reader.readexactly(2) == b"{}"

    through(upstream, talk)


def test_an_offer_of_another_protocol_is_left_out(through: Through):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await take(reader)
        assert request.endswith(BODY)
        assert b"h2c" not in request
        writer.write(OK)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post(BODY, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"))
        await reader.readuntil(b"{}")

    through(upstream, talk)


def test_an_endless_head_is_refused(through: Through):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"X: %b\r\n" % (b"x" * 1000))
                await writer.drain()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST)
        told = await reader.readuntil(b"server up?")
        assert b"more than 262144 bytes hold no content" in told

    through(upstream, talk)


def test_a_server_is_not_read_faster_than_the_agent_reads(through: Through):
    piece, pieces, sent = b"x" * 2**20, 64, 0
    stalled = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * pieces))
        for number in range(pieces):
            sent = number
            writer.write(piece)
            with suppress(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.2)
                continue
            stalled.set()
            await writer.drain()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST)
        await stalled.wait()
        assert sent < pieces / 2
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(pieces):
            await reader.readexactly(len(piece))

    through(upstream, talk)


def test_an_answer_that_is_open_at_the_end_of_the_recorder_is_told(through: Through):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(HEAD + chunked(CHAT[:60]))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST)
        await reader.readuntil(CHAT[:60])

    *_, answer = through(upstream, talk, ends=True)
    assert answer["error"] == "the recorder was ended before the answer did"


def test_keys_of_a_header_that_comes_twice_are_not_written(through: Through):
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(OK)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"messages":[{"role":"user","content":"one-0123456789 two-0123456789"}]}'
        writer.write(post(body, b"X-Key: one-0123456789", b"x-key: two-0123456789"))
        await reader.readuntil(b"{}")

    _, asked, _ = through(upstream, talk)
    assert asked["messages"][0]["content"] == "[redacted] [redacted]"
