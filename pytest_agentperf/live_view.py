"""What the terminal shows while a run goes on: lines in a log, or a panel that is drawn anew.

The panel changes nothing of the terminal that would have to be put back: no hidden cursor, no other
screen, no thread. Whatever ends the process, Ctrl-C or worse, leaves a terminal as it was.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, Any, cast

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from pytest_agentperf.events import Event, Standing
from pytest_agentperf.live_text import Line, line, panel

__all__ = ["LiveLines", "LivePanel"]

_STYLES = {"plain": "", "strong": "bold", "good": "green", "bad": "bold red", "doubtful": "yellow"}


class LiveLines:
    """Writes events as lines, and how far a phase is every so often."""

    def __init__(
        self, *, write: Callable[[str], None], every_s: float, clock_s: Callable[[], float]
    ) -> None:
        """Write whole lines through ``write``; progress at most every ``every_s``."""
        self._write = write
        self._every_s = every_s
        self._clock_s = clock_s
        self._told_s = clock_s()
        self._standings: dict[str, Standing] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.standing is not None:
            self._standings[event.model] = event.standing
        due = event.kind != "progress" or self._clock_s() - self._told_s >= self._every_s
        if due and (event.text or event.progress):
            self._told_s = self._clock_s()
            self._write(f"{line(event, self._standings.get(event.model))}\n")

    def close(self) -> None:
        """Nothing is left on the screen."""


class _Console(Console):
    """Leaves the cursor alone: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: FBT001, FBT002 rich's own signature
        """Do nothing."""
        del show
        return False


class LivePanel:
    """Draws how far a phase is below what was written, and events above it."""

    def __init__(
        self,
        *,
        write: Callable[[str], None],
        begin_line: Callable[[], None],
        free: Callable[[], AbstractContextManager[Any]],
        colors: bool,
        shares: bool,
    ) -> None:
        """Draw on a terminal.

        Args:
            write: writes to the terminal.
            begin_line: ends a line that pytest has begun.
            free: the terminal is ours inside; elsewhere pytest may capture what is written.
            colors: colors are wanted.
            shares: tests write to the same terminal, which then goes above the panel.
        """
        self._free = free
        self._write = write
        self._begin_line = begin_line
        self._shares = shares
        self._console = _Console(
            file=cast("IO[str]", _File(write)), force_terminal=True, no_color=not colors,
            markup=False, emoji=False, highlight=False,
        )  # fmt: skip
        self._live: Live | None = None
        self._drawn: list[int] = []
        """Width of each line that stands on the screen."""
        self._standings: dict[str, Standing] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.standing is not None:
            self._standings[event.model] = event.standing
        with self._free():
            if event.progress is not None:
                self._draw(event)
            elif event.text:
                if not self._erase():
                    self._begin_line()
                self._write(f"{line(event, None)}\n")

    def close(self) -> None:
        """Take the panel from the screen."""
        with self._free():
            self._erase()

    def _draw(self, event: Event) -> None:
        # A column is left free: in the last one some terminals begin a new line.
        width = max(1, self._console.width - 1)
        lines = panel(event, self._standings.get(event.model), width)
        if self._live is None:
            self._begin_line()
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True,
                redirect_stdout=self._shares, redirect_stderr=self._shares,
            )  # fmt: skip
            self._live.start()
        self._climb()
        self._live.update(Group(*map(_text, lines)), refresh=True)
        self._drawn = [each.width for each in lines][: self._console.height]

    def _erase(self) -> bool:
        """Take the panel from the screen; tell whether there was one."""
        if self._live is None:
            return False
        self._climb()
        self._live.stop()
        self._live, self._drawn = None, []
        return True

    def _climb(self) -> None:
        """Erase the rows that lines have come to fill since the terminal was made narrower."""
        width = max(1, self._console.width)
        more = sum(max(0, -(-length // width) - 1) for length in self._drawn)
        for _ in range(more):
            erase, up = (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
            self._console.control(Control(erase, up))


class _File:
    """What rich takes for a file."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    def flush(self) -> None:
        """Every write is flushed."""

    def isatty(self) -> bool:
        """Say so: whoever made the panel has looked."""
        return True


def _text(parts: Line) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for place, (said, mood) in enumerate(parts.parts):
        text.append(" · " if place else "", style="dim")
        text.append(said, style=_STYLES[mood])
    return text
