"""A run as HTML: a fragment for the top of a pytest-html report, or a page that opens offline.

Rounded numbers are for the eye; the exact ones stand in ``data-agentperf-*`` attributes. There is
no script: pictures are SVG, and a closed section costs a browser nothing until it is opened.
"""

from pathlib import Path

from pytest_agentperf.bundle import Bundle
from pytest_agentperf.normalize import PER
from pytest_agentperf.pages import fragment, page
from pytest_agentperf.report_views import (
    UNFINISHED,
    meter_views,
    model_view,
    power_rows,
    setting_rows,
)
from pytest_agentperf.run_records import RunRecords, raw_files
from pytest_agentperf.system import SECTIONS

__all__ = ["render", "render_first", "render_page"]

_MOVE = """<script>
(() => {
  const home = document.createElement("div");
  home.className = "additional-summary";  // whose page is white, whatever the scheme
  home.append(document.querySelector("section.agentperf"));
  document.getElementById("title").after(home);
})();
</script>"""


def render(bundle: Bundle, folder: Path | None = None, *, beside: bool = False) -> str:
    """Return one ``<section class="agentperf">`` with its style; it needs nothing from outside.

    Args:
        bundle: the run.
        folder: where the run's records lie; without them there are no pictures of phases.
        beside: the page will lie in that folder, so that its files can be linked to.
    """
    records = RunRecords(folder)
    return fragment(
        "fragment.html.jinja",
        bundle=bundle,
        models=tuple(model_view(run, bundle, records) for run in bundle.models),
        settings=setting_rows(bundle.settings),
        meters=meter_views(bundle),
        powers=power_rows(bundle),
        raw=raw_files(folder),
        beside=beside,
        per=PER,
        sections=SECTIONS,
        unfinished=UNFINISHED,
    )


def render_first(bundle: Bundle, folder: Path | None = None) -> str:
    """Return the fragment with a line that moves it to the top of the page it is put into.

    pytest-html lets a plugin write into its summary only, below its table of the environment.
    """
    return render(bundle, folder) + _MOVE


def render_page(bundle: Bundle, folder: Path | None = None) -> str:
    """Return a whole page around the fragment, to be put into the run's folder."""
    title = f"Agent capacity, run {bundle.provenance.run}"
    return page(title, render(bundle, folder, beside=True))
