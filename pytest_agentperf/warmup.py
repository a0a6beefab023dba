"""Warms a server up: agents on made-up trajectories outside the dataset, before anything counts.

Kernels are compiled, graphs captured and memory is allocated by the first requests of each shape; a
first phase would hold that.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from pytest_agentperf.clock import Clock
from pytest_agentperf.crew import Crew, Place
from pytest_agentperf.encoded import write_trajectories
from pytest_agentperf.orders import Begin, Ended, Prepare, Report, Setup, Stop
from pytest_agentperf.plan import start_offsets_s
from pytest_agentperf.prelude import WarmUp
from pytest_agentperf.protocols import Connection
from pytest_agentperf.records import TurnRecord
from pytest_agentperf.synthesis import synthesize

__all__ = ["outside", "warm_up"]

_SEED = 715_517
"""No dataset of ours is made of it."""
_TRAJECTORIES = 8
_TURNS = 4
_MOST_ISL_TOKENS = 16_000
_LEAST_ISL_TOKENS = 2_000
_OSL_TOKENS = 60


def outside(setup: Setup, folder: Path, *, isl_tokens: int, reasoning_field: str) -> Setup:
    """Return the set-up of a load on trajectories that are in no dataset.

    Args:
        setup: of the load that will follow.
        folder: where the trajectories are written, to be deleted by the caller.
        isl_tokens: mean length of the prompts; very long ones are not made.
        reasoning_field: message field in which recorded reasoning goes back.
    """
    made = synthesize(
        trajectories=_TRAJECTORIES,
        turns=_TURNS,
        isl_tokens=max(_LEAST_ISL_TOKENS, min(isl_tokens, _MOST_ISL_TOKENS)),
        osl_tokens=_OSL_TOKENS,
        tool_s=0.0,
        seed=_SEED,
    )
    path = folder / f"warm-up-{isl_tokens}-{reasoning_field}"
    write_trajectories(path, made.trajectories, reasoning_field=reasoning_field)
    return msgspec.structs.replace(
        setup, trajectories=str(path), run=f"{setup.run}-warm-up", tokenizer=None
    )


async def warm_up(
    setup: Setup,
    connections: Callable[[Setup], Callable[[int], Connection]],
    *,
    agents: int,
    for_s: float,
    clock: Clock,
) -> WarmUp:
    """Let agents work in this process; nothing of it is measured.

    Args:
        setup: from `outside`.
        connections: what makes its connections.
        agents: how many.
        for_s: how long, seconds.
        clock: of the endpoint.
    """
    turns: list[TurnRecord] = []

    async def hear(report: Report) -> None:
        if isinstance(report, Ended):
            turns.extend(report.turns)

    crew = Crew(Place(clock=clock, connections=connections, cpu_s=lambda: 0.0), send=hear)
    await crew.obey(setup)
    offsets_ns = [int(s * 1e9) for s in start_offsets_s(agents, for_s / 4)]
    await crew.obey(Prepare(phase=0, agents=list(range(agents)), offsets_ns=offsets_ns))
    began_ns = clock.now_ns()
    await crew.obey(Begin(at_ns=began_ns))
    try:
        await asyncio.sleep(for_s)
    finally:
        await crew.obey(Stop())
    return WarmUp(
        model=setup.model,
        agents=agents,
        seconds=(clock.now_ns() - began_ns) / 1e9,
        requests=len(turns),
        failed=sum(turn.error is not None for turn in turns),
        first_ttft_s=_ttft_s(turns[:agents]),
        last_ttft_s=_ttft_s(turns[-agents:]),
    )


def _ttft_s(turns: list[TurnRecord]) -> float | None:
    times = [(t.first_token_ns - t.sent_ns) / 1e9 for t in turns if t.first_token_ns is not None]
    return float(np.median(times)) if times else None
