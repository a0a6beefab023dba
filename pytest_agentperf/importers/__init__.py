"""From what a user calls a dataset to trajectories: which importer reads this source?"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pytest_agentperf.errors import AgentPerfError, ConfigError
from pytest_agentperf.importers.sources import SourceFile, files
from pytest_agentperf.protocols import find
from pytest_agentperf.synthesis import SCHEME, parse_synthetic
from pytest_agentperf.trajectory import Dataset

__all__ = ["GENERAL", "SPECIFIC", "importers", "in_order", "load_dataset"]

SPECIFIC = (
    "native",
    "recording",
    "agentperf-local",
    "opencode",
    "claude-code",
    "codex",
    "gemini-cli",
    "atif",
    "mini-swe-agent",
    "swe-agent",
    "openhands",
    "otel",
    "mlcommons",
    "kv-cache-tester",
    "mooncake",
    "azure",
)
"""Formats that mark their files, in the order they are asked; the strongest marks come first."""
GENERAL = ("openai-messages",)
"""Formats that others look like: asked when nobody else, a third party included, has claimed."""


def load_dataset(source: str, importer: str | None = None, *, strict: bool = False) -> Dataset:
    """Read the dataset that ``source`` names: a file, a folder, or ``synthetic:…``.

    Args:
        source: what the user gave; the formats are described in ``docs/datasets.md``.
        importer: the only importer to ask; ``None`` asks every installed one, see `in_order`.
        strict: whether the first malformed record ends the import; else it is left out and counted
            in the losses. An importer that does not know the word is asked without it.

    Raises:
        ConfigError: nothing is there, no importer knows its format, files are of several formats,
            the content is broken, or an importer failed.
    """
    if importer is None and source.startswith(SCHEME):
        return parse_synthetic(source)
    names = (importer,) if importer else importers()
    for name in names:
        dataset = _ask(name, source, strict=strict)
        if dataset is not None:
            if importer is None:
                _check_unmixed(source, name, names)
            return dataset
    raise _refusal(source, names)


def importers() -> tuple[str, ...]:
    """Return the names of all installed importers in the order they are asked."""
    return in_order(entry.name for entry in entry_points(group="pytest_agentperf.importers"))


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort importers: the specific ones of this project, those of others by name, general ones.

    So what is installed decides which importer reads a source, not how or when it was installed.
    """
    places = {name: (0, place) for place, name in enumerate(SPECIFIC)}
    places |= {name: (2, place) for place, name in enumerate(GENERAL)}
    return tuple(sorted(set(names), key=lambda name: (*places.get(name, (1, 0)), name)))


def _ask(name: str, source: str, *, strict: bool) -> Dataset | None:
    try:
        load = find("importers", name)
        dataset: Any = load(source, strict=strict) if _takes_strict(load) else load(source)
    except AgentPerfError:
        raise
    except Exception as error:
        # An importer may be somebody else's, and fail in ways that only they can mend.
        raise ConfigError(
            f"importer {name!r} failed on {source!r} ({type(error).__name__}: {error}); that is a "
            "mistake in the importer: tell its authors, or name another importer"
        ) from error
    if dataset is None or isinstance(dataset, Dataset):
        return dataset
    raise ConfigError(
        f"importer {name!r} returned {type(dataset).__name__} for {source!r}, not a Dataset or "
        "None; tell its authors, or name another importer"
    )


def _check_unmixed(source: str, reader: str, names: Iterable[str]) -> None:
    """Refuse a source of several formats, of which one importer would read a part.

    An importer takes part where a function ``fits`` stands beside it.
    """
    fits = {name: one for name in (reader, *names) if (one := _fits(name)) is not None}
    if reader not in fits:
        return
    first: dict[str, str] = {}
    for file in files(source):
        first.setdefault(next(_fitting(file, fits), ""), file.stem_name)
    first.pop("", None)
    if len(first) > 1:
        told = ", ".join(f"{name} ({file})" for name, file in first.items())
        raise ConfigError(
            f"dataset {source!r} holds files of several formats: {told}; move those of each into a "
            "folder of its own, or name the importer whose files are to be read"
        )


def _fits(name: str) -> Callable[[SourceFile], bool] | None:
    try:
        load = find("importers", name)
        return getattr(sys.modules.get(load.__module__), "fits", None)
    except Exception:  # noqa: BLE001 somebody else's, which has not been asked for anything
        return None


def _fitting(file: SourceFile, fits: dict[str, Callable[[SourceFile], bool]]) -> Iterator[str]:
    """Yield the importers that a file fits."""
    for name, is_ours in fits.items():
        does_fit = False
        with suppress(Exception):  # as above, or the file is damaged
            does_fit = is_ours(file)
        if does_fit:
            yield name


def _takes_strict(load: Callable[..., Any]) -> bool:
    parameters = inspect.signature(load).parameters.values()
    return any(p.name == "strict" or p.kind is p.VAR_KEYWORD for p in parameters)


def _refusal(source: str, names: Iterable[str]) -> ConfigError:
    formats = f"{', '.join(sorted(names))} (docs/datasets.md describes them)"
    if Path(source).expanduser().exists():
        return ConfigError(
            f"dataset {source!r} is in no format that is understood here; convert it to one of: "
            f"{formats}, or use '{SCHEME}'"
        )
    return ConfigError(
        f"dataset {source!r} does not exist; give a path in one of the formats {formats}, "
        f"or '{SCHEME}' for trajectories that are made up"
    )
