from dataclasses import replace
from typing import Any

import pytest

from pytest_agentperf.sim.engine import (
    Emission,
    Engine,
    EngineConfig,
    Request,
    StepResult,
    count_tokens,
    parse_config,
    prefix_blocks,
)

CONFIG = EngineConfig(
    max_sequences=4,
    max_step_tokens=100,
    tokens_per_step=1,
    context_limit_tokens=960,
    kv_capacity_tokens=1024,  # 16 blocks
    step_overhead_s=1.0,
    decode_s_per_sequence=0.1,
    decode_s_per_context_token=0.001,
    prefill_s_per_token=0.01,
)


def config(**changes: Any) -> EngineConfig:
    return replace(CONFIG, **changes)


def request(
    name: str, prompt_tokens: int, osl_tokens: int = 1, blocks: tuple[bytes, ...] = ()
) -> Request:
    return Request(id=name, prompt_tokens=prompt_tokens, osl_tokens=osl_tokens, blocks=blocks)


def emission(name: str, *, tokens: int = 1, cached: int = 0, finished: bool = False) -> Emission:
    return Emission(request_id=name, tokens=tokens, cached_tokens=cached, finished=finished)


def run_until_idle(engine: Engine, now_s: float = 0.0) -> list[tuple[float, Emission]]:
    """Step until nothing is left; each emission stands beside the end of its step."""
    seen: list[tuple[float, Emission]] = []
    while engine.busy:
        now_s = engine.next_start_s(now_s)
        result = engine.step(now_s)
        now_s += result.duration_s
        seen += [(now_s, each) for each in result.emissions]
    return seen


def cached_tokens(engine: Engine, text: bytes) -> int:
    """Run one request of one token and tell how much of its prompt was in the cache."""
    engine.submit(request("probe", count_tokens(text), blocks=prefix_blocks(text)), 0.0)
    return run_until_idle(engine)[-1][1].cached_tokens


def text_of(blocks: str) -> bytes:
    """One block of 64 tokens for each letter, and one token more."""
    return b"".join(letter.encode() * 256 for letter in blocks) + b"tail"


class TestStepTime:
    def test_an_idle_engine_has_nothing_to_do(self):
        engine = Engine(CONFIG)
        assert not engine.busy
        assert engine.step(0.0) == StepResult(duration_s=0.0, emissions=())

    def test_a_prefill_step_emits_the_first_token(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 50, 3), 0.0)
        result = engine.step(0.0)
        assert result.duration_s == pytest.approx(1.5)  # 1 + 50 x 0.01
        assert result.emissions == (emission("a"),)

    def test_decode_steps_grow_with_the_context(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 50, 3), 0.0)
        engine.step(0.0)
        # 1 + 1 x 0.1 + 51 x 0.001 (50 of the prompt and 1 generated), then 52
        assert engine.step(1.5).duration_s == pytest.approx(1.151)
        last = engine.step(2.651)
        assert last.duration_s == pytest.approx(1.152)
        assert last.emissions == (emission("a", finished=True),)
        assert not engine.busy

    def test_a_long_prompt_is_computed_in_chunks(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 250), 0.0)
        results = [engine.step(0.0) for _ in range(3)]
        # chunks of 100, 100 and 50
        assert [each.duration_s for each in results] == pytest.approx([2.0, 2.0, 1.5])
        assert [each.emissions for each in results] == [(), (), (emission("a", finished=True),)]

    def test_decoders_and_a_chunk_share_a_step(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 20, 9), 0.0)
        engine.step(0.0)
        engine.submit(request("b", 150), 1.2)
        result = engine.step(1.2)
        # 100 - 1 for the decoder = 99 of b: 1 + 0.1 + 21 x 0.001 + 99 x 0.01
        assert result.duration_s == pytest.approx(2.111)
        assert result.emissions == (emission("a"),)
        # the other 51 of b: 1 + 0.1 + 22 x 0.001 + 51 x 0.01
        assert engine.step(3.311).duration_s == pytest.approx(1.632)

    def test_two_short_prompts_share_a_step(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 30), 0.0)
        engine.submit(request("b", 40), 0.0)
        result = engine.step(0.0)
        assert result.duration_s == pytest.approx(1.7)  # 1 + 70 x 0.01
        assert [each.request_id for each in result.emissions] == ["a", "b"]

    def test_a_speculative_burst_is_one_emission_and_the_last_one_is_short(self):
        engine = Engine(config(tokens_per_step=4))
        engine.submit(request("a", 10, 11), 0.0)
        seen = [each for _, each in run_until_idle(engine)]
        assert [each.tokens for each in seen] == [1, 4, 4, 2]
        assert [each.finished for each in seen] == [False, False, False, True]

    def test_a_burst_costs_no_more_than_one_token(self):
        engine = Engine(config(tokens_per_step=4))
        engine.submit(request("a", 10, 11), 0.0)
        engine.step(0.0)
        assert engine.step(1.1).duration_s == pytest.approx(1.111)  # 1 + 0.1 + 11 x 0.001


class TestQueue:
    def test_a_full_batch_makes_the_next_one_wait(self):
        engine = Engine(config(max_sequences=1))
        engine.submit(request("a", 10, 2), 0.0)
        engine.submit(request("b", 10, 1), 0.0)
        engine.step(0.0)
        assert (engine.running, engine.waiting) == (1, 1)
        # a: 1.1, then 1 + 0.1 + 0.011 more; b: 1.1 after that
        assert [end for end, _ in run_until_idle(engine, 1.1)] == pytest.approx([2.211, 3.311])

    def test_a_request_that_arrives_during_a_step_waits_for_its_end(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 10, 3), 0.0)
        engine.submit(request("b", 10, 1), 0.5)
        assert [each.request_id for each in engine.step(0.0).emissions] == ["a"]
        assert [each.request_id for each in engine.step(1.1).emissions] == ["a", "b"]

    def test_an_idle_server_starts_at_the_arrival(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 10), 7.0)
        assert engine.next_start_s(3.0) == 7.0
        assert engine.next_start_s(8.0) == 8.0

    def test_a_head_without_room_blocks_those_behind_it(self):
        engine = Engine(config(max_step_tokens=960))
        engine.submit(request("a", 600, 10), 0.0)  # 10 of the 16 blocks
        engine.submit(request("b", 600, 10), 0.0)
        engine.submit(request("c", 10, 1), 0.0)
        engine.step(0.0)
        assert (engine.running, engine.waiting) == (1, 2)

    @pytest.mark.parametrize(
        ("prompt_tokens", "osl_tokens", "message"),
        [
            pytest.param(0, 1, "needs a prompt and an answer", id="no prompt"),
            pytest.param(1, 0, "needs a prompt and an answer", id="no answer"),
            pytest.param(960, 1, "961 tokens is over the limit", id="over the context limit"),
        ],
    )
    def test_refuses(self, prompt_tokens: int, osl_tokens: int, message: str):
        with pytest.raises(ValueError, match=message):
            Engine(CONFIG).submit(request("a", prompt_tokens, osl_tokens), 0.0)

    def test_refuses_an_id_twice(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 1), 0.0)
        with pytest.raises(ValueError, match="'a' is already here"):
            engine.submit(request("a", 1), 0.0)


class TestPrefixCache:
    def test_equal_hashes_mean_an_equal_beginning(self):
        one, other = prefix_blocks(text_of("abc")), prefix_blocks(text_of("axc"))
        assert len(one) == 3
        assert one[0] == other[0]
        assert one[2] != other[2]

    def test_a_started_token_counts_whole(self):
        assert [count_tokens(b"x" * size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]

    def test_a_second_turn_hits_every_block_of_the_first(self):
        engine = Engine(CONFIG)
        assert cached_tokens(engine, text_of("abc")) == 0
        assert cached_tokens(engine, text_of("abcde")) == 192  # 3 blocks of 64
        assert engine.counters.prefix_hits_tokens == 192
        assert engine.counters.prefix_queries_tokens == 514  # 3 x 64 + 1 and 5 x 64 + 1

    def test_hits_need_no_computing(self):
        engine = Engine(CONFIG)
        cached_tokens(engine, text_of("abc"))
        text = text_of("abcd")
        engine.submit(request("b", count_tokens(text), blocks=prefix_blocks(text)), 0.0)
        # 257 - 192 = 65 to compute
        assert engine.step(0.0).duration_s == pytest.approx(1.65)

    def test_a_different_first_block_hits_nothing(self):
        engine = Engine(CONFIG)
        cached_tokens(engine, text_of("abc"))
        assert cached_tokens(engine, text_of("xbc")) == 0

    def test_the_last_token_is_always_computed(self):
        engine = Engine(CONFIG)
        whole = text_of("ab").removesuffix(b"tail")
        cached_tokens(engine, whole)
        assert cached_tokens(engine, whole) == 64

    def test_the_longest_unused_is_evicted_from_its_end(self):
        engine = Engine(CONFIG)  # 16 blocks
        cached_tokens(engine, text_of("abcdefg"))  # keeps 7
        cached_tokens(engine, text_of("ABCDEF"))  # keeps 6 more: 3 are free
        cached_tokens(engine, text_of("12345"))  # takes 6, the tail and answer being one: 3 go
        assert engine.counters.evicted_blocks == 3
        assert cached_tokens(engine, text_of("abcdefg")) == 256  # a, b, c and d are left

    def test_what_is_in_use_is_not_evicted(self):
        engine = Engine(config(max_step_tokens=960))
        text = text_of("abcdefgh")
        engine.submit(request("a", 513, 100, prefix_blocks(text)), 0.0)  # 613 tokens: 10 blocks
        engine.step(0.0)
        assert engine.kv_use_ratio == 0.625  # 10 / 16
        engine.submit(request("b", 400, 1), 1.0)  # 7 blocks, but 6 are free
        engine.step(1.0)
        assert engine.waiting == 1

    def test_two_at_once_share_their_beginning(self):
        engine = Engine(config(max_step_tokens=960))
        text = text_of("abcd")
        for name in ("a", "b"):
            engine.submit(request(name, 257, 10, prefix_blocks(text)), 0.0)
        assert [each.cached_tokens for each in engine.step(0.0).emissions] == [0, 256]
        assert engine.kv_use_ratio == 0.375  # 4 shared and one each: 6 / 16

    def test_reusable_blocks_count_as_free(self):
        engine = Engine(CONFIG)
        cached_tokens(engine, text_of("abc"))
        assert engine.kv_use_ratio == 0.0


class TestCancel:
    def test_frees_what_a_running_request_holds(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 50, 500), 0.0)
        engine.step(0.0)
        engine.cancel("a")
        assert (engine.running, engine.kv_use_ratio, engine.busy) == (0, 0.0, False)

    def test_keeps_the_blocks_that_were_computed(self):
        engine = Engine(CONFIG)
        text = text_of("abcd")
        engine.submit(request("a", 257, 1, prefix_blocks(text)), 0.0)
        engine.step(0.0)  # 100 tokens: one whole block
        engine.cancel("a")
        assert cached_tokens(engine, text) == 64

    def test_takes_a_waiting_request_out_of_the_queue(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 50), 0.0)
        engine.cancel("a")
        assert not engine.busy

    def test_of_an_unknown_id_changes_nothing(self):
        engine = Engine(CONFIG)
        engine.submit(request("a", 50), 0.0)
        engine.cancel("nobody")
        assert engine.busy


class TestConfig:
    def test_fields_that_are_not_named_keep_their_default(self):
        changed = parse_config("max_sequences=8&step_overhead_s=0.25")
        assert (changed.max_sequences, changed.step_overhead_s) == (8, 0.25)
        assert changed.tokens_per_step == EngineConfig().tokens_per_step

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param("speed=1", "unknown field 'speed'", id="unknown field"),
            pytest.param("max_sequences=1.5", "must be a whole number", id="not whole"),
            pytest.param("step_overhead_s=", "must be a number", id="no number"),
            pytest.param("step_overhead_s=0", "must be positive", id="zero overhead"),
            pytest.param("step_overhead_s=nan", "must be positive", id="not a number"),
            pytest.param("prefill_s_per_token=-1", "must be positive", id="negative"),
            pytest.param("kv_capacity_tokens=64", "must hold one request", id="small cache"),
            pytest.param("max_step_tokens=511", "must hold tokens_per_step", id="small step"),
        ],
    )
    def test_refuses(self, text: str, message: str):
        with pytest.raises(ValueError, match=message):
            parse_config(text)


def test_the_same_requests_give_the_same_steps():
    def run() -> list[tuple[float, Emission]]:
        engine = Engine(config(tokens_per_step=3))
        for number in range(12):
            text = text_of("abcdefghijkl"[: number + 1])
            arrival = request(str(number), count_tokens(text), 20, prefix_blocks(text))
            engine.submit(arrival, number * 0.7)
        return run_until_idle(engine)

    first = run()
    assert first == run()
    assert sum(each.tokens for _, each in first) == 240  # 12 x 20
