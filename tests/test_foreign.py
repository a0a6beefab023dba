"""No terminal obeys somebody else's text, wherever it is shown."""

from dataclasses import replace

import pytest

from pytest_agentperf.foreign import one_line, plain
from pytest_agentperf.outcome import Facts, outcome
from pytest_agentperf.records import Event
from pytest_agentperf.report import render_page
from pytest_agentperf.terminal import LiveLines, summary
from tests.bundles import example_bundle

EVIL = "\x1b[2J\x1b]0;owned\x07\u202eevil\x9b31m<script>alert(1)</script>"
SHOWN = "\\x1b[2J\\x1b]0;owned\\x07\\u202eevil\\x9b31m<script>alert(1)</script>"


def test_what_does_not_print_is_escaped() -> None:
    assert one_line(EVIL) == plain(EVIL) == SHOWN
    assert one_line("a\nb\tc\r") == "a\\nb\\tc\\r"
    assert plain("a\nb\tc\r") == "a\nb\tc\\r"
    assert one_line("é☃漢😀 ok") == "é☃漢😀 ok"
    assert one_line("x" * 1000) == "x" * 300


@pytest.mark.parametrize("interactive", [True, False])
def test_a_live_line_shows_it(interactive: bool) -> None:  # noqa: FBT001 a parameter of pytest
    said: list[str] = []
    lines = LiveLines(write=said.append, interactive=interactive, every_s=1.0, clock_s=lambda: 0.0)
    lines(Event(kind="note", model=EVIL, phase=0, agents=0, text=EVIL))
    shown = "".join(said).removeprefix("\r\x1b[2K")
    assert shown == f"[{SHOWN}] {SHOWN}\n"


def test_the_end_of_a_session_shows_it() -> None:
    assert outcome(Facts(down=EVIL)).line == f"ENDPOINT DOWN: {SHOWN}"
    bundle = replace(example_bundle(), contradictions=(EVIL,))
    assert "\x1b" not in summary(bundle, 100)
    assert f"WARNING: {SHOWN}" in summary(bundle, 100)


def test_a_page_shows_it_and_runs_nothing() -> None:
    made = example_bundle()
    phases = tuple(
        replace(phase, metrics=replace(phase.metrics, errors={EVIL: 1}, failed=1))
        for phase in made.phases
    )
    models = tuple(
        replace(m, dataset=replace(m.dataset, name=EVIL, losses=(EVIL,))) for m in made.models
    )
    provenance = replace(made.provenance, server=EVIL, served_models=(EVIL,), endpoint=EVIL)
    page = render_page(
        replace(made, phases=phases, models=models, provenance=provenance, contradictions=(EVIL,))
    )
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
