"""What requests found again in the prefix cache, of what their own session had put there."""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_agentperf.records import TurnRecord

__all__ = ["Reuse", "reused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """One request that goes on with a session."""

    turn: TurnRecord
    held_tokens: int
    """The prompt of the request before it: all of it begins this one's prompt."""
    found_tokens: int
    """So many of these were still cached."""


def reused(turns: Sequence[TurnRecord], asked: Sequence[TurnRecord]) -> tuple[Reuse, ...]:
    """Return what requests could find in the cache and what they found.

    First requests of a session have nothing to find, and prompts that got shorter were compacted:
    neither is in it.

    Args:
        turns: all requests, where those before the asked ones are looked up.
        asked: the requests to tell of.

    Returns:
        Nothing where the server reports no cached tokens at all.
    """
    answered = [turn for turn in asked if turn.error is None]
    # vLLM leaves the field out where nothing was cached, so silence is 0 once any answer reports.
    if all(turn.cached_tokens is None for turn in answered):
        return ()
    held = {
        (turn.agent, turn.ordinal, turn.turn): turn.isl_tokens or 0
        for turn in turns
        if turn.error is None
    }
    found: list[Reuse] = []
    for turn in answered:
        before = held.get((turn.agent, turn.ordinal, turn.turn - 1), 0)
        if 0 < before <= (turn.isl_tokens or 0):
            cached = min(turn.cached_tokens or 0, before)
            found.append(Reuse(turn=turn, held_tokens=before, found_tokens=cached))
    return tuple(found)
