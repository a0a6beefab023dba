"""What an endpoint and a meter are, and how one is found by name."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar

from pytest_agentperf.clock import Clock
from pytest_agentperf.detected import Fact
from pytest_agentperf.dialect import Dialect
from pytest_agentperf.errors import ConfigError, did_you_mean
from pytest_agentperf.observed import Observed
from pytest_agentperf.records import ClockOffset, RawAnswer, Role, Sample
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.system import System
from pytest_agentperf.wire import Body

__all__ = [
    "Connection",
    "EndpointInfo",
    "Gauges",
    "InProcess",
    "Meter",
    "ReadingError",
    "find",
]

T = TypeVar("T")


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
    in_process: "InProcess | None" = None
    """An endpoint of our own process: load runs beside it, in its time, and opens no socket."""
    simulated: bool = False
    """What answers is a model of a system: numbers are a plan, not a measurement."""
    system: System | None = None
    """What stands behind it, where the endpoint itself knows."""
    facts: tuple[Fact, ...] = ()
    """What the server says of the system that it runs on."""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """What it says of its own settings, by its own names."""
    ask_settings: Callable[[], Mapping[str, str]] | None = None
    """Asks for these settings once more; ``None``: it tells none."""
    observed: tuple[Observed, ...] = ()
    """What a preflight saw of each model."""
    meter: "Meter | None" = None
    """The endpoint's own meter, which ends with it."""
    gauges: "Gauges | None" = None
    """What asks the server for its own counts; ``None``: it does not tell."""
    late_steps: Callable[[], float | None] = lambda: None
    """For a simulator in real time: the share (0-1) of its steps since the last call that its own
    machine was too slow for; ``None`` where that cannot be, or is not told."""
    close: Callable[[], None] = lambda: None
    """Stops what ``connect`` started; does nothing for an endpoint of somebody else."""

    def dialect(self, model: str) -> Dialect:
        """Return how a model's answers are spoken; the usual way where nobody asked."""
        return next((o.dialect for o in self.observed if o.model == model), Dialect())

    def history_field(self, spec: ModelSpec) -> str:
        """Return the message field in which a model's recorded reasoning goes back."""
        return self.dialect(spec.model).history_field or spec.reasoning_field


class Connection(Protocol):
    """One agent's own connection to the endpoint."""

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        """Send one streaming chat completion and write what comes back into ``into``.

        Stamps are written as things happen, so that others may watch. What is read of a good answer
        may go to ``into.reader`` instead of ``into.reads``. A request that fails sets ``error`` and
        raises nothing.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class InProcess(Protocol):
    """An endpoint that lives in our own process, with an event loop and a clock of its own."""

    @property
    def clock(self) -> Clock:
        """The time in which it answers; all stamps of its runs are taken there."""
        ...

    def connect(self, *, timeout_s: float) -> Connection:
        """Return one agent's connection, to be used inside `run`."""
        ...

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that ``work`` makes in the endpoint's own time; return its result.

        What it raises is raised here. When the awaiting task is cancelled the coroutine is too, and
        has ended when that is raised.
        """
        ...


class Gauges(Protocol):
    """Asks a server what it counts itself, while a phase runs."""

    def sample(self) -> Sequence[Sample]:
        """Return what it tells, by the names of `serving`; nothing where it is silent.

        Unit ``1`` is for what holds at this moment, ``n`` for what it counts since its start.
        """
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class ReadingError(Exception):
    """A reading that did not come, or cannot be read; what it says stands in the report."""

    def __init__(self, text: str, samples: Sequence[Sample] = ()) -> None:
        """Take what went wrong, and what could be read all the same."""
        super().__init__(text)
        self.samples = samples


class Meter(Protocol):
    """Reads electric power or energy from before the first phase to after the last.

    It is read in a thread of its own, by one caller at a time, and may take its time.
    """

    name: str
    """What was asked for: ``nvml:0,1``; holds no secret."""
    kind: str
    """Meters of one kind read different devices and are added up; those of two kinds never."""
    role: Role
    period_s: float
    """How often to read it, seconds."""
    devices: Sequence[Mapping[str, Any]]
    """One mapping a series, for the provenance: ``series``, ``name``, ``uuid`` …, and ``count``
    where it stands for several devices."""

    def sample(self) -> Sequence[Sample]:
        """Return what is new since the last call: of every series a reading, or several.

        Raises:
            ReadingError: something did not answer; carries what did.
        """
        ...

    def clock(self) -> ClockOffset | None:
        """Return how far the clock of its stamps is ahead of ours; ``None``: it is ours."""
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
