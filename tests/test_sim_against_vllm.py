"""The engine beside a real scheduler: vLLM's, recorded by ``benchmarks/scheduler.py``.

vLLM ran the same requests on a CPU, step by step: what arrived before which step, how long, sharing
what with whom. A step here is a step there; how long it takes plays no part.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.engine import Engine
from pytest_agentperf.sim.sequence import Request

RECORDED = json.loads((Path(__file__).parent / "data" / "vllm_schedule.json").read_text())
SCENARIOS: list[Any] = RECORDED["scenarios"]


def _config(scenario: Any) -> EngineConfig:
    size = scenario["config"]
    return EngineConfig(
        max_sequences=size["max_sequences"],
        max_step_tokens=size["max_step_tokens"],
        block_tokens=size["block_tokens"],
        kv_capacity_tokens=size["usable_kv_blocks"] * size["block_tokens"],
        context_limit_tokens=size["context_limit_tokens"],
        acceptance=(),
    )


def _texts(rows: Sequence[Any]) -> dict[str, tuple[tuple[str, int], ...]]:
    """Return every prompt as tokens, a token being who brought it in and its place."""
    texts: dict[str, tuple[tuple[str, int], ...]] = {}
    for row in rows:
        prompt = row["prompt"]
        shared = texts.get(prompt["shares_with"], ())[: prompt["shared_tokens"]]
        own = tuple((row["id"], place) for place in range(prompt["own_tokens"]))
        texts[row["id"]] = (*shared, *own)
    return texts


@dataclass
class Run:
    first: dict[str, int] = field(default_factory=dict[str, int])
    last: dict[str, int] = field(default_factory=dict[str, int])
    cached: dict[str, int] = field(default_factory=dict[str, int])
    preemptions: int = 0
    free_blocks: list[int] = field(default_factory=list[int])


def _run(scenario: Any) -> Run:
    config, run = _config(scenario), Run()
    engine, texts = Engine(config), _texts(scenario["requests"])
    size = config.block_tokens
    for step in range(len(scenario["steps"])):
        for row in scenario["requests"]:
            if row["arrives_before_step"] == step:
                text = texts[row["id"]]
                blocks = [text[: end + size] for end in range(0, len(text) - size + 1, size)]
                engine.submit(
                    Request(
                        id=row["id"],
                        prompt_tokens=len(text),
                        osl_tokens=row["osl_tokens"],
                        blocks=blocks,
                    )
                )
        segment = engine.advance(float(step), float(step))
        for gain in segment.gains if segment else ():
            run.first.setdefault(gain.request_id, step)
            run.cached[gain.request_id] = gain.cached_tokens
            if gain.finished:
                run.last[gain.request_id] = step
        run.free_blocks.append(engine.pool.free_blocks)
    run.preemptions = engine.counters.preemptions
    return run


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[s["name"] for s in SCENARIOS])
def test_same_schedule_as_vllm(scenario: Any):
    run, wanted = _run(scenario), {row["id"]: row for row in scenario["results"]}
    assert run.first == {i: row["first_token_step"] for i, row in wanted.items()}
    assert run.last == {i: row["last_token_step"] for i, row in wanted.items()}
    assert run.cached == {i: row["cached_tokens"] for i, row in wanted.items()}
    assert run.preemptions == sum(row["preemptions"] for row in wanted.values())
    assert run.free_blocks == [step["free_blocks"] for step in scenario["steps"]]
