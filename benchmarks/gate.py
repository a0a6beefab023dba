"""Does the gate catch what it must, and hold its tongue otherwise? Full phases, virtual time.

    python -m benchmarks.gate measure same        # and every other case; half an hour in all
    python -m benchmarks.gate judge               # writes tests/data/study/gate.json

*measure* runs phases of one case, each with a seed of its own, at the numbers of agents that a
baseline found as its capacities, and keeps their figures in a cache; what it has it does not
measure again. *judge* compares them as the gate does: the spread comes from ten repeats with seeds
that are used for nothing else.
"""

import argparse
import asyncio
import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.shapes import DATASET, PARTIAL, QUIET, SHAPES, TIERS
from pytest_agentperf.change import (
    REUSE,
    SPEED,
    THROUGHPUT,
    TTFT,
    Change,
    Figure,
    Reading,
    Verdict,
    by_intervals,
    by_pairs,
    by_repeats,
    verdict_of,
)
from pytest_agentperf.inside import intervals
from pytest_agentperf.metrics import summarize
from pytest_agentperf.settings import Settings
from tests.simulated import planned, simulated_phase

__all__ = ["CASES", "main"]

OUT = Path("tests/data/study/gate.json")
REPEATS = range(1, 11)
SHOWN = (SPEED, TTFT, THROUGHPUT, REUSE)

CAPACITIES = {"small": (5,), "smooth": (12, 40), "cliff": (36, 38, 41), "partial": (44,)}
"""Agents that are measured. ``cliff``: at its capacity, which moves by seed, and below."""
PLACES = {**SHAPES, "partial": PARTIAL}
CASES: dict[str, dict[str, dict[str, str]]] = {
    "decode": {
        "small": {"step_overhead_s=0.012": "step_overhead_s=0.0126",
                  "sequence_overhead_s=0.006": "sequence_overhead_s=0.0063"},
        "smooth": {"step_overhead_s=0.004": "step_overhead_s=0.0042",
                   "sequence_overhead_s=0.001": "sequence_overhead_s=0.00105"},
    },
    "kv": {
        shape: {"kv_capacity_tokens=900000": "kv_capacity_tokens=810000"}
        for shape in ("cliff", "partial")
    },
    "prefill": {
        "small": {"flops_per_token=1e11": "flops_per_token=2e11"},
        "smooth": {"flops_per_token=2e10": "flops_per_token=4e10"},
    },
    "decode-3": {
        "small": {"step_overhead_s=0.012": "step_overhead_s=0.01236",
                  "sequence_overhead_s=0.006": "sequence_overhead_s=0.00618"},
        "smooth": {"step_overhead_s=0.004": "step_overhead_s=0.00412",
                   "sequence_overhead_s=0.001": "sequence_overhead_s=0.00103"},
    },
    "same": {shape: {} for shape in CAPACITIES},
}  # fmt: skip
"""What differs from the baseline's system."""
SEEDS: dict[str, range] = {"same": range(1, 62), "decode-3": range(11, 27)}
"""Of ``same``: 1-10 for the spread, 11-61 for fifty comparisons; pairs share seeds."""
_OTHERS = range(101, 111)


@dataclass(frozen=True)
class Task:
    """One phase."""

    case: str
    shape: str
    agents: int
    seed: int

    @property
    def deployment(self) -> str:
        """The simulator's address, as the case changes it."""
        address = PLACES[self.shape]
        for old, new in CASES[self.case][self.shape].items():
            if old not in address:
                raise ValueError(f"{self}: {old} is not in {address}")
            address = address.replace(old, new)
        return f"{address}&{QUIET}"


def run(task: Task) -> dict[str, Any]:
    """Measure one phase; return its figures with their intervals."""
    settings = Settings(seed=task.seed, max_phase_s=100_000)
    dataset = planned(DATASET, settings)
    seen = asyncio.run(
        simulated_phase(task.deployment, dataset, settings, task.agents, run=f"r{task.seed}")
    )
    metrics = summarize(seen)
    found = {name: asdict(interval) for name, interval in intervals(seen).items()}
    return asdict(task) | {
        "window_s": metrics.window_s,
        "error_ratio": metrics.error_ratio,
        "cached_ratio": metrics.cached_ratio,
        "intervals": found,
    }


def tasks(case: str, shape: str, agents: int) -> list[Task]:
    """Return all phases of a case at one number of agents."""
    return [Task(case, shape, agents, seed) for seed in SEEDS.get(case, _OTHERS)]


def measure(todo: list[Task], cache: Path, processes: int) -> None:
    """Measure what the cache does not hold."""
    known = {(r["case"], r["shape"], r["agents"], r["seed"]) for r in rows(cache)}
    todo = [t for t in todo if (t.case, t.shape, t.agents, t.seed) not in known]
    with ProcessPoolExecutor(processes) as pool, cache.open("a") as out:
        for row in pool.map(run, todo):
            out.write(json.dumps(row) + "\n")
            out.flush()


def rows(cache: Path) -> list[dict[str, Any]]:
    """Return what has been measured."""
    return [json.loads(x) for x in cache.read_text().splitlines()] if cache.exists() else []


Row = dict[str, Any]


def judge(found: Sequence[Row]) -> dict[str, Any]:
    """Compare as the gate does, by the spread of repeats and by the phases' own intervals."""
    by: dict[tuple[str, str, int], dict[int, Row]] = {}
    for row in found:
        by.setdefault((row["case"], row["shape"], row["agents"]), {})[row["seed"]] = row
    loads = sorted({(shape, agents) for _, shape, agents in by})
    return {
        "made_by": "python -m benchmarks.gate measure CASE, and judge",
        "dataset": DATASET,
        "phases": len(found),
        "spread": {
            f"{shape} {agents}": {
                figure.name: stdev(math.log(v) for v in _repeats(by["same", shape, agents], figure))
                for figure in _shown(by["same", shape, agents])
            }
            for shape, agents in loads
        },
        "same": [_same(by, shape, agents) for shape, agents in loads],
        "changed": [
            _changed(by, case, shape, agents)
            for case, shape, agents in sorted(by)
            if case not in {"same", "decode-3"}
        ],
        "verify": [
            {"case": case, "shape": shape, "agents": agents}
            | Counter(_carried(row, agents) for row in each.values())
            for (case, shape, agents), each in sorted(by.items())
            if case != "decode-3"
        ],
        "pairs": [
            _pairs(by, case, shape, agents)
            for case, shape, agents in sorted(by)
            if case in {"decode-3", "kv"}
        ],
    }


def _repeats(rows: dict[int, Row], figure: Figure) -> list[float]:
    return [_reading(rows[seed], figure).value for seed in REPEATS]


def _reading(row: Row, figure: Figure) -> Reading:
    found = row["intervals"][figure.name]
    return Reading(value=found["estimate"], low=found["low"], high=found["high"], n=found["n"])


def _verdicts(
    before: Row, now: Row, repeats: dict[int, Row], how: str, shown: Sequence[Figure]
) -> dict[str, Verdict]:
    found: dict[str, Verdict] = {}
    for figure in shown:
        then, here = _reading(before, figure), _reading(now, figure)
        if how == "repeats":
            values = _repeats(repeats, figure)
            change = by_repeats(figure, then, here, values, alike=True, figures=len(shown))
        else:
            change = by_intervals(then, here, figures=len(shown))
        found[figure.name] = verdict_of(figure, change)
    return found


def _shown(*loads: dict[int, Row]) -> tuple[Figure, ...]:
    """Return the figures that all phases have: older ones do not tell of reuse."""
    found = [row for load in loads for row in load.values()]
    return tuple(f for f in SHOWN if all(f.name in row["intervals"] for row in found))


def _counted(
    pairs: Sequence[tuple[Row, Row]], repeats: dict[int, Row], shown: Sequence[Figure]
) -> Row:
    """Return how often each verdict was given, by both sources of intervals."""
    told: Row = {"comparisons": len(pairs)}
    for how in ("repeats", "intervals"):
        each = [_verdicts(before, now, repeats, how, shown) for before, now in pairs]
        told[how] = {
            "regressed": sum("regressed" in e.values() for e in each),
            "by_figure": {f.name: Counter(e[f.name] for e in each) for f in shown},
        }
    return told


def _carried(row: Row, agents: int) -> str:
    """Tell what verify says of the tier whose capacity it is: 60 tok/s with 12 agents, else 20."""
    speed, ttft_s = TIERS["slo-2" if agents == 12 else "slo-1"]
    slow, late = row["intervals"][SPEED.name], row["intervals"][TTFT.name]
    misses = [
        found["low"] <= bound <= found["high"]
        for found, bound, missed in (
            (slow, speed, slow["estimate"] < speed),
            (late, ttft_s, late["estimate"] > ttft_s),
        )
        if missed
    ]
    return "carried" if not misses else "unclear" if all(misses) else "missed"


def _same(by: dict[tuple[str, str, int], dict[int, Row]], shape: str, agents: int) -> Row:
    rows = by["same", shape, agents]
    seeds = sorted(seed for seed in rows if seed not in REPEATS)
    pairs = [(rows[a], rows[b]) for a, b in pairwise(seeds)]
    return {"shape": shape, "agents": agents} | _counted(pairs, rows, _shown(rows))


def _changed(
    by: dict[tuple[str, str, int], dict[int, Row]], case: str, shape: str, agents: int
) -> Row:
    """Compare each phase of a changed system with one of the same system; few serve twice."""
    same = by["same", shape, agents]
    others = [same[seed] for seed in sorted(same) if seed not in REPEATS]
    changed = [row for _, row in sorted(by[case, shape, agents].items())]
    shown = _shown(same, by[case, shape, agents])
    ratios = {
        f.name: fmean(_reading(r, f).value for r in changed) / fmean(_repeats(same, f)) - 1
        for f in shown
    }
    pairs = list(zip(cycle(others), changed, strict=False))
    head = {"case": case, "shape": shape, "agents": agents, "change": ratios}
    return head | _counted(pairs, same, shown)


def _pairs(
    by: dict[tuple[str, str, int], dict[int, Row]], case: str, shape: str, agents: int
) -> Row:
    """Compare in pairs, as the command does: in groups of four, eight and sixteen.

    A pair shares its seed where both were measured with it; else only its place.
    """
    same, other = by["same", shape, agents], by[case, shape, agents]
    figures = _shown(same, other)
    figure = SPEED if case == "decode-3" else figures[-1]
    shared = sorted(seed for seed in other if seed in same)
    free = [same[seed] for seed in sorted(same) if seed not in REPEATS]
    pairs = [(same[s], other[s]) for s in shared]
    pairs = pairs or list(zip(free, [other[s] for s in sorted(other)], strict=False))
    alike = list(zip(free[: len(pairs)], free[len(pairs) :], strict=False))
    told: Row = {"case": case, "shape": shape, "agents": agents, "figure": figure.name}
    for many in (4, 8, 16):
        found, control = (_grouped(each, many, figure, figures) for each in (pairs, alike))
        told[f"{many} pairs"] = {
            "comparisons": len(found),
            "regressed": sum(verdict_of(figure, c) == "regressed" for c in found),
            "change": [[c.ratio, c.low, c.high] for c in found],
            "without_a_change": len(control),
            "regressed_without_a_change": sum(
                verdict_of(figure, c) == "regressed" for c in control
            ),
        }
    return told


def _grouped(
    pairs: Sequence[tuple[Row, Row]], many: int, figure: Figure, figures: Sequence[Figure]
) -> list[Change]:
    groups = [pairs[i : i + many] for i in range(0, len(pairs) - many + 1, many)]
    return [
        by_pairs(
            [(_reading(a, figure).value, _reading(b, figure).value) for a, b in group],
            figures=len(figures),
        )
        for group in groups
    ]


def main() -> None:
    """Measure or judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("what", choices=("measure", "judge"))
    parser.add_argument("case", nargs="?", choices=CASES)
    parser.add_argument("shape", nargs="*")
    parser.add_argument("--cache", type=Path, default=Path("gate-phases.jsonl"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--agents", type=int, help="of these phases alone")
    parser.add_argument("--seeds", type=int, default=100, help="of a case, so many")
    asked = parser.parse_args()
    if asked.what == "judge":
        OUT.write_text(json.dumps(judge(rows(asked.cache)), indent=1) + "\n")
        return
    todo = [
        t
        for shape in asked.shape or CASES[asked.case]
        for agents in CAPACITIES[shape]
        for t in tasks(asked.case, shape, agents)[: asked.seeds]
        if asked.agents in {None, agents}
    ]
    measure(todo, asked.cache, asked.processes)


if __name__ == "__main__":
    main()
