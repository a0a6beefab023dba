"""One replica of a continuous-batching inference server, as a state machine without a clock.

The caller says when a step starts and how far it may look ahead, waits until the steps have ended,
and only then hands out what they brought. The rules, after vLLM's scheduler:

- A step serves the running sequences in order of admission: a decoding one computes its next token
  and its drafts, one whose prompt is not computed yet takes what is left of the token budget. Then
  requests are admitted from the queue, strictly first in, first out.
- A request is admitted when its whole prompt fits into the free blocks, but holds only those of
  what is computed, and grows as it decodes. When there is none left, the sequence admitted last is
  preempted: it loses its blocks, goes to the head of the queue, and computes prompt and answer so
  far again. Nobody is admitted in such a step.
- The step that computes the last prompt token brings the first token. A later step brings one
  token and as many drafts as are accepted, each only if all before it were.
- Prompt blocks are known to others as soon as they are scheduled, and stay, least recently used
  first to go, until their room is needed. The last prompt token is always computed, as its output
  is wanted. Blocks of an answer help only the sequence itself, after a preemption: a replayed
  history holds the recorded answer, not ours.

Between events at which the batch changes, all steps are one vector: with every acceptance drawn
beforehand, contexts, durations and ends of a run of decode steps are sums of known numbers.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.energy import EnergyMeter
from pytest_agentperf.sim.kv_cache import BlockPool
from pytest_agentperf.sim.roofline import Batch, Roofline, StepCost
from pytest_agentperf.sim.sequence import (
    Counters,
    Gain,
    QueueFullError,
    Request,
    Segment,
    ServedSequence,
    draw_progress,
)

__all__ = ["Engine"]

_Seconds = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(slots=True)
class _Step:
    """What is scheduled for one step."""

    budget: int
    decoding: list[ServedSequence] = field(default_factory=list[ServedSequence])
    chunks: list[tuple[ServedSequence, int]] = field(
        default_factory=list[tuple[ServedSequence, int]]
    )
    """Sequences whose prompt is computed, with the tokens of this step's chunk."""
    preempted: bool = False


class Engine:
    """One replica: ``submit`` requests, then ``advance`` for as long as ``busy``."""

    def __init__(
        self, config: EngineConfig, *, only_prefills: bool = False, began_s: float = 0.0
    ) -> None:
        """Make an idle replica.

        Args:
            config: the deployment.
            only_prefills: hand every request over after its first token.
            began_s: when it starts to draw power.
        """
        self.config = config
        self.counters = Counters()
        self.pool = BlockPool(config.kv_tokens // config.block_tokens)
        self._only_prefills = only_prefills
        self._roofline = Roofline(config)
        self._drafts = len(config.acceptance)
        self._waiting: deque[ServedSequence] = deque()
        self._running: list[ServedSequence] = []
        self._energy = EnergyMeter(config.accelerators * config.idle_w, began_s)

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
        """Whether a step would have something to do."""
        return bool(self._running or self._waiting)

    @property
    def kv_use_ratio(self) -> float:
        """Share of the KV cache that running sequences hold; reusable blocks count as free."""
        return 1 - self.pool.free_blocks / self.pool.capacity_blocks

    def energy_j(self, now_s: float) -> float:
        """Return the energy of all accelerators from the beginning until now."""
        return self._energy.energy_j(now_s)

    def power_w(self, now_s: float) -> float:
        """Return the power of all accelerators now."""
        return self._energy.power_w(now_s)

    def submit(self, request: Request) -> None:
        """Queue a request; one that is prefilled already is never refused.

        Raises:
            QueueFullError: the queue is full.
            ValueError: it has no tokens, or is longer than the context limit.
        """
        total_tokens = request.prompt_tokens + request.osl_tokens
        if request.prompt_tokens < 1 or request.osl_tokens < 1:
            raise ValueError(f"request {request.id!r} needs a prompt and an answer of 1 token each")
        if total_tokens > self.config.context_limit_tokens:
            raise ValueError(f"request {request.id!r} of {total_tokens} tokens is over the limit")
        if len(self._waiting) >= self.config.max_waiting and not request.prefilled:
            raise QueueFullError(f"{len(self._waiting)} requests are waiting already")
        progress = draw_progress(request, self.config.acceptance, self.config.seed)
        self._waiting.append(
            ServedSequence(request=request, progress=progress, last=progress.size - 1)
        )

    def cancel(self, request_id: str) -> None:
        """Forget a request and free what it holds; an unknown id is no error."""
        for sequence in self._running:
            if sequence.request.id == request_id:
                self._running.remove(sequence)
                self._free(sequence)
                return
        for sequence in self._waiting:
            if sequence.request.id == request_id:
                self._waiting.remove(sequence)
                return

    def advance(self, start_s: float, until_s: float) -> Segment | None:
        """Start a step at ``start_s`` and return what will have come out of it at its end.

        Where nothing else happens, the steps after it that start before ``until_s`` are part of
        the segment. ``None`` when there is nothing to compute.
        """
        step = self._schedule()
        if not step.decoding and not step.chunks:
            return None
        if step.chunks or step.preempted:
            return self._one_step(step, start_s)
        return self._decode_run(step.decoding, start_s, until_s)

    def _schedule(self) -> _Step:
        step = _Step(self.config.max_step_tokens)
        index = 0
        while index < len(self._running) and step.budget:
            sequence = self._running[index]
            if self._grow(step, sequence):
                index += 1
        while not step.preempted and step.budget and self._admit(step):
            pass
        return step

    def _grow(self, step: _Step, sequence: ServedSequence) -> bool:
        """Give a running sequence its part of the step; false when it was preempted itself."""
        left = sequence.known_tokens - sequence.computed_tokens
        decodes = left == 1 and sequence.at >= 0
        # The budget holds the drafts of a full batch; only a prompt can be cut short by it.
        tokens = min(left + (self._drafts if decodes else 0), step.budget)
        needed = self._blocks(sequence.computed_tokens + tokens) - sequence.held_blocks
        while needed > 0 and not self.pool.try_take(needed):
            victim = self._running.pop()
            self._preempt(victim)
            step.preempted = True
            if victim is sequence:
                return False
        sequence.private_blocks += max(0, needed)
        self._take_part(step, sequence, tokens, decodes=decodes)
        return True

    def _admit(self, step: _Step) -> bool:
        """Admit the head of the queue; false when there is none or it has to wait."""
        if not self._waiting or len(self._running) >= self.config.max_sequences:
            return False
        sequence = self._waiting[0]
        found = self.pool.find(sequence.full_blocks(self.config.block_tokens))
        if sequence.request.prefilled and sequence.at < 0:
            return self._admit_arrived(step, sequence, found)
        known, computed = sequence.known_tokens, len(found) * self.config.block_tokens
        tokens = min(known - computed, step.budget)
        # The whole prompt must fit, though only the chunk takes its blocks now.
        room = self._blocks(known) - len(found)
        new = self._blocks(computed + tokens) - len(found)
        if not self.pool.try_reuse(found, new, room):
            return False
        self._count_admission(sequence, computed)
        self._place(sequence, found, new, computed)
        self._take_part(step, sequence, tokens, decodes=False)
        return True

    def _admit_arrived(self, step: _Step, sequence: ServedSequence, found: list[Hashable]) -> bool:
        """Admit a prompt that another replica computed: it decodes at once."""
        known, tokens = sequence.known_tokens, self.config.verified_tokens
        new = self._blocks(known + tokens) - len(found)
        if step.budget < tokens or not self.pool.try_reuse(found, new, new):
            return False
        sequence.cached_tokens = sequence.request.cached_tokens
        self._place(sequence, found, new, known)
        sequence.at = 0
        self._publish(sequence)
        self._take_part(step, sequence, tokens, decodes=True)
        return True

    def _place(
        self, sequence: ServedSequence, found: list[Hashable], new: int, computed_tokens: int
    ) -> None:
        self._running.append(self._waiting.popleft())
        sequence.blocks, sequence.private_blocks = found, new
        sequence.computed_tokens = computed_tokens

    def _count_admission(self, sequence: ServedSequence, cached_tokens: int) -> None:
        if sequence.cached_tokens is None:
            sequence.cached_tokens = cached_tokens
            self.counters.prompt_tokens += sequence.request.prompt_tokens
            self.counters.prefix_queries_tokens += sequence.request.prompt_tokens
            self.counters.prefix_hits_tokens += cached_tokens

    def _take_part(
        self, step: _Step, sequence: ServedSequence, tokens: int, *, decodes: bool
    ) -> None:
        step.budget -= tokens
        if decodes:
            step.decoding.append(sequence)
        else:
            step.chunks.append((sequence, tokens))
            sequence.computed_tokens += tokens
            self._publish(sequence)

    def _publish(self, sequence: ServedSequence) -> None:
        full = sequence.computed_tokens // self.config.block_tokens
        for key in sequence.block_keys(len(sequence.blocks), full):
            sequence.blocks.append(self.pool.publish(key))
            sequence.private_blocks -= 1

    def _preempt(self, victim: ServedSequence) -> None:
        self._publish(victim)
        self._free(victim)
        victim.computed_tokens = 0
        self._waiting.appendleft(victim)
        self.counters.preemptions += 1

    def _free(self, sequence: ServedSequence) -> None:
        full = sequence.computed_tokens // self.config.block_tokens
        answer_blocks = full - len(sequence.blocks)
        blank_blocks = sequence.private_blocks - answer_blocks
        self.pool.release(sequence.blocks, answer_blocks, blank_blocks)
        sequence.blocks, sequence.private_blocks = [], 0

    def _blocks(self, tokens: int) -> int:
        """Return the blocks of so many tokens; drafts beyond the context limit take none."""
        return -(-min(tokens, self.config.context_limit_tokens) // self.config.block_tokens)

    def _one_step(self, step: _Step, start_s: float) -> Segment:
        batch = Batch(
            decoding=len(step.decoding),
            prefilling=len(step.chunks),
            prefill_tokens=sum(tokens for _, tokens in step.chunks),
            prefill_pairs=sum(
                tokens * s.computed_tokens - tokens * (tokens - 1) // 2 for s, tokens in step.chunks
            ),
            prefill_context_tokens=sum(s.computed_tokens - tokens for s, tokens in step.chunks),
        )
        context = sum(s.known_tokens for s in step.decoding)
        step_s = self._roofline.cost(batch).step_s(context)
        end_s = start_s + step_s
        self._energy.add(start_s, end_s, self._roofline.step_w(batch, step_s))
        done = [s for s, _ in step.chunks if s.computed_tokens == s.known_tokens]
        return self._settle([*step.decoding, *done], 1, np.asarray([end_s]))

    def _decode_run(
        self, decoding: Sequence[ServedSequence], start_s: float, until_s: float
    ) -> Segment:
        batch = Batch(decoding=len(decoding))
        cost = self._roofline.cost(batch)
        steps = min(s.last - s.at for s in decoding)
        context = sum(s.known_tokens for s in decoding)
        if until_s < start_s + steps * cost.step_s(context):
            # Steps grow longer with the context, so that no more than these can start in time.
            steps = max(1, min(steps, ceil((until_s - start_s) / cost.step_s(context))))
        steps = self._fit(decoding, steps)
        edges_s = self._edges_s(decoding, steps, cost, start_s)
        steps = max(1, int(np.searchsorted(edges_s[:-1], until_s)))
        self._grow_by(decoding, steps)
        end_s = float(edges_s[steps])
        self._energy.add(start_s, end_s, self._roofline.step_w(batch, end_s - start_s))
        return self._settle(decoding, steps, edges_s[1 : steps + 1])

    def _edges_s(
        self, decoding: Sequence[ServedSequence], steps: int, cost: StepCost, start_s: float
    ) -> _Seconds:
        """Return the start of a run of steps, and the end of each."""
        contexts = np.full(steps, sum(s.request.prompt_tokens for s in decoding))
        for sequence in decoding:
            contexts += sequence.progress[sequence.at : sequence.at + steps]
        edges_s = np.empty(steps + 1)
        edges_s[0] = start_s
        edges_s[1:] = cost.fixed_s + np.maximum(
            cost.memory_s + cost.memory_s_per_token * contexts,
            cost.compute_s + cost.compute_s_per_token * contexts,
        )
        return np.cumsum(edges_s)

    def _fit(self, decoding: Sequence[ServedSequence], steps: int) -> int:
        """Return how many of the steps the free blocks allow; the first has its blocks already."""
        if not self._short(decoding, steps):
            return steps
        fits, too_many = 1, steps
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._short(decoding, middle):
                too_many = middle
            else:
                fits = middle
        return fits

    def _short(self, decoding: Sequence[ServedSequence], steps: int) -> bool:
        most = len(decoding) * (1 + self._blocks(steps * self.config.verified_tokens))
        if most <= self.pool.free_blocks:
            return False
        new = sum(self._new_blocks(sequence, steps) for sequence in decoding)
        return new > self.pool.free_blocks

    def _new_blocks(self, sequence: ServedSequence, steps: int) -> int:
        """Return the blocks that a sequence lacks for a number of decode steps."""
        before = int(sequence.progress[sequence.at + steps - 1])
        tokens = sequence.request.prompt_tokens + before + self._drafts
        return max(0, self._blocks(tokens) - sequence.held_blocks)

    def _grow_by(self, decoding: Sequence[ServedSequence], steps: int) -> None:
        for sequence in decoding:
            new = self._new_blocks(sequence, steps)
            taken = self.pool.try_take(new)
            assert taken, "more steps than the free blocks allow"
            sequence.private_blocks += new

    def _settle(
        self,
        served: Sequence[ServedSequence],
        steps: int,
        ends_s: _Seconds,
    ) -> Segment:
        """Move the sequences that gained tokens on, and let those go that have ended."""
        gains: list[Gain] = []
        handed_over: list[Request] = []
        ends = ends_s.tolist()
        self.counters.steps += steps
        for sequence in served:
            before = int(sequence.progress[sequence.at]) if sequence.at >= 0 else 0
            tokens = sequence.progress[sequence.at + 1 : sequence.at + steps + 1].tolist()
            sequence.at += steps
            sequence.computed_tokens = sequence.request.prompt_tokens + tokens[-1] - 1
            ends_here = sequence.at == sequence.last
            self.counters.generation_tokens += tokens[-1] - before
            if before:  # no draft is part of the first token
                self.counters.draft_tokens += self._drafts * steps
                self.counters.accepted_tokens += tokens[-1] - before - steps
            gains.append(
                Gain(sequence.request.id, ends, tokens, sequence.cached_tokens or 0, ends_here)
            )
            if ends_here or self._only_prefills:
                self._running.remove(sequence)
                self._free(sequence)
            if self._only_prefills and not ends_here:
                found = sequence.cached_tokens or 0
                handed_over.append(replace(sequence.request, cached_tokens=found))
        return Segment(end_s=ends[-1], gains=tuple(gains), handed_over=tuple(handed_over))
