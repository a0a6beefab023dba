"""The presets, and what they come to by hand: agents at 20 tok/s beside what was published.

The estimate takes the workload as published: contexts of 27K tokens, 435 output tokens a turn and
1.5 s between turns; and 1,200 prompt tokens a turn that no cache has (from 6K to 45K tokens in 38
turns, and the first prompt: 39K / 38 + 6K / 38; assumed). It knows no queues and no percentiles;
the simulation does.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.presets import (
    ACCELERATORS,
    DEPLOYMENTS,
    MODELS,
    preset,
    preset_system,
)
from pytest_agentperf.sim.roofline import Batch, Roofline

CONTEXT_TOKENS = 27_000
OSL_TOKENS = 435
TOOL_DELAY_S = 1.5
FRESH_TOKENS = 1_200
MEAN_TTFT_S = 5.0
"""About what a P95 of 10 s leaves the mean."""

NAMES = tuple(DEPLOYMENTS)


def accepted_tokens(config: EngineConfig) -> float:
    """Tokens that a step yields to one stream: 1 + a + ab + abc."""
    total = share = 1.0
    for each in config.acceptance:
        share *= each
        total += share
    return total


def stream_tok_per_s(config: EngineConfig, decoding: int) -> float:
    """Output speed of each of the streams of one replica that only decodes."""
    cost = Roofline(config).cost(Batch(decoding=decoding))
    return accepted_tokens(config) / cost.step_s(decoding * CONTEXT_TOKENS)


def prefill_tok_per_s(config: EngineConfig) -> float:
    """Prompt tokens of one replica in full steps."""
    tokens = config.max_step_tokens
    cost = Roofline(config).cost(
        Batch(
            decoding=0,
            prefilling=max(1, tokens // FRESH_TOKENS),
            prefill_tokens=tokens,
            prefill_pairs=tokens * CONTEXT_TOKENS,
            prefill_context_tokens=CONTEXT_TOKENS * max(1, tokens // FRESH_TOKENS),
        )
    )
    return tokens / cost.step_s(0)


def carries(config: EngineConfig, agents: int, speed_tok_per_s: float) -> bool:
    """Say whether steady traffic of so many agents has room in all that is finite."""
    apart = config.prefill_replicas
    caching = apart or config.replicas
    if agents * CONTEXT_TOKENS > caching * config.kv_tokens:
        return False
    # Streams in flight if every turn takes as long as it may.
    answer_s = OSL_TOKENS / speed_tok_per_s
    in_flight = agents * answer_s / (answer_s + TOOL_DELAY_S + (MEAN_TTFT_S if apart else 0))
    decoding = max(1, round(in_flight / config.replicas))
    if decoding > config.max_sequences:
        return False
    speed = stream_tok_per_s(config, decoding)
    if apart:
        turn_s = OSL_TOKENS / speed + TOOL_DELAY_S + MEAN_TTFT_S
        return speed >= speed_tok_per_s and (
            agents * FRESH_TOKENS / turn_s <= apart * prefill_tok_per_s(config)
        )
    turns_per_s = agents / config.replicas / (answer_s + TOOL_DELAY_S)
    busy = turns_per_s * FRESH_TOKENS / prefill_tok_per_s(config)
    return speed * (1 - busy) >= speed_tok_per_s


def estimated_agents(config: EngineConfig, speed_tok_per_s: float) -> int:
    """Largest number of agents below which every number is carried."""
    agents = 0
    while carries(config, agents + max(1, agents // 100), speed_tok_per_s):
        agents += max(1, agents // 100)
    return agents


class TestNames:
    def test_every_system_has_every_model_and_the_laptop_its_own(self):
        systems = ("h200x8", "b300x8", "gb300-nvl72", "mi355x8")
        models = ("deepseek-v4-pro", "deepseek-v3.2", "gpt-oss-120b")
        assert set(NAMES) == {f"{s}/{m}" for s in systems for m in models} | {"laptop"}

    @pytest.mark.parametrize("look_up", [preset, preset_system])
    @pytest.mark.parametrize("name", ["h200x8", "h200x8/gpt-2", "laptop/gpt-oss-20b", ""])
    def test_an_unknown_name_is_refused_with_those_known(
        self, name: str, look_up: Callable[[str], object]
    ):
        with pytest.raises(ValueError, match=f"unknown preset '{name}'") as error:
            look_up(name)
        assert all(known in str(error.value) for known in NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEveryPreset:
    def test_its_accelerators_are_those_of_the_system(self, name: str):
        assert preset(name).total_accelerators == preset_system(name).accelerators

    def test_its_weights_fit_and_leave_room_for_some_contexts(self, name: str):
        config = preset(name)
        weights = config.dense_bytes / config.tensor_parallel
        weights += config.expert_bytes / config.expert_parallel
        assert weights < config.memory_bytes
        assert config.kv_tokens > 2 * config.context_limit_tokens

    def test_rates_stay_below_the_data_sheet(self, name: str):
        config = preset(name)
        system = preset_system(name).accelerator
        sheet = next(each for each in ACCELERATORS.values() if each.name == system)
        assert config.memory_bytes_per_s < sheet.memory_bytes_per_s
        assert config.flops_per_s <= 0.5 * sheet.fp8_flops_per_s
        assert config.idle_w < config.decode_w < config.prefill_w < sheet.tdp_w

    @pytest.mark.parametrize("field", ["memory_bytes_per_s", "flops_per_s", "link_bytes_per_s"])
    def test_more_of_a_rate_is_never_slower(self, name: str, field: str):
        config = preset(name)
        faster = replace(config, **{field: 2 * getattr(config, field)})
        count = config.max_sequences
        assert stream_tok_per_s(faster, count) >= stream_tok_per_s(config, count)
        assert prefill_tok_per_s(faster) >= prefill_tok_per_s(config)

    def test_more_streams_are_slower_each_and_faster_together(self, name: str):
        config = preset(name)
        few, many = config.max_sequences // 2, config.max_sequences
        assert stream_tok_per_s(config, many) < stream_tok_per_s(config, few)
        assert many * stream_tok_per_s(config, many) > few * stream_tok_per_s(config, few)


class TestModelFacts:
    def test_deepseek_v4_pro_parameters(self):
        model = MODELS["deepseek-v4-pro"]
        # 61 x 384 experts of 3 x 7168 x 3072: 1,547B; the card says 1.6T
        routed = model.layers * model.experts * 3 * 7168 * 3072
        assert routed == pytest.approx(1547.4e9, rel=1e-4)
        assert routed < model.total_parameters < 1.05 * routed
        assert model.expert_bytes == pytest.approx(routed * 4.25 / 8, rel=1e-3)

    def test_deepseek_v4_pro_cache(self):
        model = MODELS["deepseek-v4-pro"]
        # 30 x (584 + 132) / 4 + 31 x 584 / 128 = 5,370 + 141.4
        assert model.kv_bytes_per_token == pytest.approx(5511.4, abs=0.1)
        # with 2-byte entries of 512 and 128 a million tokens take vLLM's 9.62 GiB:
        # 30 x 640 x 2 / 4 + 31 x 1024 / 128 = 9,848 bytes a token
        million_tokens_gib = (30 * 640 * 2 / 4 + 31 * 1024 / 128) * 2**20 / 2**30
        assert million_tokens_gib == pytest.approx(9.62, abs=0.01)

    def test_deepseek_v32_cache(self):
        model = MODELS["deepseek-v3.2"]
        assert model.kv_bytes_per_token == 48_068  # 61 x (656 + 132)
        assert model.kv_read_bytes_per_sequence == 81_952_768  # 61 x 2048 x 656

    def test_gpt_oss_checkpoints(self):
        # 36 x 128 x 3 x 2880^2 = 114.7B in 4.25 bits, 2.2B in 16: the 60.8 GiB of the model card
        model = MODELS["gpt-oss-120b"]
        assert model.expert_bytes + model.dense_bytes == pytest.approx(60.8 * 2**30, rel=0.01)
        small = MODELS["gpt-oss-20b"]  # 24 x 32 x 3 x 2880^2 = 19.1B in 4.25 bits, 1.8B in 8
        assert small.expert_bytes + small.dense_bytes == pytest.approx(12.1e9, rel=0.01)


class TestByHand:
    def test_cache_of_the_h200_preset(self):
        # 141 x 0.9 - 8 = 118.9 GB; less 822 / 8 = 102.75 and 27.2 / 8 = 3.4: 12.75 GB on every
        # accelerator the same, over 5,511 + 61 x 584 = 41,135 bytes a token
        assert preset("h200x8/deepseek-v4-pro").kv_tokens == pytest.approx(309_900, rel=1e-3)

    def test_cache_of_the_gb300_preset(self):
        # 279 x 0.9 - 8 - 102.75 - 27.2 = 113.15 GB, by sequences: x 8, over 5,511 + 17,812 bytes
        config = preset("gb300-nvl72/deepseek-v4-pro")
        assert config.kv_tokens == pytest.approx(38.81e6, rel=1e-3)

    def test_decode_step_of_the_h200_preset(self):
        # 3.36 TB/s; dense 3.4 GB: 1.01 ms. 10 x 6 of 384: 1 - (63/64)^10 = 14.6 % of 102.75 GB:
        # 4.46 ms. 10 x 22.5 MB + 270,000 x 1,131 B = 0.53 GB on each: 0.16 ms.
        # Overheads 6 + 0.1; 122 collectives of 10 us: 1.22; 10 x 3.06 MB at 270 GB/s: 0.11
        speed = stream_tok_per_s(preset("h200x8/deepseek-v4-pro"), 10)
        assert speed == pytest.approx(1 / 13.06e-3, rel=0.01)

    def test_prefill_rate_of_the_gb300_preset(self):
        # A token: 98 + 10.1 GFLOP and 27,000 x 186,368 = 5.0; 16,384 of them at 8 x 1.65 PFLOP/s:
        # 140.4 ms. Exchange of 16,384 x 0.861 MB at 540 GB/s: 26.1; overhead 4, collectives 1.2
        per_gpu = prefill_tok_per_s(preset("gb300-nvl72/deepseek-v4-pro")) / 8
        assert per_gpu == pytest.approx(16_384 / 171.7e-3 / 8, rel=0.01)  # 11.9K

    def test_an_early_mi355x_run_of_inferencex(self):
        # Published for 8K/1K: 2,256 tok/s/GPU at 9.4 tok/s/user; 1/9 of it output, so 26.7 users
        # on a GPU, and 16K prompt tokens a second on eight.
        config = preset("mi355x8/deepseek-v4-pro")
        cost = Roofline(config).cost(Batch(decoding=213))
        busy = 2256 * 8 * 8 / 9 / prefill_tok_per_s(config)
        assert (1 - busy) / cost.step_s(213 * 8704) == pytest.approx(9.4, rel=0.25)

    def test_mtp_yields_what_was_measured(self):
        # 1 + 0.79 + 0.79 x 0.61 + 0.79 x 0.61 x 0.46 = 2.49
        config = preset("gb300-nvl72/deepseek-v4-pro")
        assert accepted_tokens(config) == pytest.approx(2.49, abs=0.01)

    def test_the_laptop_carries_a_handful(self):
        # Lone stream, context 0: 1.95 GB + 4/32 x 10.15 GB = 3.2 GB at 287 GB/s: 11.2 ms, + 2 ms
        config = preset("laptop")
        cost = Roofline(config).cost(Batch(decoding=1))
        assert 1 / cost.step_s(0) == pytest.approx(75, rel=0.03)
        assert 1 <= estimated_agents(config, 20) <= 6


class TestBesidePublished:
    """DeepSeek V4 Pro, P25 20 tok/s and P95 TTFT 10 s, published by Artificial Analysis in 2026.

    Agents of B300 and MI355X follow from agents/MW with assumed watts per accelerator.
    """

    @pytest.mark.parametrize(
        ("name", "published", "factor"),
        [
            pytest.param("gb300-nvl72/deepseek-v4-pro", 4140, 1.5, id="GB300, 57.5 x 72"),
            pytest.param("b300x8/deepseek-v4-pro", 150, 1.5, id="B300, 21053 x 8 x 0.89 kW"),
            pytest.param("mi355x8/deepseek-v4-pro", 26, 2.5, id="MI355X, 3551 x 8 x 0.9 kW"),
            pytest.param("h200x8/deepseek-v4-pro", 11, 1.5, id="H200, 1.4 x 8"),
        ],
    )
    def test_the_estimate_is_of_that_size(self, name: str, published: float, factor: float):
        assert 1 / factor < estimated_agents(preset(name), 20) / published < factor

    def test_the_order_of_the_systems(self):
        systems = ("gb300-nvl72", "b300x8", "mi355x8", "h200x8")
        found = [estimated_agents(preset(f"{each}/deepseek-v4-pro"), 20) for each in systems]
        assert found == sorted(found, reverse=True)
