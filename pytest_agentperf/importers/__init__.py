"""From what a user calls a dataset to trajectories: which importer reads this source?"""

from importlib.metadata import entry_points
from pathlib import Path

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.protocols import Importer, find
from pytest_agentperf.synthesis import SCHEME, parse_synthetic
from pytest_agentperf.trajectory import Dataset

__all__ = ["load_dataset"]


def load_dataset(source: str, importer: str | None = None) -> Dataset:
    """Read the dataset that ``source`` names: a file, a folder, or ``synthetic:…``.

    Args:
        source: what the user gave; the formats are described in ``docs/datasets.md``.
        importer: the only importer to ask; ``None`` asks every installed one in turn, by name.

    Raises:
        ConfigError: nothing is there, no importer knows its format, or the content is broken.
    """
    if importer is None and source.startswith(SCHEME):
        return parse_synthetic(source)
    names = [importer] if importer else _installed()
    for name in names:
        load: Importer = find("importers", name)
        dataset = load(source)
        if dataset is not None:
            return dataset
    raise _refusal(source, names)


def _installed() -> list[str]:
    return sorted({entry.name for entry in entry_points(group="pytest_agentperf.importers")})


def _refusal(source: str, names: list[str]) -> ConfigError:
    formats = f"{', '.join(names)} (docs/datasets.md describes them)"
    if Path(source).expanduser().exists():
        return ConfigError(
            f"dataset {source!r} is in no format that is understood here; convert it to one of: "
            f"{formats}, or use '{SCHEME}'"
        )
    return ConfigError(
        f"dataset {source!r} does not exist; give a path in one of the formats {formats}, "
        f"or '{SCHEME}' for trajectories that are made up"
    )
