"""Folders of runs: for the phases of an example bundle, requests and meters that are made up."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.labels import FIRST, Labels
from pytest_agentperf.profile import profile
from pytest_agentperf.records import (
    ClientHealth,
    Measurement,
    Metered,
    ReadLag,
    Sample,
    TurnRecord,
    Window,
)
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.timeline import timeline
from tests.phases import ns

__all__ = ["LABELS", "measurement_of", "write_run"]

_TRAJECTORIES, _TURNS = 40, 38
_LANGUAGES = ("Python", "TypeScript", "Go", "Rust")
_TOOLS = ("read_file", "edit_file", "bash", "grep", "run_tests")

LABELS = Labels(
    languages={f"t{i}": _LANGUAGES[i % len(_LANGUAGES)] for i in range(_TRAJECTORIES)},
    tools={
        f"t{i}": (FIRST, *(_TOOLS[(i + turn) % len(_TOOLS)] for turn in range(1, _TURNS)))
        for i in range(_TRAJECTORIES)
    },
)


def measurement_of(phase: PhaseResult, *, requests: int, seconds: int = 600) -> Measurement:
    """Return a phase of so many requests: slower with more agents, failures as its metrics say."""
    random = np.random.default_rng(phase.number)
    opens_s = 60.0
    sent_s = np.sort(random.uniform(0.0, opens_s + seconds, requests))
    ttft_s = random.lognormal(np.log(0.02 * phase.agents), 0.6, requests)
    osl = random.integers(20, 600, requests)
    speed = random.lognormal(np.log(2000 / phase.agents), 0.4, requests)
    isl = random.lognormal(np.log(20_000), 0.8, requests).astype(int)
    failed = random.random(requests) < phase.metrics.error_ratio
    reasons = [*phase.metrics.errors] or ["timeout"]
    turns = [
        _turn(i, phase.agents, sent_s[i], ttft_s[i], osl[i] / speed[i], int(osl[i]), int(isl[i]))
        for i in range(requests)
    ]
    for i in np.flatnonzero(failed).tolist():
        turns[i] = replace(
            turns[i], error=reasons[i % len(reasons)], first_token_ns=None, osl_tokens=None
        )
    window = Window(start_ns=ns(opens_s), end_ns=ns(opens_s + seconds))
    return Measurement(
        agents=phase.agents,
        window=window,
        turns=tuple(turns),
        samples=_server(random, int(opens_s) + seconds),
        health=ClientHealth(
            loop_lag_s=tuple(tuple(random.exponential(2e-4, 2000).tolist()) for _ in range(2)),
            cpu_ratio=0.31,
            first_sent_ns=tuple(ns(30 * i / phase.agents) for i in range(phase.agents)),
            read_lag=(
                ReadLag(stamped=9000, unstamped=0, p50_s=1e-4, p95_s=4e-4, p99_s=8e-4, most_s=3e-3),
            ),
        ),
        floors_met=True,
        meters=(_meter(random, phase, int(opens_s) + seconds),),
    )


def write_run(results: Path, bundle: Bundle, *, requests: int, seconds: int = 600) -> Path:
    """Write a run's folder as a bench does, but for the single requests; return it."""
    folder = RunFolder(results, bundle)
    for phase in bundle.phases:
        seen = measurement_of(phase, requests=requests, seconds=seconds)
        folder.timeline(phase.number, timeline(seen))
        folder.profile(phase.number, profile(seen, LABELS))
    folder.close()
    return folder.path


def _turn(
    i: int, agents: int, sent_s: float, ttft_s: float, decode_s: float, osl: int, isl: int
) -> TurnRecord:
    end_s = sent_s + ttft_s + decode_s
    return TurnRecord(
        agent=i % agents,
        ordinal=i // agents // _TURNS,
        trajectory=f"t{i % _TRAJECTORIES}",
        turn=i // agents % _TURNS,
        last_turn=False,
        scheduled_ns=ns(sent_s),
        sent_ns=ns(sent_s),
        end_ns=ns(end_s),
        first_token_ns=ns(sent_s + ttft_s),
        last_token_ns=ns(end_s),
        token_offsets_us=np.linspace(ttft_s * 1e6, (end_s - sent_s) * 1e6, 8)
        .astype("<u4")
        .tobytes(),
        osl_tokens=osl,
        isl_tokens=isl,
        cached_tokens=isl * 9 // 10,
        finish_reason="stop",
    )


def _server(random: np.random.Generator, seconds: int) -> tuple[Sample, ...]:
    levels = {"running": 8.0, "waiting": 2.0, "kv_use_ratio": 0.8, "queue<b>depth</b>": 3.0}
    return tuple(
        Sample(at_ns=ns(s), series=name, unit="1", value=float(level * random.uniform(0.8, 1.2)))
        for name, level in levels.items()
        for s in range(seconds)
    )


def _meter(random: np.random.Generator, phase: PhaseResult, seconds: int) -> Metered:
    mean_w = phase.power.mean_w or 2000.0
    return Metered(
        meter="nvml",
        kind="nvml",
        role="accelerator",
        series=("gpu0",),
        devices=1,
        samples=tuple(
            Sample(
                at_ns=ns(s), series="gpu0", unit="W", value=float(mean_w * random.uniform(0.9, 1.1))
            )
            for s in range(seconds)
        ),
    )
