"""``python -m pytest_agentperf.export RUN --out DIR``: a run's requests and phases as Parquet.

DIR gets ``requests.parquet``, ``phases.parquet``, ``verdicts.parquet``, ``timeline.parquet`` and
``server.parquet``. It needs pyarrow: ``pip install 'pytest-agentperf[parquet]'``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_agentperf.command import WRONG_USE, Parser
from pytest_agentperf.errors import AgentPerfError, ConfigError
from pytest_agentperf.parquet import COLUMNS, load_pyarrow, write_tables
from pytest_agentperf.stored import open_run

__all__ = ["main"]

_PROGRAM = "python -m pytest_agentperf.export"


def main(given: Sequence[str] | None = None) -> int:
    """Write the tables; return the exit code: 0, or 4 where something is wrong."""
    parser = Parser(prog=_PROGRAM, description="Write a run's requests and phases as Parquet.")
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the tables")
    asked = parser.parse_args(given)
    try:
        load_pyarrow()
        run = open_run(asked.run)
        _make_room(asked.out)
        rows = write_tables(run, asked.out)
    except (AgentPerfError, OSError) as wrong:
        sys.stderr.write(f"error: {wrong}\n")
        return WRONG_USE
    for name, count in rows.items():
        sys.stdout.write(f"{asked.out / name}.parquet: {count:,} rows\n")
    return 0


def _make_room(folder: Path) -> None:
    there = [name for name in COLUMNS if (folder / f"{name}.parquet").exists()]
    if there:
        raise ConfigError(
            f"--out {folder}: {there[0]}.parquet is there already; name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
