"""No terminal obeys somebody else's text, wherever it is shown."""

from dataclasses import replace

from pytest_agentperf.events import Event
from pytest_agentperf.foreign import one_line, plain, printable
from pytest_agentperf.live_text import line
from pytest_agentperf.outcome import Facts, outcome
from pytest_agentperf.report import render_page
from pytest_agentperf.terminal import summary
from tests.bundles import example_bundle

EVIL = "\x1b[2J\x1b]0;owned\x07\u202eevil\x9b31m<script>alert(1)</script>"
SHOWN = "\\x1b[2J\\x1b]0;owned\\x07\\u202eevil\\x9b31m<script>alert(1)</script>"


def test_what_does_not_print_is_escaped() -> None:
    assert one_line(EVIL) == plain(EVIL) == SHOWN
    assert one_line("a\nb\tc\r") == "a\\nb\\tc\\r"
    assert plain("a\nb\tc\r") == "a\nb\tc\\r"
    assert one_line("é☃漢😀 ok") == "é☃漢😀 ok"
    assert one_line("x" * 1000) == "x" * 300
    assert printable("x" * 1000 + "\n") == "x" * 1000 + "\\n"


def test_a_live_line_shows_it() -> None:
    said = line(Event(kind="note", model=EVIL, phase=0, agents=0, text=EVIL), None)
    assert said == f"[{SHOWN}] {SHOWN}"


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
