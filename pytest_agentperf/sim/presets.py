"""Named deployments: what a data sheet, a model's configuration and a serving recipe give together.

A preset is plausible, not a claim: published figures where there are any, else assumptions that
say so. ``docs/presets.md`` lists every figure with its source. To retune one, change its
``Deployment``.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pytest_agentperf.sim.config import EngineConfig

__all__ = [
    "ACCELERATORS",
    "DEPLOYMENTS",
    "MODELS",
    "Accelerator",
    "Deployment",
    "ModelFacts",
    "PresetSystem",
    "preset",
    "preset_system",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One accelerator as its data sheet has it; rates dense, without sparsity."""

    name: str
    memory_bytes: float
    memory_bytes_per_s: float
    bf16_flops_per_s: float
    fp8_flops_per_s: float
    fp4_flops_per_s: float
    """Equal to FP8, or FP8 to BF16, where the accelerator has no such units."""
    link_bytes_per_s: float
    """To its neighbours, one direction."""
    tdp_w: float
    idle_w: float
    """Typical, assumed; the same holds for the two below."""
    decode_w: float
    prefill_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """One model at the precision it is deployed in."""

    name: str
    layers: int
    hidden: int
    """Width of the residual stream, values."""
    total_parameters: float
    active_parameters: float
    dense_bytes: float
    expert_bytes: float
    """All routed experts."""
    experts: int
    experts_per_token: int
    kv_bytes_per_token: float
    """Stored for each token of context, windows apart."""
    window_bytes_per_token: float = 0.0
    """Stored in addition for a token whose sliding-window entries are kept for prefix reuse."""
    kv_read_bytes_per_token: float
    kv_read_bytes_per_sequence: float
    attention_flops_per_pair: float
    attention_flops_per_token: float
    """Over what is fixed in number: selected tokens and windows, both full."""
    context_limit_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """How one model stands on one system; the assumptions of a preset are here."""

    accelerators: int
    """Of one replica."""
    replicas: int = 1
    prefill_replicas: int = 0
    attention: Literal["tensor", "data"]
    """``tensor``: heads are divided, and a single latent KV head is repeated on every accelerator;
    ``data``: sequences are divided, and the dense weights are repeated."""
    math: Literal["bf16", "fp8", "fp4"]
    """Units that compute; 4-bit weights without 4-bit units are expanded to BF16."""
    memory_ratio: float
    """Of the data sheet's bandwidth; includes that some accelerators get more experts' tokens."""
    compute_ratio: float
    """Of the data sheet's dense rate, in large batches and with their imbalance."""
    link_ratio: float = 0.6
    memory_share: float = 0.9
    """Of the memory given to the server (``gpu-memory-utilization``)."""
    reserved_bytes: float = 8e9
    """Of it, per accelerator: activations, graphs, communication buffers. Assumed."""
    window_share: float = 0.0
    """Of the tokens, those whose sliding-window entries are kept for prefix reuse."""
    max_sequences: int
    max_step_tokens: int = 8192
    acceptance: tuple[float, ...] = ()
    step_overhead_s: float
    sequence_overhead_s: float = 10e-6
    collective_s: float = 10e-6
    draft_s: float = 0.0
    transfer_bytes_per_s: float = 2e11


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetSystem:
    """The system of a preset, for normalised results."""

    name: str
    accelerator: str
    accelerators: int
    tdp_w: float
    """Of one accelerator, watts."""
    racks: float | None
    price_usd_per_hour: float | None
    """For the whole system, where a public list has one."""


ACCELERATORS = {
    # NVIDIA H200 SXM data sheet (FP8 3,958 T and BF16 1,979 T are with sparsity: half). Published
    # mean under this load 520-559 W.
    "h200": Accelerator(
        name="NVIDIA H200 SXM", memory_bytes=141e9, memory_bytes_per_s=4.8e12,
        bf16_flops_per_s=0.989e15, fp8_flops_per_s=1.979e15, fp4_flops_per_s=1.979e15,
        link_bytes_per_s=450e9, tdp_w=700, idle_w=120, decode_w=500, prefill_w=650,
    ),
    # HGX B300: 2.3 TB, FP8 72 P and BF16 36 P with sparsity over 8, FP4 dense 13-14 P.
    "b300": Accelerator(
        name="NVIDIA B300 SXM", memory_bytes=288e9, memory_bytes_per_s=8e12,
        bf16_flops_per_s=2.25e15, fp8_flops_per_s=4.5e15, fp4_flops_per_s=13.5e15,
        link_bytes_per_s=900e9, tdp_w=1100, idle_w=190, decode_w=800, prefill_w=1000,
    ),
    # GB300 NVL72 over 72: 20 TB, 576 TB/s, FP8 360 P, BF16 180 P, FP4 1,080 P dense. Published mean
    # under this load 937 W.
    "gb300": Accelerator(
        name="NVIDIA GB300", memory_bytes=279e9, memory_bytes_per_s=8e12,
        bf16_flops_per_s=2.5e15, fp8_flops_per_s=5e15, fp4_flops_per_s=15e15,
        link_bytes_per_s=900e9, tdp_w=1400, idle_w=200, decode_w=850, prefill_w=1150,
    ),
    # AMD Instinct MI355X data sheet; 7 Infinity Fabric links of 76.8 GB/s each way.
    "mi355x": Accelerator(
        name="AMD Instinct MI355X", memory_bytes=288e9, memory_bytes_per_s=8e12,
        bf16_flops_per_s=2.5e15, fp8_flops_per_s=5e15, fp4_flops_per_s=10.1e15,
        link_bytes_per_s=537e9, tdp_w=1400, idle_w=220, decode_w=850, prefill_w=1150,
    ),
    # Apple M4 Max of 36 GB: 410 GB/s, 32 GPU cores; FP16 27 T is 34 T (40 cores) x 32/40. Watts of
    # the machine under load assumed; TDP is that of its supply.
    "m4-max": Accelerator(
        name="Apple M4 Max", memory_bytes=36e9, memory_bytes_per_s=410e9,
        bf16_flops_per_s=27e12, fp8_flops_per_s=27e12, fp4_flops_per_s=27e12,
        link_bytes_per_s=1e9, tdp_w=140, idle_w=8, decode_w=45, prefill_w=60,
    ),
}  # fmt: skip

# DeepSeek V4 Pro, config.json: 61 layers (30 CSA, 31 HCA), 384 experts of 3 x 7168 x 3072, 6 a
# token, 128 heads of 512, index 64 heads of 128, top 1024, window 128. Card: 1.6T, 49B active.
# Experts MXFP4: 1,547B x (4 + 8/32) bits. An FP8 cache entry: 448 + 2 x 64 (RoPE) + 8 (scales) =
# 584 bytes; an index entry 132. CSA has one of each in 4 tokens, HCA an entry in 128.
_V4_ENTRY, _V4_INDEX, _V4_PAIR = 584, 132, 2 * 128 * (512 + 512)
# DeepSeek V3.2, config.json: 61 layers (58 MoE), 256 experts of 3 x 7168 x 2048, 8 a token, MLA
# 512 + 64, index as above, top 2048; FP8. An entry: 512 + 16 (scales) + 2 x 64 = 656 bytes.
_V32_ENTRY, _V32_PAIR = 656, 2 * 128 * (576 + 512)

MODELS = {
    "deepseek-v4-pro": ModelFacts(
        name="DeepSeek V4 Pro", layers=61, hidden=7168,
        total_parameters=1.6e12, active_parameters=49e9,
        dense_bytes=27.2e9,  # 23.5B of FP8 and 1.85B of BF16 embeddings
        expert_bytes=822e9, experts=384, experts_per_token=6,
        kv_bytes_per_token=30 * (_V4_ENTRY + _V4_INDEX) / 4 + 31 * _V4_ENTRY / 128,
        window_bytes_per_token=61 * _V4_ENTRY,
        kv_read_bytes_per_token=30 * _V4_INDEX / 4 + 31 * _V4_ENTRY / 128,
        kv_read_bytes_per_sequence=(30 * 1024 + 61 * 128) * _V4_ENTRY,
        attention_flops_per_pair=30 * 2 * 64 * 128 / 4 + 31 * _V4_PAIR / 128,
        attention_flops_per_token=(30 * 1024 + 61 * 128) * _V4_PAIR,
        context_limit_tokens=131_072,  # of 1M; the submissions' max_seq_len
    ),
    "deepseek-v3.2": ModelFacts(
        name="DeepSeek V3.2", layers=61, hidden=7168,
        total_parameters=671e9, active_parameters=37e9,
        dense_bytes=19e9,  # 15.2B of FP8 and 1.85B of BF16 embeddings
        expert_bytes=654e9, experts=256, experts_per_token=8,
        kv_bytes_per_token=61 * (_V32_ENTRY + 132),
        kv_read_bytes_per_token=61 * 132,
        kv_read_bytes_per_sequence=61 * 2048 * _V32_ENTRY,
        attention_flops_per_pair=61 * 2 * 64 * 128,
        attention_flops_per_token=61 * 2048 * _V32_PAIR,
        context_limit_tokens=163_840,
    ),
    # Model card and config.json: every other layer has a window of 128; 8 KV heads of 64, 64 heads.
    # Experts MXFP4, 4.25 bits; the rest BF16; checkpoint 60.8 GiB. Cache FP8 (assumed).
    "gpt-oss-120b": ModelFacts(
        name="gpt-oss-120b", layers=36, hidden=2880,
        total_parameters=116.8e9, active_parameters=5.1e9,
        dense_bytes=4.3e9, expert_bytes=60.9e9, experts=128, experts_per_token=4,
        kv_bytes_per_token=18 * 1024, window_bytes_per_token=18 * 1024,
        kv_read_bytes_per_token=18 * 1024, kv_read_bytes_per_sequence=18 * 128 * 1024,
        attention_flops_per_pair=18 * 4 * 64 * 64,
        attention_flops_per_token=18 * 128 * 4 * 64 * 64,
        context_limit_tokens=131_072,
    ),
    # The same with 24 layers; GGUF of 12.1 GB, what is not an expert in 8 bits; cache F16.
    "gpt-oss-20b": ModelFacts(
        name="gpt-oss-20b", layers=24, hidden=2880,
        total_parameters=20.9e9, active_parameters=3.6e9,
        dense_bytes=1.95e9, expert_bytes=10.15e9, experts=32, experts_per_token=4,
        kv_bytes_per_token=12 * 2048, window_bytes_per_token=12 * 2048,
        kv_read_bytes_per_token=12 * 2048, kv_read_bytes_per_sequence=12 * 128 * 2048,
        attention_flops_per_pair=12 * 4 * 64 * 64,
        attention_flops_per_token=12 * 128 * 4 * 64 * 64,
        context_limit_tokens=131_072,
    ),
}  # fmt: skip

# Mean accepted lengths of V4 Pro's MTP with thinking, coding prompts (InferenceX, SPEED-Bench):
# 1.79, 2.27, 2.49 for 1, 2, 3 drafts; so 0.79, 0.48 / 0.79, 0.22 / 0.48.
_V4_MTP3 = (0.79, 0.61, 0.46)
_V3_MTP1 = (0.85,)  # DeepSeek V3 report: 85-90 % for the second token

# Blackwell: 0.33 of FP8 beside the exchange is the prefill that InferenceX' 11,200 tok/s/GPU
# (SGLang, 8K/1K) takes if 36 of 44 GPUs prefill, as in a TensorRT-LLM recipe: 12.2K tok/s each.
_GB300 = Deployment(  # 5 x DEP8 decode, 4 x DEP8 prefill: the split is assumed
    accelerators=8, replicas=5, prefill_replicas=4, attention="data", math="fp8",
    memory_ratio=0.75, compute_ratio=0.33, window_share=0.5, max_sequences=1024,
    max_step_tokens=16_384, acceptance=_V4_MTP3, step_overhead_s=4e-3, draft_s=3e-3,
)  # fmt: skip
_B300 = Deployment(  # the published submission: one DEP4 prefill, one DEP4 decode of batch 64 each
    accelerators=4, replicas=1, prefill_replicas=1, attention="data", math="fp8",
    memory_ratio=0.75, compute_ratio=0.33, window_share=0.5, max_sequences=256,
    acceptance=_V4_MTP3, step_overhead_s=4e-3, draft_s=3e-3,
)  # fmt: skip
_H200 = Deployment(  # Dynamo's vLLM recipe: TP8 + EP, Marlin (W4A16), no drafts, whole windows kept
    accelerators=8, attention="tensor", math="bf16", memory_ratio=0.7, compute_ratio=0.4,
    window_share=1.0, max_sequences=64, step_overhead_s=6e-3,
)  # fmt: skip
_MI355X = Deployment(  # TP8, an early stack: unfused kernels, no drafts (as AA remarks), assumed
    accelerators=8, attention="tensor", math="fp8", memory_ratio=0.55, compute_ratio=0.15,
    window_share=1.0, max_sequences=128, step_overhead_s=28e-3, collective_s=20e-6,
)  # fmt: skip


def _gpt_oss(replicas: int, math: Literal["bf16", "fp8"], compute_ratio: float) -> Deployment:
    """A replica on each accelerator; no drafts, BF16 or FP8 activations: assumed."""
    return Deployment(
        accelerators=1, replicas=replicas, attention="data", math=math, memory_ratio=0.7,
        compute_ratio=compute_ratio, max_sequences=256, step_overhead_s=2e-3,
    )  # fmt: skip


DEPLOYMENTS = {
    "gb300-nvl72/deepseek-v4-pro": _GB300,
    "gb300-nvl72/deepseek-v3.2": Deployment(
        accelerators=8, replicas=5, prefill_replicas=4, attention="data", math="fp8",
        memory_ratio=0.75, compute_ratio=0.33, max_sequences=1024, max_step_tokens=16_384,
        acceptance=_V3_MTP1, step_overhead_s=4e-3, draft_s=1e-3,
    ),
    "gb300-nvl72/gpt-oss-120b": _gpt_oss(72, "fp8", 0.25),
    "b300x8/deepseek-v4-pro": _B300,
    "b300x8/deepseek-v3.2": Deployment(
        accelerators=4, replicas=1, prefill_replicas=1, attention="data", math="fp8",
        memory_ratio=0.75, compute_ratio=0.33, max_sequences=256, acceptance=_V3_MTP1,
        step_overhead_s=4e-3, draft_s=1e-3,
    ),
    "b300x8/gpt-oss-120b": _gpt_oss(8, "fp8", 0.25),
    "h200x8/deepseek-v4-pro": _H200,
    "h200x8/deepseek-v3.2": Deployment(
        accelerators=8, attention="tensor", math="fp8", memory_ratio=0.7, compute_ratio=0.4,
        max_sequences=128, step_overhead_s=5e-3,
    ),
    "h200x8/gpt-oss-120b": _gpt_oss(8, "bf16", 0.4),
    "mi355x8/deepseek-v4-pro": _MI355X,
    "mi355x8/deepseek-v3.2": Deployment(
        accelerators=8, attention="tensor", math="fp8", memory_ratio=0.65, compute_ratio=0.3,
        max_sequences=256, step_overhead_s=7e-3, collective_s=15e-6,
    ),
    "mi355x8/gpt-oss-120b": _gpt_oss(8, "fp8", 0.2),
    # llama.cpp: 4 slots, little gained from batches (b1 133, b2 176, b4 219 tok/s on a larger Mac).
    "laptop": Deployment(
        accelerators=1, attention="data", math="bf16", memory_ratio=0.7, compute_ratio=0.35,
        memory_share=0.75, reserved_bytes=1e9, max_sequences=4, max_step_tokens=2048,
        step_overhead_s=1e-3, sequence_overhead_s=1e-3,
    ),
}  # fmt: skip

_SYSTEMS = {
    "gb300-nvl72": PresetSystem(
        name="GB300 NVL72", accelerator="gb300", accelerators=72, tdp_w=1400, racks=1,
        price_usd_per_hour=None,
    ),
    "b300x8": PresetSystem(
        name="HGX B300", accelerator="b300", accelerators=8, tdp_w=1100, racks=None,
        price_usd_per_hour=None,
    ),
    # On demand at specialised clouds 3.50-4.50 $ an hour and GPU, May 2026 (Mercatus GPU Index).
    "h200x8": PresetSystem(
        name="HGX H200", accelerator="h200", accelerators=8, tdp_w=700, racks=None,
        price_usd_per_hour=32.0,
    ),
    "mi355x8": PresetSystem(
        name="MI355X platform", accelerator="mi355x", accelerators=8, tdp_w=1400, racks=None,
        price_usd_per_hour=None,
    ),
    "laptop": PresetSystem(
        name="Laptop", accelerator="m4-max", accelerators=1, tdp_w=140, racks=None,
        price_usd_per_hour=None,
    ),
}  # fmt: skip


def preset(name: str) -> EngineConfig:
    """Return the configuration of ``HARDWARE/MODEL``, or of ``laptop``.

    Raises:
        ValueError: the name is unknown; lists those that are known.
    """
    deployment = _known(name)
    hardware, _, model_name = name.partition("/")
    accelerator = ACCELERATORS[_SYSTEMS[hardware].accelerator]
    model = MODELS[model_name or "gpt-oss-20b"]
    count = deployment.accelerators
    by_heads = deployment.attention == "tensor"
    rates = {
        "bf16": accelerator.bf16_flops_per_s,
        "fp8": accelerator.fp8_flops_per_s,
        "fp4": accelerator.fp4_flops_per_s,
    }
    return EngineConfig(
        max_sequences=deployment.max_sequences,
        max_step_tokens=deployment.max_step_tokens,
        context_limit_tokens=model.context_limit_tokens,
        kv_capacity_tokens=0,
        acceptance=deployment.acceptance,
        accelerators=count,
        tensor_parallel=count if by_heads else 1,
        expert_parallel=count,
        kv_parallel=1 if by_heads else count,
        memory_bytes=accelerator.memory_bytes * deployment.memory_share - deployment.reserved_bytes,
        memory_bytes_per_s=accelerator.memory_bytes_per_s * deployment.memory_ratio,
        flops_per_s=rates[deployment.math] * deployment.compute_ratio,
        link_bytes_per_s=accelerator.link_bytes_per_s * deployment.link_ratio,
        collective_s=deployment.collective_s,
        layers=model.layers,
        dense_bytes=model.dense_bytes,
        expert_bytes=model.expert_bytes,
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        flops_per_token=2 * model.active_parameters + model.attention_flops_per_token,
        attention_flops_per_pair=model.attention_flops_per_pair,
        kv_bytes_per_token=model.kv_bytes_per_token
        + deployment.window_share * model.window_bytes_per_token,
        kv_read_bytes_per_token=model.kv_read_bytes_per_token,
        kv_read_bytes_per_sequence=model.kv_read_bytes_per_sequence,
        exchange_bytes_per_token=_exchange_bytes_per_token(model, count, by_heads=by_heads),
        step_overhead_s=deployment.step_overhead_s,
        sequence_overhead_s=deployment.sequence_overhead_s,
        draft_s=deployment.draft_s,
        replicas=deployment.replicas,
        prefill_replicas=deployment.prefill_replicas,
        transfer_bytes_per_s=deployment.transfer_bytes_per_s,
        idle_w=accelerator.idle_w,
        decode_w=accelerator.decode_w,
        prefill_w=accelerator.prefill_w,
    )


def preset_system(name: str) -> PresetSystem:
    """Return the system that a preset stands on.

    Raises:
        ValueError: the name is unknown; lists those that are known.
    """
    _known(name)
    system = _SYSTEMS[name.partition("/")[0]]
    return replace(system, accelerator=ACCELERATORS[system.accelerator].name)


def _known(name: str) -> Deployment:
    if name not in DEPLOYMENTS:
        raise ValueError(f"unknown preset {name!r}; known are {', '.join(DEPLOYMENTS)}")
    return DEPLOYMENTS[name]


def _exchange_bytes_per_token(model: ModelFacts, count: int, *, by_heads: bool) -> float:
    """Return what one accelerator sends for each token of a step of the replica."""
    others = (count - 1) / count
    if by_heads:  # two ring all-reduces a layer, in BF16: each value is sent about twice
        return model.layers * 2 * 2 * others * model.hidden * 2
    # to the experts in FP8 and back in BF16; every accelerator sends its share of the tokens
    return model.layers * model.experts_per_token * others * model.hidden * 3 / count
