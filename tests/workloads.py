"""A small workload for a load process, without the plugin around it."""

from pathlib import Path

from pytest_agentperf.encoded import write_trajectories
from pytest_agentperf.orders import Setup
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.trajectory import Dataset

__all__ = ["SPEC", "small_setup"]

SPEC = ModelSpec(
    model="m",
    tiers=(
        SLOTier(
            model="m",
            name="any",
            limits=(Limit(metric="output_speed_tok_per_s", statistic="p25", value=0.001),),
        ),
    ),
)
"""Whatever answers meets it, with at most one failure in a hundred."""


def small_setup(
    dataset: Dataset,
    *,
    url: str,
    model: str,
    folder: Path,
    osl_header: str | None = None,
    max_tokens: int = 1000,
) -> Setup:
    """Write a dataset where a load process finds it, and say what to send of it and where."""
    planned = folder / "planned"
    write_trajectories(planned, dataset.trajectories, reasoning_field=SPEC.reasoning_field)
    return Setup(
        trajectories=str(planned),
        url=url,
        headers={},
        osl_header=osl_header,
        model=model,
        request={},
        max_tokens=max_tokens,
        output="natural",
        salt="trajectory",
        seed=0,
        run="test",
        client="engine",
        timeout_s=60,
        tokenizer=None,
    )
