"""How far the first minutes of a phase are from its stationary level, by how its agents start.

    python -m benchmarks.coldstart                 # small 5, smooth 12, default 24: an hour
    python -m benchmarks.coldstart small:5 --seeds 4
    python -m benchmarks.coldstart --measured      # only what stands in the cache

P25 of output speed of the requests sent in a span, over the level: that of those sent from 30 to 80
minutes, by both starts together (the short trajectories last 2 to 6 minutes, the default ones
nine). Requests of all seeds are pooled; the standard error, over seeds, is of span and level
together. Writes ``tests/data/study/coldstart.json``, with every minute.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import LENGTH_S
from benchmarks.shapes import DATASET, DEFAULT_DATASET
from benchmarks.simulated import Requests, Task, find, run

__all__ = ["main"]

_LOADS = ("small:5", "smooth:12", "default:24")
_SPANS_MIN = ((0.5, 2), (2, 5), (5, 10), (1, 10), (10, 20), (20, 30))
_LEVEL_FROM_MIN = 30.0
_OUT = Path("tests/data/study/coldstart.json")


def _p25(runs: Sequence[Requests], low_min: float, high_min: float) -> float:
    speeds = [
        requests["speed"][
            (requests["sent_s"] >= 60 * low_min) & (requests["sent_s"] < 60 * high_min)
        ]
        for requests in runs
    ]
    return float(np.nanquantile(np.concatenate(speeds), 0.25))


def _relative_error(runs: Sequence[Requests], low_min: float, high_min: float) -> float:
    single = [_p25([requests], low_min, high_min) for requests in runs]
    if len(single) < 2:
        return math.nan
    return float(np.std(single, ddof=1) / np.mean(single)) / math.sqrt(len(single))


def _known(error: float) -> float | None:
    return None if math.isnan(error) else round(error, 4)


def _load(shape: str, agents: int, runs: dict[str, list[Requests]]) -> dict[str, Any]:
    both = [requests for each in runs.values() for requests in each]
    settled = (_LEVEL_FROM_MIN, LENGTH_S / 60)
    level, level_error = _p25(both, *settled), _relative_error(both, *settled)
    found: dict[str, Any] = {
        "shape": shape,
        "agents": agents,
        "level_tok_per_s": round(level, 4),
        "level_error": _known(level_error),
    }
    for start, each in runs.items():
        spans: dict[str, tuple[float, float]] = {}
        for low, high in _SPANS_MIN:
            error = math.hypot(_relative_error(each, low, high), level_error)
            spans[f"{low:g}-{high:g}"] = (
                round(_p25(each, low, high) / level - 1, 4),
                error,
            )
        minutes = [round(_p25(each, m, m + 1) / level - 1, 4) for m in range(30)]
        found[start] = {
            "seeds": len(each),
            "spans_min": {name: (apart, _known(error)) for name, (apart, error) in spans.items()},
            "minutes": minutes,
        }
        cells = "".join(f" {apart:+7.1%} ±{error:4.1%}" for apart, error in spans.values())
        print(f"{shape:7s}{agents:4d} {start:9s}{cells}", flush=True)
    return found


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coldstart", description=__doc__)
    parser.add_argument("loads", nargs="*", default=_LOADS, help="for example smooth:12,40")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--cache", type=Path, default=Path(".study"))
    parser.add_argument("--measured", action="store_true", help="measure nothing anew")
    parser.add_argument("--out", type=Path, default=_OUT)
    asked = parser.parse_args()
    get = find if asked.measured else run
    print(
        "minutes              "
        + "".join(f" {low:g}–{high:g}".ljust(14) for low, high in _SPANS_MIN)
    )
    found: list[dict[str, Any]] = []
    for shape, _, numbers in (load.partition(":") for load in asked.loads):
        for agents in map(int, numbers.split(",")):
            runs: dict[str, list[Requests]] = {}
            for start in ("first", "balanced"):
                tasks = [Task(shape, agents, 5000 + i, start, LENGTH_S) for i in range(asked.seeds)]
                measured = [get(task, asked.cache) for task in tasks]
                runs[start] = [requests for requests in measured if requests is not None]
            if all(runs.values()):
                found.append(_load(shape, agents, runs))
    written = {
        "made_by": f"python -m benchmarks.coldstart {' '.join(asked.loads)} --seeds {asked.seeds}",
        "dataset": DATASET,
        "dataset_of_default": DEFAULT_DATASET,
        "level": "P25 of output speed from 30 to 80 minutes, both starts together",
        "loads": found,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
