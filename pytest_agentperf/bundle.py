"""What ``bundle.json`` holds, and how it is written and read."""

import importlib.metadata
import math
import os
import platform
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from pytest_agentperf import __version__, words
from pytest_agentperf.conformance import Rule
from pytest_agentperf.dataset_statistics import Statistics
from pytest_agentperf.detected import Fact
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.evidence import Interval
from pytest_agentperf.forecast import Forecast
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.observed import Observed
from pytest_agentperf.power import MeterPower, Power, role_power
from pytest_agentperf.prelude import Rest, WarmUp
from pytest_agentperf.records import HostHealth
from pytest_agentperf.serving import ServerMetrics
from pytest_agentperf.settings import FULL_CPU_RATIO, Settings
from pytest_agentperf.slo import ModelSpec, Verdict
from pytest_agentperf.system import System
from pytest_agentperf.validity import Check

__all__ = [
    "SCHEMA",
    "Bundle",
    "ClientCheck",
    "DatasetFacts",
    "ModelRun",
    "PhaseResult",
    "Provenance",
    "Rescored",
    "encode_bundle",
    "finite",
    "now",
    "provenance",
    "read_bundle",
]

SCHEMA = "agentperf-bundle/1"
_PACKAGES = ("httpx", "msgspec", "numpy", "pytest", "pytest-asyncio", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the numbers come from."""

    run: str
    started_at: str
    """UTC, ISO 8601; the wall clock appears here and nowhere in a duration."""
    ended_at: str | None
    versions: Mapping[str, str]
    host: Mapping[str, str]
    endpoint: str
    server: str
    served_models: tuple[str, ...]
    meter: str
    devices: tuple[Mapping[str, Any], ...]
    simulated: bool = False
    """What answered was a model of a system."""
    resumed_from: str | None = None
    """The run whose phases this one took over."""
    observed: tuple[Observed, ...] = ()
    """What the preflight saw of each model."""
    server_settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the server said of its own settings: its version, limits and flags, by its own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCheck:
    """What one load process did before the run, against a server that computes nothing."""

    streams: int
    tok_per_s: float
    """Of all streams together."""
    cpu_us_per_token: float
    """CPU time of a token, decoding included, at that load; heavier ones cost less."""
    ttft_error_p95_s: float
    """P95 of what TTFT was too long by."""
    processes: int
    """Load processes that the largest phase has."""

    @property
    def carries_tok_per_s(self) -> float:
        """What all of them carry as full as is valid, if nothing else needs the cores."""
        return self.processes * FULL_CPU_RATIO * 1e6 / self.cpu_us_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """What was replayed, without its text."""

    name: str
    sha256: str
    trajectories: int
    prompts: int
    cut_turns: int
    dropped: int
    estimated_isl: int
    sampled_tools: int
    losses: tuple[str, ...]


def _seen(check: Check) -> str:
    """Say what was seen and what is allowed, where a check is of a number."""
    if check.value is None or check.limit is None:
        return ""
    seen, limit = (
        f"{words.number(value)} {check.unit}".rstrip() for value in (check.value, check.limit)
    )
    return f" (seen {seen}, limit {limit})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseResult:
    """One phase, judged by every tier of its model."""

    number: int
    model: str
    agents: int
    started_s: float
    """Seconds after the start of the run, by its own clock: virtual ones where time jumps."""
    duration_s: float
    metrics: Metrics
    power: Power
    """Of the accelerators."""
    verdicts: tuple[Verdict, ...]
    checks: tuple[Check, ...]
    short: bool = False
    """It aimed, in ``fast`` mode: never long enough for an answer."""
    meters: tuple[MeterPower, ...] = ()
    """What each meter says, those of the wall and of processors too."""
    measured_in: str | None = None
    """The earlier run that measured it, whose clock ``started_s`` is of; ``None``: this one."""
    hosts: tuple[HostHealth, ...] = ()
    """The machines of a cluster that ran its load; none where it ran on the coordinator's own."""
    server: ServerMetrics | None = None
    """What the server counted itself; ``None``: it does not tell."""
    intervals: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    """How sure it is of its own figures, by name; see `pytest_agentperf.inside`."""
    rest: Rest | None = None
    """How the server came to rest before it; ``None``: nobody waited, as where time jumps."""

    @property
    def met_floors(self) -> bool:
        """Tell whether it was as long as an answer needs; evidence ended it otherwise."""
        return not self.short and all(v.evidence == "floors" for v in self.verdicts)

    @property
    def cut(self) -> str:
        """Return why it is not as long as an answer needs: ``short``, ``ended early``; or empty."""
        return "short" if self.short else "" if self.met_floors else "ended early"

    @property
    def wall(self) -> Power:
        """Power at the wall, by the chassis meters; it holds that of the accelerators."""
        return role_power(self.meters, "chassis")

    @property
    def invalid(self) -> tuple[str, ...]:
        """Why this phase cannot be trusted; empty when it can."""
        return tuple(
            f"{check.name}: {check.text}{_seen(check)}"
            for check in self.checks
            if check.invalidates and not check.ok
        )

    @property
    def warnings(self) -> tuple[Check, ...]:
        """Checks that were missed and do not make the phase invalid."""
        return tuple(c for c in self.checks if not c.invalidates and not c.ok)

    def verdict(self, tier: str) -> Verdict:
        """Return the verdict of one tier by name."""
        return next(v for v in self.verdicts if v.tier == tier)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRun:
    """One model of a run."""

    spec: ModelSpec
    dataset: DatasetFacts
    conformance: tuple[Rule, ...]
    forecast: Forecast | None = None
    """What a search of all tiers was expected to take before its first phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """That a bundle was not measured: an earlier run's requests were judged again."""

    run: str
    """The run that measured."""
    bundle_sha256: str
    """Of its ``bundle.json``."""
    client: str
    """Version of this package that judged again; that of the load stands in the provenance."""
    changed: tuple[str, ...]
    """What differs from the run's own judgement, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Everything a run found out, except the single requests."""

    schema: str
    provenance: Provenance
    settings: Settings
    system: System | None
    client: ClientCheck | None = None
    """``None`` where it was not checked: in virtual time, on other hosts, in smoke mode."""
    models: tuple[ModelRun, ...] = ()
    phases: tuple[PhaseResult, ...] = ()
    capacities: tuple[Capacity, ...] = ()
    detected: tuple[Fact, ...] = ()
    """What servers and meters said of the system themselves."""
    contradictions: tuple[str, ...] = ()
    """Where the declared system says otherwise; a line each."""
    idle: tuple[MeterPower, ...] | None = None
    """What each meter said before the first phase, with no load; ``None``: not measured yet."""
    rescored: Rescored | None = None
    """``None``: the run measured what it says."""
    warm_ups: tuple[WarmUp, ...] = ()
    """What warmed each model up before its first phase."""
    statistics: Statistics | None = None
    """The dataset in numbers, before any cut to a model's context; ``None``: not counted."""

    def phase(self, number: int) -> PhaseResult:
        """Return a phase by number."""
        return next(p for p in self.phases if p.number == number)

    @property
    def system_s(self) -> float:
        """How long the system under test was kept busy: the duration of all phases, seconds."""
        return sum(phase.duration_s for phase in self.phases)

    @property
    def system_usd(self) -> float | None:
        """What that costs by the price that the system declares; ``None`` without one."""
        price = self.system.price_usd_per_hour if self.system else None
        return None if price is None else price * self.system_s / 3600


def provenance(
    *,
    endpoint: str,
    server: str,
    served_models: tuple[str, ...],
    meter: str,
    devices: Iterable[Mapping[str, Any]],
    simulated: bool,
    resumed_from: str | None = None,
) -> Provenance:
    """Return the provenance of a run that starts now."""
    return Provenance(
        run=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        started_at=now(),
        ended_at=None,
        versions={
            "pytest-agentperf": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        host={
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cores": str(os.cpu_count()),
        },
        endpoint=endpoint,
        server=server,
        served_models=served_models,
        meter=meter,
        devices=tuple(devices),
        simulated=simulated,
        resumed_from=resumed_from,
    )


def encode_bundle(bundle: Bundle) -> bytes:
    """Return a bundle as indented JSON; an infinite number is the text ``"inf"``."""
    plain = finite(msgspec.to_builtins(asdict(bundle)))
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def read_bundle(data: bytes, where: str) -> Bundle:
    """Decode a ``bundle.json``.

    Raises:
        ConfigError: not a bundle, or of another version.
    """
    try:
        plain: Any = msgspec.json.decode(data)
        if plain.get("schema") != SCHEMA:
            raise ConfigError(
                f"{where}: schema is {plain.get('schema')!r}, this version reads {SCHEMA}"
            )
        return msgspec.convert(plain, Bundle, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError, AttributeError) as broken:
        raise ConfigError(f"{where}: not a bundle: {broken}") from broken


def finite(value: Any) -> Any:
    """Return plain values with infinite numbers as texts, ``"inf"`` and ``"-inf"``."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType] plain JSON
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]  # pyright: ignore[reportUnknownVariableType] plain JSON
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def now() -> str:
    """Return the wall clock's time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
