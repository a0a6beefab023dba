"""What the recorder understands of answers, what it writes, and where requests go."""

import gzip
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.recording import load
from pytest_agentperf.recorder.heard import Answer, Listener
from pytest_agentperf.recorder.journal import Asked, Journal, read_request
from pytest_agentperf.recorder.upstream import passed_on, read_upstream
from pytest_agentperf.trajectory import Message, prompts
from tests.spoken import CALL, CHAT, events, lines

STREAM = "text/event-stream; charset=utf-8"
SPOKEN = Message(role="assistant", content="I look.", reasoning="Hm. ", tool_calls=(CALL,))


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def piece(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


MESSAGES = events(
    {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}},
    block(0, type="thinking", thinking=""),
    piece(0, type="thinking_delta", thinking="Hm. "),
    piece(0, type="signature_delta", signature="x"),
    {"type": "content_block_stop", "index": 0},
    block(1, type="text", text=""),
    {"type": "ping"},
    piece(1, type="text_delta", text="I look."),
    block(2, type="tool_use", id="c1", name="bash", input={}),
    piece(2, type="input_json_delta", partial_json='{"command"'),
    piece(2, type="input_json_delta", partial_json=': "ls"}'),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 5, "input_tokens": None},
    },
    {"type": "message_stop"},
)


def hear(kind: str, *reads: bytes, content_type: str = STREAM, encoding: str = "") -> Answer:
    listener = Listener(kind, status=200, content_type=content_type, encoding=encoding)
    for at_ns, data in enumerate(reads, 1):
        listener.feed(at_ns, data)
    return listener.finish(len(reads))


@pytest.mark.parametrize(
    ("kind", "stream", "usage", "reason"),
    [
        ("chat", CHAT, {"prompt_tokens": 9, "completion_tokens": 5}, "tool_calls"),
        ("messages", MESSAGES, {"input_tokens": 9, "output_tokens": 5}, "tool_use"),
    ],
)
@given(data=st.data())
def test_a_stream_is_understood_however_it_is_cut(
    kind: str, stream: bytes, usage: dict[str, int], reason: str, data: st.DataObject
):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    bounds = [0, *cuts, len(stream)]
    reads = [stream[a:b] for a, b in pairwise(bounds)]
    answer = hear(kind, *reads)
    assert (answer.message, answer.usage, answer.error) == (SPOKEN, usage, None)
    assert answer.finish_reason == reason


def test_the_first_token_is_the_first_text():
    answer = hear("chat", *(line + b"\n\n" for line in CHAT.split(b"\n\n")))
    # The role comes at 1, the reasoning at 2; the last piece of the call at 7.
    assert (answer.first_token_ns, answer.last_token_ns) == (2, 7)


def test_a_whole_completion_is_understood():
    function = {"name": "bash", "arguments": CALL.arguments}
    message = {
        "role": "assistant",
        "content": "I look.",
        "reasoning": "Hm. ",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5},
    }
    answer = hear("chat", msgspec.json.encode(body), content_type="application/json")
    assert (answer.message, answer.finish_reason) == (SPOKEN, "tool_calls")


def test_a_whole_message_is_understood_packed_or_not():
    body = (
        b'{"type":"message","content":[{"type":"thinking","thinking":"Hm. "},'
        b'{"type":"text","text":"I look."},{"type":"tool_use","id":"c1","name":"bash",'
        b'"input":{"command": "ls"}}],"stop_reason":"tool_use","usage":{"output_tokens":5}}'
    )
    plain = hear("messages", body, content_type="application/json")
    packed = hear("messages", gzip.compress(body), content_type="application/json", encoding="gzip")
    assert plain == packed
    assert (plain.message, plain.usage) == (SPOKEN, {"output_tokens": 5})


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (events({"error": {"message": "no room"}}), 'error in the answer: {"error":'),
        (b"data: {\n\n", "malformed answer: "),
    ],
)
def test_an_answer_that_failed_is_told(stream: bytes, error: str):
    for kind in ("chat", "messages"):
        assert (hear(kind, stream).error or "").startswith(error)


def test_an_unknown_encoding_is_told():
    answer = hear("chat", b"x", encoding="br")
    assert answer.error == "the answer is encoded as 'br', which is not read here"


def test_an_error_status_is_told_with_its_body():
    listener = Listener("chat", status=429, content_type="application/json", encoding="")
    listener.feed(1, b'{"error":"slow down"}')
    assert listener.finish(1).error == 'HTTP 429: {"error":"slow down"}'


def asked(content: Any, target: str = "/v1/chat/completions", **headers: str) -> Asked | None:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return read_request("POST", target, pairs, msgspec.json.encode(content))


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions?api-version=1", "chat"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", None),
        ("/v1/completions", None),
        ("/v1/responses", None),
    ],
)
def test_what_is_written_down_hangs_on_the_path(target: str, kind: str | None):
    found = asked({"messages": []}, target)
    assert (found and found.kind) == kind


@pytest.mark.parametrize("content", [[], {}, {"messages": "x"}, None])
def test_a_body_without_messages_is_not_written_down(content: Any):
    assert asked(content) is None


@given(
    conversations=st.lists(
        st.lists(st.sampled_from(["a", "b", "é\n", '"'])), min_size=1, max_size=6
    )
)
def test_every_request_is_read_again_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, conversations: list[list[str]]
):
    path = tmp_path_factory.mktemp("journal") / "out.jsonl"
    journal = Journal(path, {"recording": "1"}, began_ns=0)
    for texts in conversations:
        messages = [{"role": "user", "content": text} for text in ("begin", *texts)]
        request = asked({"messages": messages, "tools": [{"a": 1}]})
        assert request
        number = journal.request(request, 0)
        journal.answer(number, Answer(), status=200, first_byte_ns=None, end_ns=0)
    journal.close()
    dataset = load(str(path), strict=True)
    assert dataset
    assert all(each.tools == ({"a": 1},) for each in dataset.trajectories)
    read = [
        [message.content for message in prompt]
        for trajectory in dataset.trajectories
        for prompt in prompts(trajectory)
    ]
    # However they are grouped, each is replayed once and whole.
    assert sorted(map(str, read)) == sorted(str(["begin", *texts]) for texts in conversations)


def test_what_was_spelt_out_before_is_not_again(tmp_path: Path):
    journal = Journal(tmp_path / "out.jsonl", {}, began_ns=100)
    first = {"role": "user", "content": "one"}
    for messages in ([first], [first, {"role": "user", "content": "two"}]):
        request = asked({"messages": messages, "tools": [1], "seed": len(messages)})
        assert request
        journal.request(request, 150)
    journal.close()
    _, one, two = lines(tmp_path / "out.jsonl")
    assert (one["like"], one["kept"], one["same"], one["at_ns"]) == (None, 0, [], 50)
    assert (two["like"], two["kept"], two["same"]) == (1, 1, ["tools"])
    assert two["messages"] == [{"role": "user", "content": "two"}]
    assert two["body"] == {"seed": 2}


def test_no_key_is_written_wherever_it_stands(tmp_path: Path):
    journal = Journal(tmp_path / "out.jsonl", {}, began_ns=0)
    text = "Bearer-0123456789 sk-ant-0123456789 jar-0123456789 q-0123456789"
    request = asked(
        {"messages": [{"role": "user", "content": text}]},
        "/v1/messages?key=q-0123456789&beta=true",
        authorization="Bearer Bearer-0123456789",
        x_api_key="sk-ant-0123456789",
        cookie="id=jar-0123456789; a=b",
        x_session_id="session",
        user_agent="agent/1",
    )
    assert request
    number = journal.request(request, 0)
    answer = Answer(error="no such key: sk-ant-0123456789")
    journal.answer(number, answer, status=401, first_byte_ns=None, end_ns=1)
    journal.close()
    assert b"0123456789" not in (tmp_path / "out.jsonl").read_bytes()
    _, line, ended = lines(tmp_path / "out.jsonl")
    assert line["headers"] == {"x-session-id": "session", "user-agent": "agent/1"}
    assert line["path"] == "/v1/messages"
    assert line["messages"][0]["content"] == " ".join(["[redacted]"] * 4)
    assert ended["error"] == "no such key: [redacted]"


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot be written .*give another path"):
        Journal(tmp_path / "none" / "out.jsonl", {}, began_ns=0)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("localhost:8000", "is no URL of a server; write http://HOST:PORT/v1"),
        ("http://me:secret@host/v1", "--upstream for host holds user info, a query"),
        ("http://host/v1?key=secret", "--upstream for host holds user info, a query"),
        ("http://host:99999", "--upstream: Port out of range"),
    ],
)
def test_an_upstream_that_is_none_is_refused(url: str, told: str):
    with pytest.raises(ConfigError) as caught:
        read_upstream(url)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "target", "goes_to"),
    [
        ("http://h/v1", "/v1/chat/completions?a=b", "/v1/chat/completions?a=b"),
        ("http://h/v1/", "/chat/completions", "/v1/chat/completions"),
        ("http://h", "/v1/messages", "/v1/messages"),
        ("http://h/v1", "/v1beta/x", "/v1/v1beta/x"),
    ],
)
def test_requests_go_below_the_base_url(base: str, target: str, goes_to: str):
    assert read_upstream(base).target(target) == goes_to


def test_headers_of_one_connection_stay_behind():
    headers = [(b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"), (b"X-Stays", b"2")]
    assert passed_on(headers) == [(b"X-Stays", b"2")]
