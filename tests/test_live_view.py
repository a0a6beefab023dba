"""What a terminal shows while a run goes on, on the screen of a terminal emulator."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest

from pytest_agentperf.events import Event
from pytest_agentperf.live_view import LiveLines, LivePanel
from tests.screens import Screen
from tests.test_live_text import EVENT, PROGRESS, STANDING

NOTE = Event(kind="note", model="m", phase=0, agents=0, text="about 3 phases", standing=STANDING)
END = Event(kind="phase-end", model="big/model", phase=3, agents=32, text="slo-2 pass")


class Terminal(Screen):
    """A screen to which text is written, as a terminal driver would."""

    def write_text(self, text: str) -> None:
        self.write(text.replace("\n", "\r\n").encode())


@pytest.fixture
def on_screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Terminal, LivePanel]]:
    def made(columns: int = 80, *, colors: bool = False) -> tuple[Terminal, LivePanel]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "24")
        monkeypatch.setenv("TERM", "xterm-256color")
        terminal = Terminal(columns, 24)
        panel = LivePanel(
            write=terminal.write_text, begin_line=lambda: None, free=nullcontext, colors=colors,
            shares=False,
        )  # fmt: skip
        return terminal, panel

    return made


def test_a_panel_is_drawn_anew_in_its_place_and_goes_when_the_phase_ends(
    on_screen: Callable[..., tuple[Terminal, LivePanel]],
) -> None:
    terminal, panel = on_screen()
    panel(replace(NOTE, model="big/model"))
    for _ in range(3):
        panel(EVENT)
    assert terminal.lines[0] == "[big/model] about 3 phases"
    assert terminal.lines[1] == (
        "big/model · phase 3 · 32 agents · steady window · 4 min of about 12 min"
    )
    assert terminal.lines[-1] == "to go: 3-5 phases, 0.9-2.4 h"
    assert len(terminal.lines) == 1 + 8
    panel(END)
    assert terminal.lines == [
        "[big/model] about 3 phases",
        "[big/model phase 3 · 32 agents] slo-2 pass",
    ]


def test_a_panel_that_gets_shorter_leaves_nothing_behind(
    on_screen: Callable[..., tuple[Terminal, LivePanel]],
) -> None:
    terminal, panel = on_screen(40)
    panel(EVENT)
    panel(replace(EVENT, progress=replace(PROGRESS, figures={}, reached=(), failed=0)))
    assert terminal.lines == [
        "big/model · phase 3 · 32 agents",
        "steady window · 4 min of about 12 min",
        "no answer in the window yet",
        "0 of 530 failed · power 5.60 kW",
    ]
    panel.close()
    assert terminal.lines == []
    panel.close()


def test_nothing_of_the_terminal_has_to_be_put_back(
    on_screen: Callable[..., tuple[Terminal, LivePanel]],
) -> None:
    terminal, panel = on_screen(colors=True)
    panel(EVENT)
    assert b"\x1b[1;31m" in terminal.written  # what fails is red
    assert b"\x1b[?" not in terminal.written  # no hidden cursor, no other screen


def test_without_colors_there_are_none(
    on_screen: Callable[..., tuple[Terminal, LivePanel]],
) -> None:
    terminal, panel = on_screen()
    panel(EVENT)
    assert b"31m" not in terminal.written


def test_markup_and_escapes_of_a_server_are_text(
    on_screen: Callable[..., tuple[Terminal, LivePanel]],
) -> None:
    terminal, panel = on_screen()
    evil = "[bold red]x[/] :smile: \x1b[2J"
    panel(replace(EVENT, model=evil))
    assert terminal.lines[0].startswith(r"[bold red]x[/] :smile: \x1b[2J · phase 3")


def test_lines_come_every_so_often_and_events_at_once() -> None:
    now_s = [0.0]
    written: list[str] = []
    lines = LiveLines(write=written.append, every_s=30.0, clock_s=lambda: now_s[0])

    def told(at_s: float, event: Event) -> int:
        now_s[0] = at_s
        lines(event)
        return len(written)

    assert [told(t, EVENT) for t in (1, 29, 30, 31, 59, 60)] == [0, 0, 1, 1, 1, 2]
    assert told(61, replace(NOTE, model="big/model")) == 3
    assert told(90, EVENT) == 3  # a line was written 29 s ago
    assert told(91, EVENT) == 4
    assert "slo-2 P25 output speed missed so far" in written[-1]
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in written)
    assert told(92, Event(kind="note", model="m", phase=0, agents=0)) == 4
