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
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_agentperf.importers import load_dataset
from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.metrics import members, output_speed_tok_per_s, ttft_s
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.plan import make_plan
from pytest_agentperf.records import Measurement
from pytest_agentperf.settings import Settings
from pytest_agentperf.sim.launch import connect_virtual

__all__ = ["SHAPES", "TIERS", "main"]

DATASET = "synthetic:turns=10~24,isl=12000~30000,osl=120~900,tool_s=0.5~3,seed=11"
TIERS = {"slo-1": (20.0, 10.0), "slo-2": (60.0, 5.0), "slo-3": (180.0, 3.0)}
"""P25 of output speed at least, tok/s, and P95 of TTFT at most, s."""
_QUIET = "stream_interval=100000"
"""First and last token, which are all that counts here, go out when they always do."""
SHAPES = {
    "smooth": "acceptance=&max_sequences=512&step_overhead_s=0.004&sequence_overhead_s=0.001"
    "&flops_per_token=2e10&kv_capacity_tokens=100000000",
    "queue": "acceptance=&max_sequences=24&step_overhead_s=0.004&sequence_overhead_s=0.001"
    "&flops_per_token=2e10&kv_capacity_tokens=100000000",
    "cliff": "acceptance=&max_sequences=512&step_overhead_s=0.004&sequence_overhead_s=0.0005"
    "&flops_per_token=5e10&kv_capacity_tokens=900000",
    "small": "acceptance=&max_sequences=64&step_overhead_s=0.012&sequence_overhead_s=0.006"
    "&flops_per_token=1e11&kv_capacity_tokens=100000000",
}
"""What binds: output speed; places in the batch, and so TTFT; the KV cache; a slow machine."""


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
    measurement = asyncio.run(_run(task))
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


async def _run(task: _Task) -> Measurement:
    info = connect_virtual(f"sim+virtual:?{SHAPES[task.shape]}&{_QUIET}", models=["model"])
    place = info.in_process
    assert place is not None
    settings = Settings(seed=task.seed, max_phase_s=100_000)
    plan = make_plan(
        load_dataset(DATASET, None),
        context_tokens=131_072,
        max_tokens=settings.max_tokens,
        tool_delay=settings.tool_delay,
        max_tool_s=settings.max_tool_s,
        seed=task.seed,
        salted=True,
    )
    with tempfile.NamedTemporaryFile() as planned:
        planned.write(msgspec.msgpack.encode(plan.trajectories))
        planned.flush()
        setup = Setup(
            trajectories=planned.name,
            url="",
            headers={},
            osl_header=None,
            model="model",
            request={},
            reasoning_field="reasoning_content",
            max_tokens=settings.max_tokens,
            output="natural",
            salt="trajectory",
            seed=task.seed,
            run="truth",
            timeout_s=settings.request_timeout_s,
            tokenizer=None,
        )
        pool = InProcessPool(place)
        phase = PhaseRun(
            pool=pool,
            settings=settings,
            meter=None,
            max_error_ratio=0.01,
            clock=place.clock,
            tell=Listeners(),
        )

        async def work() -> Measurement:
            await pool.set_up(setup)
            await pool.grow(1)
            return await phase.measure(number=1, agents=task.agents, workers=1)

        measurement = await place.run(work)
        await place.run(pool.close)
    info.close()
    return measurement


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
    written = {
        "made_by": f"python -m benchmarks.truth {asked.shape} --agents {asked.agents} "
        f"--seeds {asked.seeds}",
        "rule": "exact: from turn 0, full floors",
        "endpoint": f"sim+virtual:?{SHAPES[asked.shape]}",
        "dataset": DATASET,
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
