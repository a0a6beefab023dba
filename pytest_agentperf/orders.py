"""What a coordinator says to those who run load, and what it hears of them."""

from typing import Any

import msgspec

from pytest_agentperf.records import OpenRequest, ReadLag, Start, TokenCount, TurnRecord

__all__ = [
    "Begin",
    "Close",
    "Command",
    "Counted",
    "Drained",
    "Ended",
    "Failed",
    "Look",
    "Opened",
    "Prepare",
    "Ready",
    "Report",
    "Setup",
    "Started",
    "Stop",
    "Stopped",
]


class Setup(msgspec.Struct, tag=True, kw_only=True):
    """What stays the same in all phases of one model."""

    trajectories: str
    """Path of the planned trajectories; see `pytest_agentperf.encoded`."""
    url: str
    headers: dict[str, str]
    osl_header: str | None
    model: str
    request: dict[str, Any]
    max_tokens: int
    max_tokens_field: str = "max_tokens"
    output: str
    salt: str
    seed: int
    run: str
    timeout_s: float
    client: str
    """``engine`` or ``httpx``; see `pytest_agentperf.clients`."""
    tokenizer: str | None
    """Name of the model's tokenizer; see `pytest_agentperf.tokens`."""
    affinity_header: str | None = None
    """Request header that names the agent, for a router to keep it at one replica."""


class Prepare(msgspec.Struct, tag=True, kw_only=True):
    """Make these agents for a phase, each to start so long after the phase begins."""

    phase: int
    agents: list[int]
    offsets_ns: list[int]
    start: Start = "first"


class Begin(msgspec.Struct, tag=True, kw_only=True):
    """Begin the prepared phase at an instant."""

    at_ns: int


class Look(msgspec.Struct, tag=True, kw_only=True):
    """Say which requests are open."""


class Close(msgspec.Struct, tag=True, kw_only=True):
    """The window has closed: say when no request is open that was sent before."""

    at_ns: int


class Stop(msgspec.Struct, tag=True, kw_only=True):
    """End the phase."""


Command = Setup | Prepare | Begin | Look | Close | Stop


class Ready(msgspec.Struct, tag=True, kw_only=True):
    """Set up, or prepared."""


class Started(msgspec.Struct, tag=True, kw_only=True):
    """Agents that have sent their first request, or whose first answer has begun, and when."""

    first_sent_ns: dict[int, int]
    answering_ns: dict[int, int]


class Opened(msgspec.Struct, tag=True, kw_only=True):
    """What is open, asked for by `Look`."""

    requests: list[OpenRequest]


class Ended(msgspec.Struct, tag=True, kw_only=True):
    """Requests that have ended."""

    turns: list[TurnRecord]


class Counted(msgspec.Struct, tag=True, kw_only=True):
    """Local token counts, sent after the load has stopped."""

    rows: list[TokenCount]


class Drained(msgspec.Struct, tag=True, kw_only=True):
    """No member of the window is open any more."""


class Stopped(msgspec.Struct, tag=True, kw_only=True):
    """The phase is over; how late the load was."""

    lag_s: list[float]
    """Empty where time jumps: nothing can be late there."""
    cpu_ratio: float
    open_members: int
    read_lag: ReadLag | None = None
    """``None`` where nothing tells."""
    stolen_ratio: float = 0.0
    """Share of the time (0-1) that the host of a virtual machine kept a core from the load."""
    gc_pause_s: float = 0.0
    """The longest collection of garbage while load ran."""
    degraded: str | None = None
    """Why the times are not as good as the engine's, where they are not."""


class Failed(msgspec.Struct, tag=True, kw_only=True):
    """The load cannot go on, and why."""

    text: str


Report = Ready | Started | Opened | Ended | Counted | Drained | Stopped | Failed
