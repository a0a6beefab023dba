"""Do a server's token counts hold against the model's own tokenizer?

An answer is compared where the tokenizer's template told how all of it was written. One token more
or less is the mark of its end, which some servers count and some do not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_agentperf.records import TurnRecord

__all__ = ["MOST_OFF", "Ratios", "TokenCheck", "WorstCount", "check_tokens"]

MOST_OFF = 0.02
"""METHODOLOGY, section 3."""
_END_TOKENS = 1
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """Of the server's counts over the tokenizer's."""

    n: int
    p05: float
    p50: float
    p95: float
    pooled: float
    """All of the server's tokens over all of the tokenizer's."""

    @property
    def off(self) -> float:
        """How far counts are off, whichever way: in the median and in sum, the nearer of the two.

        A count that is wrong moves both. A mark that a server counts or leaves out moves the median
        where answers are short, and a few answers that are wholly otherwise move the sum.
        """
        return min(abs(self.p50 - 1), abs(self.pooled - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstCount:
    """An answer whose counts are far apart."""

    agent: int
    trajectory: str
    turn: int
    usage_tokens: int
    counted_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCheck:
    """The counts of one phase's answers, and of a sample of its prompts."""

    answers: int
    """Answers of which the server told how long they are."""
    verified: int
    """Of these, those that agree with the tokenizer within 2 %, or one token."""
    osl: Ratios | None
    """Of the answers that could be compared."""
    isl: Ratios | None
    """Of the prompts in the sample."""
    worst: tuple[WorstCount, ...] = ()
    """Answers that are the farthest apart, in tokens."""

    @property
    def verified_ratio(self) -> float | None:
        """Share of the answers that could be compared and agree; ``None``: none could be."""
        return self.verified / self.osl.n if self.osl else None


def check_tokens(turns: Iterable[TurnRecord]) -> TokenCheck | None:
    """Compare the counts of answered requests; ``None`` where nothing was counted here."""
    told = [t for t in turns if t.osl_tokens]
    counted = [t for t in told if t.local_osl_tokens]
    prompts = [(t.isl_tokens, t.local_isl_tokens) for t in told]
    isl = _ratios([(i, n) for i, n in prompts if i and n])
    if not counted and isl is None:
        return None
    pairs = [_pair(t) for t in counted]
    wrong = [t for t, pair in zip(counted, pairs, strict=True) if not _agrees(*pair)]
    return TokenCheck(
        answers=len(told),
        verified=len(counted) - len(wrong),
        osl=_ratios(pairs),
        isl=isl,
        worst=tuple(map(_worst, sorted(wrong, key=_distance, reverse=True)[:_SHOWN])),
    )


def _pair(turn: TurnRecord) -> tuple[int, int]:
    """Return the server's count and ours; equal where only the end mark parts them."""
    told, counted = turn.osl_tokens or 0, turn.local_osl_tokens or 0
    return (counted if abs(told - counted) <= _END_TOKENS else told), counted


def _agrees(told: int, counted: int) -> bool:
    return abs(told - counted) <= MOST_OFF * counted


def _distance(turn: TurnRecord) -> int:
    told, counted = _pair(turn)
    return abs(told - counted)


def _worst(turn: TurnRecord) -> WorstCount:
    return WorstCount(
        agent=turn.agent,
        trajectory=turn.trajectory,
        turn=turn.turn,
        usage_tokens=turn.osl_tokens or 0,
        counted_tokens=turn.local_osl_tokens or 0,
    )


def _ratios(pairs: Sequence[tuple[int, int]]) -> Ratios | None:
    if not pairs:
        return None
    told, counted = np.asarray(pairs, dtype=np.float64).T
    ratios: Any = np.percentile(told / counted, (5, 50, 95))
    p05, p50, p95 = map(float, ratios)
    pooled = float(told.sum() / counted.sum())
    return Ratios(n=len(pairs), p05=p05, p50=p50, p95=p95, pooled=pooled)
