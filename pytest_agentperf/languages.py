"""Which programming language a session works in, told by the files that its calls name.

Importers do not know it, and it is no part of what a dataset is known by: it is found when a
dataset is looked at. ``data/extensions.csv`` is the table.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, cast

import msgspec

from pytest_agentperf.trajectory import Message, Trajectory

__all__ = ["UNKNOWN", "answers", "language"]

UNKNOWN = "unknown"
_SHELL = "Shell"
_MAX_LINE = 4_096
"""Of a line that is searched: a longer one is no command but what a command is fed with."""
_WORD = re.compile(r"[\w@~./*+:\[\]-]+")
_FILE_OF_PATCH = re.compile(r"^(?:\*\*\* \w+ File:|\+\+\+) (.+)", re.MULTILINE)
_FENCE = re.compile(r"^```([\w+#-]*)[^\n]*\n([^\n]*)", re.MULTILINE)
_SHEBANG = re.compile(r"#!\S*/(?:env +(?:-S +)?)?([\w+-]+)")


def language(trajectory: Trajectory) -> str:
    """Return the language that is recorded, else the one most worked in, else `UNKNOWN`.

    Every call counts once for each file that it names: paths, patterns of paths, words of a
    command, heads of a patch; where a format writes calls as text, fenced code is a call. Only
    where no file tells, scripts do by their first line, and fenced code by its name.
    """
    if trajectory.language:
        return trajectory.language
    named: Counter[str] = Counter()
    hinted: Counter[str] = Counter()
    for answer in answers(trajectory):
        texts = list(_arguments(answer)) if answer.tool_calls else []
        blocks = [] if answer.tool_calls else _FENCE.findall(_text(answer))
        for each in texts or [[line] for _, line in blocks]:
            named.update({word: one for text in each for word, one in _files(text)}.values())
        hinted.update(one for each in texts for text in each for one in _interpreter(text))
        hinted.update(one for name, _ in blocks if (one := _names().get(name.lower())))
    hinted.pop(_SHELL, None)  # what runs a command, or begins a script, may be about anything
    return _most(named) or _most(hinted) or UNKNOWN


def answers(trajectory: Trajectory) -> Iterator[Message]:
    """Yield the answers that the prompts show, each once."""
    for turn in trajectory.turns[1:]:
        # After a compaction the whole history is appended: only the last answer is new.
        yield from [message for message in turn.appended if message.role == "assistant"][-1:]


def _most(counts: Mapping[str, int]) -> str | None:
    return min(counts, key=lambda name: (-counts[name], name), default=None)


def _text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else ""


def _arguments(answer: Message) -> Iterator[list[str]]:
    """Yield the texts in the arguments of each call."""
    for call in answer.tool_calls:
        try:
            values: Any = msgspec.json.decode(call.arguments)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            values = call.arguments
        inside = cast("dict[str, Any]", values) if isinstance(values, dict) else {"": values}
        yield [value for value in inside.values() if isinstance(value, str)]


def _files(text: str) -> Iterator[tuple[str, str]]:
    """Yield the files that a call's argument names, and their languages.

    Of several lines only the first is the call's own, besides the heads of a patch.
    """
    first, _, rest = text.partition("\n")
    lines = (first, *(_FILE_OF_PATCH.findall(text) if rest else ()))
    for line in lines:
        for word in _WORD.findall(line[:_MAX_LINE]):
            found = None if "://" in word else _ending(word.rstrip(".:"))
            if found:
                yield word, found


def _ending(word: str) -> str | None:
    stem, _, ending = word.rpartition(".")
    # Letters by themselves are often no ending: self.r, x.T.
    is_file = stem and (len(ending) > 1 or "/" in stem or stem == "*")
    return _endings().get(ending.lower()) if is_file else None


def _interpreter(text: str) -> Iterator[str]:
    found = _SHEBANG.match(text)
    name = _names().get(PurePosixPath(found[1]).name) if found else None
    if name:
        yield name


@cache
def _endings() -> Mapping[str, str]:
    return {ending: row["language"] for row in _table() for ending in row["endings"].split()}


@cache
def _names() -> Mapping[str, str]:
    """Return languages by what fenced code may call them: name, other names, endings."""
    named = {name: row["language"] for row in _table() for name in row["names"].split()}
    return dict(_endings()) | named | {row["language"].lower(): row["language"] for row in _table()}


def _table() -> list[dict[str, str]]:
    text = (files("pytest_agentperf") / "data" / "extensions.csv").read_text("utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
