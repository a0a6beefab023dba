"""What users get is bounded, and what tests run with is locked."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SHIPPED = [*PROJECT["dependencies"], *EXTRAS["parquet"], *EXTRAS["ray"], *EXTRAS["tokenizers"]]


def spelled(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


LINES = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
PINS = {spelled(line.split("==")[0]): line.split("==")[1] for line in LINES if "==" in line}


def brought(asked: Iterable[Requirement]) -> dict[str, Requirement]:
    """Return all that these bring on this machine, by name, as far as it is installed."""
    found: dict[str, Requirement] = {}
    seen: set[str] = set()
    left = [(each, "") for each in asked]
    while left:
        wanted, extra = left.pop()
        if str(wanted) in seen or (wanted.marker and not wanted.marker.evaluate({"extra": extra})):
            continue
        seen.add(str(wanted))
        found[spelled(wanted.name)] = wanted
        try:
            lines = requires(wanted.name) or []
        except PackageNotFoundError:
            continue
        left += [(Requirement(line), each) for each in ("", *wanted.extras) for line in lines]
    return found


@pytest.mark.parametrize("line", SHIPPED)
def test_a_shipped_dependency_has_a_least_version_and_an_end(line: str):
    assert {each.operator for each in Requirement(line).specifier} == {">=", "<"}


@pytest.mark.parametrize("group", ["dependencies", *EXTRAS])
def test_all_that_is_brought_is_pinned_within_its_bounds(group: str):
    asked = [Requirement(line) for line in EXTRAS.get(group, PROJECT["dependencies"])]
    # pip comes with Python, and setuptools where a package still asks for it at run time.
    needed = brought(asked).keys() - {"pip", "setuptools"}
    assert sorted(needed - PINS.keys()) == []
    out = [each for each in asked if not each.specifier.contains(PINS[spelled(each.name)])]
    assert out == []
