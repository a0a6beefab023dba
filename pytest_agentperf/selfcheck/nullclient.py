"""A load process as in a run, against the null server: what a token costs, how wrong times are.

Runs as ``python -m pytest_agentperf.selfcheck.nullclient`` in a process of its own, on as many
streams as it is told, and prints one `Point` as JSON.
"""

import argparse
import asyncio
import gc
import http.client
import math
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import uvloop

from pytest_agentperf.answer import AnswerReader
from pytest_agentperf.clients import open_connection
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.priority import ask_to_run_soon
from pytest_agentperf.protocols import Connection, EndpointInfo
from pytest_agentperf.records import RawAnswer, ReadLag
from pytest_agentperf.room import open_files_up
from pytest_agentperf.selfcheck.nullserver import (
    NUMBER_HEADER,
    RATE_HEADER,
    TOKENS_HEADER,
    Truth,
)

__all__ = ["Point"]

_BODY = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x" * 20_000}]})
_LAG_PERIOD_S = 0.01


class Point(msgspec.Struct, kw_only=True):
    """One load, measured."""

    streams: int
    rate_tok_per_s: float
    """Of one stream."""
    requests: int
    tokens: int
    wall_s: float
    cpu_s: float
    """Of the client's process."""
    ttft_error_s: tuple[float, float, float]
    """P50, P95, P99 of what TTFT is too long by."""
    last_token_error_s: tuple[float, float, float]
    loop_lag_p95_s: float
    loop_lag_p99_s: float
    read_lag_p95_s: float
    """From the kernel's receipt to the read; 0 where the kernel stamps nothing."""
    merged_ratio: float
    """Share of the requests whose first token came in one read with others."""
    server_late_p95_s: float
    """How late the null server was; where that is much, the point says little."""
    failed: int


@dataclass(slots=True)
class _Seen:
    sent_ns: int
    first_ns: int
    last_ns: int
    merged: bool


@dataclass(slots=True)
class _Load:
    rate: float
    tokens: int
    until_ns: int = 0
    number: int = 0
    failed: int = 0
    seen: dict[int, _Seen] = field(default_factory=dict[int, "_Seen"])
    lags_s: list[float] = field(default_factory=list[float])

    async def stream(self, connection: Connection, offset_s: float) -> None:
        await asyncio.sleep(offset_s)
        connected = False
        while time.perf_counter_ns() < self.until_ns:
            self.number += 1
            number = self.number
            reader = AnswerReader()
            raw = RawAnswer(reader=reader)
            await connection.chat(_BODY, raw, osl_tokens=number)
            for at_ns, data in raw.reads:
                reader.feed(at_ns, data)
            answer = reader.finish(raw)
            if answer.error is not None:
                self.failed += 1
            elif connected:  # the first one opens the connection
                stamps = answer.token_ns
                self.seen[number] = _Seen(
                    raw.sent_ns, stamps[0], stamps[-1], answer.first_token_merged
                )
            connected = True

    async def measure_lag(self) -> None:
        while True:
            due_ns = time.perf_counter_ns() + int(_LAG_PERIOD_S * 1e9)
            await asyncio.sleep(_LAG_PERIOD_S)
            self.lags_s.append(max(0.0, (time.perf_counter_ns() - due_ns) / 1e9))


async def _measure(asked: argparse.Namespace) -> Point:
    info = EndpointInfo(
        url=f"http{'s' if asked.pem else ''}://127.0.0.1:{asked.port}/v1",
        headers={TOKENS_HEADER: str(asked.tokens), RATE_HEADER: str(asked.rate)},
        osl_header=NUMBER_HEADER,
    )
    tls, lags = ssl.create_default_context(cafile=asked.pem), ReadLags()
    connections = [
        open_connection(asked.client, info, timeout_s=60.0, tls=tls, lags=lags)
        for _ in range(asked.streams)
    ]
    load = _Load(rate=asked.rate, tokens=asked.tokens)
    answer_s = asked.tokens / asked.rate
    gc.collect()
    gc.freeze()
    gc.disable()
    began_ns, cpu_s = time.perf_counter_ns(), time.process_time()
    load.until_ns = began_ns + int((asked.seconds + answer_s) * 1e9)
    lag = asyncio.create_task(load.measure_lag())
    await asyncio.gather(
        *(
            load.stream(connection, answer_s * number / asked.streams)
            for number, connection in enumerate(connections)
        )
    )
    wall_s, cpu_s = (time.perf_counter_ns() - began_ns) / 1e9, time.process_time() - cpu_s
    lag.cancel()
    for connection in connections:
        await connection.close()
    return _point(asked, load, lags.take(), wall_s=wall_s, cpu_s=cpu_s)


def _point(
    asked: argparse.Namespace, load: _Load, reads: ReadLag, *, wall_s: float, cpu_s: float
) -> Point:
    told = (
        http.client.HTTPSConnection(
            "127.0.0.1", asked.port, context=ssl.create_default_context(cafile=asked.pem)
        )
        if asked.pem
        else http.client.HTTPConnection("127.0.0.1", asked.port)
    )
    told.request("GET", "/truth")
    truths = msgspec.json.decode(told.getresponse().read(), type=dict[int, Truth])
    told.close()
    lag_p95_s, lag_p99_s = map(float, np.quantile(load.lags_s or [0.0], (0.95, 0.99)))
    pairs = [(seen, truths[number]) for number, seen in load.seen.items()]
    return Point(
        streams=asked.streams,
        rate_tok_per_s=asked.rate,
        requests=len(pairs),
        tokens=load.number * load.tokens,
        wall_s=wall_s,
        cpu_s=cpu_s,
        ttft_error_s=_quantiles(
            [(s.first_ns - s.sent_ns) - (t.first_ns - t.read_ns) for s, t in pairs]
        ),
        last_token_error_s=_quantiles([s.last_ns - t.last_ns for s, t in pairs]),
        loop_lag_p95_s=lag_p95_s,
        loop_lag_p99_s=lag_p99_s,
        read_lag_p95_s=reads.p95_s,
        merged_ratio=sum(seen.merged for seen, _ in pairs) / max(1, len(pairs)),
        server_late_p95_s=_quantiles([t.late_ns for _, t in pairs])[1],
        failed=load.failed,
    )


def _quantiles(values_ns: Sequence[int]) -> tuple[float, float, float]:
    """Return P50, P95 and P99 in seconds."""
    if not values_ns:
        return math.nan, math.nan, math.nan
    p50, p95, p99 = np.quantile(np.array(values_ns) / 1e9, (0.5, 0.95, 0.99))
    return float(p50), float(p95), float(p99)


def main() -> None:
    """Measure one point and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--client", default="engine")
    parser.add_argument("--pem", help="over TLS, by the certificate of this file")
    open_files_up()
    ask_to_run_soon()
    point = uvloop.run(_measure(parser.parse_args()))
    sys.stdout.buffer.write(msgspec.json.encode(point) + b"\n")


if __name__ == "__main__":
    main()
