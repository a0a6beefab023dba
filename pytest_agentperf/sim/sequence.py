"""What goes into an engine and what comes out of it, and a request on its way through."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = [
    "Counters",
    "Gain",
    "QueueFullError",
    "Request",
    "Segment",
    "ServedSequence",
    "draw_progress",
]

_MOST_SEED = 2**64 - 1

Tokens = np.ndarray[tuple[int], np.dtype[np.int64]]


class QueueFullError(Exception):
    """The queue has no place for one more request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt, and how long its answer will be."""

    id: str
    prompt_tokens: int
    osl_tokens: int
    blocks: Sequence[Hashable] = ()
    """Chained hashes of the prompt's full blocks: equal ones mean equal text up to their end."""
    seed: int = 0
    """Of the acceptance of its drafts."""
    prefilled: bool = False
    """The prompt's KV and the first token come from another replica."""
    cached_tokens: int = 0
    """What that replica found of the prompt in its prefix cache."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What one sequence gained over the steps of a segment."""

    request_id: str
    ends_s: Sequence[float]
    """When the steps that brought something ended."""
    tokens: Sequence[int]
    """Tokens of the answer so far, after each of them."""
    cached_tokens: int
    """Prompt tokens that were found in the prefix cache when it was first admitted."""
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One step, or a run of decode steps in which nothing but the contexts changes."""

    end_s: float
    gains: tuple[Gain, ...]
    handed_over: tuple[Request, ...] = ()
    """Prompts that are computed, on a replica that only prefills; their first token is a gain."""


@dataclass(slots=True, kw_only=True)
class Counters:
    """Totals since the start, as a server publishes them."""

    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    preemptions: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class ServedSequence:
    """A request on its way, in the queue or in the batch."""

    request: Request
    progress: Tokens
    """Tokens of the answer after the prompt, and after each decode step."""
    last: int
    """Index of its last entry."""
    at: int = -1
    """Index into it; −1 before the first token."""
    computed_tokens: int = 0
    cached_tokens: int | None = None
    blocks: list[Hashable] = field(default_factory=list[Hashable])
    """Known blocks that it uses."""
    private_blocks: int = 0

    @property
    def known_tokens(self) -> int:
        """Tokens of prompt and answer that are there; all but the last must be computed."""
        return self.request.prompt_tokens + (int(self.progress[self.at]) if self.at >= 0 else 0)

    @property
    def held_blocks(self) -> int:
        """Blocks of the KV cache that it uses."""
        return len(self.blocks) + self.private_blocks

    def full_blocks(self, block_tokens: int) -> list[Hashable]:
        """Return the keys of the blocks before its last token, which is computed in any case."""
        return self.block_keys(0, (self.known_tokens - 1) // block_tokens)

    def block_keys(self, start: int, end: int) -> list[Hashable]:
        """Return what its blocks are known by; those of its answer by a name of its own."""
        blocks = self.request.blocks
        own = range(max(start, len(blocks)), end)
        return [*blocks[start:end], *((self.request.id, index) for index in own)]


def draw_progress(request: Request, acceptance: Sequence[float], seed: int) -> Tokens:
    """Return the tokens of the answer that there are after the prompt, and after each decode step.

    Each step brings one token and the drafts that are accepted, each only if all before it were.

    Args:
        request: its length and seed.
        acceptance: probability for each drafted position; empty without drafts.
        seed: of the whole simulation.
    """
    osl, drafts = request.osl_tokens, len(acceptance)
    if all(share == 1 for share in acceptance):
        return np.minimum(np.arange(1, osl + drafts + 1, drafts + 1), osl)
    # Probability that more than 0, 1, 2 … drafts are accepted, ascending for the search.
    more = np.cumprod(np.asarray(acceptance))[::-1]
    random = np.random.default_rng((seed, request.seed & _MOST_SEED)).random(osl)
    bursts = 1 + drafts - np.searchsorted(more, random, side="right")
    totals = 1 + np.cumsum(bursts)
    steps = int(np.searchsorted(totals, osl)) + 1 if osl > 1 else 0
    return np.minimum(np.concatenate(([1], totals[:steps])), osl)
