"""How large the report of a very long run is, and how long it takes to make and to open.

``python -m benchmarks.report``: 100 phases of 50,000 requests each, whose distributions and seconds
are made by the code that makes them in a run. Needs Chromium for the time to open.
"""

import argparse
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import sync_playwright

from pytest_agentperf.bundle import Bundle
from pytest_agentperf.profile import profile
from pytest_agentperf.report import render_page
from tests.bundles import example_bundle
from tests.run_folders import LABELS, measurement_of, write_run

_OPENED = """() => {
  const {domContentLoadedEventEnd, loadEventEnd} = performance.getEntriesByType("navigation")[0];
  const painted = performance.getEntriesByName("first-contentful-paint")[0];
  return [painted ? painted.startTime : NaN, domContentLoadedEventEnd, loadEventEnd,
          document.querySelectorAll("*").length];
}"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phases", type=int, default=100)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seconds", type=int, default=1200, help="length of each window")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        bundle = _long(given.phases)
        one = measurement_of(bundle.phases[0], requests=given.requests, seconds=given.seconds)
        began_s = time.process_time()
        profile(one, LABELS)
        profiled_s = time.process_time() - began_s
        folder = write_run(Path(results), bundle, requests=given.requests, seconds=given.seconds)
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began_s = time.process_time()
        text = render_page(bundle, folder)
        rendered_s = time.process_time() - began_s
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1e3
        page = folder / "report.html"
        page.write_text(text, encoding="utf-8")
        print(f"{given.phases} phases of {given.requests:,} requests, {given.seconds} s each")
        print(f"distributions of a phase: {profiled_s:.2f} s of CPU")
        print(f"page rendered: {rendered_s:.1f} s of CPU, {grown_mb:.0f} MB of memory")
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")
        _open(page)


def _long(phases: int) -> Bundle:
    """Return an example run whose phases are repeated with numbers of their own."""
    bundle = example_bundle()
    own = bundle.phases
    return replace(
        bundle,
        phases=tuple(
            replace(own[i % len(own)], number=i + 1, agents=own[i % len(own)].agents + i)
            for i in range(phases)
        ),
    )


def _open(path: Path) -> None:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        print("opened: no Chromium here")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for width in (1280, 390):
            for _ in range(3):
                page = browser.new_page(viewport={"width": width, "height": 900})
                told = page.context.new_cdp_session(page)
                told.send("Performance.enable", {"timeDomain": "threadTicks"})
                began = time.perf_counter()
                page.goto(path.as_uri())
                page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
                drawn_s = time.perf_counter() - began
                painted, ready, loaded, elements = page.evaluate(_OPENED)
                metrics = told.send("Performance.getMetrics")["metrics"]
                cpu_s = next(m["value"] for m in metrics if m["name"] == "TaskDuration")
                print(
                    f"opened at {width} px: first paint {painted / 1e3:.2f} s, content "
                    f"{ready / 1e3:.2f} s, loaded {loaded / 1e3:.2f} s, drawn {drawn_s:.2f} s, "
                    f"{cpu_s:.2f} s of CPU in the page ({elements:,} elements)"
                )
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
