"""Several runs on one page: ``python -m pytest_agentperf.leaderboard RUN... --out page.html``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from pytest_agentperf.bundle import Bundle, read_bundle
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.normalize import PER
from pytest_agentperf.pages import fragment, page
from pytest_agentperf.ranking import Standing, standings

__all__ = ["leaderboard_page", "read_runs"]

_USAGE = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pytest_agentperf.leaderboard",
        description="Puts the answers of several runs beside one another, those that mean the same "
        "in one list.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="bundle.json, a run's folder, or a "
                        "folder of runs")  # fmt: skip
    parser.add_argument("--out", default="leaderboard.html", help="page to write")
    given = parser.parse_args(arguments)
    out = Path(given.out)
    try:
        runs = read_runs(given.runs)
        links = {bundle.provenance.run: _link(path, out) for bundle, path in runs}
        text = leaderboard_page([bundle for bundle, _ in runs], links)
        out.write_text(text, encoding="utf-8")
    except (ConfigError, OSError) as wrong:
        print(wrong, file=sys.stderr)  # noqa: T201 a command speaks to a terminal
        return _USAGE
    print(f"{len(runs)} runs: {out}")  # noqa: T201 the same
    return 0


def leaderboard_page(bundles: Sequence[Bundle], links: dict[str, str] | None = None) -> str:
    """Return the page.

    Args:
        bundles: the runs.
        links: by run, the address of its report as seen from the page.
    """
    lists: tuple[Standing, ...] = standings(bundles)
    body = fragment(
        "leaderboard.html.jinja", lists=lists, per=PER, runs=len(bundles), links=links or {}
    )
    return page("Agent capacity of several runs", body)


def read_runs(names: Sequence[str]) -> list[tuple[Bundle, Path]]:
    """Read the bundles of runs; one that is named twice counts once.

    Raises:
        ConfigError: a name is no run, or its bundle cannot be read.
    """
    found: dict[str, tuple[Bundle, Path]] = {}
    for name in names:
        for path in _bundles(Path(name)):
            try:
                bundle = read_bundle(path.read_bytes(), str(path))
            except OSError as failed:
                raise ConfigError(f"{path} cannot be read: {failed}") from failed
            found.setdefault(bundle.provenance.run, (bundle, path))
    return list(found.values())


def _bundles(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "bundle.json").is_file():
        return [path / "bundle.json"]
    found = sorted(path.glob("*/bundle.json"))
    if not found:
        raise ConfigError(f"{path}: no bundle.json and no folder of runs; give a run's folder")
    return found


def _link(bundle: Path, out: Path) -> str:
    """Return the address of a run's report as seen from the page, or nothing."""
    report = bundle.parent / "report.html"
    if not report.is_file():
        return ""
    try:
        return quote(Path(os.path.relpath(report, out.resolve().parent)).as_posix())
    except ValueError:  # another drive
        return ""


if __name__ == "__main__":
    sys.exit(main())
