import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.sim.answer import Answer, Speaker
from pytest_agentperf.sim.chat import ChatRequest
from pytest_agentperf.sim.traits import Traits, take_traits

# 40 % of 20 tokens are reasoning: 8. The last 6 are the call, which leaves 6 of content.
REQUEST = ChatRequest(
    model="m",
    prompt_tokens=100,
    blocks=(),
    seed=0,
    planned_tokens=20,
    osl_tokens=20,
    finish_reason="tool_calls",
    tool_call_tokens=6,
    tool_name='read "it"',
    stream=True,
    include_usage=False,
    continuous_usage=False,
)
REASONING = " the test fails in one path so r"  # 8 x 4 bytes
CONTENT = "ead that file then run i"  # 6 x 4 bytes
ARGUMENTS = '{"cmd":" the tes" } '  # the other 5 tokens of the call
STEPS = range(1, 21)


def request(**changes: Any) -> ChatRequest:
    return replace(REQUEST, **changes)


def answer(traits: Traits | None = None, **changes: Any) -> Answer:
    return Answer(request(**changes), 1, traits or Traits())


def stream_of(answer: Answer, steps: Sequence[int] = STEPS) -> list[bytes]:
    """What is sent after each step, at a time that stands still."""
    return [answer.take(tokens, 64, 0.0) for tokens in steps]


def events_of(sent: Sequence[bytes]) -> list[dict[str, Any]]:
    *events, rest = b"".join(sent).split(b"\n\n")
    assert rest == b""
    texts = [event.removeprefix(b"data: ") for event in events]
    return [json.loads(text) for text in texts if text != b"[DONE]"]


def deltas_of(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["choices"][0]["delta"] for event in events if event["choices"]]


def joined(deltas: Sequence[dict[str, Any]], field: str) -> str:
    return "".join(delta.get(field, "") for delta in deltas)


def arguments_of(deltas: Sequence[dict[str, Any]]) -> str:
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
    return joined(calls, "arguments")


class TestBytes:
    HEAD = (
        b'data: {"id":"chatcmpl-0000000000000001","object":"chat.completion.chunk",'
        b'"created":1767225600,"model":"m","choices":['
    )

    def event(self, delta: bytes, reason: bytes = b"null", usage: bytes = b"") -> bytes:
        form = b'%b{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]%b}\n\n'
        return form % (self.HEAD, delta, reason, usage)

    def test_of_a_plain_answer(self):
        sent = stream_of(answer())
        role = self.event(b'{"role":"assistant","content":""}')
        assert sent[0] == role + self.event(b'{"reasoning":" the"}')
        assert sent[1] == self.event(b'{"reasoning":" tes"}')
        assert sent[8] == self.event(b'{"content":"ead "}')
        assert sent[14] == self.event(
            b'{"tool_calls":[{"index":0,"id":"chatcmpl-tool-0000000000000001","type":"function",'
            b'"function":{"name":"read \\"it\\""}}]}'
        )
        call = b'{"tool_calls":[{"index":0,"function":{"arguments":"%b"}}]}'
        assert sent[15] == self.event(call % b'{\\"cm')
        assert sent[19] == (
            self.event(call % b'\\" } ') + self.event(b"{}", b'"tool_calls"') + b"data: [DONE]\n\n"
        )

    def test_reasoning_content(self):
        sent = stream_of(answer(Traits(reasoning_field="reasoning_content")))
        assert sent[1] == self.event(b'{"reasoning_content":" tes"}')

    def test_a_role_bundled_with_the_first_token(self):
        sent = stream_of(answer(Traits(role_chunk="bundled")))
        assert sent[0] == self.event(b'{"role":"assistant","reasoning":" the"}')

    def test_usage_on_every_event(self):
        sent = stream_of(answer(Traits(usage="every")))
        form = (
            b',"usage":{"prompt_tokens":100,"total_tokens":%d,"completion_tokens":%d,'
            b'"prompt_tokens_details":{"cached_tokens":64},'
            b'"completion_tokens_details":{"reasoning_tokens":%d}}'
        )
        assert sent[1] == self.event(b'{"reasoning":" tes"}', usage=form % (102, 2, 2))
        assert sent[9] == self.event(b'{"content":"that"}', usage=form % (110, 10, 8))
        assert sent[19].endswith(
            self.event(b"{}", b'"tool_calls"', form % (120, 20, 8)) + b"data: [DONE]\n\n"
        )


class TestStream:
    @given(
        steps=st.lists(st.integers(1, 19), unique=True).map(sorted),
        traits=st.builds(
            Traits,
            reasoning_field=st.sampled_from(["reasoning", "reasoning_content"]),
            usage=st.sampled_from(["end", "every", "none"]),
            role_chunk=st.sampled_from(["alone", "bundled"]),
            stream_interval=st.integers(1, 25),
        ),
        asked=st.fixed_dictionaries(
            {"include_usage": st.booleans(), "continuous_usage": st.booleans()}
        ),
    )
    def test_is_the_whole_answer_whatever_the_steps_and_traits(
        self, steps: list[int], traits: Traits, asked: dict[str, bool]
    ):
        sent = stream_of(answer(traits, **asked), [*steps, 20])
        assert sent[-1].endswith(b"data: [DONE]\n\n")
        deltas = deltas_of(events_of(sent))
        assert joined(deltas, "role") == "assistant"
        assert joined(deltas, traits.reasoning_field) == REASONING
        assert joined(deltas, "content") == CONTENT
        assert arguments_of(deltas) == ARGUMENTS

    def test_usage_at_the_end_when_asked(self):
        events = events_of(stream_of(answer(include_usage=True)))
        assert [event["choices"] for event in events if "usage" in event] == [[]]
        assert events[-1]["usage"] == {
            "prompt_tokens": 100,
            "total_tokens": 120,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 8},
        }

    def test_usage_grows_from_event_to_event(self):
        events = events_of(stream_of(answer(include_usage=True, continuous_usage=True)))
        counts = [event["usage"]["completion_tokens"] for event in events]
        # the role, each token, the finish reason, and usage alone
        assert counts == [0, *STEPS, 20, 20]

    def test_no_usage_though_asked(self):
        traits = Traits(usage="none")
        asked = answer(traits, include_usage=True, continuous_usage=True)
        assert not any("usage" in event for event in events_of(stream_of(asked)))
        assert "usage" not in json.loads(answer(traits).whole(0))

    def test_an_interval_keeps_the_first_token_and_the_end(self):
        told = answer(Traits(stream_interval=8))
        sent_tokens = [told.sent_tokens for tokens in STEPS if told.take(tokens, 0, 0.0)]
        assert sent_tokens == [1, 9, 17, 20]

    def test_an_answer_that_a_cap_cuts_ends_in_its_reasoning(self):
        sent = stream_of(answer(osl_tokens=5, finish_reason="length"), range(1, 6))
        deltas = deltas_of(events_of(sent))
        assert joined(deltas, "reasoning") == REASONING[:20]
        assert joined(deltas, "content") == ""
        assert b'"finish_reason":"length"' in sent[-1]

    def test_an_answer_of_one_token(self):
        asked = answer(planned_tokens=1, osl_tokens=1, tool_call_tokens=0, finish_reason="stop")
        # round(0.4) is 0: no reasoning
        assert deltas_of(events_of(stream_of(asked, [1]))) == [
            {"role": "assistant", "content": ""},
            {"content": " the"},
            {},
        ]


class TestWhole:
    def test_has_all_parts(self):
        body = json.loads(answer().whole(64))
        message = body["choices"][0]["message"]
        assert (message["reasoning"], message["content"]) == (REASONING, CONTENT)
        assert message["tool_calls"][0]["function"] == {
            "name": 'read "it"',
            "arguments": ARGUMENTS,
        }
        assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 64}

    def test_has_the_field_for_its_reasoning(self):
        traits = Traits(reasoning_field="reasoning_content")
        message = json.loads(answer(traits).whole(0))["choices"][0]["message"]
        assert message["reasoning_content"] == REASONING


class TestDisturbance:
    def test_every_nth_streamed_answer(self):
        speaker = Speaker(Traits(stall_every=2, stall_s=3.0, reset_every=3))
        whole = speaker.answer(request(stream=False))  # counts for neither
        streamed = [speaker.answer(REQUEST) for _ in range(4)]
        assert len({each.id for each in [whole, *streamed]}) == 5
        for each in streamed:
            stream_of(each, range(1, 12))
        assert [each.held_until_s for each in streamed] == [-float("inf"), 3.0, -float("inf"), 3.0]
        assert [each.is_cut for each in streamed] == [False, False, True, False]

    def test_a_stall_lasts_and_then_brings_what_is_due(self):
        stalls = Answer(REQUEST, 1, Traits(stall_s=3.0), stalls=True)
        stream_of(stalls, range(1, 11))  # up to the middle, at 0 s
        assert stalls.take(11, 0, 1.0) == b""
        assert stalls.held_until_s == 4.0  # 1 + 3
        assert stalls.take(12, 0, 3.9) == b""
        (event,) = events_of([stalls.take(13, 0, 4.0)])
        assert event["choices"][0]["delta"] == {"content": CONTENT[8:20]}  # tokens 11 to 13
        assert stalls.take(14, 0, 4.1)

    def test_a_cut_answer_says_no_more(self):
        cut = Answer(REQUEST, 1, Traits(), resets=True)
        assert all(stream_of(cut, range(1, 11)))
        assert not cut.is_cut
        assert cut.take(11, 0, 0.0) == b""
        assert cut.is_cut

    def test_both_at_once_stall_first(self):
        both = Answer(REQUEST, 1, Traits(stall_s=3.0), stalls=True, resets=True)
        assert both.take(11, 0, 0.0) == b""
        assert not both.is_cut
        assert both.take(20, 0, 3.0) == b""
        assert both.is_cut


class TestTraits:
    def test_are_told_from_other_fields(self):
        pairs = [("usage", "every"), ("max_sequences", "4"), ("stall_s", "2.5")]
        traits, rest = take_traits(pairs)
        assert traits == Traits(usage="every", stall_s=2.5)
        assert rest == [("max_sequences", "4")]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("usage", "always", "usage is 'always', but must be one of end, every, none, last"),
            ("role_chunk", "", "role_chunk is '', but must be one of alone, bundled"),
            (
                "reasoning_field",
                "thoughts",
                "reasoning_field is 'thoughts', but must be one of reasoning, reasoning_content",
            ),
            ("stream_interval", "0", "stream_interval is 0, but must be 1 or more"),
            ("stream_interval", "few", "stream_interval is 'few', but must be a whole number"),
            ("stall_every", "-1", "stall_every is -1, but must be 0 or more"),
            ("reset_every", "-2", "reset_every is -2, but must be 0 or more"),
            ("stall_s", "0", "stall_s is 0.0, but must be positive and finite"),
            ("stall_s", "inf", "stall_s is inf, but must be positive and finite"),
            ("stall_s", "nan", "stall_s is nan, but must be positive and finite"),
        ],
    )
    def test_refuse_what_they_are_not(self, name: str, text: str, message: str):
        with pytest.raises(ValueError, match=re.escape(message)):
            take_traits([(name, text)])


def test_ids_count_up():
    speaker = Speaker(Traits())
    ids = [speaker.answer(REQUEST).id for _ in range(3)]
    assert all(a < b for a, b in pairwise(ids))
