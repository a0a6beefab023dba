from typing import Any

import pytest

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.energy import EnergyMeter
from pytest_agentperf.sim.roofline import Batch, Roofline

NOTHING: dict[str, Any] = {
    "accelerators": 8,
    "acceptance": (),
    "memory_bytes_per_s": 1000.0,
    "flops_per_s": 1000.0,  # 8,000 with all eight
    "link_bytes_per_s": 1000.0,
    "flops_per_token": 1e-9,
    "kv_read_bytes_per_token": 0.0,
    "step_overhead_s": 0.0,
    "sequence_overhead_s": 0.0,
}
"""A system in which everything is free; each test gives one thing a price."""


def step_s(batch: Batch, context_tokens: int = 0, /, **prices: Any) -> float:
    return Roofline(EngineConfig(**(NOTHING | prices))).cost(batch).step_s(context_tokens)


def seconds(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


class TestMemory:
    def test_tensor_parallel_accelerators_share_the_dense_weights(self):
        # 8,000 bytes over 4 accelerators at 1,000 bytes/s
        assert step_s(Batch(decoding=1), dense_bytes=8000.0, tensor_parallel=4) == seconds(2)

    def test_dense_weights_are_read_once_for_any_batch(self):
        assert step_s(Batch(decoding=50), dense_bytes=8000.0, tensor_parallel=4) == seconds(2)

    @pytest.mark.parametrize(
        ("batch", "expected_s"),
        [
            pytest.param(Batch(decoding=1), 1.0, id="1 token: 1/4 of 4 s"),
            pytest.param(Batch(decoding=2), 1.75, id="2 tokens: 1 - 9/16 = 7/16"),
            pytest.param(
                Batch(decoding=1, prefilling=1, prefill_tokens=2), 2.3125, id="3: 1 - 27/64 = 37/64"
            ),
        ],
    )
    def test_experts_are_read_as_far_as_tokens_are_routed_to_them(
        self, batch: Batch, expected_s: float
    ):
        # 8,000 bytes over 2 accelerators: 4 s for all; one of four experts a token
        prices = {"expert_bytes": 8000.0, "expert_parallel": 2, "experts": 4}
        assert step_s(batch, **prices) == seconds(expected_s)

    def test_drafts_are_routed_too(self):
        # 1 + 1 draft = 2 tokens: 7/16 of 8 s
        prices = {"expert_bytes": 8000.0, "experts": 4, "acceptance": (0.0,)}
        assert step_s(Batch(decoding=1), **prices) == seconds(3.5)

    def test_a_dense_model_is_one_expert_that_all_need(self):
        assert step_s(Batch(decoding=1), expert_bytes=8000.0) == seconds(8)

    def test_the_cache_of_every_context_token_is_read(self):
        # 6,000 tokens of 2 bytes over 4 accelerators
        prices = {"kv_read_bytes_per_token": 2.0, "kv_parallel": 4}
        assert step_s(Batch(decoding=3), 6000, **prices) == seconds(3)

    def test_a_chunk_reads_the_cache_in_front_of_it(self):
        batch = Batch(decoding=0, prefilling=1, prefill_tokens=1, prefill_context_tokens=500)
        # 500 tokens of 2 bytes
        assert step_s(batch, kv_read_bytes_per_token=2.0) == seconds(1)

    def test_some_reads_are_the_same_whatever_the_context(self):
        batch = Batch(decoding=2, prefilling=1, prefill_tokens=9)
        # 3 sequences of 500 bytes over 2 accelerators
        assert step_s(batch, 9999, kv_read_bytes_per_sequence=500.0, kv_parallel=2) == seconds(0.75)

    def test_weights_experts_and_cache_add_up(self):
        prices = {"dense_bytes": 1000.0, "expert_bytes": 1000.0, "kv_read_bytes_per_token": 1.0}
        assert step_s(Batch(decoding=1), 500, **prices) == seconds(2.5)  # 1 + 1 + 0.5


class TestCompute:
    def test_all_accelerators_compute(self):
        # 16 tokens of 1,000 operations at 8 x 1,000 a second
        batch = Batch(decoding=10, prefilling=1, prefill_tokens=6)
        assert step_s(batch, flops_per_token=1000.0) == seconds(2)

    def test_drafts_are_computed_too(self):
        # 4 sequences of 1 + 1 tokens, 1,000 operations each
        prices = {"flops_per_token": 1000.0, "acceptance": (0.5,)}
        assert step_s(Batch(decoding=4), **prices) == seconds(1)

    def test_attention_grows_with_the_context(self):
        # 1,000 pairs of 8 operations
        assert step_s(Batch(decoding=1), 1000, attention_flops_per_pair=8.0) == seconds(1)

    def test_each_draft_attends_to_the_context(self):
        # 3 tokens with 1,000 each
        prices = {"attention_flops_per_pair": 8.0, "acceptance": (0.5, 0.5)}
        assert step_s(Batch(decoding=1), 1000, **prices) == seconds(3)

    def test_pairs_of_a_prompt(self):
        batch = Batch(decoding=0, prefilling=1, prefill_tokens=1, prefill_pairs=500)
        assert step_s(batch, attention_flops_per_pair=8.0) == seconds(0.5)

    @pytest.mark.parametrize(
        ("decoding", "expected_s"),
        [
            pytest.param(15, 2.0, id="memory: 2 s against 15 x 0.125 s"),
            pytest.param(17, 2.125, id="compute: 17 x 0.125 s against 2 s"),
        ],
    )
    def test_the_longer_of_memory_and_compute_counts(self, decoding: int, expected_s: float):
        prices = {"dense_bytes": 2000.0, "flops_per_token": 1000.0}
        assert step_s(Batch(decoding=decoding), **prices) == seconds(expected_s)

    def test_the_context_can_move_a_step_over_the_ridge(self):
        # memory 2 s + 1 ms a token of context, compute 1 s + 2 ms: equal at 1,000
        prices = {
            "dense_bytes": 2000.0,
            "kv_read_bytes_per_token": 1.0,
            "flops_per_token": 8000.0,
            "attention_flops_per_pair": 16.0,
        }
        assert step_s(Batch(decoding=1), 900, **prices) == seconds(2.9)
        assert step_s(Batch(decoding=1), 1100, **prices) == seconds(3.2)


class TestFixed:
    def test_overheads_come_on_top(self):
        prices = {"step_overhead_s": 1.0, "sequence_overhead_s": 0.25, "dense_bytes": 2000.0}
        batch = Batch(decoding=2, prefilling=3, prefill_tokens=9)
        assert step_s(batch, **prices) == seconds(3.5)  # 1 + 2 x 0.25 + 2

    @pytest.mark.parametrize(
        ("batch", "acceptance", "expected_s"),
        [
            pytest.param(Batch(decoding=5), (0.5,), 0.5, id="once a step"),
            pytest.param(Batch(decoding=5), (), 0.0, id="not without drafts"),
            pytest.param(Batch(decoding=0, prefilling=1), (0.5,), 0.0, id="not for a prompt"),
        ],
    )
    def test_drafting(self, batch: Batch, acceptance: tuple[float, ...], expected_s: float):
        cost_s = step_s(batch, draft_s=0.5, acceptance=acceptance)
        assert cost_s == pytest.approx(expected_s, abs=1e-6)

    def test_tokens_are_exchanged(self):
        batch = Batch(decoding=2, prefilling=1, prefill_tokens=3)
        prices = {"tensor_parallel": 2, "exchange_bytes_per_token": 100.0}
        assert step_s(batch, **prices) == seconds(0.5)  # 5 x 100 / 1,000

    def test_a_lone_accelerator_exchanges_nothing(self):
        prices = {"accelerators": 1, "exchange_bytes_per_token": 100.0}
        assert step_s(Batch(decoding=5), **prices) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize(
        ("parallel", "expected_s"),
        [
            pytest.param({}, 0.0, id="alone"),
            pytest.param({"tensor_parallel": 2}, 0.2, id="2 x 10 layers x 0.01"),
            pytest.param({"expert_parallel": 2}, 0.2, id="experts: the same"),
            pytest.param({"pipeline_parallel": 4}, 0.03, id="3 hand-offs"),
            pytest.param({"tensor_parallel": 2, "pipeline_parallel": 4}, 0.23, id="both"),
            pytest.param({"kv_parallel": 2}, 0.0, id="data parallel attention"),
        ],
    )
    def test_collectives_take_their_latency(self, parallel: dict[str, int], expected_s: float):
        taken_s = step_s(Batch(decoding=1), collective_s=0.01, layers=10, **parallel)
        assert taken_s == pytest.approx(expected_s, abs=1e-9)


class TestPower:
    @pytest.mark.parametrize(
        ("batch", "expected_w"),
        [
            pytest.param(Batch(decoding=4), 3200.0, id="decoding: 8 x 400"),
            # 2 of 4 s compute the prompt: 8 x (400 + 200 / 2)
            pytest.param(Batch(decoding=4, prefill_tokens=16), 4000.0, id="half a prompt"),
            # the same 2 s as 2,000 pairs of 8 operations
            pytest.param(Batch(decoding=4, prefill_pairs=2000), 4000.0, id="half attention"),
            pytest.param(Batch(decoding=0, prefill_tokens=32), 4800.0, id="all prompt: 8 x 600"),
            pytest.param(Batch(decoding=0, prefill_tokens=99), 4800.0, id="never more"),
        ],
    )
    def test_of_a_step_of_4_s(self, batch: Batch, expected_w: float):
        prices: dict[str, Any] = {"flops_per_token": 1000.0, "attention_flops_per_pair": 8.0}
        config = EngineConfig(**(NOTHING | prices))
        assert Roofline(config).step_w(batch, 4.0) == pytest.approx(expected_w)


class TestEnergyMeter:
    @pytest.mark.parametrize(
        ("now_s", "energy_j", "power_w"),
        [
            pytest.param(12.0, 200.0, 100.0, id="idle: 2 x 100"),
            pytest.param(15.0, 500.0, 700.0, id="a step begins: 5 x 100"),
            pytest.param(16.0, 1200.0, 700.0, id="inside: 500 + 700"),
            pytest.param(17.0, 1900.0, 100.0, id="at its end: 500 + 2 x 700"),
            pytest.param(20.0, 2200.0, 100.0, id="after: 1,900 + 3 x 100"),
        ],
    )
    def test_around_the_first_step(self, now_s: float, energy_j: float, power_w: float):
        meter = EnergyMeter(100.0, 10.0)
        meter.add(15.0, 17.0, 700.0)
        assert meter.energy_j(now_s) == pytest.approx(energy_j)
        assert meter.power_w(now_s) == power_w

    def test_steps_and_pauses_add_up(self):
        meter = EnergyMeter(100.0, 0.0)
        meter.add(1.0, 2.0, 500.0)
        meter.add(2.0, 4.0, 300.0)
        meter.add(7.0, 9.0, 600.0)
        # idle 1 + 3 s: 400; 500; 2 x 300; and 1 of 600
        assert meter.energy_j(8.0) == pytest.approx(2100.0)
        assert meter.energy_j(10.0) == pytest.approx(2800.0)  # 600 and an idle second more

    def test_nothing_was_drawn_at_the_beginning(self):
        meter = EnergyMeter(100.0, 10.0)
        assert (meter.energy_j(10.0), meter.power_w(10.0)) == (0.0, 100.0)
