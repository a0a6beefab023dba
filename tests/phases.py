"""Requests, phases and their metrics in numbers a reader can add up: seconds in, records out."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_agentperf.metrics import Metrics, summarize
from pytest_agentperf.records import ClientHealth, Measurement, TurnRecord, Window

__all__ = ["WINDOW", "measurement", "metrics", "ns", "request"]


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


WINDOW = Window(start_ns=ns(100), end_ns=ns(200))
"""100 s long."""


def request(
    sent_s: float = 100.0,
    *,
    ttft_s: float = 1.0,
    decode_s: float = 2.0,
    osl_tokens: int | None = 21,
    tokens_at_s: Sequence[float] | None = None,
    **changes: Any,
) -> TurnRecord:
    """A request with two token-bearing events; by default 20 tokens in the 2 s after the first."""
    at_s = (ttft_s, ttft_s + decode_s) if tokens_at_s is None else tokens_at_s
    record = TurnRecord(
        agent=0,
        ordinal=0,
        trajectory="t",
        turn=1,
        last_turn=False,
        scheduled_ns=ns(sent_s),
        sent_ns=ns(sent_s),
        end_ns=ns(sent_s + at_s[-1]),
        first_token_ns=ns(sent_s + at_s[0]),
        last_token_ns=ns(sent_s + at_s[-1]),
        token_offsets_us=np.array([round(s * 1e6) for s in at_s], dtype="<u4").tobytes(),
        osl_tokens=osl_tokens,
        isl_tokens=1000,
        finish_reason="stop",
    )
    return replace(record, **changes)


def measurement(turns: Iterable[TurnRecord], **changes: Any) -> Measurement:
    """One agent's phase over `WINDOW`, by a client that is never late."""
    phase = Measurement(
        agents=1,
        window=WINDOW,
        turns=tuple(turns),
        samples=(),
        health=ClientHealth(loop_lag_s=((0.0,),), cpu_ratio=0.1, first_sent_ns=(0,)),
        floors_met=True,
    )
    return replace(phase, **changes)


def metrics(*turns: TurnRecord, **changes: Any) -> Metrics:
    """What `summarize` makes of these requests, with single values changed."""
    return replace(summarize(measurement(turns)), **changes)
