"""The tiers that come with this package, as Artificial Analysis publishes them."""

from collections.abc import Iterable
from dataclasses import replace
from importlib import resources

from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.tierfile import find_model, parse_tiers

__all__ = ["published", "shipped_models"]

_FILE = "aa-agentperf.yaml"


def shipped_models() -> tuple[ModelSpec, ...]:
    """Return every entry of the file that ships."""
    text = (resources.files("pytest_agentperf") / "tiers" / _FILE).read_text("utf-8")
    return parse_tiers(text, _FILE)


def published(names: Iterable[str]) -> dict[str, ModelSpec]:
    """Return the entries that ship for these models, by the names that their requests carry."""
    found = {name: find_model(shipped_models(), name) for name in names}
    return {name: _served_as(name, spec) for name, spec in found.items() if spec is not None}


def _served_as(name: str, spec: ModelSpec) -> ModelSpec:
    return replace(spec, model=name, tiers=tuple(replace(t, model=name) for t in spec.tiers))
