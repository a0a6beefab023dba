"""One trial of one client, as a process of its own; prints one line of JSON.

Every stream asks once for a single token, so that all have their connection; only then does the
measured part begin. What the process spends on imports and connects is not counted; decoding is.

    python -m benchmarks.client.ask engine --port 8000 --streams 500 --pace gap_us=20000,tokens=75
"""

import argparse
import asyncio
import gc
import json
import resource
import time
from pathlib import Path
from typing import Any

from benchmarks.client.ways import Asked, Seen, Way, message, pieces, way

_LAG_PERIOD_NS = 10_000_000
_STOCK_LOOP = ("naive", "httpx")
"""These run as they come: on asyncio's own loop, with garbage collected as usual."""


def _peak_rss_mb() -> float:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


async def _sample_lag(into: list[int]) -> None:
    """As `pytest_agentperf.load` does: a stall counts once for every 10 ms it lasted."""
    while True:
        began_ns = time.perf_counter_ns()
        await asyncio.sleep(_LAG_PERIOD_NS / 1e9)
        lag_ns = time.perf_counter_ns() - began_ns - _LAG_PERIOD_NS
        into.extend(range(max(0, lag_ns), -1, -_LAG_PERIOD_NS))


def _waited_s() -> float:
    """Return how long this process was ready to run and another had its core."""
    return int(Path("/proc/self/schedstat").read_text("ascii").split()[1]) / 1e9


async def _measure(asks: Way, given: argparse.Namespace) -> dict[str, Any]:
    seen: list[Seen] = []
    lag_ns: list[int] = []

    async def stream(number: int) -> None:
        await asyncio.sleep(given.ramp_s * number / given.streams)
        for _ in range(given.requests):
            seen.append(await asks.one(number))  # noqa: PERF401 each as it ends: some are cut off

    await asyncio.gather(*(asks.one(number, warm_up=True) for number in range(given.streams)))
    gc.collect()
    if given.client not in _STOCK_LOOP:  # as our load processes do
        gc.freeze()
        gc.disable()
    asks.kernel()
    sampling = asyncio.create_task(_sample_lag(lag_ns))
    cpu_s, wall_s, waited_s = time.process_time(), time.perf_counter(), _waited_s()
    streams = [asyncio.create_task(stream(number)) for number in range(given.streams)]
    ended, late = await asyncio.wait(streams, timeout=given.cap_s)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    waited_s = _waited_s() - waited_s
    for task in (sampling, *late):
        task.cancel()
    for task in ended:
        task.result()
    return {
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "waited_s": waited_s,
        "rss_mb": _peak_rss_mb(),
        "lag_ns": lag_ns,
        "kernel": asks.kernel(),
        "rows": seen,
    }


async def _main(given: argparse.Namespace) -> None:
    asked = Asked(
        port=given.port,
        pace=given.pace,
        tokens=int(given.pace.partition("tokens=")[2].partition(",")[0]),
        body=json.dumps(message(given.body_bytes)).encode(),
        pieces=pieces(given.body_bytes) if given.pieces else None,
        uneven=given.uneven,
    )
    print(json.dumps(await _measure(way(given.client)(asked), given)), flush=True)


def main() -> None:
    """Run the trial."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("client")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--pace", default="first_us=200000,gap_us=20000,tokens=75")
    parser.add_argument("--body-bytes", type=int, default=20_000)
    parser.add_argument("--pieces", action="store_true")
    parser.add_argument("--uneven", action="store_true")
    parser.add_argument("--ramp-s", type=float, default=1.0)
    parser.add_argument("--cap-s", type=float, default=20.0, help="who is slower is cut off")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if given.client in _STOCK_LOOP:
        asyncio.run(_main(given))
    else:
        import uvloop  # noqa: PLC0415 not in every venv

        if given.client.startswith("engine"):  # as a load process does
            from pytest_agentperf.priority import ask_to_run_soon  # noqa: PLC0415 as above

            ask_to_run_soon()
        uvloop.run(_main(given))


if __name__ == "__main__":
    main()
