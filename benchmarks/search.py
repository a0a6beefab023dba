"""What a guided search saves, and whether it finds the same: whole searches in virtual time.

    python -m benchmarks.search small smooth --seeds 1-20 --cache /tmp/search-cache

runs the searches of all tiers of a shape (`benchmarks.truth`) once per seed and strategy: *naive*
(every tier for itself, doubling from one agent, then bisection), *bisection* (phases shared by all
tiers, from eight), *guided* (as bisection, by the lines through what was measured: mode ``exact``)
and *fast* (mode ``fast``, run as a user does). A phase of the first three is measured once per
shape, seed and number of agents and kept under ``--cache``, so that they meet the same phases, and
a study that was broken off goes on where it was. A cache is good for one state of the package: what
changes a phase needs a new one. Writes
``tests/data/study/search.json``, where shapes that were not asked for stay as they are.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec

from benchmarks.shapes import QUIET, SHAPES, SPEC, TIERS, replayed_on
from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import PhaseResult, read_bundle
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.preflight import connect, open_folder
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.search import CapacitySearch, SearchResult
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import SLOTier, Verdict

__all__ = ["Phases", "main", "numbers", "study"]

_DATA = Path(__file__).parent.parent / "tests" / "data"
_RESOLUTION = 0.02


@dataclass(frozen=True)
class _Strategy:
    start_agents: int = 8
    shared: bool = True
    """Every phase is judged by all tiers."""
    guided: bool = True


_STRATEGIES = {
    "naive": _Strategy(start_agents=1, shared=False, guided=False),
    "bisection": _Strategy(guided=False),
    "guided": _Strategy(),
}


@dataclass(frozen=True)
class _Phase:
    agents: int
    short: bool
    duration_s: float
    verdicts: tuple[Verdict, ...]


class Phases:
    """Phases of one shape and seed, measured when they are first asked for."""

    def __init__(self, shape: str, seed: int, cache: Path) -> None:
        """Read what is known of a shape and seed from a folder, which gets what is measured."""
        self._shape = shape
        self._seed = seed
        self._path = cache / f"{shape}-{seed}.jsonl"
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        known = [msgspec.json.decode(line, type=_Phase) for line in lines]
        self._known = {phase.agents: phase for phase in known}

    def __call__(self, agents: int) -> _Phase:
        """Return the phase of a number of agents."""
        if agents not in self._known:
            with _made(self._shape, self._seed, "exact") as made:
                asyncio.run(_measured(made, agents))
                phase = _phase(made[1].bundle.phases[-1])
            with self._path.open("ab") as out:
                out.write(msgspec.json.encode(phase) + b"\n")
            self._known[agents] = phase
        return self._known[agents]


_Made = tuple[Bench, RunFolder]


@contextmanager
def _made(shape: str, seed: int, mode: str) -> Iterator[_Made]:
    with tempfile.TemporaryDirectory() as results:
        settings = make_settings(
            {"results": results, "seed": seed, "max_phase_s": 100_000.0, "mode": mode}
        )
        deployment, dataset = replayed_on(shape)
        info = connect(f"sim+virtual:?{deployment}&{QUIET}", ("model",))
        inputs = Inputs(endpoint=info, dataset=load_dataset(dataset, None), meters=(), system=None)
        folder = open_folder(settings, inputs)
        bench = Bench(
            settings=settings,
            models=Models(specs={"model": SPEC}, published={}),
            inputs=inputs,
            folder=folder,
            on_event=lambda _: None,
        )
        try:
            yield bench, folder
        finally:
            info.close()


async def _measured(made: _Made, agents: int) -> None:
    await made[0].measure(agents)
    await made[0].close()


async def _answered(made: _Made) -> None:
    for tier in SPEC.tiers:
        await made[0].capacity(tier)
    await made[0].close()


def _phase(found: PhaseResult) -> _Phase:
    return _Phase(
        agents=found.agents,
        short=found.short,
        duration_s=found.duration_s,
        verdicts=found.verdicts,
    )


@dataclass(frozen=True)
class _Run:
    """All tiers of a shape, searched once."""

    answers: Mapping[str, SearchResult]
    intervals: Mapping[str, tuple[int, int | None]]
    measured: Sequence[_Phase]

    @property
    def minutes(self) -> float:
        return sum(phase.duration_s for phase in self.measured) / 60

    @property
    def shown(self) -> str:
        short = sum(phase.short for phase in self.measured)
        return f"{short} + {len(self.measured) - short}" if short else str(len(self.measured))


def _search(measure: Callable[[int], _Phase], how: _Strategy) -> _Run:
    answers: dict[str, SearchResult] = {}
    intervals: dict[str, tuple[int, int | None]] = {}
    measured: list[_Phase] = []
    for tier in SPEC.tiers:
        search = CapacitySearch(
            start_agents=how.start_agents,
            max_agents=4096,
            resolution=_RESOLUTION,
            guided=how.guided,
        )
        for phase in measured if how.shared else ():
            _record(search, tier, phase)
        while (agents := search.next_phase()) is not None:
            measured.append(measure(agents))
            _record(search, tier, measured[-1])
        answers[tier.name], intervals[tier.name] = search.result(), search.interval()
    return _Run(answers=answers, intervals=intervals, measured=measured)


def _record(search: CapacitySearch, tier: SLOTier, phase: _Phase) -> None:
    verdict = next(v for v in phase.verdicts if v.tier == tier.name)
    search.record(phase.agents, verdict.outcome, verdict.findings)


def _fast(shape: str, seed: int, cache: Path) -> _Run:
    """Run mode ``fast`` as a user does; what ends its phases depends on what is open."""
    path = cache / f"{shape}-{seed}-fast.json"
    if not path.exists():
        with _made(shape, seed, "fast") as made:
            asyncio.run(_answered(made))
            path.write_bytes((made[1].path / "bundle.json").read_bytes())
    bundle = read_bundle(path.read_bytes(), str(path))
    return _Run(
        answers={
            c.tier: SearchResult(agents=c.agents, first_failing=c.first_failing, status=c.status)
            for c in bundle.capacities
        },
        intervals={c.tier: (c.agents_low or 0, c.agents_high) for c in bundle.capacities},
        measured=[_phase(found) for found in bundle.phases],
    )


def study(
    shape: str, seeds: Sequence[int], cache: Path, *, processes: int = 1, naive_seeds: int = 1000
) -> dict[str, Any]:
    """Search a shape with every strategy and seed; return the row of the shape.

    Args:
        shape: the system.
        seeds: of the runs.
        cache: folder of measured phases.
        processes: searches at once.
        naive_seeds: with so many of the seeds the slow strategies are run too; what others take
            against them is by these seeds alone.
    """
    with ProcessPoolExecutor(processes) as pool:
        jobs = [
            pool.submit(_searches, shape, seed, cache, slow=place < naive_seeds)
            for place, seed in enumerate(seeds)
        ]
        by_seed: list[dict[str, _Run]] = []
        for seed, job in zip(seeds, jobs, strict=True):
            by_seed.append(job.result())
            print(f"{shape} seed {seed}: {_line(by_seed[-1])}", flush=True)
    truths = _truths(shape)
    both = [runs for runs in by_seed if "naive" in runs]
    rows: dict[str, dict[str, Any]] = {}
    for name in (*_STRATEGIES, "fast"):
        rows[name] = _row([runs[name] for runs in by_seed if name in runs], truths)
        rows[name]["seeds"] = sum(name in runs for runs in by_seed)
        rows[name]["phases_to_naive"] = round(
            mean(len(r[name].measured) for r in both)
            / mean(len(r["naive"].measured) for r in both),
            3,
        )
        rows[name]["minutes_to_naive"] = round(
            mean(r[name].minutes for r in both) / mean(r["naive"].minutes for r in both), 3
        )
    return {"seeds": list(seeds), "truth": truths, "strategies": rows}


def _searches(shape: str, seed: int, cache: Path, *, slow: bool) -> dict[str, _Run]:
    phases = Phases(shape, seed, cache)
    found = {
        name: _search(phases, how) for name, how in _STRATEGIES.items() if slow or name == "guided"
    }
    return {**found, "fast": _fast(shape, seed, cache)}


def _truths(shape: str) -> dict[str, int]:
    path = _DATA / "truth" / f"{shape}.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text())["truth"]
    return {tier: each["agents"] for tier, each in found.items() if each["adjacent"]}


def _row(runs: Sequence[_Run], truths: Mapping[str, int]) -> dict[str, Any]:
    return {
        "phases": round(mean(len(run.measured) for run in runs), 2),
        "minutes": round(mean(run.minutes for run in runs), 1),
        "full_phases": round(mean(sum(not p.short for p in run.measured) for run in runs), 2),
        "tiers": {
            tier: _accuracy(
                [run.answers[tier].agents for run in runs],
                [run.intervals[tier] for run in runs],
                truth,
            )
            for tier, truth in truths.items()
        },
    }


def _accuracy(
    answers: Sequence[int], intervals: Sequence[tuple[int, int | None]], truth: int
) -> dict[str, Any]:
    off = [answer - truth for answer in answers]
    inside = [low <= truth and (high is None or truth <= high) for low, high in intervals]
    wide = [high - low for low, high in intervals if high is not None]
    return {
        "answers": list(answers),
        "equal": round(mean(x == 0 for x in off), 3),
        "within_1": round(mean(abs(x) <= 1 for x in off), 3),
        "within_1_or_2_percent": round(mean(abs(x) <= max(1, 0.02 * truth) for x in off), 3),
        "worst": max(off, key=abs),
        "truth_in_interval": round(mean(inside), 3),
        "interval_width": round(mean(wide), 1) if wide else None,
    }


def _line(runs: Mapping[str, _Run]) -> str:
    return "; ".join(
        f"{name} {run.shown} phases, {run.minutes:.0f} min, "
        f"{' / '.join(str(found.agents) for found in run.answers.values())}"
        for name, run in runs.items()
    )


def _print(shape: str, row: Mapping[str, Any]) -> None:
    print(f"\n{shape}, {len(row['seeds'])} seeds, truth {row['truth'] or 'not measured'}")
    print(f"{'':12}{'phases':>8}{'minutes':>9}{': naive':>9}  equal, within 1, max(1, 2 %), worst")
    for name, found in row["strategies"].items():
        tiers = "; ".join(
            f"{x['equal']:.0%} {x['within_1']:.0%} {x['within_1_or_2_percent']:.0%} {x['worst']:+d}"
            for x in found["tiers"].values()
        )
        print(
            f"{name:12}{found['phases']:8.1f}{found['minutes']:9.0f}"
            f"{found['minutes_to_naive']:9.2f}  {tiers}"
        )


def numbers(text: str) -> list[int]:
    """Return the numbers of a span: ``1-20``, or ``3``."""
    low, _, high = text.partition("-")
    return list(range(int(low), int(high or low) + 1))


def main() -> None:
    """Study the shapes that are asked for, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--seeds", type=numbers, default="1-20", help="for example 1-20")
    parser.add_argument("--cache", type=Path, required=True, help="folder of measured phases")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--naive-seeds", type=int, default=1000, help="run the slow strategies with so many alone"
    )
    parser.add_argument("--out", type=Path, default=_DATA / "study" / "search.json")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for shape in asked.shapes:
        row = study(
            shape,
            asked.seeds,
            asked.cache,
            processes=asked.processes,
            naive_seeds=asked.naive_seeds,
        )
        _print(shape, row)
        _write(asked.out, shape, row)


def _write(path: Path, shape: str, row: Mapping[str, Any]) -> None:
    written: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    shapes: dict[str, Any] = {**written.get("shapes", {}), shape: row}
    study = {
        "made_by": "python -m benchmarks.search SHAPE --seeds A-B --cache FOLDER",
        "rule": "exact: from turn 0, full floors",
        "datasets": {name: replayed_on(name)[1] for name in SHAPES if name in shapes},
        "resolution": _RESOLUTION,
        "tiers": {t: {"p25_tok_per_s": s, "p95_ttft_s": late} for t, (s, late) in TIERS.items()},
        "shapes": {name: shapes[name] for name in SHAPES if name in shapes},
    }
    path.write_text(json.dumps(study, indent=1) + "\n")


if __name__ == "__main__":
    main()
