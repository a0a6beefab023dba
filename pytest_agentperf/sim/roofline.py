"""How long one step of a replica takes, and what it draws: the roofline.

    step = overheads + exchange + max(bytes / bandwidth, operations / rate)

Weights are read once a step, experts only as far as its tokens are routed to them: with T tokens,
k of E experts each, an expert is needed with probability 1 − (1 − k/E)^T. The KV cache of every
sequence is read once. Time grows with the context, which is why the coefficients are split in a
fixed part and one per token of context: a run of decode steps is then one vector of numbers.
"""

from dataclasses import dataclass

from pytest_agentperf.sim.config import EngineConfig

__all__ = ["Batch", "Roofline", "StepCost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step computes, apart from the context of its decoding sequences."""

    decoding: int
    """Sequences that decode."""
    prefilling: int = 0
    """Sequences whose prompt is computed, or a chunk of it."""
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    """Each prompt token with each token of context that it attends to."""
    prefill_context_tokens: int = 0
    """Tokens in front of the chunks, whose KV is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Step time as a function of the decoding sequences' total context of C tokens.

    ``fixed_s + max(memory_s + memory_s_per_token * C, compute_s + compute_s_per_token * C)``
    """

    fixed_s: float
    memory_s: float
    memory_s_per_token: float
    compute_s: float
    compute_s_per_token: float

    def step_s(self, context_tokens: int) -> float:
        """Return the duration of one step."""
        return self.fixed_s + max(
            self.memory_s + self.memory_s_per_token * context_tokens,
            self.compute_s + self.compute_s_per_token * context_tokens,
        )


class Roofline:
    """Step times and power of one replica."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._rate = config.accelerators * config.flops_per_s
        self._kv_bandwidth = config.kv_parallel * config.memory_bytes_per_s
        self._dense_s = config.dense_bytes / config.tensor_parallel / config.memory_bytes_per_s
        self._experts_s = config.expert_bytes / config.expert_parallel / config.memory_bytes_per_s
        self._unrouted = 1 - config.experts_per_token / config.experts
        stages = config.pipeline_parallel
        talks = config.tensor_parallel > 1 or config.expert_parallel > 1
        self._latency_s = config.collective_s * ((2 * config.layers if talks else 0) + stages - 1)
        self._exchange_s = config.exchange_bytes_per_token / config.link_bytes_per_s
        if config.accelerators == 1:
            self._exchange_s = 0.0

    def cost(self, batch: Batch) -> StepCost:
        """Return the cost of a step."""
        config = self._config
        verified = config.verified_tokens * batch.decoding
        tokens = verified + batch.prefill_tokens
        fixed_s = (
            config.step_overhead_s
            + config.sequence_overhead_s * batch.decoding
            + (config.draft_s if batch.decoding and config.acceptance else 0.0)
            + self._latency_s
            + tokens * self._exchange_s
        )
        kv_bytes = config.kv_read_bytes_per_token * batch.prefill_context_tokens
        kv_bytes += config.kv_read_bytes_per_sequence * (batch.decoding + batch.prefilling)
        routed = 1 - self._unrouted**tokens
        flops = config.flops_per_token * tokens
        flops += config.attention_flops_per_pair * batch.prefill_pairs
        return StepCost(
            fixed_s=fixed_s,
            memory_s=self._dense_s + routed * self._experts_s + kv_bytes / self._kv_bandwidth,
            memory_s_per_token=config.kv_read_bytes_per_token / self._kv_bandwidth,
            compute_s=flops / self._rate,
            compute_s_per_token=config.attention_flops_per_pair
            * config.verified_tokens
            / self._rate,
        )

    def step_w(self, batch: Batch, step_s: float) -> float:
        """Return the power of all accelerators of the replica in a step.

        Between decode and prefill power in proportion to the share of the step that computing its
        prompt tokens takes.
        """
        config = self._config
        flops = config.flops_per_token * batch.prefill_tokens
        flops += config.attention_flops_per_pair * batch.prefill_pairs
        share = min(1.0, flops / self._rate / step_s) if step_s > 0 else 0.0
        return config.accelerators * (
            config.decode_w + (config.prefill_w - config.decode_w) * share
        )
