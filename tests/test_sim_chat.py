import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.sim.chat import (
    ChatRequest,
    PrefixHasher,
    RefusedError,
    count_tokens,
    error_body,
    prefix_blocks,
    read_chat,
    tokenize,
)

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "Why?"}
TOOLS = [{"type": "function", "function": {"name": "read_file"}}]


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def body_of(**changes: Any) -> bytes:
    return encode({"model": "m", "messages": [SYSTEM, QUESTION]} | changes)


def read(body: bytes, osl_tokens: int | None = 40, limit_tokens: int = 1000) -> ChatRequest:
    return read_chat(
        body,
        osl_header=None if osl_tokens is None else str(osl_tokens),
        models=["m"],
        context_limit_tokens=limit_tokens,
        hasher=PrefixHasher(block_tokens=2),
    )


def refused(body: bytes, **options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        read(body, **options)
    return caught.value


class TestPrompt:
    def test_is_the_first_message_the_tools_and_the_others_byte_for_byte(self):
        request = read(body_of(tools=TOOLS))
        prompt = encode(SYSTEM) + encode(TOOLS) + encode(QUESTION)
        assert request.prompt_tokens == count_tokens(prompt)
        assert request.blocks == prefix_blocks(prompt, 2)

    def test_is_taken_as_it_was_sent_spaces_and_escapes_too(self):
        body = b'{"model":"m","messages":[ {"role": "user", "content": "\\u00e4"} ]}'
        # {"role": "user", "content": "\u00e4"} has 37 bytes: ten tokens
        assert read(body).prompt_tokens == 10

    def test_a_longer_conversation_begins_with_the_shorter_one(self):
        later = [SYSTEM, QUESTION, {"role": "assistant", "content": "So."}, QUESTION]
        before, after = read(body_of()).blocks, read(body_of(messages=later)).blocks
        assert after[: len(before)] == before

    def test_a_seed_is_the_request_s_own_or_hangs_on_the_last_message(self):
        assert read(body_of(seed=7)).seed == 7
        salted = [{"role": "system", "content": "1 2 3 Be brief."}, QUESTION]
        assert read(body_of()).seed == read(body_of(messages=salted)).seed
        other = [SYSTEM, {"role": "user", "content": "And now?"}]
        assert read(body_of()).seed != read(body_of(messages=other)).seed


class TestHasher:
    def test_a_block_s_hash_hangs_on_all_before_it(self):
        one, other = prefix_blocks(b"aaaaaaaabbbbbbbb", 2), prefix_blocks(b"xaaaaaaabbbbbbbb", 2)
        assert len(one) == len(other) == 2
        assert set(one) & set(other) == set()

    def test_only_full_blocks_count(self):
        assert len(prefix_blocks(b"a" * 23, 2)) == 2  # 8 + 8 + 7 bytes
        assert prefix_blocks(b"a" * 7, 2) == ()

    @given(
        prompts=st.lists(st.text("ab", max_size=60).map(str.encode), max_size=6),
        block_tokens=st.integers(1, 3),
    )
    def test_what_came_before_changes_no_hash(self, prompts: list[bytes], block_tokens: int):
        hasher = PrefixHasher(block_tokens)
        seen = [hasher.blocks(prompt) for prompt in prompts]
        assert seen == [prefix_blocks(prompt, block_tokens) for prompt in prompts]

    @given(
        text=st.binary(min_size=40, max_size=80),
        kept=st.integers(0, 80),
        tail=st.binary(max_size=40),
    )
    def test_a_prompt_that_leaves_the_last_one_anywhere(self, text: bytes, kept: int, tail: bytes):
        hasher = PrefixHasher(1)
        hasher.blocks(text)
        assert hasher.blocks(text[:kept] + tail) == prefix_blocks(text[:kept] + tail, 1)


class TestLength:
    def test_what_is_asked_for(self):
        request = read(body_of(), osl_tokens=40)
        assert (request.planned_tokens, request.osl_tokens) == (40, 40)
        assert request.finish_reason == "stop"

    def test_a_cap_cuts(self):
        request = read(body_of(max_tokens=10), osl_tokens=40)
        assert (request.planned_tokens, request.osl_tokens) == (40, 10)
        assert request.finish_reason == "length"

    def test_without_one_it_is_drawn_from_the_last_message(self):
        salted = [{"role": "system", "content": "Be very brief."}, QUESTION]
        drawn = read(body_of(), osl_tokens=None).osl_tokens
        assert read(body_of(messages=salted), osl_tokens=None).osl_tokens == drawn

    def test_usage_on_every_event_needs_usage_at_all(self):
        both = {"include_usage": True, "continuous_usage_stats": True}
        assert read(body_of(stream_options=both)).continuous_usage
        alone = {"continuous_usage_stats": True}
        assert not read(body_of(stream_options=alone)).continuous_usage


class TestRefusals:
    def test_malformed_json(self):
        error = refused(b'{"model":')
        assert json.loads(error_body(error))["error"] == {
            "message": "[{'type': 'json_invalid', 'loc': ('body',), 'msg': 'JSON decode error', "
            "'input': {}, 'ctx': {'error': 'Input data was truncated'}}]",
            "type": "Bad Request",
            "param": None,
            "code": 400,
        }

    def test_a_context_that_is_too_long(self):
        error = refused(body_of(max_tokens=90), limit_tokens=100)
        # {"role":"system","content":"Be brief."} has 39 bytes and {"role":"user","content":"Why?"}
        # has 32: 71 bytes are 18 tokens
        assert str(error) == (
            "This model's maximum context length is 100 tokens. However, you requested 90 output "
            "tokens and your prompt contains 18 input tokens, for a total of 108 tokens. Please "
            "reduce the length of the input prompt or the number of requested output tokens."
        )
        assert (error.status, error.param) == (400, "input_tokens")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            pytest.param({"messages": []}, "at least 1 item", id="no messages"),
            pytest.param({"messages": ["hi"]}, "each must be an object", id="a text as message"),
            pytest.param({"messages": 3}, "Expected `array`", id="messages of another type"),
            pytest.param({"tools": "read"}, "function.name is required", id="tools as text"),
            pytest.param(
                {"tools": [{"type": "function"}]}, "function.name is required", id="a nameless tool"
            ),
        ],
    )
    def test_what_is_no_chat(self, changes: dict[str, Any], message: str):
        error = refused(body_of(**changes))
        assert error.status == 400
        assert message in str(error)

    def test_no_text_at_all(self):
        assert refused(b'{"model":"\xff"').status == 400

    @pytest.mark.parametrize("changes", [{"tools": None}, {"tools": []}, {}])
    def test_no_tools_are_no_error(self, changes: dict[str, Any]):
        assert read(body_of(**changes)).tool_call_tokens == 0

    def test_an_error_of_the_key_has_a_shape_of_its_own(self):
        assert error_body(RefusedError("Unauthorized", status=401)) == b'{"error":"Unauthorized"}'


class TestTokenize:
    def tokens(self, **fields: Any) -> dict[str, Any]:
        body = encode({"model": "m"} | fields)
        return json.loads(tokenize(body, models=["m"], context_limit_tokens=1000))

    def test_a_prompt(self):
        # "abcd" is 0x64636261 read from its end, "e" is 0x65
        assert self.tokens(prompt="abcde") == {
            "count": 2,
            "max_model_len": 1000,
            "tokens": [0x64636261, 0x65],
            "token_strs": None,
        }

    def test_an_id_has_31_bits(self):
        # U+00FF is C3 BF: 0xbfc3bfc3 without its highest bit
        assert self.tokens(prompt="\u00ff\u00ff")["tokens"] == [0x3FC3BFC3]

    def test_an_empty_prompt(self):
        assert self.tokens(prompt="")["tokens"] == []

    def test_messages_count_as_they_do_in_a_chat(self):
        found = self.tokens(messages=[SYSTEM, QUESTION], tools=TOOLS)
        assert found["count"] == len(found["tokens"]) == read(body_of(tools=TOOLS)).prompt_tokens

    @pytest.mark.parametrize("fields", [{"prompt": "x"}, {"messages": [QUESTION]}])
    def test_an_unknown_model(self, fields: dict[str, Any]):
        with pytest.raises(RefusedError, match="The model `x` does not exist"):
            tokenize(encode({"model": "x"} | fields), models=["m"], context_limit_tokens=1000)

    def test_neither_prompt_nor_messages(self):
        with pytest.raises(RefusedError, match="messages"):
            tokenize(encode({"model": "m"}), models=["m"], context_limit_tokens=1000)
