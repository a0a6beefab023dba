"""Fuzz every importer: nothing but a dataset, ``None`` or a told mistake, in time and in memory.

    python -m benchmarks.fuzz_importers --minutes 10

Each format's small source from the tests is changed at random, as JSON and as bytes, read from a
file, a folder or an archive, and asked for the languages of its sessions. First come a few attacks:
nesting, a line of a gigabyte, bombs. Each format has a process of its own, whose address space may
grow by no more than a gigabyte.
"""

import argparse
import importlib
import io
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.mutations import ATTACKS, attack, changed, packed
from pytest_agentperf.errors import AgentPerfError
from pytest_agentperf.languages import language
from tests.sessions_in import SOURCES, Source, encoded

CASE_S = 60
"""Of processor time, so that a busy machine is no hang; one that waits ends with its process."""
MEMORY_BYTES = 2**30
SHOWN = 3
"""Failures of each kind that are printed whole."""


class TooSlow(BaseException):
    """Not an Exception, so that no importer takes it for a mistake in a file."""


def main() -> int:
    """Fuzz all formats, print a table, and return 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="of changes at random, for all formats together; attacks come on top",
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--format", choices=SOURCES, help="only this one")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(fuzz(options.format, options.minutes * 60, options.seed)))
        return 0
    names = [options.format] if options.format else list(SOURCES)
    print("format               cases   None  dataset   told  peak MiB  failed")
    failed = 0
    for name in names:
        failed += _run(name, options.minutes / len(names), options.seed)
    return 1 if failed else 0


def _run(name: str, minutes: float, seed: int) -> int:
    command = [sys.executable, "-m", "benchmarks.fuzz_importers", "--worker", "--format", name]
    command += ["--minutes", str(minutes), "--seed", str(seed)]
    patience_s = minutes * 60 + 30 * CASE_S
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=patience_s
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        print(f"{name:18} the process hung or died: {error}", flush=True)
        return 1
    counts = found["counts"]
    told = [counts.get(kind, 0) for kind in ("None", "dataset", "ConfigError")]
    bad = sum(counts.values()) - sum(told)
    print(
        f"{name:18} {sum(counts.values()):7} {told[0]:6} {told[1]:8} {told[2]:6} "
        f"{found['peak_mib']:9}  {bad}",
        *found["failures"],
        sep="\n",
        flush=True,
    )
    return bad


def fuzz(name: str, duration_s: float, seed: int) -> dict[str, Any]:
    """Read changed sources of a format for so long; return what came of it."""
    source = SOURCES[name]
    module = importlib.import_module(
        f"pytest_agentperf.importers.{source.importer.replace('-', '_')}"
    )
    _limit_memory()
    signal.signal(signal.SIGPROF, _too_slow)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for case, path in _cases(source, random.Random(seed), Path(folder), duration_s):
            outcome, told = _outcome(module.load, path)
            counts[outcome] += 1
            if told and counts[outcome] <= SHOWN:
                failures.append(f"{name}, {case}: {outcome}\n{told}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"counts": counts, "failures": failures, "peak_mib": peak_mib}


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _outcome(load: Any, path: str) -> tuple[str, str]:
    signal.setitimer(signal.ITIMER_PROF, CASE_S)
    try:
        dataset = load(path)
        for trajectory in dataset.trajectories if dataset else ():
            language(trajectory)
    except AgentPerfError as error:
        return type(error).__name__, ""
    except (Exception, TooSlow) as error:  # noqa: BLE001 whatever it is, it is what is looked for
        return type(error).__name__, "".join(traceback.format_exception(error)[-6:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ("None" if dataset is None else "dataset"), ""


def _cases(
    source: Source, dice: random.Random, folder: Path, duration_s: float
) -> Iterator[tuple[str, str]]:
    """Yield what was done, and the path of the changed source."""
    whole = {name: encoded(records) for name, records in source.files.items()}
    if len(whole) == 1:
        ((name, content),) = whole.items()
        for kind in ATTACKS:
            path = folder / f"{kind}-{name}"
            for ending in ATTACKS[kind]:
                packed_path = path.with_name(path.name + ending)
                attack(kind, content, ending, packed_path, name)
                yield f"{kind} {ending}", str(packed_path)
                packed_path.unlink()
    number = 0
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        number += 1
        files = {name: changed(records, dice) for name, records in source.files.items()}
        path = _written(files, dice, folder / str(number))
        yield f"case {number}", str(path)
        _removed(path)


def _written(files: dict[str, bytes], dice: random.Random, path: Path) -> Path:
    """Write the files as one file, a folder or an archive."""
    shape = dice.choice(("file", "file", "file", "folder", "zip"))
    if shape == "zip":
        archive = path.with_suffix(".zip")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as members:
            for name, content in files.items():
                members.writestr(f"folder/{name}", content)
        data = bytearray(buffer.getvalue())
        if dice.random() < 0.2:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        archive.write_bytes(data)
        return archive
    path.mkdir()
    for name, content in files.items():
        ending, data = packed(content, dice) if dice.random() < 0.3 else ("", content)
        target = path / f"{name}{ending}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    return next(path.iterdir()) if shape == "file" and len(files) == 1 else path


def _removed(path: Path) -> None:
    if path.suffix == ".zip":
        path.unlink()
        return
    folder = path if path.is_dir() else path.parent
    for one in sorted(folder.rglob("*"), reverse=True):
        one.rmdir() if one.is_dir() else one.unlink()
    folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
