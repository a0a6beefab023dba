"""Half an hour of real load: does the memory of the coordinator and the load processes stay flat?

    python -m benchmarks.soak_real --minutes 30

A pytest run on `sim:`, over HTTP, measures one phase after the other and is watched from outside:
the memory that each of its processes has for itself (the anonymous part of its PSS), every two
seconds. Printed is the most of every phase's time; from the second phase to the last but one it may
grow by 5 %: the first loads what all need, and beside the last the report is written. A phase keeps
its requests until it is judged, so that what is compared are whole phases.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks.memory import processes, sizes_mb

_TEST = """import pytest

@pytest.mark.parametrize("more", range({phases}))
async def test_phase(agentperf, more):
    print(await agentperf.measure(agents={agents} - more))
"""
_INI = """[pytest]
asyncio_mode = auto
asyncio_default_test_loop_scope = session
asyncio_default_fixture_loop_scope = session
"""
_DATASET = "synthetic:trajectories=40,turns=8,isl=9000,osl=80~400,tool_s=0.4~1.5,seed=1"
_MOST_GROWTH = 0.05
_PERIOD_S = 2.0
_START_S = 15.0
"""Spread of the starts, settling and the tail, around each window."""


def _run(given: argparse.Namespace, folder: Path) -> tuple[int, list[dict[str, float]]]:
    """Return the exit code, and the most of every process in each phase's time, in MB."""
    phase_s = given.minutes * 60 / given.phases
    test = _TEST.format(phases=given.phases, agents=given.agents)
    (folder / "test_phases.py").write_text(test, encoding="utf-8")
    (folder / "pytest.ini").write_text(_INI, encoding="utf-8")
    options = [
        *("--agentperf-endpoint=sim:?stream_interval=4", "--agentperf-model=gpt-oss-120b"),
        *("--agentperf-tier=any:speed>=0.001", "--agentperf-dataset", _DATASET),
        *("--agentperf-workers=2", f"--agentperf-start-agents={given.agents}"),
        *("--agentperf-start-spread-s=5", "--agentperf-settle-s=5", "--agentperf-idle-s=0"),
        *("--agentperf-min-trajectories=0", "--agentperf-min-trajectories-per-agent=0"),
        *(f"--agentperf-min-steady-s={phase_s - _START_S:g}", "--agentperf-results=results"),
        # Times are not looked at, so that other work may run beside it.
        *("--agentperf-max-loop-lag-p99-s=60", "--agentperf-max-loop-lag-p95-s=60"),
        "--agentperf-max-cpu-ratio=1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with (folder / "output").open("wb") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        return _watch(run, folder, phase_s)


def _watch(
    run: "subprocess.Popen[bytes]", folder: Path, phase_s: float
) -> tuple[int, list[dict[str, float]]]:
    root = psutil.Process(run.pid)
    phases: list[dict[str, float]] = []
    began_s = time.monotonic()
    while run.poll() is None:
        number = int((time.monotonic() - began_s) / phase_s)
        if number == len(phases):
            _tell(phases, folder)
            phases.append(defaultdict(float))
        for name, pid in processes(root):
            mb = sizes_mb(pid).get("Pss_Anon", 0.0)
            phases[-1][name] = max(mb, phases[-1][name])
        time.sleep(_PERIOD_S)
    _tell(phases, folder)
    return run.wait(), phases


def _tell(phases: list[dict[str, float]], folder: Path) -> None:
    if phases:
        log_mb = sum(p.stat().st_size for p in folder.glob("results/*/requests*")) / 1e6
        shown = ", ".join(f"{name} {mb:.1f}" for name, mb in sorted(phases[-1].items()))
        print(f"{len(phases):>3}: {shown} MB; log {log_mb:.1f} MB", flush=True)


def main() -> None:
    """Print the memory of every phase; end with 1 where it grew, or the run did not end well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak_real", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--phases", type=int, default=11)
    parser.add_argument("--agents", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        code, phases = _run(given, Path(name))
        *_, last = (Path(name) / "output").read_text("utf-8").rstrip().splitlines() or [""]
    print(f"pytest ended with {code}: {last}")
    second, latest = phases[1], phases[int(given.phases) - 2]
    growth = {name: latest.get(name, 0.0) / mb - 1 for name, mb in second.items()}
    for process, share in growth.items():
        print(f"{process}: {share:+.1%} from the second phase to the last but one")
    ours = [share for name, share in growth.items() if not name.startswith("simulator")]
    sys.exit(bool(code) or max(ours) > _MOST_GROWTH)


if __name__ == "__main__":
    main()
