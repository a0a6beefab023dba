"""One phase on a simulated deployment, in virtual time, kept on disk for the next look at it."""

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import QUIET, SPEC, replayed_on
from pytest_agentperf.encoded import write_trajectories
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.metrics import output_speed_tok_per_s, ttft_s
from pytest_agentperf.orders import Setup
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.plan import make_plan
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.records import Measurement, Start, TurnRecord
from pytest_agentperf.settings import Settings
from pytest_agentperf.sim.launch import connect_virtual

__all__ = ["Requests", "Task", "find", "measure", "run"]


@dataclass(frozen=True)
class Task:
    """One phase: every request from its first second to its last is kept."""

    shape: str
    agents: int
    seed: int
    start: Start
    length_s: float


Requests = dict[str, np.ndarray[Any, Any]]
"""Columns of the requests of one phase, in order of sending; times in s since the first send."""


def run(task: Task, cache: Path) -> Requests:
    """Measure one phase, unless that has been done before."""
    known = find(task, cache)
    if known is not None:
        return known
    path = _path(task, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = _columns(asyncio.run(_measure(task)).turns)
    with path.with_suffix(".part").open("wb") as file:
        np.savez_compressed(file, **columns)
    path.with_suffix(".part").rename(path)
    return columns


def find(task: Task, cache: Path) -> Requests | None:
    """Return a phase that has been measured before."""
    path = _path(task, cache)
    if not path.exists():
        return None
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}


def _path(task: Task, cache: Path) -> Path:
    key = hashlib.sha256(" ".join((str(task), *replayed_on(task.shape))).encode()).hexdigest()[:12]
    return cache / f"{task.shape}-{task.agents}-{task.start}-{task.seed}-{key}.npz"


def _columns(turns: Sequence[TurnRecord]) -> Requests:
    turns = sorted(turns, key=lambda turn: turn.sent_ns)
    began_ns = turns[0].sent_ns
    speeds = [output_speed_tok_per_s(turn) for turn in turns]
    return {
        "agent": np.array([turn.agent for turn in turns], dtype=np.int32),
        "ordinal": np.array([turn.ordinal for turn in turns], dtype=np.int32),
        "turn": np.array([turn.turn for turn in turns], dtype=np.int32),
        "from_turn": np.array([turn.from_turn for turn in turns], dtype=np.int32),
        "sent_s": np.array([(turn.sent_ns - began_ns) / 1e9 for turn in turns]),
        "end_s": np.array([(turn.end_ns - began_ns) / 1e9 for turn in turns]),
        "ttft_s": np.array([ttft_s(turn) for turn in turns]),
        "speed": np.array([np.nan if s is None else s for s in speeds]),
        "isl": np.array([turn.isl_tokens or 0 for turn in turns], dtype=np.int32),
        "osl": np.array([turn.osl_tokens or 0 for turn in turns], dtype=np.int32),
        "cached": np.array([turn.cached_tokens or 0 for turn in turns], dtype=np.int32),
    }


async def _measure(task: Task) -> Measurement:
    settings = Settings(
        seed=task.seed,
        settle_s=0.0,
        min_trajectories=0,
        min_trajectories_per_agent=0,
        min_steady_s=task.length_s,
        max_phase_s=2 * task.length_s,
    )
    measurement = await measure(task.shape, task.agents, settings, start=task.start)
    if measurement.broken:
        raise RuntimeError(f"{task}: {measurement.broken}")
    return measurement


async def measure(
    shape: str, agents: int, settings: Settings, *, start: Start = "first"
) -> Measurement:
    """Measure one full phase of a shape, beginning at first turns or in the middle."""
    deployment, dataset = replayed_on(shape)
    info = connect_virtual(f"sim+virtual:?{deployment}&{QUIET}", models=["model"])
    place = info.in_process
    assert place is not None
    pool = InProcessPool(place)
    phase = PhaseRun(
        pool=pool,
        settings=settings,
        procedure=replace(full_phase(SPEC, settings), start=start),
        readings=(),
        clock=place.clock,
        tell=Listeners(),
    )
    with tempfile.TemporaryDirectory() as folder:
        setup = _setup(dataset, settings, Path(folder) / "planned")

        async def work() -> Measurement:
            await pool.set_up(setup)
            await pool.grow(1)
            return await phase.measure(number=1, agents=agents, workers=1)

        measurement = await place.run(work)
        await place.run(pool.close)
    info.close()
    return measurement


def _setup(dataset: str, settings: Settings, planned: Path) -> Setup:
    plan = make_plan(
        load_dataset(dataset, None),
        context_tokens=131_072,
        max_tokens=settings.max_tokens,
        tool_delay=settings.tool_delay,
        max_tool_s=settings.max_tool_s,
        seed=settings.seed,
        salted=True,
    )
    write_trajectories(planned, plan.trajectories, reasoning_field=SPEC.reasoning_field)
    return Setup(
        trajectories=str(planned),
        url="",
        headers={},
        osl_header=None,
        model="model",
        request={},
        max_tokens=settings.max_tokens,
        output="natural",
        salt="trajectory",
        seed=settings.seed,
        run=f"seed-{settings.seed}",
        timeout_s=settings.request_timeout_s,
        client="engine",
        tokenizer=None,
    )
