"""What a simulator's address names: ``sim:PRESET?field=value&field=value``, both parts optional."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, urlsplit

from pytest_agentperf.sim.config import EngineConfig, override
from pytest_agentperf.sim.presets import PresetSystem, preset, preset_system
from pytest_agentperf.sim.traits import Traits, take_traits

__all__ = ["Address", "field_names", "model_of_preset", "read_address", "split_address"]

_SCHEMES = ("sim", "sim+virtual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A simulated deployment, and how it speaks."""

    preset: str
    """Empty for the toy."""
    config: EngineConfig
    traits: Traits
    system: PresetSystem | None
    """What the preset stands on."""

    @property
    def model(self) -> str | None:
        """The model of the preset, ``None`` where its name holds none."""
        return self.preset.partition("/")[2] or None


def split_address(url: str) -> tuple[str, str]:
    """Return the preset's name and the query of an address."""
    parts = urlsplit(url)
    return (parts.netloc + parts.path).strip("/"), parts.query


def read_address(name: str, query: str) -> Address:
    """Return what a preset and a query name together.

    Raises:
        ValueError: an unknown preset or field, or a value that it cannot have; names it.
    """
    traits, rest = take_traits(parse_qsl(query, keep_blank_values=True))
    base = preset(name) if name else EngineConfig()
    return Address(
        preset=name,
        config=override(base, rest),
        traits=traits,
        system=preset_system(name) if name else None,
    )


def model_of_preset(url: str) -> tuple[str, ...]:
    """Return the model that a simulator's address names with its preset; none of any other URL."""
    scheme, _, rest = url.partition(":")
    model = split_address("sim:" + rest)[0].partition("/")[2]
    return (model,) if scheme in _SCHEMES and model else ()


def field_names() -> Sequence[str]:
    """Return every field that a query may hold."""
    return [field.name for kind in (EngineConfig, Traits) for field in fields(kind)]
