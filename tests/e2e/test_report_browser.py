"""The report in a real browser: opens offline, draws the bundle's numbers, fits a phone."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.report import render_page
from tests.bundles import example_bundle

pytestmark = pytest.mark.e2e

_CHARTS = """[...document.querySelectorAll(".agentperf .chart")].map(chart => ({
  metric: chart.dataset.agentperfChart,
  traces: chart.data.map(t => ({name: t.name, x: t.x, y: t.y, phases: t.customdata || null})),
  drawn: chart.querySelectorAll(".point").length,
}))"""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return example_bundle(models=2)


@pytest.fixture
def report(tmp_path: Path, bundle: Bundle) -> str:
    path = tmp_path / "report.html"
    path.write_text(render_page(bundle), encoding="utf-8")
    return path.as_uri()


def test_the_page_opens_offline_without_a_complaint(browser_page: Page, report: str) -> None:
    complaints: list[str] = []
    requests: list[str] = []
    browser_page.on("console", lambda message: complaints.append(message.text))
    browser_page.on("pageerror", lambda error: complaints.append(str(error)))
    browser_page.on("request", lambda request: requests.append(request.url))
    browser_page.goto(report)
    browser_page.wait_for_selector(".agentperf .chart .main-svg")
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def test_the_charts_draw_the_numbers_of_the_bundle(
    browser_page: Page, report: str, bundle: Bundle
) -> None:
    browser_page.goto(report)
    charts: list[dict[str, Any]] = browser_page.evaluate(_CHARTS)
    shown = {
        (chart["metric"], number): (agents, value)
        for chart in charts
        for trace in chart["traces"]
        if trace["phases"]
        for number, agents, value in zip(trace["phases"], trace["x"], trace["y"], strict=True)
    }
    assert shown == {
        (metric, p.number): (p.agents, _plotted(p, metric))
        for p in bundle.phases
        for metric in ("output_speed_tok_per_s.p25", "ttft_s.p95")
    }
    assert all(chart["drawn"] for chart in charts)


def _plotted(phase: PhaseResult, metric: str) -> float | None:
    name, statistic = metric.split(".")
    value: float = getattr(phase.metrics, name).statistic(statistic)
    return None if value == float("inf") else value


def test_the_table_and_the_chart_agree(browser_page: Page, report: str, bundle: Bundle) -> None:
    browser_page.goto(report)
    cells: list[list[str]] = browser_page.evaluate(
        """[...document.querySelectorAll("td[data-agentperf-metric='ttft_s.p95']")]
           .map(cell => [cell.dataset.agentperfPhase, cell.dataset.agentperfValue])"""
    )
    assert {int(number): float(value) for number, value in cells} == {
        p.number: p.metrics.ttft_s.p95 for p in bundle.phases if p.metrics.ttft_s
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("opened", [False, True], ids=["details closed", "details open"])
def test_a_phone_needs_no_sideways_scroll(
    browser_page: Page, report: str, *, scheme: Any, opened: bool
) -> None:
    browser_page.emulate_media(color_scheme=scheme)
    browser_page.set_viewport_size({"width": 390, "height": 844})
    browser_page.goto(report)
    if opened:
        browser_page.evaluate(
            "document.querySelectorAll('details').forEach(d => { d.open = true })"
        )
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= 390


def test_chart_text_follows_the_colour_scheme(browser_page: Page, report: str) -> None:
    ink = "document.querySelector('.agentperf .chart').layout.font.color"
    browser_page.emulate_media(color_scheme="light")
    browser_page.goto(report)
    light = browser_page.evaluate(ink)
    browser_page.emulate_media(color_scheme="dark")
    browser_page.wait_for_function(f"{ink} !== '{light}'")
    assert browser_page.evaluate(ink) != light


def test_details_open_by_keyboard(browser_page: Page, report: str) -> None:
    browser_page.goto(report)
    browser_page.locator("tbody[data-agentperf-phase='3'] summary").focus()
    browser_page.keyboard.press("Enter")
    assert browser_page.get_by_text("timeout").first.is_visible()
