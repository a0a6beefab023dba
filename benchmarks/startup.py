"""What the plugin costs a project that does not use it: `pytest --collect-only`, with and without.

The two are run in turn, so that a machine whose speed drifts treats both alike. `without` keeps the
plugin installed and switches it off with `-p no:agentperf`.

    python -m benchmarks.startup --runs 15
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def _collect_s(project: Path, *options: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *options],
        cwd=project,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


def main() -> None:
    """Print the medians and their difference; exit 1 when it is 50 ms or more."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "pytest.ini").write_text(
            "[pytest]\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8"
        )
        for number in range(20):
            tests = "".join(f"def test_{n}(): pass\n" for n in range(20))
            (project / f"test_{number}.py").write_text(tests, encoding="utf-8")
        _collect_s(project)
        pairs = [
            (_collect_s(project), _collect_s(project, "-p", "no:agentperf")) for _ in range(runs)
        ]
    with_s, without_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    cost_ms = statistics.median(a - b for a, b in pairs) * 1e3
    print(
        f"collect-only of 400 tests, median of {runs}: "
        f"with {with_s:.3f} s, without {without_s:.3f} s"
    )
    print(f"cost of the plugin: {cost_ms:.1f} ms (median of paired differences)")
    raise SystemExit(0 if cost_ms < 50 else 1)


if __name__ == "__main__":
    main()
