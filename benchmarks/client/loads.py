"""What is asked of every client, which clients there are, and in which order they take turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

__all__ = [
    "CLIENTS",
    "LADDER",
    "LOADS",
    "STEPS",
    "Client",
    "Hog",
    "Load",
    "quick_loads",
    "rung",
    "turns",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hog:
    """Programs that do nothing but compute, on the client's core."""

    name: str
    number: int = 1
    busy_ratio: float = 1.0
    nice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Closed-loop streams: each asks so many times, one request after the other."""

    name: str
    streams: int
    requests: int = 2
    first_us: int = 200_000
    gap_us: int = 20_000
    tokens: int = 75
    per_write: int = 1
    together: bool = False
    """All streams tick together, as the steps of an engine do."""
    body_bytes: int = 20_000
    pieces: bool = False
    """Each request is put together from encoded messages, as an agent's turn is."""
    ramp_s: float = 1.0
    """Starts are spread over this."""
    uneven: bool = False
    """First tokens take unlike times, as those of a queue do."""
    hog: Hog | None = None
    repeats: int = 1
    clients: tuple[str, ...] = ()

    @property
    def pace(self) -> str:
        """The origin's instructions, as they stand in a path."""
        return (
            f"first_us={self.first_us},gap_us={self.gap_us},tokens={self.tokens},bytes=250,"
            f"per_write={self.per_write},together={self.together:d}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One way to ask."""

    name: str
    shown: str
    needs: str = ""
    """Module without which it is left out."""

    @property
    def is_foreign(self) -> bool:
        """Tell whether it may run in an environment of its own."""
        return self.needs == "aiohttp"


_ENGINE = "pytest_agentperf.engine.connection"
_ADAPTER = "pytest_agentperf.httpx_transport"

CLIENTS = {
    client.name: client
    for client in (
        Client(name="limit", shown="C, epoll (the limit)"),
        Client(name="engine", shown="our engine", needs=_ENGINE),
        Client(name="engine-user", shown="our engine, user-space stamps", needs=_ENGINE),
        Client(name="adapter", shown="httpx over our engine", needs=_ADAPTER),
        Client(name="connection", shown="httpx, one pool an agent"),
        Client(name="httpx", shown="httpx, as usually used"),
        Client(name="naive", shown="naive loop: aiohttp, JSON an event", needs="aiohttp"),
        Client(name="naive-uvloop", shown="naive loop on uvloop", needs="aiohttp"),
    )
}

_ALL = ("limit", "engine", "engine-user", "adapter", "naive")
_MAIN = ("limit", "engine", "adapter", "naive")

LOADS = (
    Load(name="200 x 50", streams=200, clients=("limit", "engine", "naive", "connection", "httpx")),
    Load(name="500 x 50", streams=500, repeats=3, clients=_ALL),
    Load(name="500 x 50, others", streams=500, clients=("connection", "naive-uvloop")),
    Load(name="1000 x 50", streams=1000, repeats=2, clients=_ALL),
    Load(name="2000 x 50", streams=2000, clients=_ALL),
    Load(name="500 together", streams=500, together=True, repeats=2, clients=_ALL),
    Load(name="50 x 2000", streams=50, gap_us=500, tokens=3000, ramp_s=0.5, clients=_MAIN),
    Load(
        name="unthrottled",
        streams=16,
        requests=3,
        first_us=0,
        gap_us=0,
        tokens=5000,
        per_write=8,
        ramp_s=0.0,
        clients=_MAIN,
    ),
    Load(
        name="requests, 500 open",
        streams=500,
        requests=6,
        first_us=500_000,
        tokens=1,
        ramp_s=0.5,
        repeats=2,
        clients=_MAIN,
    ),
    Load(
        name="requests, 2000 open",
        streams=2000,
        requests=4,
        first_us=500_000,
        tokens=1,
        ramp_s=0.5,
        repeats=2,
        clients=_MAIN,
    ),
    # Each asks a quarter as often: as many requests a second as by 500.
    Load(
        name="requests, 2000 open, same rate",
        streams=2000,
        first_us=2_000_000,
        tokens=1,
        ramp_s=2.0,
        clients=_MAIN,
    ),
    Load(
        name="500 KB, same bytes",
        streams=50,
        requests=6,
        first_us=100_000,
        tokens=20,
        body_bytes=500_000,
        clients=_MAIN,
    ),
    Load(
        name="500 KB, pieces",
        streams=50,
        requests=6,
        first_us=100_000,
        tokens=20,
        body_bytes=500_000,
        pieces=True,
        clients=("engine",),
    ),
    Load(
        name="1000 x 50, hog",
        streams=1000,
        hog=Hog(name="one"),
        repeats=2,
        clients=("limit", "engine", "engine-user"),
    ),
)

_QUICK = {
    "500 x 50": _MAIN,
    "1000 x 50": ("engine",),
    "500 together": ("limit", "engine", "naive"),
    "requests, 500 open": ("engine",),
    "requests, 2000 open": ("engine",),
    "1000 x 50, hog": ("engine",),
}
"""Loads of a quick run, once each: what the goals need."""

STEPS = (50, 64, 80, 100, 125, 160, 200, 250, 320, 400, 500, 640, 800, 1000, 1250, 1600, 2000)
STEPS = (*STEPS, 2500, 3200, 4000)

LADDER = {
    "limit": 2000,
    "engine": 1600,
    "adapter": 1000,
    "naive": 400,
    "connection": 160,
}
"""Where each client begins on the ladder; that saves steps and decides nothing."""


def rung(streams: int) -> Load:
    """Return one step of the ladder: so many streams with 50 events a second each."""
    return Load(name=f"ladder {streams}", streams=streams, tokens=50)


def quick_loads() -> list[Load]:
    """Return the loads of a quick run."""
    return [
        replace(load, repeats=1, clients=_QUICK[load.name]) for load in LOADS if load.name in _QUICK
    ]


def turns(loads: Sequence[Load], clients: Sequence[str]) -> Iterator[tuple[Load, str]]:
    """Yield every trial; the clients take turns, so that a machine that drifts treats all alike."""
    for number in range(max((load.repeats for load in loads), default=0)):
        for load in loads:
            if number < load.repeats:
                for client in load.clients:
                    if client in clients:
                        yield load, client
