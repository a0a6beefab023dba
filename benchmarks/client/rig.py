"""The rig: what is compiled, which core runs what, and one trial of one client."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client.loads import CLIENTS, Hog, Load

__all__ = ["FailedError", "Rig", "build", "hogs", "origin", "pinned"]

_HERE = Path(__file__).parent
_CAP_S = 20.0
_HOG = (
    "import os, time\nbusy, period, parent = {busy}, {period}, os.getppid()\n"
    "while os.getppid() == parent:\n"  # a bench that is killed leaves none behind
    "    until = time.perf_counter() + busy * period\n"
    "    while time.perf_counter() < until: pass\n"
    "    time.sleep((1 - busy) * period)\n"
)
_HOG_PERIOD_S = 0.1
_PATIENCE_S = 60.0
"""Longer than any client may take to start, to open its connections and to be cut off."""


class FailedError(Exception):
    """A trial that gave nothing to measure; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """Where everything runs."""

    folder: Path
    """Holds what was compiled."""
    client_core: int
    origin_core: int
    aiohttp_python: str
    """Interpreter for the clients that need aiohttp."""

    def measure(self, client: str, load: Load) -> dict[str, Any]:
        """Run one trial and return what the client printed, and the ``truth`` of the origin.

        Raises:
            FailedError: the client ended without a result.
        """
        log = self.folder / "log.jsonl"
        with (
            origin(self.folder, core=self.origin_core, pace=load.pace, log=log) as port,
            hogs(load.hog, self.client_core),
        ):
            told = _result(pinned(self.client_core, self._command(client, load, port)))
        truth = [json.loads(line) for line in log.read_text("ascii").splitlines()]
        return {**told, "truth": truth}

    def _command(self, client: str, load: Load, port: int) -> list[str]:
        if client == "limit":
            return [
                *(str(self.folder / "limit"), str(port), str(load.streams), str(load.requests)),
                *(load.pace, str(load.body_bytes), str(load.ramp_s)),
            ]
        python = self.aiohttp_python if CLIENTS[client].is_foreign else sys.executable
        return [
            *(python, "-m", "benchmarks.client.ask", client, f"--port={port}"),
            *(f"--streams={load.streams}", f"--requests={load.requests}", f"--pace={load.pace}"),
            *(f"--body-bytes={load.body_bytes}", f"--ramp-s={load.ramp_s}", f"--cap-s={_CAP_S}"),
            *(["--pieces"] if load.pieces else []),
            *(["--uneven"] if load.uneven else []),
        ]


def _result(command: Sequence[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise FailedError(f"not done after {_PATIENCE_S:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise FailedError(lines[-1])
    return json.loads(done.stdout.splitlines()[-1])


def build(folder: Path) -> bool:
    """Compile the origin and the C client; ``False``: there is no compiler, or not for Linux."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return False
    for name in ("origin", "limit"):
        source, made = str(_HERE / f"{name}.c"), str(folder / name)
        subprocess.run([compiler, "-O2", "-Wall", "-o", made, source], check=True)
    return True


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """Return the command, bound to one core."""
    return ["taskset", "-c", str(core), *command]


@contextmanager
def origin(folder: Path, *, core: int, pace: str, log: Path | None = None) -> Iterator[int]:
    """Run an origin of its own for each trial; yield its port."""
    command = pinned(core, [str(folder / "origin"), pace, *([str(log)] if log else [])])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


@contextmanager
def hogs(hog: Hog | None, core: int) -> Iterator[None]:
    """Keep a core busy meanwhile."""
    if hog is None:
        yield
        return
    code = _HOG.format(busy=hog.busy_ratio, period=_HOG_PERIOD_S)
    command = ["nice", "-n", str(hog.nice), sys.executable, "-c", code]
    running = [subprocess.Popen(pinned(core, command)) for _ in range(hog.number)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
