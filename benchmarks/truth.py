"""The true capacity of simulated systems: every number of agents around it, many seeds.

    python -m benchmarks.truth smooth --agents 40-60 --seeds 8

measures each number of agents under the full floors, in virtual time, once per seed, and writes
``tests/data/truth/SHAPE.json``. The percentiles of one number of agents are those of the members of
all seeds together. A search is held against these numbers; its own seeds must be others.

The rule is the published one: agents start at turn 0, and the window closes when 30 trajectories, 3
per agent and 10 minutes are reached. A load whose mix is stationary from the start carries fewer.
"""

import argparse
import asyncio
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import SHAPES, TIERS, replayed_on
from benchmarks.simulated import measure
from pytest_agentperf.metrics import members, output_speed_tok_per_s, ttft_s
from pytest_agentperf.settings import Settings

__all__ = ["main"]


@dataclass(frozen=True)
class _Task:
    shape: str
    agents: int
    seed: int


@dataclass(frozen=True)
class _Phase:
    task: _Task
    speeds: np.ndarray[Any, Any]
    ttfts: np.ndarray[Any, Any]
    failed: int
    window_s: float


def _measure(task: _Task) -> _Phase:
    settings = Settings(seed=task.seed, max_phase_s=100_000)
    measurement = asyncio.run(measure(task.shape, task.agents, settings))
    if measurement.broken or not measurement.floors_met:
        raise RuntimeError(f"{task}: {measurement.broken or 'floors not met'}")
    inside = members(measurement.turns, measurement.window)
    speeds = [s for s in map(output_speed_tok_per_s, inside) if s is not None]
    return _Phase(
        task=task,
        speeds=np.asarray(speeds, dtype=np.float32),
        ttfts=np.asarray([ttft_s(turn) for turn in inside], dtype=np.float32),
        failed=sum(turn.error is not None for turn in inside),
        window_s=measurement.window.length_s,
    )


def _row(agents: int, phases: list[_Phase]) -> dict[str, Any]:
    speeds = np.concatenate([phase.speeds for phase in phases])
    ttfts = np.concatenate([phase.ttfts for phase in phases])
    p25, p95 = float(np.quantile(speeds, 0.25)), float(np.quantile(ttfts, 0.95))
    return {
        "agents": agents,
        "p25_tok_per_s": round(p25, 4),
        "p95_ttft_s": round(p95, 4),
        "error_ratio": round(sum(p.failed for p in phases) / ttfts.size, 6),
        "requests": int(ttfts.size),
        "window_s": round(float(np.mean([p.window_s for p in phases])), 1),
        "p25_by_seed": [round(float(np.quantile(p.speeds, 0.25)), 4) for p in phases],
        "p95_by_seed": [round(float(np.quantile(p.ttfts, 0.95)), 4) for p in phases],
    }


def _truth(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each tier the largest number that passes below the first that fails."""
    found: dict[str, Any] = {}
    for tier, (speed, ttft) in TIERS.items():
        passes = {
            row["agents"]: row["p25_tok_per_s"] >= speed and row["p95_ttft_s"] <= ttft
            for row in rows
        }
        failing = min((n for n, ok in passes.items() if not ok), default=None)
        passing = max(
            (n for n, ok in passes.items() if ok and (not failing or n < failing)), default=0
        )
        exact = failing == passing + 1
        found[tier] = {"agents": passing, "first_failing": failing, "adjacent": exact}
    return found


def _numbers(text: str) -> list[int]:
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return sorted(found)


def main() -> None:
    """Measure and write one shape."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--agents", required=True, help="for example 1-4,8,30-50")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    # Search runs use small seeds; a truth must not be made of the same assignments.
    seeds = [1000 + i for i in range(asked.seeds)]
    agents = _numbers(asked.agents)
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(asked.processes) as pool:
        tasks = [_Task(asked.shape, n, seed) for n in agents for seed in seeds]
        phases = list(pool.map(_measure, tasks))
    for n in agents:
        rows.append(_row(n, [phase for phase in phases if phase.task.agents == n]))
        row = rows[-1]
        print(f"{n:5d} agents  P25 {row['p25_tok_per_s']:8.2f}  P95 TTFT {row['p95_ttft_s']:8.2f}")
    deployment, dataset = replayed_on(asked.shape)
    written = {
        "made_by": f"python -m benchmarks.truth {asked.shape} --agents {asked.agents} "
        f"--seeds {asked.seeds}",
        "rule": "exact: from turn 0, full floors",
        "endpoint": f"sim+virtual:?{deployment}",
        "dataset": dataset,
        "tiers": {t: {"p25_tok_per_s": s, "p95_ttft_s": late} for t, (s, late) in TIERS.items()},
        "seeds": seeds,
        "truth": _truth(rows),
        "rows": rows,
    }
    print(json.dumps(written["truth"]))
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
