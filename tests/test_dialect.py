"""How a server speaks, heard from what real ones sent, and from forms that none of them has."""

from pathlib import Path

import pytest

from pytest_agentperf.dialect import Heard, hear
from pytest_agentperf.wire import ChatEncoder

DATA = Path(__file__).parent / "data" / "sse"


def recorded(name: str) -> list[bytes]:
    """Return the body of a recorded answer."""
    text = (DATA / f"{name}.txt").read_bytes()
    return [text[text.index(b"data:") :]]


@pytest.mark.parametrize(
    ("name", "reasoning", "usage", "tool_calls", "done"),
    [
        ("vllm-toolreq", ("reasoning",), "its own event", "pieces", True),
        ("llamacpp-toolreq", ("reasoning_content",), "its own event", "pieces", True),
        ("litellm-toolreq", ("reasoning_content",), "its own event", "pieces", True),
        ("transformers-toolreq", ("reasoning_content",), "the last event", "whole", False),
        ("transformers-cb-tools", ("reasoning_content",), "the last event", "whole", False),
        ("dynamo-mocker-prose", ("reasoning_content",), "its own event", "none", True),
    ],
)
def test_recorded_servers(
    name: str,
    reasoning: tuple[str, ...],
    usage: str,
    tool_calls: str,
    done: bool,  # noqa: FBT001 a case
) -> None:
    heard = hear(recorded(name))
    assert (heard.reasoning_fields, heard.usage, heard.tool_calls, heard.done) == (
        reasoning,
        usage,
        tool_calls,
        done,
    )


def event(text: str) -> bytes:
    return b"data: " + text.encode() + b"\n\n"


def test_reasoning_details_and_usage_on_every_event() -> None:
    heard = hear(
        [
            event(
                '{"choices":[{"delta":{"reasoning_details":[{"text":"a"}]}}],'
                '"usage":{"completion_tokens":1}}'
            ),
            event('{"choices":[{"delta":{"content":"b"}}],"usage":{"completion_tokens":2}}'),
        ]
    )
    assert heard == Heard(
        events=2,
        reasoning_fields=("reasoning_details",),
        usage="every event",
        tool_calls="none",
        done=False,
    )


def test_empty_fields_are_no_reasoning() -> None:
    heard = hear([event('{"choices":[{"delta":{"reasoning":"","reasoning_content":null}}]}')])
    assert heard.reasoning_fields == ()


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b'{"choices":[]}', b"data: no JSON\n\n", b'data: {"choices":"x","usage":1}\n\n'],
)
def test_whatever_comes_is_heard(data: bytes) -> None:
    assert hear([data]).tool_calls == "none"


def test_what_is_no_stream_has_no_events() -> None:
    assert hear([b'{"choices":[{"message":{"content":"a"}}]}']).events == 0


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_cap_goes_out_under_the_name_that_the_server_takes(field: str) -> None:
    encoder = ChatEncoder(
        model="m",
        request={"max_tokens": 1, "max_completion_tokens": 2},
        max_tokens=100,
        output="exact",
        max_tokens_field=field,
    )
    body = encoder.body([b"{}"], b"", 7)
    assert body.count(b"_tokens") == 1
    assert f'"{field}":7'.encode() in body
