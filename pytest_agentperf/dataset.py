"""``python -m pytest_agentperf.dataset``: look at a dataset, convert, divide and check it.

    inspect SOURCE                what it is like, beside what is published of AA-AgentPerf's
    convert SOURCE OUT.jsonl      write it in the project's own format
    split SOURCE --private-ratio=0.5 --out-tuning=A.jsonl --out-private=B.jsonl
    validate SOURCE               list what is wrong with it; exit code 1 where something is

SOURCE is whatever ``--dataset`` takes. ``docs/datasets.md`` tells all.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track

from pytest_agentperf.command import WRONG_USE, Parser
from pytest_agentperf.dataset_file import check_new, write_lines
from pytest_agentperf.dataset_rules import problems
from pytest_agentperf.dataset_split import split
from pytest_agentperf.dataset_statistics import (
    PUBLISHED,
    PUBLISHED_PROMPTS,
    PUBLISHED_TRAJECTORIES,
    statistics,
)
from pytest_agentperf.dataset_view import shown
from pytest_agentperf.errors import AgentPerfError, ConfigError
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.importers.native import dump
from pytest_agentperf.trajectory import Dataset

__all__ = ["main"]

_WRONG_DATA = 1
_INTERRUPTED = 130
_PROGRAM = "python -m pytest_agentperf.dataset"

Item = TypeVar("Item")


def _inspect(asked: Namespace) -> int:
    found = statistics(_load(asked), watch=lambda all_: _tracked(all_, "counting", len(all_)))
    if not asked.json:
        sys.stdout.write(shown(found))
        return 0
    published = {
        "trajectories": PUBLISHED_TRAJECTORIES,
        "prompts": PUBLISHED_PROMPTS,
        **PUBLISHED,
    }
    text = msgspec.json.encode({"dataset": found, "agentperf_published": published})
    sys.stdout.write(msgspec.json.format(text, indent=2).decode() + "\n")
    return 0


def _convert(asked: Namespace) -> int:
    check_new(asked.out, force=asked.force)
    dataset = _load(asked)
    name = asked.name or dataset.name
    _write(replace(dataset, name=name, private=dataset.private or asked.private), asked.out)
    for loss in dataset.losses:
        _say(f"  {loss}")
    return 0


def _split(asked: Namespace) -> int:
    outs = (asked.out_tuning, asked.out_private)
    for out in outs:
        check_new(out, force=asked.force)
    if asked.out_tuning.resolve() == asked.out_private.resolve():
        raise ConfigError(f"both parts go to {str(asked.out_tuning)!r}; give each its own file")
    parts = split(_load(asked), private_ratio=asked.private_ratio, salt=asked.salt)
    for part, out in zip(parts, outs, strict=True):
        _write(part, out)
    return 0


def _validate(asked: Namespace) -> int:
    found = list(_problems(asked))
    for problem in found:
        _say(problem)
    _say(f"{len(found)} problems" if found else "no problem found")
    return _WRONG_DATA if found else 0


def _problems(asked: Namespace) -> Iterator[str]:
    try:
        dataset = _read(asked, strict=True)
    except ConfigError as error:
        if not Path(asked.source).expanduser().exists():
            raise
        yield str(error)
        return
    yield from problems(dataset)


def _load(asked: Namespace) -> Dataset:
    return _read(asked, strict=asked.strict)


def _read(asked: Namespace, *, strict: bool) -> Dataset:
    with _busy("reading"):
        return load_dataset(asked.source, asked.importer, strict=strict)


def _write(dataset: Dataset, out: Path) -> None:
    lines = _tracked(dump(dataset), "writing", len(dataset.trajectories) + 1)
    write_lines(lines, out)
    prompts = sum(len(one.turns) for one in dataset.trajectories)
    _say(f"{out}: {len(dataset.trajectories):,} trajectories, {prompts:,} prompts")
    _say(f"  sha256 {dataset.sha256}{', private' if dataset.private else ''}")


def _say(line: str) -> None:
    sys.stdout.write("".join(c if c.isprintable() else "\ufffd" for c in line) + "\n")


@contextmanager
def _busy(what: str) -> Generator[None]:
    """Show that work goes on whose end cannot be foretold; nothing where nobody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    watched = sys.stderr.isatty()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not watched
    ) as bars:
        bars.add_task(what, total=None)
        yield


def _tracked(items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    watched = sys.stderr.isatty()
    console = Console(stderr=True)
    return track(items, what, total, console=console, transient=True, disable=not watched)


def _parser() -> ArgumentParser:
    parser = Parser(prog=_PROGRAM, description="Look at datasets, convert, divide, check them.")
    commands = parser.add_subparsers(required=True, metavar="inspect|convert|split|validate")

    inspect = commands.add_parser("inspect", help="tell what a dataset is like")
    inspect.add_argument("--json", action="store_true", help="for programs")
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser("convert", help="write it in the project's own format")
    convert.add_argument("--name", help="what reports call it")
    convert.add_argument(
        "--private", action="store_true", help="reports show its digest and statistics only"
    )
    convert.set_defaults(run=_convert)

    divide = commands.add_parser("split", help="divide it into a tuning and a private part")
    divide.add_argument("--private-ratio", type=float, default=0.5, help="above 0, below 1; 0.5")
    divide.add_argument("--salt", default="", help="another text divides otherwise")
    divide.add_argument("--out-tuning", type=Path, required=True, metavar="OUT")
    divide.add_argument("--out-private", type=Path, required=True, metavar="OUT")
    divide.set_defaults(run=_split)

    validate = commands.add_parser("validate", help="list what is wrong with it")
    validate.set_defaults(run=_validate)

    for command in (inspect, convert, divide, validate):
        command.add_argument("source", metavar="SOURCE", help="as for --dataset")
        command.add_argument("--importer", help="its format, where detection guesses wrong")
    convert.add_argument("out", metavar="OUT", type=Path, help="FILE.jsonl[.xz|.gz|.zst]")
    for command in (inspect, convert, divide):
        command.add_argument(
            "--strict", action="store_true", help="the first malformed record is an error"
        )
    for command in (convert, divide):
        command.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code: 0, 1 for bad data, 4 for bad use."""
    asked = _parser().parse_args(argv)
    try:
        code = int(asked.run(asked))
        sys.stdout.flush()
    except AgentPerfError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return WRONG_USE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has read enough. Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    raise SystemExit(main())
