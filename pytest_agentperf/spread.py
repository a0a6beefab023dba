"""The measured noise of a system: figures of one phase, repeated with other seeds; noise.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pytest_agentperf.errors import ConfigError

__all__ = ["LEAST_REPEATS", "SCHEMA", "Noise", "Repeats", "Spread", "encode_noise", "parse_noise"]

SCHEMA = "agentperf-noise/1"
LEAST_REPEATS = 5
"""Fewer say too little of a spread."""
_NEAR = 1.5
"""Agents of a phase over those of the repeats, or the other way round: farther is another noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Repeats of one phase."""

    model: str
    agents: int
    dataset_sha256: str
    figures: Mapping[str, tuple[float, ...]]
    """By name, one value for each repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """One figure of repeats of one phase."""

    agents: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """All spreads of one system."""

    schema: str
    client: str
    """Version of this package."""
    endpoint: str
    runs: tuple[str, ...]
    """Runs that measured the repeats."""
    spreads: tuple[Spread, ...]

    def repeats(self, model: str, agents: int, figure: str) -> Repeats | None:
        """Return a figure's repeats with about so many agents; ``None`` where there are none."""
        near = [
            (abs(math.log(s.agents / agents)), Repeats(agents=s.agents, values=s.figures[figure]))
            for s in self.spreads
            if s.model == model and abs(math.log(s.agents / agents)) <= math.log(_NEAR)
            if figure in s.figures and _usable(s.figures[figure])
        ]
        return min(near, key=lambda found: found[0])[1] if near else None


def encode_noise(noise: Noise) -> bytes:
    """Return it as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(noise), indent=2) + b"\n"


def parse_noise(data: bytes, where: str) -> Noise:
    """Decode a ``noise.json``.

    Raises:
        ConfigError: not one, of another version, or with too few repeats.
    """
    try:
        plain: Any = msgspec.json.decode(data)
        if plain.get("schema") != SCHEMA:
            raise ConfigError(
                f"{where}: schema is {plain.get('schema')!r}, this version reads {SCHEMA}"
            )
        noise = msgspec.convert(plain, Noise)
    except (msgspec.DecodeError, msgspec.ValidationError, AttributeError) as broken:
        raise ConfigError(f"{where}: not a measured noise: {broken}") from broken
    few = [len(v) for s in noise.spreads for v in s.figures.values() if len(v) < LEAST_REPEATS]
    if few or not noise.spreads:
        raise ConfigError(
            f"{where}: {min(few, default=0)} repeats say too little of a spread; measure at least "
            f"{LEAST_REPEATS}"
        )
    return noise


def _usable(values: Sequence[float]) -> bool:
    return len(values) >= LEAST_REPEATS and all(0 < v < math.inf for v in values)
