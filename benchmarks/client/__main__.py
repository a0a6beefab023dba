"""The client against the C client, the naive loop, httpx and its peers: one run on one machine.

The client has one core and the origin another. All clients take turns; every token is counted. What
is measured is written to tests/data/study/client.json, and docs/client.md made from it; a run of
parts writes nothing unless it is told to.

    python -m benchmarks.client                       # all loads and the ladder, some ten minutes
    python -m benchmarks.client --quick               # the goals alone, once each, no ladder
    python -m benchmarks.client --only "500 x 50" ladder --clients engine naive
    python -m benchmarks.client --peers --only        # the peers, and nothing else
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.client.analysis import carries, figures, goals, is_disturbed
from benchmarks.client.loads import CLIENTS, LADDER, LOADS, STEPS, Load, quick_loads, rung, turns
from benchmarks.client.peers import compare
from benchmarks.client.rig import FailedError, Rig, build
from benchmarks.client.tables import goal_line, summary, write

_LADDER = "ladder"
_MOST_TIMES = 3
_MOST_REPEATS = 20
"""On a machine that is never quiet, a run has to end all the same."""
_TRIES = 2


class _Bench:
    """All trials of a run."""

    def __init__(self, rig: Rig, clients: Sequence[str]) -> None:
        self._rig = rig
        self._clients = clients
        self._began_s = time.monotonic()
        self._repeats_left = _MOST_REPEATS

    def trial(self, load: Load, client: str, *, most: int = _MOST_TIMES) -> dict[str, Any]:
        """Run one trial, and again where it was disturbed; tell it as it comes."""
        for _ in range(most):
            try:
                told = self._rig.measure(client, load)
                trial = figures(
                    told, requests=load.streams * load.requests, hog=load.hog is not None
                )
            except FailedError as failed:
                trial = {"failed": str(failed)}
            elapsed_s = time.monotonic() - self._began_s
            print(f"{elapsed_s:4.0f} s  {load.name:<20} {client:<12} {summary(trial)}", flush=True)
            if not is_disturbed(trial) or trial["done_ratio"] < 1 or not self._repeats_left:
                break
            self._repeats_left -= 1
        return trial

    def loads(self, loads: Sequence[Load]) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Run every load with every client that is here."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for load, client in turns(loads, self._clients):
            trials = found.setdefault(load.name, {}).setdefault(client, [])
            trials.append(self.trial(load, client))
        return found

    def ladder(self) -> dict[str, dict[str, bool]]:
        """Find the most streams of every client, step by step and in turn."""
        steps: dict[str, dict[str, bool]] = {
            client: {} for client in LADDER if client in self._clients
        }
        due = list(steps)
        while due:
            for client in tuple(due):
                streams = next_step(LADDER[client], steps[client])
                if streams is None:
                    due.remove(client)
                else:
                    steps[client][str(streams)] = self._is_carried(client, streams)
        return steps

    def _is_carried(self, client: str, streams: int) -> bool:
        return any(carries(self.trial(rung(streams), client, most=1)) for _ in range(_TRIES))


def next_step(start: int, tried: Mapping[str, bool]) -> int | None:
    """Return the step to try: up from what was carried, else half as far as what was not."""
    if not tried:
        return start
    carried = [int(streams) for streams, yes in tried.items() if yes]
    if carried:
        above = [step for step in STEPS if step > max(carried)]
        return above[0] if above and str(above[0]) not in tried else None
    lowest = min(map(int, tried))
    half = [step for step in STEPS if step <= lowest / 2]
    if half:
        return half[-1]
    return STEPS[0] if lowest > STEPS[0] else None


def _machine() -> dict[str, str]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    told = {
        "CPU": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "Linux": platform.release(),
        "Python": platform.python_version(),
    }
    for package in ("uvloop", "httpx", "msgspec"):
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            told[package] = "none"
    return told


def _usable(client: str, aiohttp_python: str) -> bool:
    """Tell whether a client can run here; say so where it cannot."""
    needs = CLIENTS[client].needs
    python = aiohttp_python if CLIENTS[client].is_foreign else sys.executable
    asked = [python, "-c", f"import {needs}"]
    if not needs or not subprocess.run(asked, capture_output=True, check=False).returncode:
        return True
    print(f"{client} is left out: {python} cannot import {needs}")
    return False


def _chosen(given: argparse.Namespace) -> list[Load]:
    loads = quick_loads() if given.quick else list(LOADS)
    return loads if given.only is None else [load for load in loads if load.name in given.only]


def _run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    rig = Rig(
        folder=folder,
        client_core=cores[0],
        origin_core=cores[-1],
        aiohttp_python=given.aiohttp_python,
    )
    asked = given.clients or list(CLIENTS)
    bench = _Bench(rig, [name for name in asked if _usable(name, given.aiohttp_python)])
    found: dict[str, Any] = {"machine": _machine()}
    if loads := _chosen(given):
        found["loads"] = bench.loads(loads)
    if _LADDER in given.only if given.only is not None else not given.quick:
        found["ladder"] = bench.ladder()
    if given.peers:
        programs = {"aiperf": given.aiperf, "guidellm": given.guidellm}
        found["peers"] = compare(folder, rig.origin_core, programs)
    return found


def main() -> None:
    """Print every trial and the goals; exit 1 when one was missed or a token was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="loads, or ladder")
    parser.add_argument("--clients", nargs="+", choices=sorted(CLIENTS))
    parser.add_argument("--peers", action="store_true", help="the same work by real peers, too")
    for name in ("aiperf", "guidellm"):
        parser.add_argument(f"--{name}", default=shutil.which(name), metavar="PROGRAM")
    parser.add_argument("--write", action="store_true", help="write the data of a part, too")
    parser.add_argument("--aiohttp-python", default=sys.executable, metavar="PYTHON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not build(folder) or len(os.sched_getaffinity(0)) < 2:
            print("the client bench is left out: it needs Linux, a C compiler (cc) and two cores")
            return
        found = _run(given, folder)
    whole = not given.quick and given.only is None and not given.clients
    if whole or given.write:
        write(found, whole=whole)
    reached = goals(found)
    print()
    for goal in reached:
        if goal.value is not None or whole:
            print(goal_line(goal).replace("**", ""))
    sys.exit(any(goal.is_met is False for goal in reached))


if __name__ == "__main__":
    main()
