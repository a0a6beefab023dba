"""Was the window steady? Drift, level shift, and what the start at turn 0 adds (METHODOLOGY, 2).

The published rule lets every agent begin with its shortest prompt and counts what follows 30 s
after, so the first minutes of an honest phase are faster than the rest. That is no drift of the
server: drift and shift are looked for once every agent has begun its second trajectory, and the
start's share in the result is told apart.

Both need significance, against the scatter of equal spans of time (all agents share the server's
state, so single requests say too little), and size: a long phase makes any trifle significant.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_agentperf.metrics import distribution, members, output_speed_tok_per_s, ttft_s
from pytest_agentperf.records import Measurement, TurnRecord, Window

__all__ = ["Change", "Steadiness", "look_at"]

_Values = np.ndarray[Any, np.dtype[np.float64]]

_SPANS = 21
"""Three thirds of seven."""
_THIRD = _SPANS // 3
_LEAST_REQUESTS = 8
"""In every span; fewer tell nothing."""
_LEAST_SPAN_S = 10.0
_EDGE = 4
"""A shift has so many spans on either side."""
_DRIFT_T = 4.5
_SHIFT_T = 5.0
"""The largest of 14 places is looked at, so it must stand out more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statistic:
    """What is followed through the window."""

    name: str
    percent: int
    value: Callable[[TurnRecord], float | None]
    least_drift: float
    least_shift: float


_SPEED = _Statistic(
    name="P25 output speed",
    percent=25,
    value=output_speed_tok_per_s,
    least_drift=0.05,
    least_shift=0.10,
)
# Runs of the same system differ by so much more in this one.
_TTFT = _Statistic(name="P95 TTFT", percent=95, value=ttft_s, least_drift=0.25, least_shift=0.50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one statistic changed inside the window."""

    name: str
    before: float
    after: float
    at_s: float
    """After the opening of the window: where it shifted, or where the last third begins."""
    limit: float
    """Relative size from which it is spoken of."""
    significant: bool

    @property
    def size(self) -> float:
        """Relative change: the larger over the smaller, − 1."""
        return max(self.before, self.after) / min(self.before, self.after) - 1

    @property
    def counts(self) -> bool:
        """Tell whether it is significant and large."""
        return self.significant and self.size >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """What became of a window; ``None`` where there is too little to tell."""

    drift: Change | None = None
    shift: Change | None = None
    start_gain: float | None = None
    """P25 speed of the whole window over that after the start, − 1."""


def look_at(measurement: Measurement) -> Steadiness:
    """Look for drift and shift; where both would do, the one that fits better is named."""
    window = measurement.window
    settled_ns = _settled_ns(measurement)
    if settled_ns is None or (window.end_ns - settled_ns) / 1e9 < _SPANS * _LEAST_SPAN_S:
        return Steadiness()
    inside = members(measurement.turns, window)
    late = Window(start_ns=settled_ns, end_ns=window.end_ns)
    offset_s = (settled_ns - window.start_ns) / 1e9
    found = [_Course.of(statistic, inside, late) for statistic in (_SPEED, _TTFT)]
    courses = [course for course in found if course is not None]
    return Steadiness(
        drift=_worst(course.drift(offset_s) for course in courses),
        shift=_worst(course.shift(offset_s) for course in courses),
        start_gain=_start_gain(inside, late),
    )


def _settled_ns(measurement: Measurement) -> int | None:
    """Return when every agent had begun its second trajectory, in the window at the earliest."""
    began: dict[int, int] = {}
    for turn in measurement.turns:
        if turn.ordinal > 0:
            began[turn.agent] = min(turn.sent_ns, began.get(turn.agent, turn.sent_ns))
    if len(began) < measurement.agents:
        return None
    return max(measurement.window.start_ns, *began.values())


def _start_gain(inside: Sequence[TurnRecord], late: Window) -> float | None:
    speeds = [(t.sent_ns, s) for t in inside if (s := output_speed_tok_per_s(t)) is not None]
    after = [speed for sent_ns, speed in speeds if late.holds(sent_ns)]
    whole, rest = distribution(speed for _, speed in speeds), distribution(after)
    return whole.p25 / rest.p25 - 1 if whole and rest and rest.p25 > 0 else None


def _worst(changes: Iterable[Change | None]) -> Change | None:
    """Return the change that counts most; one that does not is returned for its value alone."""
    known = [change for change in changes if change is not None]
    return max(known, key=lambda c: (c.counts, c.size / c.limit), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """One statistic through the settled part of the window, span by span."""

    statistic: _Statistic
    length_s: float
    values: _Values
    span: np.ndarray[Any, np.dtype[np.int64]]
    """Of each value."""
    levels: _Values
    """Logarithm of each span's own percentile."""

    @classmethod
    def of(
        cls, statistic: _Statistic, inside: Sequence[TurnRecord], late: Window
    ) -> "_Course | None":
        turns = [t for t in inside if late.holds(t.sent_ns)]
        known = [(t.sent_ns, v) for t in turns if (v := statistic.value(t)) is not None]
        at_s = np.array([(sent_ns - late.start_ns) / 1e9 for sent_ns, _ in known])
        values = np.array([value for _, value in known], dtype=np.float64)
        span = (at_s / late.length_s * _SPANS).astype(np.int64)
        if np.bincount(span, minlength=_SPANS).min() < _LEAST_REQUESTS:
            return None
        spans = [distribution(values[span == number]) for number in range(_SPANS)]
        levels = [d.statistic(f"p{statistic.percent}") for d in spans if d is not None]
        if min(levels) <= 0 or math.isinf(max(levels)):
            return None
        return cls(
            statistic=statistic,
            length_s=late.length_s,
            values=values,
            span=span,
            levels=np.log(levels),
        )

    def drift(self, offset_s: float) -> Change | None:
        """Compare the first third with the last."""
        first, last = self.levels[:_THIRD], self.levels[-_THIRD:]
        return self._change(
            _THIRD,
            _SPANS - _THIRD,
            offset_s,
            self.statistic.least_drift,
            significant=_student_t(first, last) > _DRIFT_T,
        )

    def shift(self, offset_s: float) -> Change | None:
        """Compare what is before and after the place where a step fits best."""
        places = range(_EDGE, _SPANS - _EDGE + 1)
        place = min(places, key=lambda k: _rest(self.levels[:k]) + _rest(self.levels[k:]))
        before, after = self.levels[:place], self.levels[place:]
        at = np.arange(_SPANS)
        line = np.polynomial.Polynomial.fit(at, self.levels, 1)(at)
        is_step = _rest(before) + _rest(after) < float(((self.levels - line) ** 2).sum())
        return self._change(
            place,
            place,
            offset_s,
            self.statistic.least_shift,
            significant=is_step and _student_t(before, after) > _SHIFT_T,
        )

    def _change(
        self, first: int, last: int, offset_s: float, limit: float, *, significant: bool
    ) -> Change | None:
        before = distribution(self.values[self.span < first])
        after = distribution(self.values[self.span >= last])
        name = f"p{self.statistic.percent}"
        if before is None or after is None:
            return None
        ends = before.statistic(name), after.statistic(name)
        if min(ends) <= 0 or math.isinf(max(ends)):
            return None
        return Change(
            name=self.statistic.name,
            before=ends[0],
            after=ends[1],
            at_s=offset_s + self.length_s * last / _SPANS,
            limit=limit,
            significant=significant,
        )


def _rest(levels: _Values) -> float:
    return float(((levels - levels.mean()) ** 2).sum())


def _student_t(first: _Values, last: _Values) -> float:
    """Return how many standard errors two means are apart; the scatter is that inside both."""
    freedom = first.size + last.size - 2
    scatter = (_rest(first) + _rest(last)) / freedom * (1 / first.size + 1 / last.size)
    apart = abs(float(last.mean() - first.mean()))
    return apart / math.sqrt(scatter) if scatter > 0 else (math.inf if apart else 0.0)
