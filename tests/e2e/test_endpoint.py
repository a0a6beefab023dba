"""One connection against a server that misbehaves on purpose: what is recorded for each fault."""

import asyncio
import gc
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.api_key import API_KEY_VARIABLE, auth_headers, redact
from pytest_agentperf.endpoint import HttpConnection, connect
from pytest_agentperf.engine.connection import EngineConnection
from pytest_agentperf.errors import ConfigError, EndpointError
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.trajectory import Message
from pytest_agentperf.wire import ChatEncoder, encode_message
from tests.servers.process import ServerProcess, start

pytestmark = pytest.mark.e2e

Client = type[EngineConnection] | type[HttpConnection]
Scripted = Callable[..., AbstractContextManager[ServerProcess]]
ENCODER = ChatEncoder(
    model="scripted",
    request={},
    max_tokens=20,
    output="natural",
)
BODY = ENCODER.body([encode_message(Message(role="user", content="Hello"), "reasoning")], b"", None)


@pytest.fixture
def scripted(tmp_path: Path) -> Scripted:
    """Start the scripted server with a fault, 20 tokens at 1,000 a second after 5 ms."""

    def begin(fault: str | None = None) -> AbstractContextManager[ServerProcess]:
        options = ("--fault", fault) if fault else ()
        return start(
            "tests.servers.scripted",
            "--first-token-ms=5",
            "--tokens-per-s=1000",
            "--tokens=20",
            f"--log={tmp_path / 'log.jsonl'}",
            *options,
        )

    return begin


@pytest.fixture(params=[EngineConnection, HttpConnection], ids=["engine", "httpx"])
def client(request: pytest.FixtureRequest) -> Client:
    """What the connections of both clients are made with."""
    return request.param


def _ask(
    client: Client, url: str, *, times: int = 1, timeout_s: float = 10, pause_s: float = 0
) -> list[RawAnswer]:
    async def ask() -> list[RawAnswer]:
        connection = client(
            EndpointInfo(url=url), timeout_s=timeout_s, tls=ssl.create_default_context()
        )
        answers: list[RawAnswer] = []
        for number in range(times):
            await asyncio.sleep(pause_s if number else 0)
            answers.append(RawAnswer())
            await connection.chat(BODY, answers[-1], osl_tokens=None)
        await connection.close()
        return answers

    return asyncio.run(ask())


def _answer(raw: RawAnswer) -> Answer:
    reader = AnswerReader()
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
    return reader.finish(raw)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("error-status", "HTTP 500: "),
        ("slow-status-429", "HTTP 429: "),
        ("error-in-stream", "error in stream: "),
        ("no-finish", "stream ended without finish_reason"),
        ("cut", "connection: ReadError"),
        ("empty", "empty answer"),
    ],
)
def test_a_fault_is_a_failed_request_with_its_reason(
    client: Client, scripted: Scripted, fault: str, said: str
) -> None:
    with scripted(fault) as server:
        (raw,) = _ask(client, server.url)
    error = _answer(raw).error
    assert error is not None
    assert error.startswith(said)
    assert raw.sent_ns < raw.end_ns
    assert not raw.reconnected


def test_a_request_that_has_ended_is_held_by_nothing(client: Client, scripted: Scripted) -> None:
    body = b" ".join([BODY, b""])

    async def ask(url: str) -> int:
        connection = client(EndpointInfo(url=url), timeout_s=10, tls=ssl.create_default_context())
        await connection.chat(body, RawAnswer(), osl_tokens=None)
        held = sys.getrefcount(body)
        await connection.close()
        return held

    with scripted() as server:
        before = sys.getrefcount(body)
        gc.disable()  # as while load runs
        held = asyncio.run(ask(server.url))
        gc.enable()
    assert held == before


def test_a_server_that_never_answers_is_given_up_after_the_timeout(
    client: Client, scripted: Scripted
) -> None:
    with scripted("hang") as server:
        (raw,) = _ask(client, server.url, timeout_s=0.3)
    assert _answer(raw).error == "timeout after 0.3 s"
    assert (raw.end_ns - raw.sent_ns) / 1e9 >= 0.25


def test_answers_without_usage_have_no_token_count(client: Client, scripted: Scripted) -> None:
    with scripted("no-usage") as server:
        (raw,) = _ask(client, server.url)
    answer = _answer(raw)
    assert (answer.error, answer.osl_tokens, len(answer.token_ns)) == (None, None, 20)


def test_the_first_chunk_is_counted_from_usage_on_every_chunk(
    client: Client, scripted: Scripted
) -> None:
    with scripted("usage-every-chunk") as server:
        (raw,) = _ask(client, server.url)
    answer = _answer(raw)
    assert (answer.first_chunk_tokens, answer.osl_tokens) == (1, 20)


def test_a_bundled_first_chunk_is_five_events_for_twenty_tokens(
    client: Client, scripted: Scripted
) -> None:
    with scripted("bundled-first") as server:
        (raw,) = _ask(client, server.url)
    answer = _answer(raw)
    assert (len(answer.token_ns), answer.osl_tokens, answer.first_chunk_tokens) == (5, 20, None)


@pytest.mark.parametrize(
    ("fault", "pause_s"), [("close-after-answer", 0.0), ("close-idle", 0.3)], ids=str
)
def test_a_connection_that_the_server_closed_between_answers_is_no_failure(
    client: Client, scripted: Scripted, fault: str, pause_s: float
) -> None:
    with scripted(fault) as server:
        answers = _ask(client, server.url, times=3, pause_s=pause_s)
    assert [_answer(raw).error for raw in answers] == [None, None, None]
    assert all(raw.connect_ns > 0 for raw in answers)


def test_one_connection_serves_all_of_an_agents_requests(
    client: Client, scripted: Scripted
) -> None:
    with scripted() as server:
        answers = _ask(client, server.url, times=3)
    assert [raw.connect_ns > 0 for raw in answers] == [True, False, False]


def test_connecting_is_not_in_the_time_to_first_token(client: Client, scripted: Scripted) -> None:
    with scripted() as server:
        before_ns = time.perf_counter_ns()
        (raw,) = _ask(client, server.url)
    assert raw.sent_ns - raw.connect_ns > before_ns
    assert _answer(raw).token_ns[0] > raw.sent_ns


@pytest.fixture
def dead_url() -> str:
    """A port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


def test_a_refused_connection_fails_the_request_and_is_tried_once(
    client: Client, dead_url: str
) -> None:
    (raw,) = _ask(client, dead_url)
    assert raw.error is not None
    assert raw.error.startswith("connection: ConnectError")
    assert not raw.reconnected


def test_the_models_of_a_server_are_listed(scripted: Scripted) -> None:
    with scripted() as server:
        assert connect(server.url.removesuffix("/v1"), models=()).models == ("scripted",)


def test_nothing_at_the_url_is_told_with_the_url(dead_url: str) -> None:
    with pytest.raises(EndpointError, match=r"does not answer.*are host and port right"):
        connect(dead_url, models=())


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(API_KEY_VARIABLE, " sk-planted-9f3b\n")
    return "sk-planted-9f3b"


def test_a_key_is_sent_without_the_line_end_of_its_file(key: str) -> None:
    assert auth_headers() == {"authorization": f"Bearer {key}"}


def test_a_key_that_no_header_can_carry_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-é")
    with pytest.raises(ConfigError, match="holds characters that no header") as refused:
        auth_headers()
    assert "sk-" not in str(refused.value)


def test_a_key_that_a_server_echoes_is_not_repeated(key: str) -> None:
    assert redact(f"HTTP 401: bad key {key}!") == "HTTP 401: bad key [key]!"


@pytest.mark.parametrize("url", ["http://u:hush@/v1", "http://h/v1?api_key=hush"])
def test_a_refused_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        connect(url, models=())
    assert "hush" not in str(refused.value)


EVENT = b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n'


def _answer_one_then_hang_up(listening: socket.socket) -> None:
    """Answer a first request, take a second, work on it for 1.2 s, and hang up."""
    connection, _ = listening.accept()
    with connection, connection.makefile("rb") as request:
        for number in (1, 2):
            length = 0
            while (line := request.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            request.read(length)
            if number == 1:
                head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(EVENT)
                connection.sendall(head + EVENT)
        time.sleep(1.2)


def test_a_reused_connection_that_is_cut_late_is_a_failure(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=_answer_one_then_hang_up, args=(listening,))
        server.start()
        first, second = _ask(client, f"http://127.0.0.1:{listening.getsockname()[1]}/v1", times=2)
        server.join()
    assert first.error is None
    assert second.error is not None
    assert second.error.startswith("connection: RemoteProtocolError")
    assert not second.reconnected
