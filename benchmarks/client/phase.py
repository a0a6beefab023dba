"""One phase of ours against an origin, with its load processes, as a search runs it; prints JSON.

python -m benchmarks.client.phase --url http://127.0.0.1:8000/v1 --agents 200 --seconds 10
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.records import Measurement
from pytest_agentperf.settings import make_settings
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.workers import WorkerPool
from tests.workloads import SPEC, small_setup


async def _measure(given: argparse.Namespace, folder: Path) -> Measurement:
    settings = make_settings(
        {
            "mode": "smoke",
            "max_agents": given.agents,
            "min_steady_s": given.seconds,
            "settle_s": given.settle_s,
            "start_spread_s": given.spread_s,
        }
    )
    dataset = synthesize(
        trajectories=given.trajectories,
        turns=given.turns,
        isl_tokens=given.isl_tokens,
        osl_tokens=given.osl_tokens,
        tool_s=given.tool_s,
        seed=1,
    )
    setup = small_setup(
        dataset, url=given.url, model="sim", folder=folder, osl_header="x-agentperf-osl"
    )
    pool = WorkerPool()
    await pool.set_up(setup)
    await pool.grow(given.workers)
    run = PhaseRun(
        pool=pool,
        settings=settings,
        procedure=full_phase(SPEC, settings),
        readings=(),
        clock=REAL_TIME,
        tell=Listeners(),
    )
    measurement = await run.measure(number=1, agents=given.agents, workers=given.workers)
    await pool.close()
    return measurement


def _told(seen: Measurement) -> dict[str, Any]:
    window = seen.window
    members = [turn for turn in seen.turns if window.holds(turn.sent_ns)]
    lags = np.concatenate([np.asarray(each) for each in seen.health.loop_lag_s])
    ttft_s = [
        (turn.first_token_ns - turn.sent_ns) / 1e9
        for turn in seen.turns
        if turn.error is None and turn.first_token_ns is not None
    ]
    return {
        "agents": seen.agents,
        "active": sum(1 for at_ns in seen.health.first_sent_ns if at_ns <= window.start_ns),
        "requests": len(seen.turns),
        "failed": sum(turn.error is not None for turn in seen.turns),
        "requests_per_s": len(members) / window.length_s if window.length_s else 0.0,
        "loop_lag_s": {f"p{q}": float(np.percentile(lags, q)) for q in (50, 95, 99)},
        "cpu_ratio": seen.health.cpu_ratio,
        "broken": seen.broken,
        "ttft_s": ttft_s,
    }


def main() -> None:
    """Run the phase."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--spread-s", type=float, default=2.0)
    parser.add_argument("--settle-s", type=float, default=0.0)
    parser.add_argument("--trajectories", type=int, default=20)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--isl-tokens", type=int, default=5_000)
    parser.add_argument("--osl-tokens", type=int, default=100)
    parser.add_argument("--tool-s", type=float, default=0.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_told(asyncio.run(_measure(given, Path(folder))))), flush=True)


if __name__ == "__main__":
    main()
