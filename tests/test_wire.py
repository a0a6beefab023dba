import json
from typing import Any

import pytest

from pytest_agentperf.trajectory import Message, ToolCall
from pytest_agentperf.wire import ChatEncoder, encode_message, joined, split_message


def encoder(**changes: Any) -> ChatEncoder:
    settings: dict[str, Any] = {
        "model": "m",
        "request": {"temperature": 1.0},
        "max_tokens": 100,
        "output": "natural",
    }
    return ChatEncoder(**(settings | changes))


def body_of(
    messages: tuple[Message, ...] = (),
    *,
    tools: tuple[dict[str, Any], ...] = (),
    osl_tokens: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Encode a body, and refuse a key that stands twice in it."""
    said = [encode_message(m, "reasoning") for m in messages]
    schemas = json.dumps(tools).encode() if tools else b""
    return json.loads(encoder(**changes).body(said, schemas, osl_tokens), object_pairs_hook=once)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), keys
    return dict(pairs)


def message(said: Message, **options: Any) -> dict[str, Any]:
    return json.loads(encode_message(said, "reasoning_content", **options))


def test_a_body_asks_for_a_stream_with_usage():
    assert body_of((Message(role="user", content="hi"),)) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.0,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 100,
    }


def test_pieces_are_a_body_whose_messages_were_not_copied():
    said = [b'{"role":"user","content":"a"}', memoryview(b'{"role":"user","content":"b"}')]
    pieces = encoder().pieces(said, b"", None)
    assert [piece for piece in pieces if any(piece is each for each in said)] == said
    assert joined(pieces) == encoder().body(said, b"", None)
    assert joined(b"whole") == b"whole"


def test_tools_go_verbatim():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": [2.5]}}}
    assert body_of(tools=(tool,))["tools"] == [tool]


@pytest.mark.parametrize(
    ("output", "osl_tokens", "tail"),
    [
        ("natural", 7, {"max_tokens": 100}),
        ("recorded", 7, {"max_tokens": 7}),
        ("recorded", 700, {"max_tokens": 100}),
        ("recorded", None, {"max_tokens": 100}),
        ("exact", 7, {"max_tokens": 7, "ignore_eos": True}),
        ("exact", None, {"max_tokens": 100}),
    ],
    ids=[
        "natural takes the cap",
        "recorded takes the recorded length",
        "recorded never passes the cap",
        "recorded takes the cap where nothing was recorded",
        "exact goes on to the recorded length",
        "exact takes the cap where nothing was recorded",
    ],
)
def test_answer_length(output: str, osl_tokens: int | None, tail: dict[str, Any]):
    body = body_of(output=output, osl_tokens=osl_tokens)
    assert {k: body[k] for k in ("max_tokens", "ignore_eos") if k in body} == tail


@pytest.mark.parametrize("key", ["model", "stream", "stream_options", "messages", "max_tokens"])
def test_no_request_field_of_the_tier_file_wins_over_ours(key: str):
    assert body_of(request={key: "theirs"})[key] != "theirs"


@pytest.mark.parametrize("key", ["tools", "ignore_eos", "top_p"])
def test_a_field_that_we_do_not_set_stays(key: str):
    assert body_of(request={key: "theirs"})[key] == "theirs"


def test_what_one_turn_sets_wins_over_the_tier_file():
    theirs = {"tools": "theirs", "ignore_eos": False}
    body = body_of(request=theirs, tools=({"a": 1},), output="exact", osl_tokens=7)
    assert (body["tools"], body["ignore_eos"]) == ([{"a": 1}], True)


def test_an_assistant_message_keeps_its_four_fields_apart():
    call = ToolCall(id="c1", name="f", arguments='{"a":  1}')
    assert message(Message(role="assistant", reasoning="hm", tool_calls=(call,))) == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":  1}'}}
        ],
    }


def test_reasoning_goes_back_in_the_field_that_the_model_wants():
    said = Message(role="assistant", content="a", reasoning="hm")
    assert json.loads(encode_message(said, "reasoning")) == {
        "role": "assistant",
        "content": "a",
        "reasoning": "hm",
    }


def test_a_tool_result_names_its_call():
    result = Message(role="tool", content="ok", tool_call_id="c1", name="f")
    assert message(result) == {"role": "tool", "content": "ok", "tool_call_id": "c1", "name": "f"}


@pytest.mark.parametrize(
    ("content", "salted"),
    [
        ("hi", "1 2\nhi"),
        (None, "1 2\n"),
        ([{"type": "text", "text": "hi"}],
         [{"type": "text", "text": "1 2\n"}, {"type": "text", "text": "hi"}]),
    ],
    ids=["text", "no content", "a list of parts"],
)  # fmt: skip
def test_the_salt_stands_on_a_line_before(content: Any, salted: Any):
    assert message(Message(role="user", content=content), salt="1 2")["content"] == salted


@pytest.mark.parametrize("role", ["user", "0 0", '"'], ids=["user", "like a salt", "a quote"])
@pytest.mark.parametrize("content", ["0 0 hi", None, [], [{"type": "text", "text": "hi"}]])
def test_a_salt_put_between_the_parts_is_the_salted_message(role: str, content: Any):
    said = Message(role=role, content=content, name="n", reasoning="0 0")
    before, after = split_message(said, "reasoning")
    assert before + b"1 2" + after == encode_message(said, "reasoning", salt="1 2")


def test_messages_may_come_several_in_a_piece_and_tools_as_a_view():
    said = [encode_message(Message(role="user", content=c), "reasoning") for c in "abc"]
    tools = b'[{"a":1}]'
    pieces = [said[0], memoryview(b",".join(said[1:]))]
    assert encoder().body(pieces, memoryview(tools), 7) == encoder().body(said, tools, 7)
