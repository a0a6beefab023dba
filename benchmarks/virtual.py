"""The simulator over HTTP in real time beside the same one in virtual time.

    python -m benchmarks.virtual queue           # 8, 32 and 64 agents, about 8 minutes
    python -m benchmarks.virtual batch --repeats 3 32

The same seed, dataset and deployment; only the face of the simulator and the clock differ. A
closed loop is chaotic: a millisecond in one turn decides who meets whom in the next, so that P95
of TTFT of one phase varies by 1 % where most agents wait for one of six places (``queue``, 64
agents), by 8 % where a few do (8 agents), and by 2 to 6 % where first prompts meet by chance
(``batch``). A run over HTTP is one draw. So in virtual time each is measured many times with
starts spread a little differently, and means are compared. Prints P25 of output speed and P95 of
TTFT of both, how far they are apart and the standard error of that; ends with 1 when it is more
than 3 % and more than two standard errors.
"""

import argparse
import asyncio
import math
import sys
import tempfile
from statistics import mean, stdev

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.preflight import connect, open_folder
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier

__all__ = ["compare", "main"]

DEPLOYMENTS = {
    "queue": "?acceptance=&max_sequences=6&step_overhead_s=0.006&sequence_overhead_s=0.0005"
    "&flops_per_token=1e10&kv_capacity_tokens=20000000",
    "batch": "?acceptance=&max_sequences=256&step_overhead_s=0.012&sequence_overhead_s=0.0001"
    "&flops_per_token=1e10&kv_capacity_tokens=20000000",
}
"""About 100 tok/s for six at a time; 72 tok/s for 8 agents and 36 for 64."""
DATASET = "synthetic:trajectories=60,turns=4,isl=9000,osl=150~600,tool_s=0.5~2,seed=3"
_MOST_APART = 0.03
_JITTERS = 14


async def _measure(address: str, agents: int, window_s: float, spread_s: float) -> Metrics:
    tier = SLOTier(
        model="m",
        name="any",
        limits=(Limit(metric="output_speed_tok_per_s", statistic="p25", value=1.0),),
    )
    spec = ModelSpec(model="m", tiers=(tier,))
    with tempfile.TemporaryDirectory() as results:
        settings = make_settings(
            {
                "mode": "smoke",
                "results": results,
                "start_spread_s": spread_s,
                "settle_s": 10.0,
                "min_steady_s": window_s,
            }
        )
        info = connect(address, ("m",))
        inputs = Inputs(
            endpoint=info, dataset=load_dataset(DATASET, None), meter=info.meter, system=None
        )
        bench = Bench(
            settings=settings,
            models=Models(specs={"m": spec}, published={}),
            inputs=inputs,
            folder=open_folder(settings, inputs),
            on_event=lambda _: None,
        )
        try:
            return await bench.measure(agents)
        finally:
            await bench.close()
            info.close()


def compare(
    deployment: str, agents: int, window_s: float, repeats: int
) -> dict[str, list[list[float]]]:
    """Return P25 of output speed (tok/s) and P95 of TTFT (s) of every repeat, HTTP then virtual."""
    found: dict[str, list[list[float]]] = {"p25": [], "p95": []}
    query = DEPLOYMENTS[deployment]
    spreads_s = [10.0 + 0.1 * i for i in range(repeats)]
    jittered_s = [spread_s + 0.02 * j for spread_s in spreads_s for j in range(_JITTERS)]
    for scheme, each_s in (("sim", spreads_s), ("sim+virtual", jittered_s)):
        runs = [asyncio.run(_measure(f"{scheme}:{query}", agents, window_s, s)) for s in each_s]
        found["p25"].append(
            [m.output_speed_tok_per_s.p25 for m in runs if m.output_speed_tok_per_s]
        )
        found["p95"].append([m.ttft_s.p95 for m in runs if m.ttft_s])
    return found


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.virtual", description=__doc__)
    parser.add_argument("deployment", choices=DEPLOYMENTS)
    parser.add_argument("agents", type=int, nargs="*", default=[8, 32, 64])
    parser.add_argument("--window", type=float, default=90.0, help="seconds")
    parser.add_argument("--repeats", type=int, default=1, help="phases over HTTP")
    asked = parser.parse_args()
    failed = False
    for agents in asked.agents:
        for name, (real, virtual) in compare(
            asked.deployment, agents, asked.window, asked.repeats
        ).items():
            apart = mean(virtual) / mean(real) - 1
            single = stdev(virtual) / mean(virtual)  # of one phase, over HTTP as well
            error = single * math.sqrt(1 / len(real) + 1 / len(virtual))
            failed |= abs(apart) > max(_MOST_APART, 2 * error)
            print(
                f"{agents:4d} agents  {name}  HTTP {mean(real):8.3f}  virtual {mean(virtual):8.3f}"
                f"  {apart:+.1%} (standard error {error:.1%})",
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
