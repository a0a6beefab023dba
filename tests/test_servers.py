"""The servers that other tests hold the client against do what they promise."""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import llamacpp, process, scripted

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="timerfd and xllamacpp exist on Linux only"),
]

TOKEN = {"content": " the"}


def chat(client: httpx.Client, model: str, **fields: object) -> list[dict[str, Any] | str]:
    """Answer's events in order, parsed; `[DONE]` stays a string."""
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": model, "messages": messages, "stream": True} | fields
    with client.stream("POST", "chat/completions", json=body) as answer:
        answer.raise_for_status()
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def deltas(events: list[dict[str, Any] | str]) -> list[dict[str, str]]:
    chunks = [event for event in events if isinstance(event, dict)]
    return [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "scripted.jsonl"


@pytest.fixture
def faulty(request: pytest.FixtureRequest, log: Path) -> Iterator[httpx.Client]:
    arguments = ("--fault", request.param, "--tokens", "8", "--log", str(log))
    with (
        process.start("tests.servers.scripted", *arguments) as server,
        httpx.Client(base_url=server.url, timeout=5) as client,
    ):
        yield client


def fault(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("faulty", [name], indirect=True, ids=[name])


def test_scripted_server_keeps_its_schedule(log: Path) -> None:
    with (
        process.start("tests.servers.scripted", "--tokens", "20", "--log", str(log)) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for number in range(5):
            client.headers["x-request-id"] = f"request-{number}"
            chat(client, "scripted")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["id"] for record in records] == [f"request-{n}" for n in range(5)]
    assert {record["tokens"] for record in records} == {20}
    first_ms = statistics.median((r["first_ns"] - r["read_ns"]) / 1e6 for r in records)
    last_ms = statistics.median((r["last_ns"] - r["read_ns"]) / 1e6 for r in records)
    # The first token after 50 ms, the twentieth 19 x 10 ms later; never early.
    assert 50 <= first_ms < 52
    assert 240 <= last_ms < 242


def test_scripted_server_streams_role_tokens_finish_usage_and_done(log: Path) -> None:
    with (
        process.start("tests.servers.scripted", "--log", str(log)) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("models").json()["data"][0]["id"] == "scripted"
        *chunks, usage, done = chat(client, "scripted", max_tokens=3)
    assert deltas(chunks) == [{"role": "assistant"}, TOKEN, TOKEN, TOKEN, {}]
    assert isinstance(chunks[-1], dict)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert isinstance(usage, dict)
    assert usage["usage"]["completion_tokens"] == 3
    assert done == "[DONE]"


def test_client_that_hangs_up_is_logged_with_the_tokens_it_was_sent(log: Path) -> None:
    with process.start("tests.servers.scripted", "--log", str(log)) as server:
        with httpx.stream(
            "POST", f"{server.url}/chat/completions", json={"stream": True}
        ) as answer:
            next(answer.iter_lines())
        deadline_s = time.monotonic() + 5
        while not log.read_text() and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert json.loads(log.read_text())["tokens"] < 100


@pytest.mark.parametrize(
    ("faulty", "status"),
    [("error-status", 500), ("slow-status-429", 429)],
    indirect=["faulty"],
    ids=["error-status", "slow-status-429"],
)
def test_status_faults_answer_with_an_error_object(faulty: httpx.Client, status: int) -> None:
    answer = faulty.post("chat/completions", json={"stream": True})
    assert answer.status_code == status
    assert "message" in answer.json()["error"]


@fault("error-in-stream")
def test_error_in_stream_comes_after_three_tokens(faulty: httpx.Client) -> None:
    events = chat(faulty, "scripted")
    assert deltas(events) == [{"role": "assistant"}, TOKEN, TOKEN, TOKEN]
    assert isinstance(events[-2], dict)
    assert "error" in events[-2]


@fault("no-finish")
def test_no_finish_ends_cleanly_after_the_last_token(faulty: httpx.Client) -> None:
    events = chat(faulty, "scripted")
    assert deltas(events) == [{"role": "assistant"}, *[TOKEN] * 8]
    assert "[DONE]" not in events


@fault("cut")
def test_cut_resets_the_connection(faulty: httpx.Client, log: Path) -> None:
    with pytest.raises(httpx.ReadError):
        chat(faulty, "scripted")
    assert json.loads(log.read_text())["tokens"] == 3


@fault("no-usage")
def test_no_usage_finishes_without_usage(faulty: httpx.Client) -> None:
    events = chat(faulty, "scripted")
    assert deltas(events)[-1] == {}
    assert not any("usage" in event for event in events)


@fault("empty")
def test_empty_finishes_without_a_token(faulty: httpx.Client, log: Path) -> None:
    assert deltas(chat(faulty, "scripted")) == [{"role": "assistant"}, {}]
    assert json.loads(log.read_text())["first_ns"] is None


@fault("hang")
def test_hang_never_answers(faulty: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        faulty.post("chat/completions", json={"stream": True}, timeout=0.2)


@fault("usage-every-chunk")
def test_usage_every_chunk_counts_up(faulty: httpx.Client) -> None:
    events = [event for event in chat(faulty, "scripted") if isinstance(event, dict)]
    counts = [event["usage"]["completion_tokens"] for event in events if "usage" in event]
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8, 8]


@fault("bundled-first")
def test_bundled_first_sends_four_tokens_at_a_time(faulty: httpx.Client, log: Path) -> None:
    bundle = {"content": " the the the the"}
    assert deltas(chat(faulty, "scripted")) == [{"role": "assistant"}, bundle, bundle, {}]
    record = json.loads(log.read_text())
    assert record["tokens"] == 8
    # Four tokens at 100 tokens/s; a busy machine takes longer.
    assert record["last_ns"] - record["first_ns"] > 40e6 - 1e6


def connections(client: httpx.Client, pause_s: float) -> set[int]:
    """Client ports that two answers in a row came over."""
    ports: set[int] = set()
    for _ in range(2):
        with client.stream("POST", "chat/completions", json={"stream": True}) as answer:
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr")[1])
            assert answer.headers["connection"] == "keep-alive"
            answer.read()
        time.sleep(pause_s)
    return ports


@pytest.mark.parametrize(
    ("faulty", "pause_s", "used"),
    [("no-usage", 0.4, 1), ("close-after-answer", 0.05, 2), ("close-idle", 0.4, 2)],
    indirect=["faulty"],
    ids=["kept by others", "close-after-answer", "close-idle"],
)
def test_keep_alive_is_promised_and_broken(faulty: httpx.Client, pause_s: float, used: int) -> None:
    assert len(connections(faulty, pause_s)) == used


@fault("close-idle")
def test_close_idle_keeps_a_busy_connection(faulty: httpx.Client) -> None:
    assert len(connections(faulty, 0.0)) == 1


def test_every_fault_has_a_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in scripted.FAULTS if f'"{name}"' not in source] == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    model = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    llamacpp.make_gguf(model)
    # llama.cpp closes after each streamed answer, without saying so.
    no_reuse = httpx.Limits(max_keepalive_connections=0)
    with (
        process.start("tests.servers.llamacpp", str(model), "--slots", "4") as server,
        httpx.Client(base_url=server.url, timeout=60, limits=no_reuse) as client,
    ):
        yield client


def tiny_answer(client: httpx.Client, messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    asked = {"messages": messages, "max_tokens": 16, "stream_options": {"include_usage": True}}
    events = chat(client, "tiny", **asked)
    usages = [event["usage"] for event in events if isinstance(event, dict) and "usage" in event]
    return "".join(delta.get("content") or "" for delta in deltas(events)), usages[-1]


def test_tiny_model_answers_with_one_word_per_token(tiny: httpx.Client) -> None:
    text, usage = tiny_answer(tiny, [{"role": "user", "content": "hello"}])
    assert usage["completion_tokens"] == 16
    assert len(text.split()) == 16


def test_second_turn_is_cached_until_the_first_message_is_salted(tiny: httpx.Client) -> None:
    messages = [{"role": "system", "content": "one two three " * 300}]
    messages.append({"role": "user", "content": "go"})
    text, first = tiny_answer(tiny, messages)
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "go on"}]
    _, second = tiny_answer(tiny, messages)
    # The answer's last token was sampled, but not yet read by the model.
    assert second["prompt_tokens_details"]["cached_tokens"] >= first["total_tokens"] - 1
    messages[0]["content"] = "4 7 " + messages[0]["content"]
    _, salted = tiny_answer(tiny, messages)
    assert salted["prompt_tokens_details"]["cached_tokens"] < 10


def test_tiny_model_accepts_tools_and_their_results(tiny: httpx.Client) -> None:
    function = {"name": "read_file", "parameters": {"type": "object"}}
    call = {"id": "1", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "text of the file"},
    ]
    tools = [{"type": "function", "function": function}]
    events = chat(tiny, "tiny", messages=messages, tools=tools, max_tokens=4)
    assert len([delta for delta in deltas(events) if delta.get("content")]) == 4


def test_server_that_dies_shows_its_stderr() -> None:
    with (
        pytest.raises(process.ServerError, match="unrecognized arguments: --no-such"),
        process.start("tests.servers.scripted", "--log", "unused", "--no-such"),
    ):
        pass
