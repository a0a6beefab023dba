"""Made-up runs of one phase and one tier, in numbers that a reader can compare by hand."""

from dataclasses import replace
from typing import Any

from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.evidence import Interval
from pytest_agentperf.metrics import Distribution
from pytest_agentperf.spread import SCHEMA, Noise, Spread
from tests.bundles import example_bundle

__all__ = ["MODEL", "noise", "run"]

MODEL = "gpt-oss-120b"
AGENTS = 35


def _at(values: Distribution | None, **changes: Any) -> Distribution | None:
    return None if values is None else replace(values, **changes)


def _interval(value: float, half_ratio: float) -> Interval:
    return Interval(
        low=value * (1 - half_ratio), high=value * (1 + half_ratio), estimate=value, n=100, se=0.01
    )


def run(  # noqa: PLR0913 one for each thing that may differ
    name: str = "baseline",
    *,
    speed: float | None = 100.0,
    ttft: float = 2.0,
    throughput: float = 1000.0,
    watts: float | None = None,
    reuse: float | None = None,
    half_ratio: float = 0.005,
    capacity: tuple[int, int, int] = (AGENTS, AGENTS, AGENTS),
    status: str = "found",
    agents: int = AGENTS,
    invalid: bool = False,
    sure: bool = True,
) -> Bundle:
    """A run that found one capacity and measured one phase; ``half_ratio`` of every interval."""
    bundle = example_bundle()
    phase = next(p for p in bundle.phases if p.agents == AGENTS and not p.invalid)
    known = {"ttft_s.p95": ttft, "throughput_tok_per_s": throughput}
    known |= {} if speed is None else {"output_speed_tok_per_s.p25": speed}
    known |= {} if reuse is None else {"reused_ratio": reuse}
    metrics = replace(
        phase.metrics,
        output_speed_tok_per_s=None
        if speed is None
        else _at(phase.metrics.output_speed_tok_per_s, p25=speed),
        ttft_s=_at(phase.metrics.ttft_s, p95=ttft),
        throughput_tok_per_s=throughput,
        reused_ratio=reuse,
        agents=agents,
    )
    checks = tuple(replace(c, ok=not (invalid and c.invalidates)) for c in phase.checks)
    measured: PhaseResult = replace(
        phase,
        number=1,
        agents=agents,
        metrics=metrics,
        checks=checks,
        power=replace(phase.power, mean_w=watts),
        intervals={n: _interval(v, half_ratio) for n, v in known.items()} if sure else {},
    )
    found = next(c for c in bundle.capacities if c.tier == "slo-1")
    few, many = capacity[1:]
    return replace(
        bundle,
        provenance=replace(bundle.provenance, run=name),
        phases=(measured,),
        capacities=(
            replace(found, agents=capacity[0], status=status, agents_low=few, agents_high=many),
        ),
    )


def noise(**figures: tuple[float, ...]) -> Noise:
    """Measured repeats at the agents of `run`; ``_`` stands for the dot of a name."""
    names = {
        "speed": "output_speed_tok_per_s.p25",
        "ttft": "ttft_s.p95",
        "throughput": "throughput_tok_per_s",
    }
    spread = Spread(
        model=MODEL,
        agents=AGENTS,
        dataset_sha256=run().models[0].dataset.sha256,
        figures={names[short]: values for short, values in figures.items()},
    )
    return Noise(schema=SCHEMA, client="0.1.0", endpoint="sim:", runs=("a",), spreads=(spread,))
