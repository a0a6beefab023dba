"""A whole run against vLLM, against llama.cpp, and through LiteLLM: a model that calls tools."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.vllm_histograms import compared, page
from pytest_agentperf.bundle import Bundle, read_bundle
from tests.nightly.servers import KEY, litellm, vllm
from tests.servers.agent_model import make_agent_model
from tests.servers.process import start

pytestmark = [pytest.mark.nightly, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
DATASET = "synthetic:trajectories=6,turns=6,isl=3000,osl=60,tool_s=0.2,seed=1"
_LOOK_S = 0.5
TIERS = """
version: 1
models:
  - model: tiny
    max_tokens: 256
    reasoning_field: {field}
    tiers:
      - {{name: relaxed, limits: {{output_speed_tok_per_s.p25: 1, ttft_s.p95: 60}}}}
      - {{name: absurd, limits: {{output_speed_tok_per_s.p25: 100000, ttft_s.p95: 60}}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run left behind."""

    server: str
    text: str
    bundle: Bundle
    rows: list[dict[str, Any]]
    pages: tuple[str, str]
    """Of metrics, before the first request that is in ``rows`` and after the run; empty where there
    is none."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_agent_model(folder / "tiny", folder / "tiny.gguf")
    return folder


@pytest.fixture(scope="module", params=["vllm", "llama.cpp", "litellm"])
def run(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("run")
    field = "reasoning" if request.param == "vllm" else "reasoning_content"
    (folder / "tiers.yaml").write_text(TIERS.format(field=field), "utf-8")
    with _served(request.param, model, folder) as url:
        with _watched(url) as pages:
            text = _measure(url, model, folder)
        after = page(url)
    (path,) = (folder / "results").glob("*")
    rows = [json.loads(line) for line in (path / "requests.jsonl").read_text().splitlines()]
    first_ns = min(row["sent_ns"] for row in rows)
    before = [text for at_ns, text in pages if at_ns < first_ns][-1]
    for name, what in {"said": text, "before": before, "after": after}.items():
        (folder / f"{name}.txt").write_text(what, "utf-8")
    return Run(
        server=request.param,
        text=text,
        bundle=read_bundle((path / "bundle.json").read_bytes(), str(path)),
        rows=rows,
        pages=(before, after),
    )


@contextlib.contextmanager
def _watched(url: str) -> Generator[list[tuple[int, str]]]:
    """Read the server's page of metrics while a run goes; stamps are of the run's own clock."""
    pages: list[tuple[int, str]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_S):
            text = page(url)
            pages.append((time.perf_counter_ns(), text))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield pages
    finally:
        done.set()
        watcher.join()


@contextlib.contextmanager
def _served(server: str, model: Path, folder: Path) -> Generator[str]:
    log = folder / "server.log"
    if server == "vllm":
        with vllm(model / "tiny", log) as url:
            yield url
        return
    slots = ("--slots", "4", "--context", "32768")
    with start("tests.servers.llamacpp", str(model / "tiny.gguf"), *slots) as behind:
        if server == "llama.cpp":
            yield behind.url
            return
        with litellm(behind.url, log) as url:
            yield url


def _measure(url: str, model: Path, folder: Path) -> str:
    options = {
        "endpoint": url, "model": "tiny", "slo": folder / "tiers.yaml", "mode": "smoke",
        "dataset": DATASET, "start-agents": 2, "max-agents": 2, "tokenizer": model / "tiny",
        "results": folder / "results", "min-steady-s": 20,
    }  # fmt: skip
    arguments = [f"--agentperf-{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "suites/test_capacity.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"AGENTPERF_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_the_preflight_finds_what_a_run_needs(run: Run) -> None:
    (seen,) = run.bundle.provenance.observed
    missing = {line.name for line in seen.lines if line.state != "ok"}
    # LiteLLM does not tell how long the context behind it is.
    assert missing == ({"context"} if run.server == "litellm" else set()), run.text
    field = "reasoning" if run.server == "vllm" else "reasoning_content"
    assert seen.dialect.reasoning_fields == (field,)
    assert (seen.dialect.usage, seen.dialect.tool_calls) == ("its own event", "pieces")


def test_every_tier_has_its_capacity(run: Run) -> None:
    found = {c.tier: (c.agents, c.status) for c in run.bundle.capacities}
    assert found == {"relaxed": (2, "at-limit"), "absurd": (0, "unsupported")}, run.text


def test_reasoning_and_calls_are_timed(run: Run) -> None:
    assert {row["error"] for row in run.rows} == {None}
    assert all(row["reasoning_streamed"] for row in run.rows)
    # The model calls a tool in each of the first three turns.
    first = [row for row in run.rows if row["turn"] < 3]
    assert {(row["tool_calls"], row["finish_reason"]) for row in first} == {(1, "tool_calls")}
    assert all(row["first_token_ns"] > row["sent_ns"] for row in run.rows)


def test_prompts_are_cached_from_the_second_turn_on(run: Run) -> None:
    later = [row for row in run.rows if row["turn"]]
    assert sum(row["cached_tokens"] for row in later) > 0.5 * sum(r["isl_tokens"] for r in later)
    first = [row for row in run.rows if not row["turn"]]
    assert sum(r["cached_tokens"] for r in first) < 0.01 * sum(r["isl_tokens"] for r in first)


def test_usage_agrees_with_the_model_s_tokenizer(run: Run) -> None:
    for phase in run.bundle.phases:
        checked = phase.metrics.tokens
        assert checked is not None
        assert checked.osl is not None
        assert checked.osl.n == checked.answers
        assert checked.verified_ratio == 1.0, checked.worst
        assert checked.osl.p50 == 1.0


def test_vllm_s_own_histograms_tell_the_same(run: Run) -> None:
    if run.server != "vllm":
        pytest.skip("only vLLM keeps histograms")
    found = compared(*run.pages, run.rows)
    ttft, itl = found["ttft"], found["itl"]
    # It counts what is broken off at the end of a phase, at most one request of each agent.
    assert 0 <= ttft["theirs_n"] - ttft["ours_n"] <= sum(p.agents for p in run.bundle.phases)
    # Ours holds the way to the server and back, what it does before it starts to count, and one
    # step more: its first token is a mark that it does not send.
    assert 1 <= ttft["ours_mean_s"] / ttft["theirs_mean_s"] < 1.5
    assert itl["ours_mean_s"] / itl["theirs_mean_s"] == pytest.approx(1, abs=0.15)
