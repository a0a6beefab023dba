"""Kill -9 of the coordinator at random moments of a run, and what a resumed run makes of the rest.

    python -m benchmarks.kills --kills 200

A search on the simulator in virtual time runs in a process of its own, which is killed after a
random part of the time that an undisturbed one took; then it is gone on with, in this process.
Every such run must end with the capacity of the undisturbed one, and with its requests: those of
the phases that were taken over, as they stand in the log of the killed run, and those of the others
in the log of the second one, are together the lines of the undisturbed log, each once. Ends with 1
otherwise.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flaky import Found, Trouble, search
from pytest_agentperf.errors import ConfigError

__all__ = ["SMALL", "Killed", "kill_and_resume", "lines_by_phase", "main"]

SMALL = Trouble(small=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A run that was killed and gone on with."""

    taken_over: int
    """Phases that the second run did not measure."""
    half_line: bool
    """The killed run left a line of its log that it had not finished."""
    wrong: Sequence[str]
    """In what it is not the undisturbed run."""


def lines_by_phase(path: Path) -> tuple[dict[int, Counter[str]], bool]:
    """Return the lines of a request log, and whether its end is half a line."""
    *lines, rest = path.read_text("utf-8").split("\n")
    found: dict[int, Counter[str]] = {}
    for line in lines:
        found.setdefault(json.loads(line)["phase"], Counter())[line] += 1
    return found, bool(rest)


def kill_and_resume(after_s: float, results: Path, truth: Found, log: Path) -> Killed:
    """Kill a run after some seconds, go on with it, and compare.

    Args:
        after_s: when.
        results: an empty folder.
        truth: the undisturbed run.
        log: its requests.
    """
    _run_and_kill(after_s, results)
    folder = next(results.iterdir(), None) if results.exists() else None
    if folder is not None and not (folder / "bundle.json").exists():
        _check_refused(folder, results)
        folder = None
    found = search(SMALL, results, resume=folder and folder.name)
    expected, _ = lines_by_phase(log)
    seen, half_line = _all_lines(found, folder, results)
    wrong = list(_differences(found, truth))
    if seen != expected:
        lost = sum((_join(expected.values()) - _join(seen.values())).values())
        more = sum((_join(seen.values()) - _join(expected.values())).values())
        wrong.append(f"{lost} requests lost, {more} too many")
    taken_over = sum(phase.measured_in is not None for phase in found.bundle.phases)
    return Killed(taken_over=taken_over, half_line=half_line, wrong=wrong)


def _run_and_kill(after_s: float, results: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", f"--run={results}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # all is imported, and it begins
        time.sleep(after_s)
        child.kill()


def _check_refused(folder: Path, results: Path) -> None:
    """See that a run without a bundle is refused, as the documentation says."""
    try:
        search(SMALL, results, resume=folder.name)
    except ConfigError:
        shutil.rmtree(folder)
        return
    raise AssertionError("a run without a bundle was gone on with")


def _all_lines(
    found: Found, folder: Path | None, results: Path
) -> tuple[dict[int, Counter[str]], bool]:
    """Return the requests of every phase, from the log of the run that measured it."""
    own, _ = lines_by_phase(results / found.bundle.provenance.run / "requests.jsonl")
    if folder is None:
        return own, False
    old, half_line = lines_by_phase(folder / "requests.jsonl")
    taken = {p.number for p in found.bundle.phases if p.measured_in is not None}
    return {number: old.get(number, Counter()) for number in taken} | own, half_line


def _differences(found: Found, truth: Found) -> Iterable[str]:
    if found.capacity.agents != truth.capacity.agents:
        yield f"{found.capacity.agents} agents instead of {truth.capacity.agents}"
    if found.capacity.status != truth.capacity.status:
        yield f"status {found.capacity.status}"
    phases, theirs = ([p.agents for p in each.bundle.phases] for each in (found, truth))
    if phases != theirs:
        yield f"phases {phases} instead of {theirs}"


def _join(counters: Iterable[Counter[str]]) -> Counter[str]:
    joined: Counter[str] = Counter()
    for counter in counters:
        joined += counter
    return joined


def main() -> None:
    """Print what every kill came to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="only run, into this folder")
    asked = parser.parse_args()
    if asked.run is not None:
        print("begins", flush=True)
        search(SMALL, asked.run)
        return
    drawn = random.Random(asked.seed)
    taken: Counter[int] = Counter()
    wrong = half_lines = 0
    with tempfile.TemporaryDirectory() as name:
        began_s = time.perf_counter()
        truth = search(SMALL, Path(name) / "truth")
        span_s = time.perf_counter() - began_s
        log = Path(name) / "truth" / truth.bundle.provenance.run / "requests.jsonl"
        print(f"undisturbed: {truth.capacity.label} agents in {span_s:.1f} s", flush=True)
        for number in range(asked.kills):
            results = Path(name) / str(number)
            after_s = drawn.uniform(0.0, span_s)
            seen = kill_and_resume(after_s, results, truth, log)
            shutil.rmtree(results)
            taken[seen.taken_over] += 1
            half_lines += seen.half_line
            wrong += bool(seen.wrong)
            print(
                f"{number}: killed after {after_s:.2f} s, {seen.taken_over} phases taken over; "
                f"{'; '.join(seen.wrong) or 'the same'}",
                flush=True,
            )
    shares = ", ".join(f"{count} with {phases}" for phases, count in sorted(taken.items()))
    print(f"{asked.kills} kills, phases taken over: {shares}; half lines: {half_lines}")
    print(f"not as the undisturbed run: {wrong}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
