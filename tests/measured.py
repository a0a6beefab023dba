"""Whole runs on a simulated system in virtual time, without pytest around them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.preflight import connect, open_folder, with_facts
from pytest_agentperf.settings import make_settings
from pytest_agentperf.shipped import published, shipped_models
from pytest_agentperf.tierfile import choose_models

__all__ = ["MODEL", "measured_run"]

MODEL = "deepseek-v4-pro"
_GIVEN: dict[str, Any] = {
    "endpoint": f"sim+virtual:h200x8/{MODEL}?acceptance=0.8,0.5&kv_capacity_tokens=400000",
    "dataset": "synthetic:trajectories=12,turns=4,isl=6000,osl=60~300,tool_s=0.1~0.5,seed=1",
    "start_agents": 4,
    "max_agents": 24,
    "min_trajectories": 8,
    "min_trajectories_per_agent": 1,
    "min_steady_s": 60.0,
}


def measured_run(results: Path, *tiers: str, **given: Any) -> Path:
    """Search every tier, with the system's own power meter; return the run's folder."""
    settings = make_settings(
        _GIVEN | {"model": (MODEL,), "tier": tiers, "results": str(results)} | given
    )
    specs = choose_models(shipped_models(), models=[MODEL], tiers=tiers, where="here")
    info = connect(settings.endpoint or "", tuple(specs))
    assert info.meter is not None
    inputs = with_facts(
        Inputs(
            endpoint=info,
            dataset=load_dataset(settings.dataset, None),
            meters=(info.meter,),
            system=info.system,
        )
    )
    folder = open_folder(settings, inputs)
    bench = Bench(
        settings=settings,
        models=Models(specs=specs, published=published(specs)),
        inputs=inputs,
        folder=folder,
        on_event=lambda _: None,
    )
    try:
        asyncio.run(_search(bench, [t for spec in specs.values() for t in spec.tiers]))
    finally:
        info.close()
    return folder.path


async def _search(bench: Bench, tiers: Sequence[Any]) -> None:
    for tier in tiers:
        await bench.capacity(tier)
    await bench.close()
