"""Is a load generator that cannot keep up caught? Loads from light to heavy, beside hogs of a core.

    python -m benchmarks.saturated                 # twenty minutes, as root, two cores

Each run is one of `benchmarks.client`: an origin in C on a core of its own, which knows when it
sent what, and our engine on another core, which programs that only compute have now and then or all
the time, some of them as heavy as the client or heavier. First tokens take as unlike times as those
of a queue. A run is wrong where one TTFT in twenty, or the P95 of all, is wrong by more than 10 ms;
whether it is invalid says `pytest_agentperf.validity`. Of the wrong ones at least 95 % must be
invalid, of the others at most 5 %. An origin that is late says when it did what all the same; where
one answer of twenty was later by 0.1 s, somebody else had its core, and the run is left out. Writes
``tests/data/study/saturated.json``.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.client.analysis import figures, joined
from benchmarks.client.loads import Hog, Load
from benchmarks.client.rig import FailedError, Rig, build
from pytest_agentperf.checks import Marks
from pytest_agentperf.metrics import summarize
from pytest_agentperf.records import ClientHealth, Measurement, ReadLag, TurnRecord, Window
from pytest_agentperf.settings import Settings
from pytest_agentperf.validity import check

__all__ = ["main"]

OUT = Path("tests/data/study/saturated.json")
WRONG_S = 0.010
ORIGIN_LATE_S = 0.1
STREAMS = (50, 200, 500, 1000, 1600)
GAPS_US = (20_000, 50_000)
"""Between tokens: where there is more time, fewer of them merge."""
HOGS = (
    None,
    Hog(name="one, half of the time", busy_ratio=0.5),
    Hog(name="one"),
    Hog(name="four", number=4),
    Hog(name="one, as important as the client", nice=-10),
    Hog(name="four, as important as the client", number=4, nice=-10),
    Hog(name="four, more important than the client", number=4, nice=-15),
)
NONE = "none"
_ANSWER_S = 1.0


def load_of(streams: int, gap_us: int, hog: Hog | None) -> Load:
    """Return a load of answers of a second."""
    return Load(
        name=f"{streams} x {1_000_000 // gap_us}",
        streams=streams,
        requests=3,
        first_us=50_000,
        gap_us=gap_us,
        uneven=True,
        tokens=int(_ANSWER_S * 1e6 / gap_us),
        hog=hog,
    )


def phase_of(told: Mapping[str, Any]) -> Measurement:
    """Return what a client has seen, as a phase."""
    turns = tuple(
        TurnRecord(
            agent=stream,
            ordinal=0,
            trajectory="t",
            turn=0,
            last_turn=True,
            scheduled_ns=sent_ns,
            sent_ns=sent_ns,
            end_ns=last_ns,
            first_token_ns=first_ns,
            last_token_ns=last_ns,
            osl_tokens=tokens,
            finish_reason="stop",
            first_token_merged=bool(merged),
            written_ns=written_ns,
        )
        for stream, sent_ns, first_ns, last_ns, tokens, _, merged, written_ns in told["rows"]
    )
    sent_ns = [turn.sent_ns for turn in turns]
    return Measurement(
        agents=len({turn.agent for turn in turns}),
        window=Window(start_ns=min(sent_ns), end_ns=max(sent_ns) + 1),
        turns=turns,
        samples=(),
        health=ClientHealth(
            loop_lag_s=(tuple(lag / 1e9 for lag in told["lag_ns"]),),
            cpu_ratio=told["cpu_s"] / told["wall_s"],
            first_sent_ns=(),
            read_lag=(ReadLag(**told["kernel"]),),
        ),
        floors_met=True,
    )


def judged(told: Mapping[str, Any], load: Load) -> dict[str, Any]:
    """Return how wrong one run was, what its client knew of that, and what validity says."""
    settings = Settings()
    marks = Marks(
        max_loop_lag_p95_s=settings.max_loop_lag_p95_s,
        max_loop_lag_p99_s=settings.max_loop_lag_p99_s,
        max_cpu_ratio=settings.max_cpu_ratio,
    )
    phase, kernel = phase_of(told), told["kernel"]
    found = figures(told, requests=load.streams * load.requests, hog=load.hog is not None)
    ours = [c for c in check(phase, summarize(phase), marks) if c.name.startswith("client ")]
    return {
        "load": load.name,
        "hog": load.hog.name if load.hog else NONE,
        "error_p95_s": found["ttft_error_s"]["p95"],
        "p95_off_s": _p95_off_s(told),
        "loop_lag_p99_s": found["loop_lag_s"]["p99"],
        "cpu_ratio": found["cpu_ratio"],
        "read_lag_p95_s": kernel["p95_s"],
        "merged_ratio": sum(t.first_token_merged for t in phase.turns) / len(phase.turns),
        "unstamped": kernel["unstamped"],
        "origin_late_s": float(np.percentile([each["lag_ns"] for each in told["truth"]], 95)) / 1e9,
        "missed": [c.name for c in ours if not c.ok],
        "why": next((c.text for c in ours if not c.ok and c.invalidates), ""),
        "invalid_by": [c.name for c in ours if not c.ok and c.invalidates],
    }


def _p95_off_s(told: Mapping[str, Any]) -> float:
    """Return by how much the P95 of TTFT is too long."""
    pairs = list(joined(told["rows"], told["truth"]))
    seen = np.percentile([row[2] - row[1] for row, _ in pairs], 95)
    true = np.percentile([each["first_ns"] - each["read_ns"] for _, each in pairs], 95)
    return float(seen - true) / 1e9


def _is_wrong(run: Mapping[str, Any]) -> bool:
    return max(run["error_p95_s"], abs(run["p95_off_s"])) > WRONG_S


def count(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count what was wrong and what was caught."""
    told = [run for run in found if run["origin_late_s"] <= ORIGIN_LATE_S]
    wrong = [run for run in told if _is_wrong(run)]
    right = [run for run in told if not _is_wrong(run)]
    return {
        "runs": len(found),
        "origin_late": len(found) - len(told),
        "wrong": len(wrong),
        "wrong_and_invalid": sum(bool(run["invalid_by"]) for run in wrong),
        "right": len(right),
        "right_and_late": sum(bool(run["missed"]) for run in right),
        "right_and_invalid": sum(bool(run["invalid_by"]) for run in right),
    }


def told_of(run: Mapping[str, Any]) -> str:
    """Return a run in one line."""
    return (
        f"{run['load']:10s} hog: {run['hog']:34s}"
        f"  error {1e3 * run['error_p95_s']:7.2f} ms  P95 off {1e3 * run['p95_off_s']:7.2f} ms"
        f"  lag {1e3 * run['loop_lag_p99_s']:7.2f} ms  CPU {run['cpu_ratio']:4.0%}"
        f"  read {1e3 * run['read_lag_p95_s']:6.2f} ms  merged {run['merged_ratio']:5.1%}"
        f"  origin late {1e3 * run['origin_late_s']:5.1f} ms"
        f"  {', '.join(run['invalid_by']) or 'valid'}"
        f"{run['why'] and ' (' + run['why'].split(',')[-1].split(':')[0].strip() + ')'}"
    )


def write(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write what there is so far, so that a run that is ended leaves it."""
    names = [hog.name if hog else NONE for hog in HOGS]
    made = {
        "made_by": "python -m benchmarks.saturated",
        "hogs": [asdict(hog) for hog in HOGS if hog],
        "by_hog": {name: count([run for run in found if run["hog"] == name]) for name in names},
    }
    path.write_text(json.dumps(made | count(found) | {"each": found}, indent=1) + "\n")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturated", description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        if not build(Path(name)) or len(cores) < 2 or os.geteuid():
            print("left out: this needs Linux, a C compiler (cc), two cores, and root to renice")
            return
        rig = Rig(folder=Path(name), client_core=cores[0], origin_core=cores[-1], aiohttp_python="")
        for _, streams, gap_us, hog in product(range(asked.repeats), STREAMS, GAPS_US, HOGS):
            load = load_of(streams, gap_us, hog)
            try:
                told = rig.measure("engine", load)
                if len(told["rows"]) < load.streams * load.requests:
                    raise FailedError("cut off: not every answer came")
            except FailedError as failed:
                print(f"{load.name}: {failed}", flush=True)
                continue
            found.append(judged(told, load))
            print(told_of(found[-1]), flush=True)
            write(found, asked.out)
    print(count(found))


if __name__ == "__main__":
    main()
