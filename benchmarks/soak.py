"""A day of load in virtual time: does this process's memory stay flat?

    python -m benchmarks.soak --hours 24

One phase after the other on the simulator, each an hour long, with the same number of agents.
Prints the resident memory after each, and how it went on from the second phase to the last. The
request log is written all along and only ever appended to.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
from pathlib import Path

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.preflight import connect, open_folder
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier

_ADDRESS = "sim+virtual:h200x8/deepseek-v4-pro?stream_interval=50"
_DATASET = "synthetic:trajectories=20,turns=6,isl=6000,osl=300~900,tool_s=2~4.9,seed=1"
_MOST_GROWTH = 0.05
_TIER = SLOTier(
    model="m",
    name="t",
    limits=(Limit(metric="output_speed_tok_per_s", statistic="p25", value=1.0),),
)


def _resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096 / 1e6


async def _soak(bench: Bench, hours: int, agents: int, log: Path) -> list[float]:
    seen: list[float] = []
    for hour in range(1, hours + 1):
        await bench.measure(agents)
        for ledger in bench._ledgers.values():  # noqa: SLF001 else it would not measure again
            ledger.phases.clear()
        seen.append(_resident_mb())
        size_mb = log.stat().st_size / 1e6  # noqa: ASYNC240 nobody waits for it
        print(f"hour {hour}: {seen[-1]:.1f} MB resident, log {size_mb:.1f} MB", flush=True)
    await bench.close()
    return seen


def main() -> None:
    """Print the memory after every hour; end with 1 where it grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--agents", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        info = connect(_ADDRESS, ("m",))
        settings = make_settings({"results": name, "min_steady_s": 3540.0})
        inputs = Inputs(endpoint=info, dataset=load_dataset(_DATASET, None), meters=(), system=None)
        folder = open_folder(settings, inputs)
        bench = Bench(
            settings=settings,
            models=Models(specs={"m": ModelSpec(model="m", tiers=(_TIER,))}, published={}),
            inputs=inputs,
            folder=folder,
            on_event=lambda _: None,
        )
        log = folder.path / "requests.jsonl"
        seen = asyncio.run(_soak(bench, asked.hours, asked.agents, log))
        info.close()
    growth = seen[-1] / seen[1] - 1
    print(f"from the second hour to the last: {growth:+.1%}")
    sys.exit(growth > _MOST_GROWTH)


if __name__ == "__main__":
    main()
