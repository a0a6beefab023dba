"""What was seen: reads, requests, samples, windows, and the measurement that holds them.

Every ``_ns`` is of the run's one clock: ``time.perf_counter_ns`` of the coordinator's machine (on
Linux ``CLOCK_MONOTONIC``, one for all its processes), or virtual nanoseconds. Stamps of other
machines have been moved into it; see `pytest_agentperf.alignment`.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

__all__ = [
    "MOST_ANSWER_BYTES",
    "ClientHealth",
    "ClockOffset",
    "HostHealth",
    "Measurement",
    "Metered",
    "OpenRequest",
    "RawAnswer",
    "ReadLag",
    "Reader",
    "Role",
    "Sample",
    "Start",
    "TokenCount",
    "TurnRecord",
    "Window",
]


MOST_ANSWER_BYTES = 64 * 1024 * 1024
"""A longer body is given up: 16,384 tokens in events of 300 bytes are 5 MB."""

Role = Literal["accelerator", "chassis", "cpu"]
"""What a meter reads: accelerators alone, whole machines at the wall, or processors. Each of these
holds a part of another, so that no two roles are ever added up."""

Start = Literal["first", "balanced"]
"""Where agents begin: at the first turn of a trajectory, or anywhere: see `plan.balanced_start`."""


class Reader(Protocol):
    """Decodes one answer."""

    @property
    def first_byte_ns(self) -> int | None:
        """Stamp of the first read that it was given."""
        ...

    @property
    def first_token_ns(self) -> int | None:
        """Stamp of the first token in what it was given."""
        ...

    def feed(self, at_ns: int, data: bytes) -> None:
        """Take the bytes of one read, and when it was made."""
        ...


@dataclass(slots=True, kw_only=True)
class RawAnswer:
    """One answer as the socket gave it; written by the connection."""

    sent_ns: int = 0
    """Just before the first byte of the request was written; 0 until then."""
    connect_ns: int = 0
    """How long opening the connection took; 0 when one was open already."""
    written_ns: int = 0
    """When the kernel had taken the last byte of the request; 0 where that is not known."""
    end_ns: int = 0
    status: int = 0
    reads: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    """Stamp and body bytes of every read that ``reader`` was not given, in order."""
    reader: Reader | None = None
    """What a connection may give reads to while the answer still comes, so that nobody has to hold
    the bytes of all of it."""
    reconnected: bool = False
    """A reused connection had died before any byte of the answer; it was opened anew once."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """One request, from send to last byte. Failed when ``error`` is set."""

    agent: int
    ordinal: int
    """Which trajectory of this agent's sequence: 0, 1, 2 …"""
    trajectory: str
    turn: int
    last_turn: bool
    scheduled_ns: int
    """When the agent meant to send: end of the previous answer plus the tool time."""
    sent_ns: int
    end_ns: int
    connect_ns: int = 0
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    token_offsets_us: bytes = b""
    """Little-endian uint32: microseconds from ``sent_ns`` of every token-bearing event's read."""
    first_chunk_tokens: int | None = None
    """Tokens in the first token-bearing event; ``None`` when nothing told."""
    largest_read_ratio: float | None = None
    """Share (0-1) of the answer's characters that the largest single read brought."""
    isl_tokens: int | None = None
    osl_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    """``None`` when the server does not report it, which is not 0."""
    local_osl_tokens: int | None = None
    """By the model's tokenizer, where its template tells how the whole answer was written."""
    local_isl_tokens: int | None = None
    """By the model's tokenizer and template; of a sample of the requests."""
    recorded_osl_tokens: int | None = None
    reasoning_streamed: bool = False
    tool_calls: int = 0
    finish_reason: str | None = None
    reconnected: bool = False
    error: str | None = None
    first_token_merged: bool = False
    """The read that brought the first token brought more behind it, whose stamp it then has."""
    written_ns: int | None = None
    """When the kernel had taken all of the request, of the last attempt; ``None`` where nothing
    tells."""
    from_turn: int = 0
    """Turn at which the agent began this trajectory; above 0 where it began in its middle."""
    loops: bool = False
    """The answer ended in one short piece, repeated without end."""

    @property
    def completes(self) -> bool:
        """Tell whether a whole trajectory ends here: all its turns asked, the last one answered."""
        return self.last_turn and not self.from_turn and self.error is None

    def counted(self, count: "TokenCount | None") -> "TurnRecord":
        """Return it with what a local tokenizer counted; what the server told stands."""
        if count is None:
            return self
        told, first = self.osl_tokens, self.first_chunk_tokens
        return replace(
            self,
            local_osl_tokens=count.osl_tokens if told is not None and count.is_whole else None,
            local_isl_tokens=count.isl_tokens,
            osl_tokens=count.osl_tokens if told is None else told,
            first_chunk_tokens=count.first_chunk_tokens if first is None else first,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """What the tokenizer counted of one request."""

    agent: int
    ordinal: int
    turn: int
    osl_tokens: int
    """Of the answer; where its template does not tell how that was written, of its text alone."""
    is_whole: bool
    """The template told, so the server's count may be held against it."""
    first_chunk_tokens: int
    isl_tokens: int | None = None
    """Of the prompt; only of a sample."""

    @property
    def request(self) -> tuple[int, int, int]:
        """Whose count it is: agent, ordinal, turn."""
        return self.agent, self.ordinal, self.turn


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A request that has not ended."""

    agent: int
    sent_ns: int
    first_read_ns: int | None
    """When something of its answer came first, which need not be a token yet; ``None``: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading of a meter."""

    at_ns: int
    series: str
    unit: str
    """``W`` (power), ``J`` (running energy counter), ``1`` (a number or ratio of this moment) or
    ``n`` (counted since the server was started)."""
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """How far the clock of a meter's own stamps is ahead of ours, and how well that is known."""

    offset_s: float | None
    """Their wall clock minus ours, seconds; ``None``: they gave no time."""
    uncertainty_s: float | None
    """Half of the span, seconds, that the offset lies in; ``None``: as stated, not measured."""
    by: str
    """What told it: ``Prometheus time()``, ``HTTP Date``, ``as stated``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What one meter told of a phase."""

    meter: str
    """As it was asked for: ``nvml:0,1``."""
    kind: str
    role: Role
    series: tuple[str, ...]
    """What it set out to read."""
    devices: int
    """How many devices these stand for."""
    samples: tuple[Sample, ...]
    """From before the window to after it, in order of reading."""
    trouble: str | None = None
    """What went wrong while it was read, in words."""
    clock: ClockOffset | None = None
    """Of stamps that are not our own; ``None``: they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The steady span that counts: requests sent in [start, end) are its members."""

    start_ns: int
    end_ns: int

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.start_ns) / 1e9

    def holds(self, at_ns: int) -> bool:
        """Tell whether an instant lies inside."""
        return self.start_ns <= at_ns < self.end_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHealth:
    """One machine of a cluster in a phase, and how far its stamps can be believed."""

    name: str
    workers: int
    """Load processes that it ran."""
    clock_offset_s: float
    """How far its clock was ahead of the coordinator's; its stamps were moved by that."""
    clock_error_s: float
    """How wrong that may have been at any time of the phase, drift included. What is measured
    inside one machine, such as TTFT and speed, does not depend on it."""
    endpoint_s: float
    """How long a connection to the endpoint took to open from there: the median before load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLag:
    """How long after the kernel one load process made its reads."""

    stamped: int
    """Reads whose time is the kernel's; the quantiles are of these."""
    unstamped: int
    """Reads whose time is when we made them: the kernel had told none."""
    p50_s: float
    p95_s: float
    p99_s: float
    most_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHealth:
    """How late our own load processes were; a slow client must not be read as a slow server."""

    loop_lag_s: tuple[tuple[float, ...], ...]
    """For each process, overshoots of a 10 ms sleep in its event loop over the phase; a stall
    counts once for every 10 ms it lasted."""
    cpu_ratio: float
    """CPU time of the busiest load process over its wall time."""
    first_sent_ns: tuple[int, ...]
    """When each agent sent its first request, by agent."""
    hosts: tuple[HostHealth, ...] = ()
    """The machines that ran the load; none where it ran on the coordinator's own."""
    read_lag: tuple[ReadLag, ...] = ()
    """For each process whose connections tell; none through httpx, or where time jumps."""
    stolen_ratio: float = 0.0
    """Share (0-1) of the time in which a core of the load processes was not ours to run on, since
    the host of the virtual machine had it: the most of any core."""
    gc_pause_s: float = 0.0
    """The longest collection of garbage while load ran."""
    degraded: str | None = None
    """Why the times are not as good as this client's own, where they are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One phase, as seen."""

    agents: int
    window: Window
    turns: tuple[TurnRecord, ...] = field(repr=False)
    """Every request of the phase, members or not."""
    samples: tuple[Sample, ...] = field(repr=False)
    """What the server counted itself."""
    health: ClientHealth
    floors_met: bool
    meters: tuple[Metered, ...] = ()
    decided: bool = False
    """Ended before its floors, since verdicts were certain or the phase was to be short."""
    failed_out: bool = False
    """So many requests failed that the floors could not be met: failures decide alone."""
    simulator_late_ratio: float | None = None
    """Share of a simulator's steps that came late; ``None`` for any other endpoint."""
    cut: int = 0
    """Members still unanswered when the phase was stopped; 0 unless it was broken off."""
    broken: str | None = None
    """Why the phase was broken off before its floors, when it was."""
    endpoint_gone: bool = False
    """It was broken off because nothing answered any more."""
