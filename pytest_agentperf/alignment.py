"""Clocks of several machines: how far apart they are, how sure that is, and stamps moved over.

Whoever asks another machine for its time knows that the answer was given between the question and
its arrival, so every exchange holds the true offset in an interval as wide as its round trip; all
of them together hold it where their intervals overlap (Marzullo, "Maintaining the Time in a
Distributed System", 1983). Between exchanges the interval grows by what two quartz clocks may drift
apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_agentperf.orders import Ended, Opened, Report, Started
from pytest_agentperf.records import OpenRequest, TurnRecord

__all__ = ["Exchange", "HostClock", "shifted"]

_DRIFT = 100e-6
"""Quartz clocks differ by less than 100 ppm; a clock that NTP slews faster shows as an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question for the time of another machine."""

    asked_ns: int
    """Our clock, just before the question."""
    theirs_ns: int
    """The other's clock, at some instant between."""
    heard_ns: int
    """Our clock, just after the answer."""


@dataclass(frozen=True, slots=True)
class _Interval:
    low_ns: float
    high_ns: float

    def farthest_ns(self, offset_ns: int) -> float:
        return max(abs(offset_ns - self.low_ns), abs(self.high_ns - offset_ns))


class HostClock:
    """How far the clock of another machine is ahead of ours, through one phase after the other.

    The offset in use follows what is learnt until it is held; its error is the greatest that it can
    have had since the phase began, whether by ignorance or by drift.
    """

    def __init__(self) -> None:
        self._known: _Interval | None = None
        self._at_ns = 0
        self._is_held = False
        self._error_ns = 0.0
        self.offset_ns = 0
        """To be taken from the other's stamps, and to be added to ours."""

    @property
    def error_s(self) -> float:
        """The greatest error that the offset in use can have had in this phase, in seconds."""
        return self._error_ns / 1e9

    def begin_phase(self, exchanges: Sequence[Exchange]) -> None:
        """Learn from exchanges, and answer for the offset from here on."""
        self._learn(exchanges)
        self._is_held, self._error_ns = False, 0.0  # what speaks against the last phase is not ours
        self._follow()

    def feed(self, exchanges: Sequence[Exchange]) -> None:
        """Learn from exchanges in a phase; what they say against the offset in use is its error."""
        self._learn(exchanges)
        if not self._is_held:
            self._follow()

    def hold(self) -> None:
        """Keep the offset in use: from here on, both sides must mean the same instant."""
        self._is_held = True

    def _learn(self, exchanges: Sequence[Exchange]) -> None:
        seen = _overlap(exchanges)
        at_ns = max(each.heard_ns for each in exchanges)
        known = self._known
        if known is not None:
            grown_ns = _DRIFT * (at_ns - self._at_ns)
            low = max(seen.low_ns, known.low_ns - grown_ns)
            high = min(seen.high_ns, known.high_ns + grown_ns)
            # No overlap: the clock was set, or drifts faster; what is seen now is true now.
            seen = _Interval(low, high) if low <= high else seen
            self._error_ns = max(self._error_ns, seen.farthest_ns(self.offset_ns))
        self._known, self._at_ns = seen, at_ns

    def _follow(self) -> None:
        if self._known is not None:
            self.offset_ns = round((self._known.low_ns + self._known.high_ns) / 2)
            self._error_ns = max(self._error_ns, self._known.farthest_ns(self.offset_ns))


def _overlap(exchanges: Sequence[Exchange]) -> _Interval:
    low = max(each.theirs_ns - each.heard_ns for each in exchanges)
    high = min(each.theirs_ns - each.asked_ns for each in exchanges)
    # Where they contradict each other, the truth has moved from the one to the other.
    return _Interval(min(low, high), max(low, high))


def shifted(report: Report, by_ns: int) -> Report:
    """Return a report with all of its stamps moved."""
    match report:
        case Started():
            return Started(
                first_sent_ns={a: at + by_ns for a, at in report.first_sent_ns.items()},
                answering_ns={a: at + by_ns for a, at in report.answering_ns.items()},
            )
        case Opened():
            return Opened(requests=[_open_request(r, by_ns) for r in report.requests])
        case Ended():
            return Ended(turns=[_turn(turn, by_ns) for turn in report.turns])
        case _:
            return report


def _open_request(request: OpenRequest, by_ns: int) -> OpenRequest:
    return replace(
        request,
        sent_ns=request.sent_ns + by_ns,
        first_read_ns=_moved(request.first_read_ns, by_ns),
    )


def _turn(turn: TurnRecord, by_ns: int) -> TurnRecord:
    return replace(
        turn,
        scheduled_ns=turn.scheduled_ns + by_ns,
        sent_ns=turn.sent_ns + by_ns,
        end_ns=turn.end_ns + by_ns,
        first_byte_ns=_moved(turn.first_byte_ns, by_ns),
        first_token_ns=_moved(turn.first_token_ns, by_ns),
        last_token_ns=_moved(turn.last_token_ns, by_ns),
        written_ns=_moved(turn.written_ns, by_ns),
    )


def _moved(at_ns: int | None, by_ns: int) -> int | None:
    return None if at_ns is None else at_ns + by_ns
