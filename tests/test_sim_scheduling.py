from math import inf

import pytest

from pytest_agentperf.sim.engine import Engine
from pytest_agentperf.sim.sequence import QueueFullError
from tests.engines import TOY, at_once, cached_tokens, prompt, request, run, seconds, toy


class TestQueue:
    def test_a_full_batch_makes_the_next_one_wait(self):
        engine = Engine(toy(max_sequences=1))
        seen = run(engine, at_once(request("a", 10, 2), request("b", 10)))
        # a: 1.1, then 1 + 0.1 + 0.011 more; b: 1.1 after that
        assert (seen.times_s("a"), seen.times_s("b")) == (seconds(1.1, 2.211), seconds(3.311))

    def test_a_request_that_arrives_during_a_step_waits_for_its_end(self):
        seen = run(Engine(TOY), [(0.0, request("a", 10, 3)), (0.5, request("b", 10))])
        # a: 1.1; both: 1 + 0.1 + 10 + 1 tokens = 0.11
        assert seen.times_s("b") == seconds(2.31)

    def test_a_head_without_room_blocks_those_behind_it(self):
        engine = Engine(toy(max_step_tokens=960))
        for each in (request("a", 600, 10), request("b", 600, 10), request("c", 10)):
            engine.submit(each)  # a takes 10 of the 16 blocks
        engine.advance(0.0, 0.0)
        assert (engine.running, engine.waiting) == (1, 2)

    def test_the_whole_prompt_must_find_room_before_its_first_chunk(self):
        engine = Engine(toy(max_step_tokens=640))
        engine.submit(request("a", 600, 10))
        engine.submit(request("b", 600, 10))  # 40 tokens would need one block; 6 are free
        engine.advance(0.0, 0.0)
        assert (engine.running, engine.waiting) == (1, 1)

    def test_one_more_than_the_queue_holds_is_refused(self):
        engine = Engine(toy(max_waiting=1))
        engine.submit(request("a", 10))
        with pytest.raises(QueueFullError, match="1 requests are waiting already"):
            engine.submit(request("b", 10))
        engine.submit(request("c", 10, 5, prefilled=True))
        assert engine.waiting == 2

    @pytest.mark.parametrize(
        ("prompt_tokens", "osl_tokens", "message"),
        [
            pytest.param(0, 1, "'a' needs a prompt and an answer", id="no prompt"),
            pytest.param(1, 0, "'a' needs a prompt and an answer", id="no answer"),
            pytest.param(960, 1, "'a' of 961 tokens is over the limit", id="over the limit"),
        ],
    )
    def test_refuses(self, prompt_tokens: int, osl_tokens: int, message: str):
        with pytest.raises(ValueError, match=message):
            Engine(TOY).submit(request("a", prompt_tokens, osl_tokens))

    def test_takes_what_just_fits_the_context_limit(self):
        assert run(Engine(TOY), at_once(request("a", 950, 10))).bursts("a") == [1] * 10

    def test_a_request_that_just_fits_goes_on_to_its_end_with_drafts(self):
        # 1,023 + 64 tokens are 16 blocks; the decode step wants 1,022 + 3 drafts: 17 blocks
        config = toy(acceptance=(1.0, 1.0, 1.0), context_limit_tokens=1023, kv_capacity_tokens=1087)
        engine = Engine(config)
        assert run(engine, at_once(request("a", 1021, 2))).bursts("a") == [1, 1]
        assert engine.counters.preemptions == 0


class TestPrefixCache:
    def test_a_second_turn_hits_every_block_of_the_first(self):
        engine = Engine(TOY)
        assert cached_tokens(engine, "abc") == 0
        assert cached_tokens(engine, "abcde") == 192  # 3 blocks of 64
        assert engine.counters.prefix_hits_tokens == 192
        assert engine.counters.prefix_queries_tokens == 514  # 3 x 64 + 1 and 5 x 64 + 1

    def test_hits_of_four_blocks_need_no_computing(self):
        engine = Engine(TOY)
        cached_tokens(engine, "abcd")
        seen = run(engine, at_once(request("b", 300, blocks="abcd")))
        assert seen.cached_tokens["b"] == 256
        # 300 - 256 = 44 tokens: 1 + 0.44; reading the 256 takes 0.256, less than that
        assert seen.times_s("b") == seconds(1.44)

    def test_what_is_cached_is_read_from_memory(self):
        engine = Engine(TOY)
        cached_tokens(engine, "abcd")
        seen = run(engine, at_once(prompt("b", "abcd")))
        assert seen.times_s("b") == seconds(1.256)  # 256 x 0.001, more than 1 token of 0.01

    def test_a_different_first_block_hits_nothing(self):
        engine = Engine(TOY)
        cached_tokens(engine, "abc")
        assert cached_tokens(engine, "xbc") == 0

    def test_the_last_token_is_always_computed(self):
        engine = Engine(TOY)
        for name in ("a", "b"):
            seen = run(engine, at_once(request(name, 128, blocks="ab")))
        assert seen.cached_tokens["b"] == 64  # one of two blocks

    def test_the_longest_unused_is_evicted_from_its_end(self):
        engine = Engine(TOY)  # 16 blocks
        cached_tokens(engine, "abcdefg")  # keeps 7
        cached_tokens(engine, "ABCDEF")  # keeps 6 more: 3 are blank
        cached_tokens(engine, "12345")  # takes 6 with its last token: 3 go
        assert engine.pool.evicted_blocks == 3
        seen = run(engine, at_once(prompt("probe", "abcdefg")))
        assert seen.cached_tokens["probe"] == 256  # a, b, c and d are left
        # 449 - 256 = 193 tokens: 1 + 1.00 and 1 + 0.93
        assert seen.times_s("probe") == seconds(3.93)

    def test_what_is_in_use_is_not_evicted(self):
        engine = Engine(toy(max_step_tokens=960))
        engine.submit(prompt("a", "abcdefgh", 100))  # 513 tokens: 9 blocks
        engine.advance(0.0, 0.0)
        assert engine.kv_use_ratio == 0.5625  # 9 / 16
        engine.submit(request("b", 500))  # 8 blocks, but 7 are free
        engine.advance(1.0, 1.0)
        assert engine.waiting == 1

    def test_two_at_once_share_their_beginning(self):
        engine = Engine(toy(max_step_tokens=960))
        engine.submit(prompt("a", "abcd", 10))
        engine.submit(prompt("b", "abcd", 10))
        segment = engine.advance(0.0, 0.0)
        assert segment is not None
        assert [gain.cached_tokens for gain in segment.gains] == [0, 256]
        assert segment.end_s == pytest.approx(3.58)  # 1 + 257 x 0.01 + 1 x 0.01
        assert engine.kv_use_ratio == 0.375  # 4 shared and one each: 6 / 16

    def test_reusable_blocks_count_as_free(self):
        engine = Engine(TOY)
        cached_tokens(engine, "abc")
        assert engine.kv_use_ratio == 0.0

    def test_an_answer_is_not_reused_by_others(self):
        engine = Engine(TOY)
        run(engine, at_once(prompt("a", "ab", 200)))
        assert cached_tokens(engine, "abcde") == 128  # only what was prompt


class TestPreemption:
    CONFIG = toy(block_tokens=4, context_limit_tokens=56, kv_capacity_tokens=60)  # 15 blocks

    def test_by_hand(self):
        engine = Engine(self.CONFIG)
        seen = run(engine, at_once(request("a", 28, 8), request("b", 28, 8)))
        # Both prompts, 7 blocks each: 1 + 56 x 0.01 = 1.56. With 29 tokens each wants an 8th: a
        # gets the last one, b is preempted. a decodes alone, with contexts 29 ... 35:
        #   7 x 1.1 + (29 + 30 + ... + 35 = 224) x 0.001 = 7.924
        assert seen.times_s("a")[0] == pytest.approx(1.56)
        assert seen.times_s("a")[1] == pytest.approx(2.689)  # + 1.1 + 0.029
        assert seen.times_s("a")[7] == pytest.approx(9.484)
        # At 33 tokens a took a 9th block, the last of b's 7 that were known. b finds 24 tokens and
        # computes 5: 1 + 0.05, which brings its second token; then it decodes with 30 ... 35:
        #   6 x 1.1 + (30 + ... + 35 = 195) x 0.001 = 6.795
        assert seen.times_s("b")[:2] == seconds(1.56, 10.534)
        assert seen.times_s("b")[7] == pytest.approx(17.329)
        assert engine.counters.preemptions == 1
        assert engine.counters.generation_tokens == 16

    def test_counts_the_prompt_once(self):
        engine = Engine(self.CONFIG)
        seen = run(engine, at_once(request("a", 28, 8), request("b", 28, 8)))
        assert engine.counters.prompt_tokens == 56
        assert engine.counters.prefix_hits_tokens == 0
        assert seen.cached_tokens == {"a": 0, "b": 0}

    def test_the_one_admitted_last_goes(self):
        engine = Engine(self.CONFIG)
        seen = run(engine, at_once(*(request(name, 16, 20) for name in "abc")))
        assert engine.counters.preemptions > 0
        assert seen.finished == ["a", "b", "c"]

    def test_it_comes_back_before_those_that_came_after_it(self):
        engine = Engine(self.CONFIG)
        late = (1.0, request("late", 3, 2))  # there is a block for it as soon as b is gone
        seen = run(engine, [*at_once(request("a", 28, 8), request("b", 28, 8)), late])
        assert engine.counters.preemptions == 1
        assert seen.times_s("b")[1] <= seen.times_s("late")[0]

    def test_finds_the_blocks_of_its_own_answer_again(self):
        seen = run(Engine(self.CONFIG), at_once(request("a", 20, 12), request("b", 20, 20)))
        # Prompts: 1.4; eight steps of both with contexts 21 ... 28: 8 x 1.2 + 2 x 196 x 0.001.
        # At 29 a takes the last block, and decodes alone with 29, 30 and 31: 3.3 + 0.09
        assert seen.times_s("b")[8] == pytest.approx(11.392)
        assert seen.times_s("a")[-1] == pytest.approx(14.782)
        # b finds all of its 7 full blocks, 28 tokens to read and 1 to compute: 1 + 0.028
        assert seen.times_s("b")[9] == pytest.approx(15.810)

    def test_a_waiting_one_that_was_preempted_can_be_cancelled(self):
        engine = Engine(self.CONFIG)
        seen = run(engine, at_once(request("a", 28, 8), request("b", 28, 8)), cancels={2: "b"})
        assert engine.counters.preemptions == 1
        assert seen.bursts("b") == [1]
        assert engine.pool.free_blocks == 15


class TestHandOver:
    def test_a_prefilling_replica_hands_over_after_the_first_token(self):
        engine = Engine(TOY, only_prefills=True)
        first = prompt("a", "a", 9)
        engine.submit(first)
        segment = engine.advance(0.0, inf)
        assert segment is not None
        assert segment.handed_over == (first,)
        assert [(gain.tokens, gain.finished) for gain in segment.gains] == [([1], False)]
        assert (engine.busy, engine.pool.free_blocks) == (False, 16)
        assert cached_tokens(engine, "ab") == 64  # and the next turn finds it

    def test_an_answer_of_one_token_needs_no_other_replica(self):
        engine = Engine(TOY, only_prefills=True)
        engine.submit(request("a", 10))
        segment = engine.advance(0.0, inf)
        assert segment is not None
        assert (segment.handed_over, segment.gains[0].finished) == ((), True)

    def test_an_arrived_prompt_decodes_at_once(self):
        engine = Engine(TOY)
        seen = run(engine, at_once(request("a", 100, 3, prefilled=True)))
        # the second token: 1 + 0.1 + 101 x 0.001, the third with 102
        assert seen.tokens["a"] == [(pytest.approx(1.201), 2), (pytest.approx(2.403), 3)]

    def test_an_arrived_prompt_takes_part_in_the_token_budget(self):
        engine = Engine(toy(acceptance=(1.0, 1.0, 1.0)))
        engine.submit(request("a", 98, 50))
        engine.submit(request("b", 64, 50, prefilled=True))  # 4 tokens, but 2 are left
        engine.submit(request("c", 64, 50))
        first = engine.advance(0.0, 0.0)
        assert first is not None
        second = engine.advance(first.end_s, first.end_s)
        assert second is not None
        # 4 tokens for a and b each, and c's whole prompt: 1 + 0.2 + 72 x 0.01
        assert second.end_s - first.end_s == pytest.approx(1.92)


class TestCancel:
    def test_frees_what_a_running_request_holds(self):
        engine = Engine(TOY)
        engine.submit(request("a", 50, 500))
        engine.advance(0.0, 0.0)
        engine.cancel("a")
        assert (engine.running, engine.kv_use_ratio, engine.busy) == (0, 0.0, False)

    def test_keeps_the_blocks_that_were_computed(self):
        engine = Engine(TOY)
        engine.submit(prompt("a", "abcd"))
        engine.advance(0.0, 0.0)  # 100 tokens: one whole block
        engine.cancel("a")
        assert cached_tokens(engine, "abcd") == 64

    def test_takes_a_waiting_request_out_of_the_queue(self):
        engine = Engine(TOY)
        engine.submit(request("a", 50))
        engine.cancel("a")
        assert not engine.busy

    def test_of_an_unknown_id_changes_nothing(self):
        engine = Engine(TOY)
        engine.submit(request("a", 50))
        engine.cancel("nobody")
        assert engine.busy
