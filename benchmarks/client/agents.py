"""Ten thousand agents that wait for tools most of the time, by two load processes of ours.

All are to be active at once. What an agent takes is the memory of the load processes with all of
them less that with a hundred.

    python -m benchmarks.client.agents --agents 10000 --workers 2
"""

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.client.rig import build, origin
from benchmarks.client.tables import write
from benchmarks.client.watch import Watched, watch

_FEW = 100
_PACE = "first_us=500000,gap_us=20000,tokens=100,bytes=250"
_WORKER = "pytest_agentperf.worker"


def _workers_mb(seen: Watched) -> float:
    """Return the most memory that the load processes had together."""
    return max(
        sum(mb for name, mb in moment.pss_mb.items() if _WORKER in name) for moment in seen.moments
    )


def _run(given: argparse.Namespace, folder: Path, agents: int) -> tuple[Watched, dict[str, Any]]:
    core = max(os.sched_getaffinity(0))
    spread_s = given.spread_s if agents > _FEW else 1.0
    with origin(folder, core=core, pace=_PACE) as port:
        command = (
            *(sys.executable, "-m", "benchmarks.client.phase"),
            *("--url", f"http://127.0.0.1:{port}/v1", "--agents", str(agents)),
            *("--workers", str(given.workers), "--seconds", str(given.seconds)),
            *("--spread-s", str(spread_s), "--tool-s", str(given.tool_s)),
            *("--osl-tokens", "100", "--isl-tokens", str(given.isl_tokens), "--turns", "30"),
        )
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        seen = watch(command, cwd=folder, env=environment, most_s=300.0)
    if seen.code:
        raise SystemExit(seen.output)
    return seen, json.loads(seen.output.splitlines()[-1])


def main() -> None:
    """Print what was found; exit 1 when not all were active or one request failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--spread-s", type=float, default=30.0)
    parser.add_argument("--tool-s", type=float, default=30.0)
    parser.add_argument("--isl-tokens", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help="into the data and the page")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not build(folder):
            print("left out: the origin needs Linux and a C compiler (cc)")
            return
        few, _ = _run(given, folder, _FEW)
        seen, found = _run(given, folder, given.agents)
    more_mb = _workers_mb(seen) - _workers_mb(few)
    del found["ttft_s"]
    found |= {
        "workers": given.workers,
        "kb_per_agent": more_mb * 1e3 / (given.agents - _FEW),
        "workers_mb": _workers_mb(seen),
        "pss_mb": seen.pss_mb,
    }
    print(json.dumps(found, indent=1))
    if given.write:
        write({"agents": [found]})
    sys.exit(found["active"] < given.agents or found["failed"] > 0 or found["broken"] is not None)


if __name__ == "__main__":
    main()
