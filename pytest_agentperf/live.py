"""What is known of a phase while it runs."""

import time
from collections.abc import Callable, Mapping

from pytest_agentperf.events import Progress, Stage
from pytest_agentperf.evidence import Interval, percentile_interval
from pytest_agentperf.metrics import (
    e2e_s,
    first_chunk_speed_tok_per_s,
    output_speed_tok_per_s,
    ttft_s,
)
from pytest_agentperf.procedure import Procedure
from pytest_agentperf.records import TurnRecord, Window
from pytest_agentperf.steady import PhaseState

__all__ = ["Live"]

_TELL_NS = 1_000_000_000
"""By the wall clock: progress is for whoever waits before the screen."""
_LEAST_REST = 20
"""A look may cost one part in so many of the time between two."""
_HEADLINES = ("output_speed_tok_per_s.p25", "ttft_s.p95")
_METRICS: Mapping[str, Callable[[TurnRecord], float | None]] = {
    "output_speed_tok_per_s": output_speed_tok_per_s,
    "first_chunk_speed_tok_per_s": first_chunk_speed_tok_per_s,
    "ttft_s": ttft_s,
    "e2e_s": e2e_s,
}


class _Column:
    """One metric of all requests of the window that have ended."""

    def __init__(self, value_of: Callable[[TurnRecord], float | None]) -> None:
        self._value_of = value_of
        self._values: list[float] = []
        self._runs: list[int] = []
        self._sent_ns: list[int] = []

    def add(self, turn: TurnRecord) -> None:
        value = self._value_of(turn)
        if value is not None:
            self._values.append(value)
            self._runs.append(turn.agent << 32 | turn.ordinal)
            self._sent_ns.append(turn.sent_ns)

    def percentile(self, window: Window, q: float) -> Interval:
        return percentile_interval(self._values, self._runs, self._sent_ns, window, q)


class Live:
    """Requests that were sent since the window opened; tells of them about once a second."""

    def __init__(
        self,
        procedure: Procedure,
        *,
        tell: Callable[[Progress], None],
        power_w: Callable[[], float | None],
    ) -> None:
        """Follow both headline figures and every percentile that a tier limits.

        Args:
            procedure: which tiers the phase is judged by, and which output speed.
            tell: hears how far the phase is.
            power_w: what the accelerators draw.
        """
        names = (*_HEADLINES, *(limit.name for tier in procedure.tiers for limit in tier.limits))
        self._names = [n for n in dict.fromkeys(names) if not n.endswith(".mean")]
        self._columns = {
            metric: _Column(_METRICS[metric])
            for metric in dict.fromkeys(n.partition(".")[0] for n in self._names)
        }
        if procedure.speed == "first-chunk":
            self._columns["output_speed_tok_per_s"] = _Column(first_chunk_speed_tok_per_s)
        self._tell = tell
        self._power_w = power_w
        self._began_ns = 0
        self._closed_ns: int | None = None
        self._told_ns = time.perf_counter_ns()
        self._rest_ns = _TELL_NS

    def begin(self, at_ns: int) -> None:
        """Take note of when the phase begins."""
        self._began_ns = at_ns

    def close(self, at_ns: int) -> None:
        """Take note that the window has closed: its last members end."""
        self._closed_ns = at_ns

    def add(self, turn: TurnRecord) -> None:
        """Count a request that has ended."""
        for column in self._columns.values():
            column.add(turn)

    def look(self, state: PhaseState, now_ns: int) -> None:
        """Tell how far a phase is, where a second has passed, or what the last look cost."""
        began_ns = time.perf_counter_ns()
        if began_ns - self._told_ns <= self._rest_ns:
            return
        self._tell(self.progress(state, now_ns))
        self._told_ns = time.perf_counter_ns()
        self._rest_ns = max(_TELL_NS, _LEAST_REST * (self._told_ns - began_ns))

    def progress(self, state: PhaseState, now_ns: int) -> Progress:
        """Return how far a phase is."""
        opens_ns = state.opens_ns
        stage: Stage = "steady window" if self._closed_ns is None else "last answers"
        if opens_ns is None or now_ns < opens_ns:
            stage = "starting" if opens_ns is None else "settling"
        return Progress(
            stage=stage,
            elapsed_s=max(0, now_ns - self._began_ns) / 1e9,
            left_s=state.left_s(now_ns),
            waits_for=", ".join(state.missing(now_ns)) if opens_ns is None else "",
            reached=state.reached(now_ns),
            figures=self._figures(opens_ns, now_ns),
            ended=state.ended,
            failed=state.failed,
            last_error=state.last_error,
            power_w=self._power_w(),
        )

    def _figures(self, opens_ns: int | None, now_ns: int) -> dict[str, Interval]:
        if opens_ns is None or now_ns <= opens_ns:
            return {}
        end_ns = now_ns if self._closed_ns is None else self._closed_ns
        window = Window(start_ns=opens_ns, end_ns=max(opens_ns, end_ns))
        found = {name: self._percentile(name, window) for name in self._names}
        return {name: interval for name, interval in found.items() if interval.n}

    def _percentile(self, name: str, window: Window) -> Interval:
        metric, _, statistic = name.partition(".")
        return self._columns[metric].percentile(window, int(statistic.removeprefix("p")) / 100)
