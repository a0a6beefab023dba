"""Peak memory of the coordinator and of every load process while many agents replay long prompts.

A pytest run on `sim:` is watched from outside: the proportional set size (PSS) of each of its
processes, in which a page that several of them map counts for each by its share. Agents start
balanced, so that prompts are as long as they become, and wait most of the time, so that two cores
carry them; what the search answers is of no interest. What trajectories take on disk, and how long
they take to write, is told beside it.

    python -m benchmarks.memory --agents 1000 --trajectories 500
    python -m benchmarks.memory --package OLDER_CHECKOUT --no-file
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil

from pytest_agentperf.encoded import map_trajectories, write_trajectories
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.plan import make_plan

__all__ = ["processes", "sizes_mb"]

_TEST = "async def test_capacity(capacity):\n    print(capacity.explanation)\n"
_PERIOD_S = 0.25
_SIM = (
    "max_sequences=1024&sequence_overhead_s=0&kv_capacity_tokens=1000000000&step_overhead_s=0.02"
    "&stream_interval=50&max_step_tokens=131072&flops_per_token=1e9&acceptance="
)
"""Fifty tokens a second for everyone, in few events, so that the simulator's process keeps up."""
_ROLES = {"pytest_agentperf.worker": "load process", "pytest_agentperf.sim.server": "simulator"}
_FIELDS = ("Pss", "Pss_Anon", "Pss_File", "Rss")


def sizes_mb(pid: int) -> dict[str, float]:
    """Return what the kernel says of a process, in MB; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return {}
    told = (line.split() for line in lines if line.endswith(" kB"))
    return {name[:-1]: int(kb) * 1024 / 1e6 for name, kb, _ in told if name[:-1] in _FIELDS}


def _role(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return next((role for module, role in _ROLES.items() if module in command), "")


def processes(root: psutil.Process) -> Iterator[tuple[str, int]]:
    """Yield those of a run that are still there: what each is, and its id."""
    yield "coordinator", root.pid
    for child in root.children(recursive=True):
        try:
            if role := _role(child):
                yield f"{role} {child.pid}", child.pid
        except psutil.NoSuchProcess:
            continue


def _watch(run: "subprocess.Popen[bytes]") -> dict[str, dict[str, float]]:
    """Return the peak of every figure of every process, until the run ends."""
    root = psutil.Process(run.pid)
    peaks: dict[str, dict[str, float]] = defaultdict(dict)
    while run.poll() is None:
        together = 0.0
        for name, pid in processes(root):
            sizes = sizes_mb(pid)
            together += sizes.get("Pss", 0.0) * (not name.startswith("simulator"))
            for field, mb in sizes.items():
                peaks[name][field] = max(mb, peaks[name].get(field, 0.0))
        peaks["all but the simulator"]["Pss"] = max(
            together, peaks["all but the simulator"].get("Pss", 0.0)
        )
        time.sleep(_PERIOD_S)
    return peaks


def _run(given: argparse.Namespace, dataset: str, folder: Path) -> dict[str, dict[str, float]]:
    (folder / "test_capacity.py").write_text(_TEST, encoding="utf-8")
    ini = "[pytest]\nasyncio_mode = auto\nasyncio_default_test_loop_scope = session\n"
    ini += "asyncio_default_fixture_loop_scope = session\n"
    (folder / "pytest.ini").write_text(ini, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": given.package or str(Path.cwd())}
    options = [
        *("--agentperf-endpoint", f"sim:?{given.sim}", "--agentperf-model=gpt-oss-120b"),
        *(
            "--agentperf-tier=any:speed>=0.001",
            "--agentperf-mode=fast",
            f"--agentperf-workers={given.workers}",
        ),
        *(f"--agentperf-{edge}-agents={given.agents}" for edge in ("start", "max")),
        *("--agentperf-dataset", dataset),
        *("--agentperf-max-tool-s=600", "--agentperf-start-spread-s=20", "--agentperf-settle-s=5"),
        *("--agentperf-min-trajectories=0", "--agentperf-min-trajectories-per-agent=0"),
        *(f"--agentperf-min-steady-s={given.seconds}", "--agentperf-max-loop-lag-p95-s=60"),
        *("--agentperf-max-loop-lag-p99-s=60", "--agentperf-max-cpu-ratio=1", "-rP"),
    ]
    run = subprocess.Popen([sys.executable, "-m", "pytest", *options], cwd=folder, env=environment)
    return _watch(run)


def _file(dataset: str, folder: Path) -> str:
    plan = make_plan(
        load_dataset(dataset, None),
        context_tokens=131_072,
        max_tokens=16_384,
        tool_delay="recorded",
        max_tool_s=600,
        seed=0,
        salted=True,
    )
    turns = [turn for trajectory in plan.trajectories for turn in trajectory.turns]
    isl = sum(turn.recorded_isl_tokens or 0 for turn in turns) / len(turns)
    began = time.perf_counter()
    write_trajectories(folder / "planned", plan.trajectories, reasoning_field="reasoning")
    written = time.perf_counter()
    map_trajectories(folder / "planned")
    mapped = time.perf_counter()
    return (
        f"{len(plan.trajectories)} trajectories, {len(turns)} turns, mean ISL {isl:.0f} tokens: "
        f"{(folder / 'planned').stat().st_size / 1e6:.0f} MB on disk, written in "
        f"{written - began:.2f} s, mapped in {(mapped - written) * 1e3:.0f} ms"
    )


def main() -> None:
    """Print the peaks in MB."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--trajectories", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="steady window of a phase")
    parser.add_argument("--tool-s", default="60", help="tool time of the synthetic dataset")
    parser.add_argument("--sim", default=_SIM, help="fields of the simulated deployment")
    parser.add_argument("--package", help="checkout whose code runs, if not this one")
    parser.add_argument(
        "--no-file", action="store_true", help="leave out size and time of the file"
    )
    given = parser.parse_args()
    dataset = f"synthetic:trajectories={given.trajectories},tool_s={given.tool_s}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not given.no_file:
            print(_file(dataset, folder), flush=True)
        peaks = _run(given, dataset, folder)
    print(f"{'peak, MB':<26}" + "".join(f"{field:>10}" for field in _FIELDS))
    for process, sizes in sorted(peaks.items()):
        cells = (f"{sizes[f]:>10.0f}" if f in sizes else f"{'':>10}" for f in _FIELDS)
        print(f"{process:<26}" + "".join(cells))


if __name__ == "__main__":
    main()
