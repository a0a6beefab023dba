"""Is a load generator that cannot keep up caught? Loads from light to heavy, beside hogs of a core.

    python -m benchmarks.saturated                 # ten minutes of a quiet machine with two cores

Each run streams from the null server (`pytest_agentperf.selfcheck`), which knows when it sent
what, while programs that only compute have the client's core now and then or all the time, some of
them as heavy as the client. The true error of a run is that of its P95 TTFT; whether it is valid
says the client's lag and CPU, by the marks of a phase. Of the runs that are wrong by more than 10
ms at least 95 % must be invalid, of the others at most 5 %. Runs in which the null server was late
itself are left out, and counted. Writes ``tests/data/study/saturated.json``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pytest_agentperf.selfcheck.ladder import measure, null_server
from pytest_agentperf.settings import Settings

__all__ = ["main"]

OUT = Path("tests/data/study/saturated.json")
STREAMS = (50, 200, 500, 1000, 1600, 2400)
WRONG_S = 0.010
SERVER_LATE_S = 0.015
_PERIOD_S = 0.1
_HOG = (
    "import os, time\nbusy, period, parent = {busy}, {period}, os.getppid()\n"
    "while os.getppid() == parent:\n"  # a study that is killed leaves none behind
    "    until = time.perf_counter() + busy * period\n"
    "    while time.perf_counter() < until: pass\n"
    "    time.sleep((1 - busy) * period)\n"
)


@dataclass(frozen=True)
class Hog:
    """Programs that want a core."""

    name: str
    number: int = 1
    busy_ratio: float = 1.0
    nice: int = 0


HOGS = (
    Hog("none", number=0),
    Hog("one, half of the time", busy_ratio=0.5),
    Hog("one"),
    Hog("four", number=4),
    Hog("one, as important as the client", nice=-10),
    Hog("four, as important as the client", number=4, nice=-10),
)


@contextmanager
def hogs(hog: Hog, core: int) -> Generator[None]:
    """Keep a core busy meanwhile."""
    code = _HOG.format(busy=hog.busy_ratio, period=_PERIOD_S)
    command = ["nice", "-n", str(hog.nice), sys.executable, "-c", code]
    running = [subprocess.Popen(["taskset", "-c", str(core), *command]) for _ in range(hog.number)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def on(core: int) -> Generator[None]:
    """Start programs on one core meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def runs(repeats: int, seconds: float) -> Generator[dict[str, Any]]:
    """Measure every load beside every hog."""
    cores = sorted(os.sched_getaffinity(0))
    marks = Settings()
    with on(cores[-1]):
        serving = null_server()
        port = serving.__enter__()
    try:
        for _, streams, hog in product(range(repeats), STREAMS, HOGS):
            with hogs(hog, cores[0]), on(cores[0]):
                point = measure(port, streams=streams, seconds=seconds, client="engine")
            late = {
                "loop lag p95": point.loop_lag_p95_s > marks.max_loop_lag_p95_s,
                "loop lag p99": point.loop_lag_p99_s > marks.max_loop_lag_p99_s,
                "cpu": point.cpu_s / point.wall_s > marks.max_cpu_ratio,
            }
            yield {
                "streams": streams,
                "hog": hog.name,
                "error_p95_s": point.ttft_error_s[1],
                "loop_lag_p99_s": point.loop_lag_p99_s,
                "read_lag_p95_s": point.read_lag_p95_s,
                "merged_ratio": point.merged_ratio,
                "cpu_ratio": point.cpu_s / point.wall_s,
                "server_late_p95_s": point.server_late_p95_s,
                "invalid_by": [name for name, is_late in late.items() if is_late],
            }
            time.sleep(0.2)
    finally:
        serving.__exit__(None, None, None)


def judge(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count what was wrong and what was caught."""
    told = [run for run in found if run["server_late_p95_s"] <= SERVER_LATE_S]
    wrong = [run for run in told if run["error_p95_s"] > WRONG_S]
    right = [run for run in told if run["error_p95_s"] <= WRONG_S]
    return {
        "runs": len(found),
        "server_late": len(found) - len(told),
        "wrong": len(wrong),
        "wrong_and_invalid": sum(bool(run["invalid_by"]) for run in wrong),
        "right": len(right),
        "right_and_invalid": sum(bool(run["invalid_by"]) for run in right),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturated", description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    for run in runs(asked.repeats, asked.seconds):
        found.append(run)
        print(
            f"{run['streams']:5d} streams, hog: {run['hog']:34s}"
            f"  error {1e3 * run['error_p95_s']:8.2f} ms"
            f"  lag {1e3 * run['loop_lag_p99_s']:7.2f} ms  CPU {run['cpu_ratio']:4.0%}"
            f"  read {1e3 * run['read_lag_p95_s']:6.2f} ms  merged {run['merged_ratio']:4.0%}"
            f"  server late {1e3 * run['server_late_p95_s']:5.1f} ms"
            f"  {', '.join(run['invalid_by']) or 'valid'}",
            flush=True,
        )
    counts = judge(found)
    print(counts)
    made = {"made_by": "python -m benchmarks.saturated", "hogs": [asdict(hog) for hog in HOGS]}
    asked.out.write_text(json.dumps(made | counts | {"each": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
