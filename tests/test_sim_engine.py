from collections import Counter
from dataclasses import replace
from math import inf

import pytest

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.engine import Engine
from pytest_agentperf.sim.sequence import Counters
from tests.engines import TOY, at_once, request, run, seconds, toy

LARGE = EngineConfig(
    max_sequences=16,
    max_step_tokens=400_000,
    acceptance=(),
    step_overhead_s=0.001,
    sequence_overhead_s=0.0001,
    memory_bytes_per_s=1e12,
    dense_bytes=1e10,  # 10 ms
    kv_read_bytes_per_token=1e6,  # 0.001 ms
    flops_per_s=1e13,
    flops_per_token=1e9,  # 0.1 ms
    attention_flops_per_pair=1e4,  # 1 ns
)


class TestLargeModel:
    """The numbers of a large model, worked by hand.

    1 ms a step, 0.1 ms a sequence, 10 ms weights, 0.001 ms for each token of context that is read,
    0.1 ms for each token that is computed, 1 ns a pair.
    """

    @pytest.mark.parametrize(
        ("sequences", "context_tokens", "expected_s"),
        [
            pytest.param(1, 1_000, 0.0121, id="1 + 0.1 + 10 + 1 ms"),
            pytest.param(4, 10_000, 0.0514, id="1 + 0.4 + 10 + 40 ms"),
            pytest.param(16, 25_000, 0.4126, id="1 + 1.6 + 10 + 400 ms"),
        ],
    )
    def test_decode(self, sequences: int, context_tokens: int, expected_s: float):
        engine = Engine(LARGE)
        for number in range(sequences):
            engine.submit(request(str(number), context_tokens - 1, 3))
        prefill = engine.advance(0.0, 0.0)
        assert prefill is not None
        decode = engine.advance(prefill.end_s, prefill.end_s)
        assert decode is not None
        assert len(decode.gains) == sequences
        assert decode.end_s - prefill.end_s == pytest.approx(expected_s)

    def test_a_prompt_of_27k_alone(self):
        seen = run(Engine(LARGE), at_once(request("a", 27_000)))
        # 0.001 + 27,000 x 0.1 ms + 27,000 x 27,001 / 2 = 364,513,500 pairs of 1 ns
        assert seen.times_s("a") == seconds(3.0655135)

    def test_a_prompt_of_27k_in_chunks_beside_16_decodes(self):
        engine = Engine(replace(LARGE, max_sequences=17, max_step_tokens=16_016))
        decodes = [request(str(number), 999, 9) for number in range(16)]
        # The 16 prompts: 15,984 tokens: 0.001 + 1.5984 + 16 x 999 x 1,000 / 2 = 7,992,000 pairs
        first_s = 1.607392
        seen = run(engine, [*at_once(*decodes), (1.0, request("long", 27_000))])
        # 16,016 - 16 decodes = 16,000 tokens of it:
        #   0.001 + 16 x 0.0001                          = 0.0026
        #   16,016 tokens                                = 1.6016
        #   16,000 x 16,001 / 2 pairs of the chunk       = 0.128008
        #   16 x 1,000 pairs of the decodes              = 0.000016
        second_s = first_s + 1.732224
        # the other 11,000:
        #   overheads again                              = 0.0026
        #   11,016 tokens                                = 1.1016
        #   11,000 x 16,000 + 11,000 x 11,001 / 2 pairs  = 0.2365055
        #   16 x 1,001 pairs                             = 0.000016016
        third_s = second_s + 1.340721516
        assert seen.ends_s[:3] == seconds(first_s, second_s, third_s)
        assert seen.times_s("long") == seconds(third_s)
        assert seen.times_s("0")[:3] == seconds(first_s, second_s, third_s)


class TestStepTime:
    def test_an_idle_engine_has_nothing_to_do(self):
        engine = Engine(TOY)
        assert not engine.busy
        assert engine.advance(0.0, inf) is None

    def test_the_step_that_computes_the_prompt_brings_the_first_token(self):
        seen = run(Engine(TOY), at_once(request("a", 50)))
        assert seen.tokens["a"] == [(pytest.approx(1.5), 1)]  # 1 + 50 x 0.01

    def test_decode_steps_grow_with_the_context(self):
        seen = run(Engine(TOY), at_once(request("a", 50, 3)))
        # 1.5, then 1 + 0.1 + 51 x 0.001 (50 of the prompt and 1 generated), then with 52
        assert seen.times_s("a") == seconds(1.5, 2.651, 3.803)
        assert seen.finished == ["a"]

    def test_a_long_prompt_is_computed_in_chunks(self):
        seen = run(Engine(TOY), at_once(request("a", 250)))
        assert seen.ends_s == seconds(2.0, 4.0, 5.5)  # chunks of 100, 100 and 50
        assert seen.times_s("a") == seconds(5.5)

    def test_each_prompt_token_attends_to_itself_and_all_before(self):
        # Only pairs cost something: 0.01 s each
        config = toy(
            max_step_tokens=4,
            flops_per_token=1e-9,
            attention_flops_per_pair=1.0,
            kv_read_bytes_per_token=0.0,
        )
        seen = run(Engine(config), at_once(request("a", 7)))
        # 1 + 2 + 3 + 4 = 10 pairs, then 5 + 6 + 7 = 18
        assert seen.ends_s == seconds(1.10, 2.28)

    def test_decoders_and_a_chunk_share_a_step(self):
        arrivals = [(0.0, request("a", 20, 9)), (1.0, request("b", 150))]
        seen = run(Engine(TOY), arrivals)
        # 1 + 0.2; 100 - 1 for a leaves 99 of b: 1 + 0.1 + 1.00; the other 51: 1 + 0.1 + 0.52
        assert seen.ends_s[:3] == seconds(1.2, 3.3, 4.92)
        assert seen.times_s("b") == seconds(4.92)

    def test_drafts_take_part_in_the_token_budget(self):
        config = toy(acceptance=(1.0, 1.0, 1.0))
        seen = run(Engine(config), [(0.0, request("a", 20, 50)), (1.0, request("b", 150))])
        # 1 + 0.2; 100 - 4 for a leaves 96 of b: 1 + 0.1 + 1.00; the other 54: 1 + 0.1 + 0.58
        assert seen.ends_s[:3] == seconds(1.2, 3.3, 4.98)

    def test_what_a_sequence_reads_whatever_its_context_is_read_for_prompts_too(self):
        config = toy(kv_read_bytes_per_sequence=500.0)
        seen = run(Engine(config), at_once(request("a", 10), request("b", 10)))
        assert seen.ends_s == seconds(2.0)  # 1 + 2 x 0.5, more than 20 x 0.01

    def test_two_short_prompts_share_a_step(self):
        seen = run(Engine(TOY), at_once(request("a", 30), request("b", 40)))
        assert seen.finished == ["a", "b"]
        assert seen.ends_s == seconds(1.7)  # 1 + 70 x 0.01

    def test_looking_ahead_ends_with_the_step_in_which_the_next_thing_happens(self):
        engine = Engine(TOY)
        engine.submit(request("a", 50, 100))
        engine.advance(0.0, 0.0)
        segment = engine.advance(1.5, 3.0)
        assert segment is not None
        # 1 + 0.1 + 0.051, and a second step, which begins at 2.651, before 3
        assert segment.gains[0].ends_s == seconds(2.651, 3.803)
        assert segment.gains[0].tokens == [2, 3]
        assert segment.end_s == pytest.approx(3.803)

    def test_a_step_that_would_begin_with_the_next_thing_waits_for_it(self):
        engine = Engine(
            toy(kv_read_bytes_per_token=0.0, sequence_overhead_s=0.0, step_overhead_s=0.99)
        )
        engine.submit(request("a", 1, 100))
        engine.advance(0.0, 0.0)
        segment = engine.advance(1.0, 4.0)  # of 1 s each: 1 to 2, 2 to 3, 3 to 4
        assert segment is not None
        assert segment.end_s == pytest.approx(4.0)

    def test_looking_ahead_ends_with_the_first_answer(self):
        engine = Engine(TOY)
        engine.submit(request("a", 10, 3))
        engine.submit(request("b", 10, 30))
        engine.advance(0.0, 0.0)
        segment = engine.advance(1.2, inf)
        assert segment is not None
        assert [(gain.tokens[-1], gain.finished) for gain in segment.gains] == [
            (3, True),
            (3, False),
        ]


class TestDrafts:
    def test_a_burst(self):
        seen = run(Engine(toy(acceptance=(1.0, 1.0, 1.0))), at_once(request("a", 10, 11)))
        # prompt 1 + 0.10; then each 1 + 0.1 + 4 computed tokens = 0.04; the last burst is cut
        assert seen.tokens["a"] == [
            (pytest.approx(1.10), 1),
            (pytest.approx(2.24), 5),
            (pytest.approx(3.38), 9),
            (pytest.approx(4.52), 11),
        ]

    def test_drafting_takes_its_time_in_steps_with_a_decode(self):
        config = toy(acceptance=(1.0,), draft_s=0.5)
        seen = run(Engine(config), at_once(request("a", 10, 3)))
        assert seen.times_s("a") == seconds(1.10, 2.72)  # 1 + 0.1 + 0.5 + 2 x 0.01

    def test_a_drafted_context_is_read_once(self):
        config = toy(acceptance=(1.0,), max_step_tokens=500)
        seen = run(Engine(config), at_once(request("a", 399, 3)))
        assert seen.times_s("a") == seconds(4.99, 6.49)  # 1 + 3.99; 1 + 0.1 + 400 x 0.001

    @pytest.mark.parametrize(
        ("acceptance", "bursts"),
        [
            pytest.param((), [1, 1, 1, 1, 1, 1], id="no drafts"),
            pytest.param((1.0,), [1, 2, 2, 1], id="all of one"),
            pytest.param((1.0, 1.0), [1, 3, 2], id="all of two"),
            pytest.param((0.0, 1.0), [1, 1, 1, 1, 1, 1], id="none after the first is refused"),
            pytest.param((1.0, 0.0), [1, 2, 2, 1], id="the second never"),
        ],
    )
    def test_certainty(self, acceptance: tuple[float, ...], bursts: list[int]):
        seen = run(Engine(toy(acceptance=acceptance)), at_once(request("a", 10, 6)))
        assert seen.bursts("a") == bursts

    def test_acceptance_is_a_chain(self):
        config = toy(acceptance=(0.8, 0.5), context_limit_tokens=30_000, kv_capacity_tokens=60_000)
        seen = run(Engine(config), at_once(request("a", 1, 22_001)), looks_ahead=True)
        bursts = Counter(seen.bursts("a")[1:-1])
        steps = bursts.total()
        # 1 - 0.8; 0.8 x 0.5; 0.8 x 0.5. In 10,000 steps a share strays by 0.005; three times that
        assert bursts[1] / steps == pytest.approx(0.2, abs=0.015)
        assert bursts[2] / steps == pytest.approx(0.4, abs=0.015)
        assert bursts[3] / steps == pytest.approx(0.4, abs=0.015)
        # 1 + 0.8 + 0.4 tokens a step
        assert 22_000 / steps == pytest.approx(2.2, abs=0.025)

    def test_bursts_depend_on_the_seeds_alone(self):
        config = toy(
            acceptance=(0.8, 0.5), block_tokens=4, context_limit_tokens=96, kv_capacity_tokens=120
        )
        me = request("me", 20, 60, seed=7)
        mates = [request(str(number), 20, 60, seed=number) for number in range(3)]
        alone = run(Engine(config), at_once(me)).bursts("me")
        crowded = Engine(config)
        assert run(crowded, at_once(*mates, me)).bursts("me") == alone
        assert crowded.counters.preemptions > 0
        others = [
            run(Engine(config), at_once(replace(me, seed=8))).bursts("me"),
            run(Engine(replace(config, seed=1)), at_once(me)).bursts("me"),
        ]
        assert alone not in others

    @pytest.mark.parametrize("seed", [-1, 2**63])
    def test_any_number_is_a_seed(self, seed: int):
        config = toy(acceptance=(0.5,))
        seen = run(Engine(config), at_once(request("a", 10, 6, seed=seed)))
        assert sum(seen.bursts("a")) == 6

    def test_counts_drafts_and_what_is_accepted_of_them(self):
        engine = Engine(toy(acceptance=(1.0, 1.0, 1.0)))
        run(engine, at_once(request("a", 10, 11)), looks_ahead=True)
        # 3 steps of 3 drafts; 10 tokens after the first in 3 steps
        assert engine.counters == Counters(
            steps=4,
            prompt_tokens=10,
            generation_tokens=11,
            prefix_queries_tokens=10,
            draft_tokens=9,
            accepted_tokens=7,
        )


class TestEnergy:
    @pytest.mark.parametrize(
        ("now_s", "energy_j", "power_w"),
        [
            pytest.param(10.0, 1000.0, 500.0, id="10 s idle"),
            pytest.param(11.0, 1500.0, 500.0, id="in the prompt"),
            pytest.param(12.0, 2000.0, 100.0, id="at its end"),
        ],
    )
    def test_of_a_prompt(self, now_s: float, energy_j: float, power_w: float):
        engine = Engine(TOY)
        engine.submit(request("a", 100, 3))
        engine.advance(10.0, 10.0)  # 1 + 1 s, half of it computing: 400 + 200 / 2 W
        assert engine.energy_j(now_s) == pytest.approx(energy_j)
        assert engine.power_w(now_s) == pytest.approx(power_w)

    def test_of_a_run_of_steps_at_any_instant(self):
        engine = Engine(TOY)
        engine.submit(request("a", 100, 3))
        engine.advance(10.0, 10.0)
        engine.advance(12.0, inf)  # 1.201 + 1.202 = 2.403 s at 400 W
        assert engine.energy_j(13.5) == pytest.approx(2600.0)  # 2,000 + 1.5 x 400
        assert engine.energy_j(14.403) == pytest.approx(2961.2)  # 2,000 + 2.403 x 400
        assert engine.energy_j(16.403) == pytest.approx(3161.2)  # and 2 s idle

    def test_of_all_accelerators(self):
        engine = Engine(toy(accelerators=2), began_s=5.0)
        assert engine.energy_j(8.0) == pytest.approx(600.0)  # 3 s x 2 x 100 W
