"""What says, early, that a KV cache may thrash before long: no phase beside that can be trusted."""

import math
from collections.abc import Sequence

import numpy as np

from pytest_agentperf.metrics import members
from pytest_agentperf.records import TurnRecord, Window
from pytest_agentperf.reuse import reused

__all__ = ["cliff_signs"]

_HELD_RATIO = 0.95
_LOST_RATIO = 0.001
"""Clean runs stay below in at least nine of ten; a few percent past a cliff most are above."""


def cliff_signs(
    turns: Sequence[TurnRecord], window: Window, *, kv_capacity_tokens: int | None = None
) -> tuple[str, ...]:
    """Return, in words, what says that the KV cache may thrash before long.

    A phase beside such a cliff looks well for half an hour before it collapses, so that no error
    computed inside it is honest.
    """
    inside = [turn for turn in members(turns, window) if turn.error is None]
    return (*_lost_caches(turns, inside), *_full_caches(inside, kv_capacity_tokens))


def _lost_caches(turns: Sequence[TurnRecord], inside: Sequence[TurnRecord]) -> tuple[str, ...]:
    if not any(turn.cached_tokens for turn in inside):
        return ()
    grown = reused(turns, inside)
    lost = sum(each.found_tokens < _HELD_RATIO * each.held_tokens for each in grown)
    if lost <= _LOST_RATIO * len(grown):
        return ()
    return (f"{lost} of {len(grown)} requests found their previous turn gone from the cache",)


def _full_caches(inside: Sequence[TurnRecord], kv_capacity_tokens: int | None) -> tuple[str, ...]:
    contexts = [(t.isl_tokens or 0) + (t.osl_tokens or 0) / 2 for t in inside]
    if kv_capacity_tokens is None or not contexts:
        return ()
    agents = len({turn.agent for turn in inside})
    mean, deviation = float(np.mean(contexts)), float(np.std(contexts))
    needed = agents * mean + 2 * deviation * math.sqrt(agents)
    if needed < kv_capacity_tokens:
        return ()
    return (f"{agents} agents' contexts need {needed:,.0f} of {kv_capacity_tokens:,} KV tokens",)
