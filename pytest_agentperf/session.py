"""What the plugin keeps over one session, shared by its hooks and its fixtures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.errors import ConfigError, EndpointError, OtherServerError
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
    measured: bool = False
    """A test of this session measures."""
    gate: Any = None
    """`pytest_agentperf.gate.Compares`, when a run is named to compare with."""
    down: str | None = None
    """Why the endpoint cannot be used."""
    is_other: bool = False
    """That is because another server answers there."""
    missed: list[str] = field(default_factory=list[str])
    """Tests that failed by what they measured."""
    unmeasured: list[str] = field(default_factory=list[str])
    """Tests without an answer, and why."""
    invalid: list[str] = field(default_factory=list[str])
    """Why a phase that a test asked for cannot be trusted, ``CHECK: TEXT``."""
    others_failed: bool = False
    """A test failed that measures nothing."""
    outcome: Any = None
    """`pytest_agentperf.outcome.Outcome`, at the end of a session that measured."""
    comparison: Any = None
    planned: str | None = None
    """What the tests would ask for, where nothing else is wanted."""

    def note_down(self, why: EndpointError) -> None:
        """Keep why the endpoint cannot be used."""
        self.down, self.is_other = str(why), isinstance(why, OtherServerError)


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
