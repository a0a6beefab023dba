"""The simulator over HTTP in real time beside the same one in virtual time.

    python -m benchmarks.virtual calm 64         # likewise 8 and 32: half an hour each
    python -m benchmarks.virtual batch --repeats 1 32

The same seed, dataset and deployment; only the face of the simulator and the clock differ. A
closed loop is chaotic: a millisecond in one turn decides who meets whom in the next, so that P95
of TTFT of one phase varies by 1 % where most agents wait for one of six places (``queue``, 64
agents), by 8 % where a few do (8 agents), and by 2 to 6 % where first prompts meet by chance
(``batch``). In ``lockstep`` all answers and tool times are equal, so that those who met meet again.
In ``calm`` few prompts meet at all, and TTFTs are long enough that the 3 ms that HTTP and Python
take do not show; its window is long, its load light. A run over HTTP is one draw. So in virtual
time each is measured more often, with starts spread a little differently, and means are compared.
All phases over HTTP come first: keep the machine free for them. Prints P25 of output speed and P95
of TTFT of both, how far they are apart and the standard error of that; ends with 1 when one is more
than 3 % apart.
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

__all__ = ["DEPLOYMENTS", "compare", "main"]

_SHORT = "synthetic:trajectories=60,turns=4,isl=9000,osl=150~600,tool_s=0.5~2,seed=3"
_SLOW = "synthetic:trajectories=60,turns=8,isl=9000,osl=150~400,tool_s=2~4.9,seed=3"
_EQUAL = "synthetic:trajectories=60,turns=2,isl=12000,osl=800,tool_s=2,seed=3"
DEPLOYMENTS = {
    "lockstep": (
        (
            "?acceptance=&max_sequences=256&step_overhead_s=0.012&sequence_overhead_s=0.0001"
            "&flops_per_token=1e10&kv_capacity_tokens=20000000"
        ),
        _EQUAL,
    ),
    "calm": (
        (
            "?acceptance=&max_sequences=256&step_overhead_s=0.048&sequence_overhead_s=0.0004"
            "&flops_per_token=1.6e10&kv_capacity_tokens=20000000"
        ),
        _SLOW,
    ),
    "queue": (
        (
            "?acceptance=&max_sequences=6&step_overhead_s=0.006&sequence_overhead_s=0.0005"
            "&flops_per_token=1e10&kv_capacity_tokens=20000000"
        ),
        _SHORT,
    ),
    "batch": (
        (
            "?acceptance=&max_sequences=256&step_overhead_s=0.012&sequence_overhead_s=0.0001"
            "&flops_per_token=1e10&kv_capacity_tokens=20000000"
        ),
        _SHORT,
    ),
}
"""Query of the simulator's address, and dataset."""
_MOST_APART = 0.03
_JITTERS = 5


async def _measure(
    address: str, dataset: str, agents: int, window_s: float, spread_s: float
) -> Metrics:
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
                "max_phase_s": 4 * window_s,
            }
        )
        info = connect(address, ("m",))
        inputs = Inputs(
            endpoint=info,
            dataset=load_dataset(dataset, None),
            meters=tuple(filter(None, (info.meter,))),
            system=None,
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


def _phases(
    scheme: str, deployment: str, agents: int, window_s: float, spreads_s: list[float]
) -> dict[str, list[float]]:
    """Return P25 of output speed (tok/s) and P95 of TTFT (s), one for each spread of starts."""
    query, dataset = DEPLOYMENTS[deployment]
    runs = [
        asyncio.run(_measure(f"{scheme}:{query}", dataset, agents, window_s, s)) for s in spreads_s
    ]
    return {
        "p25": [m.output_speed_tok_per_s.p25 for m in runs if m.output_speed_tok_per_s],
        "p95": [m.ttft_s.p95 for m in runs if m.ttft_s],
    }


def compare(real: list[float], virtual: list[float]) -> tuple[float, float]:
    """Return how far the means are apart, and the standard error of that, as shares."""
    single = stdev(virtual) / mean(virtual)  # of one phase, over HTTP as well
    return mean(virtual) / mean(real) - 1, single * math.sqrt(1 / len(real) + 1 / len(virtual))


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.virtual", description=__doc__)
    parser.add_argument("deployment", choices=DEPLOYMENTS)
    parser.add_argument("agents", type=int, nargs="*", default=[8, 32, 64])
    parser.add_argument(
        "--window", type=float, default=480.0, help="seconds; 120 do for all but calm"
    )
    parser.add_argument("--repeats", type=int, default=3, help="phases over HTTP")
    asked = parser.parse_args()
    spreads_s = [10.0 + 0.1 * i for i in range(asked.repeats)]
    jittered_s = [spread_s + 0.02 * j for spread_s in spreads_s for j in range(_JITTERS)]
    over_http = {
        agents: _phases("sim", asked.deployment, agents, asked.window, spreads_s)
        for agents in asked.agents
    }
    failed = False
    for agents, found in over_http.items():
        virtual = _phases("sim+virtual", asked.deployment, agents, asked.window, jittered_s)
        for name, real in found.items():
            apart, error = compare(real, virtual[name])
            failed |= abs(apart) > _MOST_APART
            each = " ".join(f"{value:.4g}" for value in real)
            print(
                f"{agents:4d} agents  {name}  HTTP {mean(real):8.3f} ({each})"
                f"  virtual {mean(virtual[name]):8.3f}"
                f"  {apart:+.1%} (standard error {error:.1%})",
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
