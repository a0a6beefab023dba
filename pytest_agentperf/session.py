"""What the plugin keeps over one session, shared by its hooks and its fixtures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.settings import Settings

__all__ = ["SESSION", "USAGE", "XDIST", "Session", "read_text"]

USAGE = int(pytest.ExitCode.USAGE_ERROR)
XDIST = (
    "pytest-xdist (-n) would measure several phases at once, each spoiling the other; run without "
    "-n: load is spread over processes by --agentperf-workers"
)


@dataclass(slots=True)
class Session:
    """What this plugin keeps over one session."""

    settings: Settings
    models: Any = None
    """`pytest_agentperf.bench.Models`, when a test asked for a tier."""
    problem: str | None = None
    """What is wrong with the tiers, told when it is known that a test measures."""
    folder: Any = None
    bench: Any = None
    measures_under_xdist: bool = False


SESSION = pytest.StashKey[Session]()


def read_text(path: str, option: str) -> str:
    """Read a file that an option names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as failed:
        raise ConfigError(f"{option} {path!r} cannot be read: {failed}") from failed
