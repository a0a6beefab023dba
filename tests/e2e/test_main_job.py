"""The main job, whole: suites against the simulator, its files, and its report in a browser."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from pytest_agentperf.bundle import Bundle, read_bundle

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
TIERS = ("slo-1", "slo-2", "slo-3", "slo-4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One smoke run over all four tiers of gpt-oss-120b; its folder and what it printed."""
    folder = tmp_path_factory.mktemp("main-job")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            str(ROOT / "suites"),
            "--endpoint=sim:",
            "--model=gpt-oss-120b",
            "--agentperf-mode=smoke",
            "--agentperf-min-steady-s=4",
            "--agentperf-resolution=0.3",
            "--dataset=synthetic:trajectories=40,turns=8,isl=9000,osl=80~300,tool_s=0.4,seed=1",
            f"--agentperf-results={folder / 'results'}",
            f"--html={folder / 'report.html'}",
            "--self-contained-html",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def bundle(run: tuple[Path, str]) -> Bundle:
    (path,) = (run[0] / "results").glob("*/bundle.json")
    return read_bundle(path.read_bytes(), str(path))


def test_stricter_tiers_carry_fewer_agents(bundle: Bundle) -> None:
    carried = {c.tier: c.agents for c in bundle.capacities}
    assert tuple(carried) == TIERS
    assert list(carried.values()) == sorted(set(carried.values()), reverse=True)
    assert min(carried.values()) >= 1


def test_no_phase_is_measured_twice_and_every_tier_judges_each(bundle: Bundle) -> None:
    agents = [p.agents for p in bundle.phases]
    assert len(agents) == len(set(agents))
    assert {tuple(v.tier for v in p.verdicts) for p in bundle.phases} == {TIERS}


def test_the_ramp_starts_at_eight_and_grows_at_most_fourfold(bundle: Bundle) -> None:
    first, second, third = [p.agents for p in bundle.phases][:3]
    assert (first, second) == (8, 16)
    assert 16 < third <= 64


def test_a_smoke_run_lists_the_rules_it_broke(bundle: Bundle, run: tuple[Path, str]) -> None:
    broken = [r.name for r in bundle.models[0].conformance if r.status == "not met"]
    assert "30 trajectories, 3 per agent, 10 minutes steady" in broken
    assert all(name in run[1] for name in broken)


def test_requests_are_there_line_by_line_with_reused_prefixes(run: tuple[Path, str]) -> None:
    (path,) = (run[0] / "results").glob("*/requests.jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    first = [r for r in rows if r["turn"] == 0]
    later = [r for r in rows if r["turn"] > 0]
    assert sum(r["cached_tokens"] for r in first) == 0
    assert sum(r["cached_tokens"] for r in later) > 0.5 * sum(r["isl_tokens"] for r in later)
    assert {r["error"] for r in rows} == {None}


def test_the_pytest_html_report_opens_with_the_bundles_numbers(
    run: tuple[Path, str], bundle: Bundle, browser_page: Page
) -> None:
    trouble: list[str] = []
    browser_page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    browser_page.on("pageerror", lambda e: trouble.append(str(e)))
    browser_page.goto((run[0] / "report.html").as_uri())
    browser_page.wait_for_selector("svg[data-agentperf-chart]")
    shown = browser_page.eval_on_selector_all(
        "[data-agentperf-capacity]",
        "all => all.map(e => [e.dataset.agentperfTier, e.dataset.agentperfAgents])",
    )
    assert shown == [[c.tier, str(c.agents)] for c in bundle.capacities]
    values = browser_page.eval_on_selector_all(
        "td[data-agentperf-metric]",
        "all => all.map(e => [Number(e.dataset.agentperfPhase), e.dataset.agentperfMetric,"
        " Number(e.dataset.agentperfValue)])",
    )
    assert {tuple(v) for v in values} == _percentiles(bundle)
    above = browser_page.evaluate(
        "document.querySelector('section.agentperf').getBoundingClientRect().top"
        " < document.querySelector('#environment-header').getBoundingClientRect().top"
    )
    assert above
    assert trouble == []


def _percentiles(bundle: Bundle) -> set[tuple[int, str, float]]:
    found: set[tuple[int, str, float]] = set()
    for phase in bundle.phases:
        speed, ttft = phase.metrics.output_speed_tok_per_s, phase.metrics.ttft_s
        assert speed is not None
        assert ttft is not None
        found.add((phase.number, "output_speed_tok_per_s.p25", speed.p25))
        found.add((phase.number, "ttft_s.p95", ttft.p95))
    return found
