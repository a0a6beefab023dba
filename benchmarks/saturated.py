"""Is a load generator that cannot keep up caught? Loads from light to heavy, beside hogs of a core.

    python -m benchmarks.saturated                 # a quarter of an hour, two cores, a C compiler

Each run is one of `benchmarks.client`: an origin in C on a core of its own, which knows when it
sent what, and our engine on another core, which programs that only compute have now and then or all
the time, some of them as heavy as the client or heavier. The true error of a run is that of its P95
TTFT; whether it is invalid says `pytest_agentperf.validity`. Of the runs that are wrong by more
than 10 ms at least 95 % must be invalid, of the others at most 5 %. Runs in which the origin itself
was late are left out, and counted. Writes ``tests/data/study/saturated.json``.
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

from benchmarks.client.analysis import ORIGIN_LATE_S, figures
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
        gap_us=gap_us,
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
        )
        for stream, sent_ns, first_ns, last_ns, tokens, _, merged in told["rows"]
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
        "loop_lag_p99_s": found["loop_lag_s"]["p99"],
        "cpu_ratio": found["cpu_ratio"],
        "read_lag_p95_s": kernel["p95_s"],
        "merged_ratio": sum(t.first_token_merged for t in phase.turns) / len(phase.turns),
        "late_sends_ratio": kernel["late_sends"] / kernel["sends"],
        "origin_late_s": found["origin_lag_s"],
        "missed": [c.name for c in ours if not c.ok],
        "invalid_by": [c.name for c in ours if not c.ok and c.invalidates],
    }


def count(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count what was wrong and what was caught."""
    told = [run for run in found if run["origin_late_s"] <= ORIGIN_LATE_S]
    wrong = [run for run in told if run["error_p95_s"] > WRONG_S]
    right = [run for run in told if run["error_p95_s"] <= WRONG_S]
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
        f"  error {1e3 * run['error_p95_s']:7.2f} ms"
        f"  lag {1e3 * run['loop_lag_p99_s']:7.2f} ms  CPU {run['cpu_ratio']:4.0%}"
        f"  read {1e3 * run['read_lag_p95_s']:6.2f} ms  merged {run['merged_ratio']:5.1%}"
        f"  sent late {run['late_sends_ratio']:5.1%}"
        f"  origin late {1e3 * run['origin_late_s']:5.1f} ms"
        f"  {', '.join(run['invalid_by']) or 'valid'}"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturated", description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        if not build(Path(name)) or len(cores) < 2:
            print("left out: this needs Linux, a C compiler (cc) and two cores")
            return
        rig = Rig(folder=Path(name), client_core=cores[0], origin_core=cores[-1], aiohttp_python="")
        for _, streams, gap_us, hog in product(range(asked.repeats), STREAMS, GAPS_US, HOGS):
            load = load_of(streams, gap_us, hog)
            try:
                found.append(judged(rig.measure("engine", load), load))
            except FailedError as failed:
                print(f"{load.name}: {failed}", flush=True)
                continue
            print(told_of(found[-1]), flush=True)
    counts = count(found)
    print(counts)
    names = [hog.name if hog else NONE for hog in HOGS]
    made = {
        "made_by": "python -m benchmarks.saturated",
        "hogs": [asdict(hog) for hog in HOGS if hog],
        "by_hog": {name: count([run for run in found if run["hog"] == name]) for name in names},
    }
    asked.out.write_text(json.dumps(made | counts | {"each": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
