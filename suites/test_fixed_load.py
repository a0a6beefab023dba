"""A fixed number of agents, without a search of its own: the phase is shared with the search."""

from typing import Any


async def test_first_phase_fails_no_request(agentperf: Any) -> None:
    """The number of agents that every search begins with is served without a failed request."""
    metrics = await agentperf.measure(agents=agentperf.start_agents)
    assert metrics.requests > 0
    assert metrics.failed == 0, metrics.errors
