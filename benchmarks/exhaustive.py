"""What no search can better: every number of agents measured, by the phases that searches meet.

    python -m benchmarks.exhaustive queue:42-51 --seeds 1-20 --cache /tmp/search-cache

A search sees one phase a number. So does this, but of all numbers around the truth, and it answers
with the last one before the first that fails: what the seed has to tell, whatever the strategy. How
far that lies from the truth is the noise of a phase; how often mode ``exact`` answers the same is
the worth of the search. The cache is that of `benchmarks.search`, whose answers it reads. Writes
``tests/data/study/exhaustive.json``, where shapes that were not asked for stay as they are.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.search import Phases, numbers

__all__ = ["main"]

_STUDY = Path("tests/data/study")
_TIER = "slo-1"


def _passes(shape: str, span: Sequence[int], cache: Path, seed: int) -> list[bool]:
    phases = Phases(shape, seed, cache)
    outcomes = [
        next(v.outcome for v in phases(agents).verdicts if v.tier == _TIER) for agents in span
    ]
    if not {"pass", "fail"}.issuperset(outcomes):
        raise RuntimeError(f"{shape}, seed {seed}: {outcomes}; a clean phase must not be invalid")
    print(shape, seed, "".join("+" if each == "pass" else "-" for each in outcomes), flush=True)
    return [each == "pass" for each in outcomes]


def _row(
    span: Sequence[int], passed: Sequence[Sequence[bool]], searched: dict[str, Any]
) -> dict[str, Any]:
    truth: int = searched["truth"][_TIER]
    found: list[int] = searched["strategies"]["guided"]["tiers"][_TIER]["answers"]
    ends = [
        (span[0] - 1 + each.index(False), each.index(False)) if False in each else (span[-1], -1)
        for each in passed
    ]
    answers = [agents for agents, _ in ends]
    if span[0] - 1 in answers or span[-1] in answers:
        raise RuntimeError(f"{answers}: the span {span[0]}-{span[-1]} holds not all of them")
    near = max(1, 0.02 * truth)
    return {
        "agents": [span[0], span[-1]],
        "truth": truth,
        "answers": answers,
        "within_1_or_2_percent": round(mean(abs(each - truth) <= near for each in answers), 3),
        "pass_above_failure": sum(
            any(each[after:]) for each, (_, after) in zip(passed, ends, strict=True)
        ),
        "exact": found[: len(answers)],
        "exact_equal": round(mean(a == b for a, b in zip(answers, found, strict=False)), 3),
        "exact_within_1": round(
            mean(abs(a - b) <= 1 for a, b in zip(answers, found, strict=False)), 3
        ),
    }


def main() -> None:
    """Measure what is missing, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exhaustive", description=__doc__)
    parser.add_argument("spans", nargs="+", help="shape and agents: queue:42-51")
    parser.add_argument("--seeds", type=numbers, default="1-20", help="as of benchmarks.search")
    parser.add_argument("--cache", type=Path, required=True, help="that of benchmarks.search")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    searched = json.loads((_STUDY / "search.json").read_text("utf-8"))["shapes"]
    path = _STUDY / "exhaustive.json"
    written = json.loads(path.read_text("utf-8")) if path.exists() else {"shapes": {}}
    for each in asked.spans:
        shape, _, text = each.partition(":")
        if searched[shape]["seeds"][: len(asked.seeds)] != asked.seeds:
            raise SystemExit(f"{shape}: benchmarks.search has not run with seeds {asked.seeds}")
        span = numbers(text)
        with ProcessPoolExecutor(asked.processes) as pool:
            passed = list(pool.map(partial(_passes, shape, span, asked.cache), asked.seeds))
        written["shapes"][shape] = _row(span, passed, searched[shape])
        written["made_by"] = "python -m benchmarks.exhaustive SHAPE:LOW-HIGH --cache FOLDER"
        path.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
