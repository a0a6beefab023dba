"""The few exceptions a user has to act on.

    AgentPerfError
    ├── ConfigError      an option, a tier file, a dataset or system.yaml is wrong: nothing was sent
    ├── EndpointError    the endpoint cannot be reached or cannot do what a run needs
    │   └── OtherServerError  another server answers there than the one that was measured
    ├── LoadError        our own load generator broke: the phase says nothing about the server
    │   └── HostLostError    a machine of a cluster is gone: that phase is invalid, the run goes on
    ├── StorageError     results cannot be written any more: what was measured before is on disk
    ├── InvalidPhaseError  a phase that a test asked for by name cannot be trusted
    └── HoursOverError     it may not begin any more

A failed request is data and never an exception. A message has three parts: what is wrong, the
value that was seen, and what to do.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = [
    "AgentPerfError",
    "ConfigError",
    "EndpointError",
    "HostLostError",
    "HoursOverError",
    "InvalidPhaseError",
    "LoadError",
    "OtherServerError",
    "StorageError",
    "did_you_mean",
]


class AgentPerfError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(AgentPerfError):
    """Wrong input: the user changes an option or a file."""


class EndpointError(AgentPerfError):
    """The endpoint is unreachable or unusable: the user looks at the server."""


class OtherServerError(EndpointError):
    """Another server answers than the one that was measured: the user brings that one back."""


class LoadError(AgentPerfError):
    """A load process died or broke its protocol: the measurement is void."""


class HostLostError(LoadError):
    """A machine that ran load is gone: the phase is void, and what is left can measure the next."""


class StorageError(AgentPerfError):
    """Results cannot be written any more: the user makes room, and goes on with the run."""


class InvalidPhaseError(AgentPerfError):
    """A phase that was asked for by name cannot be trusted."""

    def __init__(self, number: int, reasons: Sequence[str]) -> None:
        super().__init__(f"phase {number}: {'; '.join(reasons)}")
        self.reasons = reasons


class HoursOverError(AgentPerfError):
    """A phase that was asked for by name may not begin any more."""


def did_you_mean(seen: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, else the list of known names."""
    names = sorted(known)
    near = get_close_matches(seen, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
