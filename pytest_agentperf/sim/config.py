"""What the simulated system is: model, accelerators, scheduler and fleet, as plain numbers.

Byte and operation counts are the model's; rates are what is *achieved*, not what a data sheet
promises. ``Roofline`` turns them into step times, ``presets`` has named sets of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, get_type_hints

__all__ = ["ROUTERS", "EngineConfig", "convert_fields", "override"]

ROUTERS = ("prefix", "round-robin")

_MAY_BE_ZERO = frozenset(
    {
        "kv_capacity_tokens",
        "memory_bytes",
        "dense_bytes",
        "expert_bytes",
        "attention_flops_per_pair",
        "kv_read_bytes_per_token",
        "kv_read_bytes_per_sequence",
        "layers",
        "collective_s",
        "exchange_bytes_per_token",
        "step_overhead_s",
        "sequence_overhead_s",
        "draft_s",
        "prefill_replicas",
        "idle_w",
        "decode_w",
        "prefill_w",
        "seed",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One simulated deployment; what is not per accelerator is per replica.

    The defaults are a toy that two CPU cores can serve in real time: about 2,600 tok/s for a lone
    stream, 100 tok/s for each of about 48 at once.

    Raises:
        ValueError: a field is out of range or contradicts another; names the fields.
    """

    max_sequences: int = 128
    """Sequences in the batch, prefilling ones included."""
    max_step_tokens: int = 2048
    """Prompt and output tokens that one step computes at most."""
    max_waiting: int = 100_000
    """Requests in the queue; one more is refused."""
    context_limit_tokens: int = 131_072
    """Prompt and answer together."""
    block_tokens: int = 64
    """Tokens in one block of the KV cache, the unit of prefix reuse."""
    kv_capacity_tokens: int = 2_621_440
    """Room of the KV cache; 0 takes what the weights leave of ``memory_bytes``."""
    acceptance: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Probability (0-1) that a draft token is accepted, given that all before it were, for each
    drafted position; empty: no speculative decoding."""
    seed: int = 0
    """Of the acceptance of drafts."""

    accelerators: int = 1
    """Of one replica. Compute scales with all of them."""
    tensor_parallel: int = 1
    """Accelerators that share the dense weights of one layer."""
    pipeline_parallel: int = 1
    """Stages that the layers are divided into; batches fill all stages at once."""
    expert_parallel: int = 1
    """Accelerators that share the experts of one layer."""
    kv_parallel: int = 1
    """Accelerators that share the KV cache: by heads, by layers or by sequences."""
    memory_bytes: float = 0.0
    """Per accelerator, for weights and KV cache together."""
    memory_bytes_per_s: float = 4.096e12
    """Per accelerator, achieved."""
    flops_per_s: float = 1e15
    """Per accelerator, achieved."""
    link_bytes_per_s: float = 1e11
    """Per accelerator, between the accelerators of one replica."""
    collective_s: float = 0.0
    """Latency of one collective operation between them; two a layer."""

    layers: int = 0
    dense_bytes: float = 0.0
    """Weights that every step reads: attention, shared experts, embeddings."""
    expert_bytes: float = 0.0
    """All routed experts; a step reads those that its tokens are routed to."""
    experts: int = 1
    """Routed experts of one layer."""
    experts_per_token: int = 1
    flops_per_token: float = 1e10
    """Two for each weight that takes part in one token."""
    attention_flops_per_pair: float = 0.0
    """For each token and each token of context that it attends to, over all layers."""
    kv_bytes_per_token: float = 4096.0
    """Stored, over all layers."""
    kv_read_bytes_per_token: float = 4096.0
    """Read by one decode step for each token of a sequence's context."""
    kv_read_bytes_per_sequence: float = 0.0
    """The same whatever its context: tokens that sparse attention selects, sliding windows."""
    exchange_bytes_per_token: float = 0.0
    """Sent by one accelerator to the others for each token of a step, over all layers; a lone one
    sends nothing."""

    step_overhead_s: float = 0.0007
    """Scheduling, launching and sampling of one step."""
    sequence_overhead_s: float = 0.0008
    """The same for each decoding sequence."""
    draft_s: float = 0.0
    """Drafting, for each step with a decoding sequence."""

    replicas: int = 1
    router: str = "prefix"
    """``prefix``: to the replica that has most of the prompt cached; ``round-robin``."""
    prefill_replicas: int = 0
    """Replicas that only prefill and hand over to the others; 0: every replica does both."""
    transfer_bytes_per_s: float = 5e10
    """KV cache from a prefilling replica to a decoding one."""

    idle_w: float = 100.0
    """Per accelerator, between steps."""
    decode_w: float = 400.0
    """Per accelerator, in a step without prompt tokens."""
    prefill_w: float = 600.0
    """Per accelerator, while it computes prompt tokens."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, int | float) and not _in_range(field.name, value):
                wanted = "0 or more" if field.name in _MAY_BE_ZERO else "positive"
                raise ValueError(f"{field.name} is {value}, but must be {wanted} and finite")
        if self.router not in ROUTERS:
            raise ValueError(f"router is {self.router!r}, but must be one of {', '.join(ROUTERS)}")
        if not all(0 <= share <= 1 for share in self.acceptance):
            raise ValueError(f"acceptance is {self.acceptance}, but shares lie between 0 and 1")
        if not self.idle_w <= self.decode_w <= self.prefill_w:
            raise ValueError(
                f"idle_w, decode_w and prefill_w are {self.idle_w}, {self.decode_w} and "
                f"{self.prefill_w}, but must not fall in this order"
            )
        self._check_parallel()
        self._check_sizes()

    def _check_parallel(self) -> None:
        for name in ("tensor_parallel", "expert_parallel", "kv_parallel", "pipeline_parallel"):
            if getattr(self, name) > self.accelerators:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but a replica has {self.accelerators} "
                    "accelerators"
                )
        for name in ("tensor_parallel", "expert_parallel"):
            if getattr(self, name) * self.pipeline_parallel > self.accelerators:
                raise ValueError(
                    f"{name} x pipeline_parallel is {getattr(self, name)} x "
                    f"{self.pipeline_parallel}, but a replica has {self.accelerators} accelerators"
                )
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token is {self.experts_per_token}, but there are {self.experts}"
            )

    def _check_sizes(self) -> None:
        if self.kv_tokens < self.context_limit_tokens + self.block_tokens:
            name = "kv_capacity_tokens" if self.kv_capacity_tokens else "what memory_bytes leaves"
            raise ValueError(
                f"{name} is {self.kv_tokens} tokens, but must hold one request of "
                f"context_limit_tokens ({self.context_limit_tokens}) and a block of "
                f"{self.block_tokens}"
            )
        if self.max_step_tokens < self.max_sequences * self.verified_tokens:
            raise ValueError(
                f"max_step_tokens is {self.max_step_tokens}, but must hold "
                f"{self.verified_tokens} tokens for each of max_sequences ({self.max_sequences})"
            )

    @property
    def verified_tokens(self) -> int:
        """Tokens that a step computes for one decoding sequence: its next and all drafts."""
        return 1 + len(self.acceptance)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache of one replica has room for."""
        if self.kv_capacity_tokens:
            return self.kv_capacity_tokens
        stages = self.pipeline_parallel
        free_bytes = (
            self.memory_bytes
            - self.dense_bytes / (self.tensor_parallel * stages)
            - self.expert_bytes / (self.expert_parallel * stages)
        )
        return max(0, int(free_bytes * self.kv_parallel / self.kv_bytes_per_token))

    @property
    def total_accelerators(self) -> int:
        """Accelerators of all replicas."""
        return self.accelerators * (self.replicas + self.prefill_replicas)


def _in_range(name: str, value: float) -> bool:
    return 0 < value < inf or (value == 0 and name in _MAY_BE_ZERO)


def convert_fields(kind: type, pairs: Iterable[tuple[str, str]]) -> Mapping[str, Any]:
    """Convert texts to the types of a dataclass' fields.

    Fields are of type ``int``, ``float``, ``str``, ``bool`` or ``tuple[float, ...]`` (separated by
    commas).

    Raises:
        ValueError: an unknown field, or a text that is none of its type; names the field.
    """
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in types:
            raise ValueError(f"unknown field {name!r}")
        values[name] = _convert(name, types[name], text)
    return values


def _convert(name: str, kind: Any, text: str) -> Any:
    if kind is bool:
        if text not in {"0", "1"}:
            raise ValueError(f"{name} is {text!r}, but must be 0 or 1")
        return text == "1"
    try:
        if kind in (int, float, str):
            return kind(text)
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        kinds: dict[Any, str] = {int: "a whole number", float: "a number"}
        wanted = kinds.get(kind, "numbers joined by commas")
        raise ValueError(f"{name} is {text!r}, but must be {wanted}") from error


def override(config: EngineConfig, pairs: Iterable[tuple[str, str]]) -> EngineConfig:
    """Return the configuration with some fields replaced by their texts.

    Raises:
        ValueError: a field is unknown, of the wrong type or out of range; names it.
    """
    return replace(config, **convert_fields(EngineConfig, pairs))
