"""What is measured: the models with their tiers, the endpoint, the dataset, the meters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_agentperf.detected import Fact
from pytest_agentperf.pool import Pool
from pytest_agentperf.protocols import EndpointInfo, Meter
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.system import System
from pytest_agentperf.trajectory import Dataset

__all__ = ["Inputs", "Models"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a run, and the entries that ship for them."""

    specs: Mapping[str, ModelSpec]
    """By the name that requests carry."""
    published: Mapping[str, ModelSpec]
    verify: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    """By model and tier: the one number of agents to measure; a search where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is measured, with what, by what."""

    endpoint: EndpointInfo
    dataset: Dataset
    meters: tuple[Meter, ...]
    system: System | None
    hosts: Pool | None = None
    """Runs load on other machines; ``None``: it runs where the endpoint is ours, or beside us."""
    detected: tuple[Fact, ...] = ()
    """What servers and meters said of the system themselves."""
    contradictions: tuple[str, ...] = ()
    """Where the declared system says otherwise; a line each."""
