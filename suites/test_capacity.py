"""How many agents does each tier carry? One test per model and SLO tier."""

from typing import Any


def test_carries_its_agents(capacity: Any, slo: Any) -> None:
    """The tier carries at least the agents that its file asks for."""
    assert capacity.agents >= slo.min_agents
