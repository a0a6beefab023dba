"""A small engine to test with, and what comes out of it."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from typing import Any

import pytest

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.engine import Engine
from pytest_agentperf.sim.sequence import Request

TOY = EngineConfig(
    max_sequences=4,
    max_step_tokens=100,
    acceptance=(),
    context_limit_tokens=960,
    kv_capacity_tokens=1024,  # 16 blocks of 64
    step_overhead_s=1.0,
    sequence_overhead_s=0.1,
    memory_bytes_per_s=1000.0,
    kv_read_bytes_per_token=1.0,  # 0.001 s
    flops_per_s=100.0,
    flops_per_token=1.0,  # 0.01 s
)


def toy(**changes: Any) -> EngineConfig:
    return replace(TOY, **changes)


def request(
    name: str, prompt_tokens: int, osl_tokens: int = 1, blocks: str = "", **more: Any
) -> Request:
    """A prompt whose blocks begin with one for each letter."""
    chain = tuple(blocks[: end + 1] for end in range(len(blocks)))
    return Request(
        id=name, prompt_tokens=prompt_tokens, osl_tokens=osl_tokens, blocks=chain, **more
    )


def prompt(name: str, blocks: str, osl_tokens: int = 1, **more: Any) -> Request:
    """One block of 64 tokens for each letter, and one token more."""
    return request(name, 64 * len(blocks) + 1, osl_tokens, blocks, **more)


@dataclass
class Seen:
    """What came out of an engine until it had nothing more to do."""

    tokens: dict[str, list[tuple[float, int]]] = field(
        default_factory=dict[str, list[tuple[float, int]]]
    )
    """For each request, when it had how many."""
    cached_tokens: dict[str, int] = field(default_factory=dict[str, int])
    finished: list[str] = field(default_factory=list[str])
    ends_s: list[float] = field(default_factory=list[float])

    def bursts(self, name: str) -> list[int]:
        counts = [0, *(tokens for _, tokens in self.tokens[name])]
        return [after - before for before, after in pairwise(counts)]

    def times_s(self, name: str) -> list[float]:
        return [at_s for at_s, _ in self.tokens[name]]


def run(
    engine: Engine,
    arrivals: Iterable[tuple[float, Request]] = (),
    *,
    looks_ahead: bool = False,
    cancels: dict[int, str] | None = None,
) -> Seen:
    """Serve requests that arrive at their times; a cancel comes before the segment of its number.

    Looking ahead, a segment reaches to the next arrival; else it is one step.
    """
    left = deque(sorted(arrivals, key=lambda pair: pair[0]))
    seen, now_s = Seen(), 0.0
    while left or engine.busy:
        if not engine.busy:
            now_s = max(now_s, left[0][0])
        while left and left[0][0] <= now_s:
            engine.submit(left.popleft()[1])
        engine.cancel((cancels or {}).get(len(seen.ends_s), ""))
        if not engine.busy:
            continue
        segment = engine.advance(now_s, (left[0][0] if left else inf) if looks_ahead else now_s)
        assert segment is not None, "stands still with work to do"
        for gain in segment.gains:
            pairs = zip(gain.ends_s, gain.tokens, strict=True)
            seen.tokens.setdefault(gain.request_id, []).extend(pairs)
            seen.cached_tokens[gain.request_id] = gain.cached_tokens
            seen.finished += [gain.request_id] if gain.finished else []
        now_s = segment.end_s
        seen.ends_s.append(now_s)
    return seen


def at_once(*requests: Request) -> list[tuple[float, Request]]:
    return [(0.0, each) for each in requests]


def cached_tokens(engine: Engine, blocks: str) -> int:
    """Run one request of one token and tell how much of its prompt was in the cache."""
    return run(engine, at_once(prompt("probe", blocks))).cached_tokens["probe"]


def seconds(*values: float) -> Any:
    return pytest.approx(list(values), rel=1e-9)
