"""A running phase and its searches in words: one line, or a panel of a given width.

Names and errors of a server are shown as they are spelt, never obeyed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len, set_cell_size

from pytest_agentperf import words
from pytest_agentperf.events import Event, Progress, Standing, TierStanding
from pytest_agentperf.evidence import Interval
from pytest_agentperf.forecast import hours_left_text
from pytest_agentperf.foreign import printable
from pytest_agentperf.slo import Limit, SLOTier
from pytest_agentperf.steady import Reached

__all__ = ["Line", "bracket", "head", "line", "panel", "so_far"]

SoFar = Literal["met", "unclear", "missed"]
Mood = Literal["plain", "strong", "good", "bad", "doubtful"]

_NARROW = 60
"""Below this the panel leaves out what a tier's limits are."""
_BAR = 8
_HEADLINES = ("output_speed_tok_per_s.p25", "ttft_s.p95")
_ERROR = 60
"""Characters of a server's error that are shown."""
_MOODS: Mapping[SoFar, Mood] = {"missed": "bad", "unclear": "doubtful", "met": "good"}
"""The worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Parts that stand on one line where they fit, each never broken."""

    parts: Sequence[tuple[str, Mood]] = field(default=())

    @property
    def text(self) -> str:
        """Return the line without its moods."""
        return " · ".join(text for text, _ in self.parts)

    @property
    def width(self) -> int:
        """Return how many columns of a terminal it takes."""
        return cell_len(self.text)


def head(event: Event) -> str:
    """Return what an event is about."""
    phase = f" phase {event.phase} · {event.agents} agents" if event.phase else ""
    return f"[{printable(event.model)}{phase}]"


def line(event: Event, standing: Standing | None) -> str:
    """Return everything on one line, to be read alone in a log."""
    progress = event.progress
    if progress is None:
        return f"{head(event)} {printable(event.text)}"
    parts = (
        _time(progress),
        progress.waits_for or progress.stage,
        *(str(floor) for floor in progress.reached if not progress.waits_for),
        *(f"{value} ({sure})" if sure else value for value, sure in _figures(progress)),
        *(text for text, _ in _health(progress)),
        *(_tier_words(each, progress) for each in _tiers(standing)),
        *_left(progress, standing),
    )
    return f"{head(event)} {' · '.join(parts)}"


def panel(event: Event, standing: Standing | None, width: int) -> Sequence[Line]:
    """Return everything as lines that are no wider than a terminal."""
    progress = event.progress
    if progress is None:
        return ()
    name = f"{printable(event.model)} · phase {event.phase} · {event.agents} agents"
    rows: list[list[tuple[str, Mood]]] = [
        [(name, "strong"), (progress.stage, "plain"), (_time(progress), "plain")],
        [(progress.waits_for, "doubtful")],
        [(_gauge(floor), "good" if floor.is_met else "plain") for floor in progress.reached],
        *([(value, "strong"), (sure, "plain")] for value, sure in _figures(progress)),
        *([*_tier(each, progress, width)] for each in _tiers(standing)),
        list(_health(progress)),
        [(text, "plain") for text in _left(progress, standing)],
    ]
    return [folded for row in rows for folded in _fold([part for part in row if part[0]], width)]


def so_far(limit: Limit, seen: Interval | None) -> SoFar | None:
    """Say on which side of a limit a figure lies, by its interval; ``None``: nothing is known."""
    if seen is None:
        return None
    if seen.low <= limit.value <= seen.high and seen.low != seen.high:
        return "unclear"
    return "met" if limit.met_by(seen.estimate) else "missed"


def bracket(standing: TierStanding) -> str:
    """Return between which numbers of agents the answer of a tier lies."""
    passed, failed = standing.passed, standing.failed
    if standing.status not in {"open", "below", "unclear"}:
        found = {"at-limit": f"carries ≥ {passed}", "invalid": "no answer"}
        return found.get(standing.status, f"carries {passed}")
    told = [f"passed {passed}"] if passed else []
    told += [f"failed {failed}"] if failed is not None else []
    return ", ".join(told) or "not measured yet"


def _time(progress: Progress) -> str:
    left_s = progress.left_s
    expected = "" if left_s is None else f" of about {words.span(progress.elapsed_s + left_s)}"
    return f"{words.span(progress.elapsed_s)}{expected}"


def _gauge(floor: Reached) -> str:
    done = min(floor.done, floor.wanted)
    full = int(_BAR * done / floor.wanted)
    bar = "█" * full + "░" * (_BAR - full)
    if floor.floor == "steady":
        return f"window {bar} {words.span(done)} of {words.span(floor.wanted)}"
    of = "slowest agent" if floor.floor == "per agent" else floor.floor
    return f"{of} {bar} {floor.done:.0f} of {floor.wanted:.0f}"


def _figures(progress: Progress) -> Iterator[tuple[str, str]]:
    """Yield the headline figures, and how sure each is."""
    shown = {name: i for name, i in progress.figures.items() if name in _HEADLINES}
    if not shown and not progress.waits_for:
        yield "no answer in the window yet", ""
    for name, seen in shown.items():
        value = f"{words.number(seen.estimate)} {words.unit(name)}"
        yield f"{words.metric(name)} {value}", f"{_span(seen)}n {seen.n:,}"


def _span(seen: Interval) -> str:
    """Return the ends of an interval; few requests leave one of them open, or both."""
    if math.isinf(seen.high):
        return f"{words.number(seen.low)} or more, " if seen.low else ""
    return f"{words.number(seen.low)} to {words.number(seen.high)}, "


def _tiers(standing: Standing | None) -> Sequence[TierStanding]:
    return () if standing is None else standing.tiers


def _sides(tier: SLOTier, progress: Progress) -> Sequence[tuple[Limit, SoFar]]:
    return [
        (limit, side)
        for limit in tier.limits
        if (side := so_far(limit, progress.figures.get(limit.name))) is not None
    ]


def _tier_words(standing: TierStanding, progress: Progress) -> str:
    sides = _sides(standing.tier, progress)
    bad = [f"{words.metric(x.name)} {side}" for x, side in sides if side != "met"]
    now = ", ".join(bad) or ("met" if sides else "")
    return f"{standing.tier.name} {now + ' so far, ' if now else ''}{bracket(standing)}"


def _tier(standing: TierStanding, progress: Progress, width: int) -> Iterator[tuple[str, Mood]]:
    sides = _sides(standing.tier, progress)
    known: Mapping[str, SoFar] = {limit.name: side for limit, side in sides}
    yield standing.tier.name, "strong"
    if width < _NARROW:
        for side, mood in _MOODS.items():
            if side in known.values():
                yield f"{side} so far", mood
                break
    else:
        for limit in standing.tier.limits:
            side = known.get(limit.name)
            text = words.bound(limit).replace("output ", "")
            yield (text, "plain") if side is None else (f"{text} {side}", _MOODS[side])
    yield bracket(standing), "plain"


def _health(progress: Progress) -> Iterator[tuple[str, Mood]]:
    failed = f"{progress.failed:,} of {progress.ended:,} failed"
    yield failed, "bad" if progress.failed else "plain"
    if progress.failed:
        last = printable(progress.last_error)
        yield f"last: {last if len(last) <= _ERROR else last[:_ERROR] + '…'}", "bad"
    if progress.power_w is not None:
        yield f"power {words.watts(progress.power_w)}", "plain"


def _left(progress: Progress, standing: Standing | None) -> Iterator[str]:
    if standing is not None and standing.left is not None:
        yield hours_left_text(standing.left, progress.elapsed_s, progress.left_s or 0.0)


def _fold(parts: Sequence[tuple[str, Mood]], width: int) -> Iterator[Line]:
    """Put as many parts on a line as fit; a part that fits on none is cut."""
    fitting: list[tuple[str, Mood]] = []
    for text, mood in parts:
        short = text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"
        if fitting and Line(parts=[*fitting, (short, mood)]).width > width:
            yield Line(parts=fitting)
            fitting = []
        fitting = [*fitting, (short, mood)]
    if fitting:
        yield Line(parts=fitting)
