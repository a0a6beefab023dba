"""What an endpoint, an importer and a meter are, and how one is found by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol

from pytest_agentperf.errors import ConfigError, did_you_mean
from pytest_agentperf.records import RawAnswer, Sample
from pytest_agentperf.trajectory import Dataset

__all__ = ["Connection", "EndpointInfo", "Importer", "Meter", "find"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointInfo:
    """Where load goes, and what the endpoint said of itself when it was probed."""

    url: str
    """Base URL up to and including ``/v1``."""
    models: tuple[str, ...] = ()
    server: str = ""
    """Name and version as the server tells them, empty when it does not."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    osl_header: str | None = None
    """Request header that tells the embedded simulator how long the recorded answer was."""
    close: Callable[[], None] = lambda: None
    """Stops what ``connect`` started; does nothing for an endpoint of somebody else."""


class Connection(Protocol):
    """One agent's own connection to the endpoint."""

    async def chat(self, body: bytes, into: RawAnswer, *, osl_tokens: int | None) -> None:
        """Send one streaming chat completion and write what comes back into ``into``.

        Stamps are written as things happen, so that others may watch; nothing is parsed. A request
        that fails sets ``error`` and raises nothing.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class Importer(Protocol):
    """Turn a source on disk into a dataset."""

    def __call__(self, source: str) -> Dataset | None:
        """Return the dataset, or ``None`` when the source is not of this format.

        Raises:
            ConfigError: the source is of this format but broken; names file, line and field.
        """
        ...


class Meter(Protocol):
    """Reads physical quantities while a phase runs."""

    name: str
    devices: Sequence[Mapping[str, Any]]
    """One mapping a device (``series``, ``name``, ``uuid`` …), for the provenance."""

    def sample(self) -> Sequence[Sample]:
        """Read every series once; an unreadable device is left out."""
        ...

    def close(self) -> None:
        """Release the device library."""
        ...


def find(group: str, name: str) -> Any:
    """Load the implementation that is registered as ``name`` in ``pytest_agentperf.<group>``.

    Raises:
        ConfigError: nothing of that name is installed.
    """
    found = {entry.name: entry for entry in entry_points(group=f"pytest_agentperf.{group}")}
    if name not in found:
        raise ConfigError(f"no {group[:-1]} is called {name!r}{did_you_mean(name, found)}")
    return found[name].load()
