"""The report in a real browser: opens offline, draws the bundle's numbers, can be read by all."""

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from pytest_agentperf.bundle import Bundle
from pytest_agentperf.leaderboard import leaderboard_page
from pytest_agentperf.report import render_first, render_page
from tests.bundles import SYSTEM, example_bundle
from tests.run_folders import write_run

pytestmark = pytest.mark.e2e

# Where a mark is drawn, and where the labelled ticks of its chart are: the axes tell its value.
_CHARTS = """[...document.querySelectorAll("svg.chart.tall")].map(chart => {
  const at = element => {
    const box = element.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const ticks = kind => [...chart.querySelectorAll(`text.${kind}[data-agentperf-tick]`)].map(
    tick => [+tick.dataset.agentperfTick, ...at(tick)]);
  return {
    metric: chart.dataset.agentperfChart, x: ticks("x"), y: ticks("y"),
    marks: [...chart.querySelectorAll(".mark")].map(mark => ({
      phase: +mark.dataset.agentperfPhase, outcome: mark.dataset.agentperfOutcome,
      symbol: mark.querySelector("use")?.getAttribute("href") ?? mark.textContent.slice(0, 1),
      at: at(mark.querySelector("use, text")),
    })),
  };
})"""
_OPEN_ALL = "document.querySelectorAll('details').forEach(d => { d.open = true })"
_AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
_EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>\"'>"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return example_bundle(models=2)


@pytest.fixture(scope="module")
def report(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _written(bundle, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def short(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of two phases, one with failures and one invalid: axe looks at every element."""
    phases = tuple(p for p in bundle.phases if p.number in {5, 8})
    run = replace(bundle, models=bundle.models[:1], phases=phases)
    return _written(run, tmp_path_factory.mktemp("short"))


def _written(bundle: Bundle, results: Path) -> str:
    folder = write_run(results, bundle, requests=300, seconds=60)
    path = folder / "report.html"
    path.write_text(render_page(bundle, folder), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def board(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("board") / "board.html"
    other = replace(
        bundle,
        provenance=replace(bundle.provenance, run="b"),
        system=replace(SYSTEM, name="Another 8-GPU node"),
    )
    path.write_text(leaderboard_page([bundle, other]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=["report", "board"])
def address(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def _listen(page: Page) -> tuple[list[str], list[str]]:
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    return complaints, requests


def test_a_page_opens_offline_without_a_complaint(browser_page: Page, address: str) -> None:
    complaints, requests = _listen(browser_page)
    browser_page.goto(address)
    browser_page.evaluate(_OPEN_ALL)
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [address]


def test_text_from_a_run_runs_nothing(browser_page: Page, bundle: Bundle, tmp_path: Path) -> None:
    phases = [replace(p, metrics=replace(p.metrics, errors={_EVIL: 3})) for p in bundle.phases]
    evil = replace(
        bundle,
        phases=tuple(phases[:3]),
        system=replace(SYSTEM, name=_EVIL, notes=_EVIL),
        provenance=replace(bundle.provenance, server=_EVIL, endpoint=_EVIL),
    )
    complaints, requests = _listen(browser_page)
    page = _written(evil, tmp_path)
    browser_page.goto(page)
    browser_page.evaluate(_OPEN_ALL)
    assert browser_page.locator("script, img, iframe, object").count() == 0
    assert _EVIL in browser_page.inner_text("body")
    assert (complaints, [r for r in requests if not r.startswith("data:")]) == ([], [page])


def test_the_policy_stops_what_escaping_would_let_through(
    browser_page: Page, bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    hole = "<script>alert(1)</script><img src=x onerror=alert(2)><iframe src=about:blank></iframe>"
    path.write_text(render_page(bundle).replace("</main>", f"{hole}</main>"), encoding="utf-8")
    complaints, _ = _listen(browser_page)
    loaded: list[str] = []
    browser_page.on("requestfinished", lambda request: loaded.append(request.url))
    browser_page.goto(path.as_uri())
    assert len(complaints) >= 2
    assert all("Content Security Policy" in said for said in complaints)
    assert [url for url in loaded if not url.startswith("data:")] == [path.as_uri()]


def test_the_charts_draw_the_numbers_of_the_bundle(
    browser_page: Page, report: str, bundle: Bundle
) -> None:
    browser_page.goto(report)
    charts: list[dict[str, Any]] = browser_page.evaluate(_CHARTS)
    drawn = 0
    for chart in charts:
        metric, statistic = chart["metric"].split(".")
        for mark in chart["marks"]:
            phase = bundle.phase(mark["phase"])
            value: float = getattr(phase.metrics, metric).statistic(statistic)
            agents = _read(chart["x"], mark["at"][0], axis=1)
            assert agents == pytest.approx(phase.agents, rel=0.01)
            if value == float("inf"):
                assert mark["symbol"] == "∞"
            else:
                assert _read(chart["y"], mark["at"][1], axis=2) == pytest.approx(value, rel=0.03)
                assert mark["symbol"] == f"#agentperf-{mark['outcome']}"
            drawn += 1
    assert drawn == 2 * len(bundle.phases)


def _read(ticks: list[list[float]], at: float, *, axis: int) -> float:
    """Return the value at a place of a logarithmic axis, by two of its labelled ticks."""
    first, last = ticks[0], ticks[-1]
    share = (at - first[axis]) / (last[axis] - first[axis])
    return first[0] * (last[0] / first[0]) ** share


def test_the_table_and_the_chart_agree(browser_page: Page, report: str, bundle: Bundle) -> None:
    browser_page.goto(report)
    cells: list[list[str]] = browser_page.evaluate(
        """[...document.querySelectorAll("td[data-agentperf-metric='ttft_s.p95']")]
           .map(cell => [cell.dataset.agentperfPhase, cell.dataset.agentperfValue])"""
    )
    assert {int(number): float(value) for number, value in cells} == {
        p.number: p.metrics.ttft_s.p95 for p in bundle.phases if p.metrics.ttft_s
    }


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(
    browser_page: Page, short: str, board: str, *, scheme: Any, width: int
) -> None:
    browser_page.emulate_media(color_scheme=scheme)
    browser_page.set_viewport_size({"width": width, "height": 900})
    for address in (short, board):
        browser_page.goto(address)
        browser_page.evaluate(_OPEN_ALL)
        browser_page.evaluate(_AXE)
        _check_by_axe(browser_page)
        # Nothing but tables, which scroll by themselves, is wider than a phone.
        assert browser_page.evaluate("document.documentElement.scrollWidth") <= width


def _check_by_axe(browser_page: Page) -> None:
    found: list[dict[str, Any]] = browser_page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)"
    )
    assert [
        (each["impact"], each["id"], each["help"], each["nodes"][0]["html"])
        for each in found
        if each["impact"] in {"serious", "critical"}
    ] == []


def test_chart_text_follows_the_colour_scheme(browser_page: Page, report: str) -> None:
    ink = "getComputedStyle(document.querySelector('svg.chart text')).fill"
    browser_page.emulate_media(color_scheme="light")
    browser_page.goto(report)
    light = browser_page.evaluate(ink)
    browser_page.emulate_media(color_scheme="dark")
    assert browser_page.evaluate(ink) != light


def test_a_phase_opens_by_keyboard(browser_page: Page, report: str) -> None:
    browser_page.goto(report)
    page = browser_page.locator("details[data-agentperf-page='3']")
    page.locator("> summary").focus()
    browser_page.keyboard.press("Enter")
    assert page.get_by_role("img", name="Agents and requests").is_visible()
    assert page.get_by_text("timeout", exact=True).is_visible()


def test_the_table_of_phases_leads_to_each_phase(browser_page: Page, report: str) -> None:
    browser_page.goto(report)
    browser_page.get_by_role("link", name="Phase 3 in detail").click()
    assert browser_page.locator("#agentperf-phase-3").is_visible()


def test_paper_has_what_the_answers_rest_on_and_all_about_the_run(
    browser_page: Page, report: str, bundle: Bundle
) -> None:
    browser_page.goto(report)
    browser_page.emulate_media(media="print", color_scheme="dark")
    # On a busy machine the page is laid out anew some time after the medium has changed.
    shown: list[int] = browser_page.wait_for_function(
        """() => {
             const shown = [...document.querySelectorAll(".inside")].filter(i => i.checkVisibility(
               {contentVisibilityAuto: true}) && i.getBoundingClientRect().height > 100);
             return shown.length ? shown.map(i => +i.id.replace("agentperf-phase-", "")) : null;
           }"""
    ).json_value()
    answers = {n for c in bundle.capacities for n in (c.passing_phase, c.failing_phase)}
    assert set(shown) == answers - {None}
    assert browser_page.get_by_text("same assignment in every phase").first.is_visible()
    ground = "getComputedStyle(document.querySelector('.agentperf')).backgroundColor"
    assert browser_page.evaluate(ground) == "rgb(255, 255, 255)"
    assert browser_page.pdf(format="A4").startswith(b"%PDF-")


def test_in_pytest_html_it_comes_first_and_stays_light(
    browser_page: Page, bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "pytest.html"
    path.write_text(
        '<!DOCTYPE html><h1 id="title">pytest.html</h1><p id="environment">Environment</p>'
        f'<div class="additional-summary prefix">{render_first(bundle)}</div>',
        encoding="utf-8",
    )
    browser_page.emulate_media(color_scheme="dark")
    browser_page.goto(path.as_uri())
    tops: list[float] = browser_page.evaluate(
        """["#title", "section.agentperf", "#environment"].map(
             one => document.querySelector(one).getBoundingClientRect().top)"""
    )
    assert tops == sorted(tops)
    ground = "getComputedStyle(document.querySelector('.agentperf')).backgroundColor"
    assert browser_page.evaluate(ground) == "rgb(255, 255, 255)"


def test_a_hundred_phases_fit_into_ten_megabytes(tmp_path: Path) -> None:
    long = example_bundle()
    few = replace(long, phases=long.phases[:4], capacities=())
    folder = write_run(tmp_path, few, requests=4000, seconds=900)
    bare = len(render_page(replace(few, phases=()), folder).encode())
    each = (len(render_page(few, folder).encode()) - bare) / len(few.phases)
    assert bare + 100 * each < 10e6
