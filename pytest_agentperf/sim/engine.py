"""A continuous-batching inference server as a state machine without a clock.

The caller asks for one step at a time, waits for as long as the step says it takes, and only then
hands out what the step emitted. The rules, after vLLM's scheduler:

- A step serves every decoding sequence first; what is left of its token budget goes to prompts,
  oldest first, in chunks. The queue is strictly first in, first out: a head that does not fit
  into the KV cache blocks those behind it.
- A sequence reserves the blocks of its prompt and of its whole answer when it is admitted, so
  that none is ever preempted. (A real server does not know the answer's length and may preempt.)
- The step that computes the last prompt token emits the first token; later steps emit
  ``tokens_per_step`` tokens at a time, as speculative decoding does when every draft is accepted.
- Prompt blocks become reusable when they are computed, and stay, least recently used first to go,
  until their room is needed. The last prompt token is always computed, as its output is wanted.
  Generated tokens are not reusable: a replayed history holds the recorded answer, not ours.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from math import inf
from urllib.parse import parse_qsl

__all__ = [
    "BLOCK_TOKENS",
    "BYTES_PER_TOKEN",
    "Counters",
    "Emission",
    "Engine",
    "EngineConfig",
    "Request",
    "StepResult",
    "count_tokens",
    "parse_config",
    "prefix_blocks",
]

BLOCK_TOKENS = 64
"""Tokens in one block of the KV cache, the unit of prefix reuse."""
BYTES_PER_TOKEN = 4
"""The simulator's whole tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Speed and size of the simulated server.

    The defaults resemble one gpt-oss-120b server with speculative decoding: about 2,600 tok/s for
    a lone stream, 100 tok/s for each of about 48 at once.

    Raises:
        ValueError: a field is out of range or contradicts another; names the fields.
    """

    max_sequences: int = 128
    """Sequences in the batch, prefilling ones included."""
    max_step_tokens: int = 2048
    """Prompt and output tokens that one step computes at most."""
    tokens_per_step: int = 4
    """Output tokens a decoding sequence gains in one step; above 1 is speculative decoding."""
    context_limit_tokens: int = 131_072
    """Prompt and answer together."""
    kv_capacity_tokens: int = 2_621_440
    step_overhead_s: float = 0.0007
    decode_s_per_sequence: float = 0.0008
    decode_s_per_context_token: float = 1e-9
    """Reading the KV cache: for each token in the context of each decoding sequence."""
    prefill_s_per_token: float = 1e-05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < inf or (value == 0 and "_s_per_" not in field.name):
                raise ValueError(f"{field.name} is {value}, but must be positive and finite")
        if self.kv_capacity_tokens < self.context_limit_tokens + BLOCK_TOKENS:
            raise ValueError(
                f"kv_capacity_tokens is {self.kv_capacity_tokens}, but must hold one request of "
                f"context_limit_tokens ({self.context_limit_tokens}) and a block of {BLOCK_TOKENS}"
            )
        if self.max_step_tokens < self.max_sequences * self.tokens_per_step:
            raise ValueError(
                f"max_step_tokens is {self.max_step_tokens}, but must hold tokens_per_step for "
                f"each of max_sequences ({self.tokens_per_step} x {self.max_sequences})"
            )


def parse_config(text: str) -> EngineConfig:
    """Read ``field=value&field=value``; fields not named keep their default.

    Raises:
        ValueError: an unknown field, a value of the wrong type or out of range; names the field.
    """
    default = EngineConfig()
    types: dict[str, type[float]] = {
        field.name: type(getattr(default, field.name)) for field in fields(default)
    }
    values: dict[str, float] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in types:
            raise ValueError(f"unknown field {name!r}")
        try:
            values[name] = types[name](value)
        except ValueError as error:
            kind = "a whole number" if types[name] is int else "a number"
            raise ValueError(f"{name} is {value!r}, but must be {kind}") from error
    return EngineConfig(**values)  # pyright: ignore[reportArgumentType] # converted by its type


def count_tokens(text: bytes) -> int:
    """Return the length in tokens; a started token counts whole."""
    return -(-len(text) // BYTES_PER_TOKEN)


def prefix_blocks(text: bytes) -> tuple[bytes, ...]:
    """Return one hash for each full block, each chained to the one before it.

    Equal hashes therefore mean an equal text from the very beginning to the end of that block.
    """
    size = BLOCK_TOKENS * BYTES_PER_TOKEN
    chain: list[bytes] = []
    last = b""
    for start in range(0, len(text) - size + 1, size):
        last = blake2b(last + text[start : start + size], digest_size=16).digest()
        chain.append(last)
    return tuple(chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt, and how long its answer will be."""

    id: str
    prompt_tokens: int
    osl_tokens: int
    blocks: Sequence[bytes] = ()
    """Chained hashes of the prompt's full blocks, see ``prefix_blocks``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """What one sequence gained in one step, to be handed out when the step ends."""

    request_id: str
    tokens: int
    cached_tokens: int
    """Prompt tokens that were found in the prefix cache."""
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step of the batch."""

    duration_s: float
    """0 when there was nothing to compute."""
    emissions: tuple[Emission, ...]


@dataclass(slots=True, kw_only=True)
class Counters:
    """Totals since the start, as a server publishes them."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    evicted_blocks: int = 0


class _BlockPool:
    """Blocks of the KV cache: free, private to one sequence, or cached under their hash."""

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.evicted_blocks = 0
        self._private_blocks = 0
        self._users: dict[bytes, int] = {}
        # Cached blocks that nobody uses, least recently used first.
        self._idle: dict[bytes, None] = {}

    @property
    def used_blocks(self) -> int:
        return len(self._users) - len(self._idle) + self._private_blocks

    def count_hits(self, blocks: Iterable[bytes]) -> int:
        count = 0
        for block in blocks:
            if block not in self._users:
                break
            count += 1
        return count

    def try_acquire(self, cached: Sequence[bytes], private_blocks: int) -> bool:
        woken = sum(block in self._idle for block in cached)
        if self.capacity_blocks - self.used_blocks - woken < private_blocks:
            return False
        for block in cached:
            self._users[block] += 1
            self._idle.pop(block, None)
        self._private_blocks += private_blocks
        while len(self._users) + self._private_blocks > self.capacity_blocks:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._users[oldest]
            self.evicted_blocks += 1
        return True

    def publish(self, block: bytes) -> bool:
        """Turn a private block into a cached one, unless an equal one is cached already."""
        if block in self._users:
            return False
        self._users[block] = 1
        self._private_blocks -= 1
        return True

    def release(self, cached: Sequence[bytes], private_blocks: int) -> None:
        self._private_blocks -= private_blocks
        # From the end: the tail of a prompt is of use to fewer successors than its beginning.
        for block in reversed(cached):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._idle[block] = None


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """A request that holds a place in the batch."""

    request: Request
    cached_tokens: int
    computed_tokens: int
    """Prompt tokens that need no more computing."""
    shared: list[bytes]
    private_blocks: int
    published_blocks: int
    """Prompt blocks that were offered to the prefix cache, found ones included."""
    generated_tokens: int = 0

    @property
    def prompt_left_tokens(self) -> int:
        return self.request.prompt_tokens - self.computed_tokens

    @property
    def context_tokens(self) -> int:
        return self.computed_tokens + self.generated_tokens

    def emit(self, tokens: int) -> Emission:
        tokens = min(tokens, self.request.osl_tokens - self.generated_tokens)
        self.generated_tokens += tokens
        return Emission(
            request_id=self.request.id,
            tokens=tokens,
            cached_tokens=self.cached_tokens,
            finished=self.generated_tokens == self.request.osl_tokens,
        )


class Engine:
    """The server: ``submit`` requests, then ``step`` for as long as ``busy``."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.counters = Counters()
        self._pool = _BlockPool(config.kv_capacity_tokens // BLOCK_TOKENS)
        self._waiting: dict[str, tuple[Request, float]] = {}
        self._running: dict[str, _Sequence] = {}

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a step would have something to do, now or at ``next_start_s``."""
        return bool(self._running or self._waiting)

    @property
    def kv_use_ratio(self) -> float:
        """Share of the KV cache that running sequences hold; reusable blocks count as free."""
        return self._pool.used_blocks / self._pool.capacity_blocks

    def submit(self, request: Request, now_s: float) -> None:
        """Queue a request that arrives at ``now_s``.

        Raises:
            ValueError: it has no tokens, is longer than the context limit, or its id is in use.
        """
        total_tokens = request.prompt_tokens + request.osl_tokens
        if request.prompt_tokens < 1 or request.osl_tokens < 1:
            raise ValueError(f"request {request.id!r} needs a prompt and an answer of 1 token each")
        if total_tokens > self.config.context_limit_tokens:
            raise ValueError(f"request {request.id!r} of {total_tokens} tokens is over the limit")
        if request.id in self._waiting or request.id in self._running:
            raise ValueError(f"request {request.id!r} is already here")
        self._waiting[request.id] = (request, now_s)

    def cancel(self, request_id: str) -> None:
        """Forget a request and free what it holds; an unknown id is no error."""
        self._waiting.pop(request_id, None)
        if request_id in self._running:
            self._finish(self._running[request_id])

    def next_start_s(self, now_s: float) -> float:
        """Return when the next step starts: now, or when the first request comes to an idle server.

        A request that arrives while a step runs waits for its end, also when the caller is late.
        """
        if self._running or not self._waiting:
            return now_s
        return max(now_s, next(iter(self._waiting.values()))[1])

    def step(self, now_s: float) -> StepResult:
        """Start a step at ``now_s`` and return what will have come out of it at its end."""
        config = self.config
        decoding = [each for each in self._running.values() if each.prompt_left_tokens == 0]
        context_tokens = sum(each.context_tokens for each in decoding)
        budget = config.max_step_tokens - config.tokens_per_step * len(decoding)
        prefilled = list(self._prefill(now_s, budget))
        prefill_tokens = sum(tokens for _, tokens in prefilled)
        emissions = [each.emit(config.tokens_per_step) for each in decoding]
        emissions += [each.emit(1) for each, _ in prefilled if each.prompt_left_tokens == 0]
        self._settle(emissions)
        if not decoding and not prefilled:
            return StepResult(duration_s=0.0, emissions=())
        duration_s = (
            config.step_overhead_s
            + config.decode_s_per_sequence * len(decoding)
            + config.decode_s_per_context_token * context_tokens
            + config.prefill_s_per_token * prefill_tokens
        )
        return StepResult(duration_s=duration_s, emissions=tuple(emissions))

    def _prefill(self, now_s: float, budget: int) -> Iterator[tuple[_Sequence, int]]:
        pending = [each for each in self._running.values() if each.prompt_left_tokens]
        while budget:
            sequence = pending.pop(0) if pending else self._admit(now_s)
            if sequence is None:
                return
            tokens = min(budget, sequence.prompt_left_tokens)
            budget -= tokens
            sequence.computed_tokens += tokens
            self._publish(sequence)
            yield sequence, tokens

    def _admit(self, now_s: float) -> _Sequence | None:
        if not self._waiting or len(self._running) == self.config.max_sequences:
            return None
        request, arrival_s = next(iter(self._waiting.values()))
        usable = request.blocks[: (request.prompt_tokens - 1) // BLOCK_TOKENS]
        hits = self._pool.count_hits(usable)
        total_blocks = -(-(request.prompt_tokens + request.osl_tokens) // BLOCK_TOKENS)
        if arrival_s > now_s or not self._pool.try_acquire(usable[:hits], total_blocks - hits):
            return None
        del self._waiting[request.id]
        sequence = _Sequence(
            request=request,
            cached_tokens=hits * BLOCK_TOKENS,
            computed_tokens=hits * BLOCK_TOKENS,
            shared=list(usable[:hits]),
            private_blocks=total_blocks - hits,
            published_blocks=hits,
        )
        self._running[request.id] = sequence
        self.counters.prompt_tokens += request.prompt_tokens
        self.counters.prefix_queries_tokens += request.prompt_tokens
        self.counters.prefix_hits_tokens += sequence.cached_tokens
        self.counters.evicted_blocks = self._pool.evicted_blocks
        return sequence

    def _publish(self, sequence: _Sequence) -> None:
        computed = sequence.computed_tokens // BLOCK_TOKENS
        for block in sequence.request.blocks[sequence.published_blocks : computed]:
            if self._pool.publish(block):
                sequence.shared.append(block)
                sequence.private_blocks -= 1
        sequence.published_blocks = computed

    def _settle(self, emissions: Iterable[Emission]) -> None:
        for emission in emissions:
            self.counters.generation_tokens += emission.tokens
            if emission.finished:
                self._finish(self._running[emission.request_id])

    def _finish(self, sequence: _Sequence) -> None:
        del self._running[sequence.request.id]
        self._pool.release(sequence.shared, sequence.private_blocks)
