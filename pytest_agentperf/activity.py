"""Was the load that was named the load that was held? By agent, by second, and as the server sees.

A client, a pool or a proxy that holds requests back measures fewer agents than it says: 385 of 500
in flight, and nothing in the percentiles tells.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pytest_agentperf.records import Measurement, TurnRecord, Window

__all__ = ["Absence", "ServerView", "fewest_active", "server_view", "starved_agents"]

_STARVED_REQUESTS = 2
"""One that fails alone may be chance."""
_LEAST_SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """When fewest agents were active."""

    active: int
    """Agents, in the second with the fewest."""
    at_s: int
    """That second, after the opening of the window."""


def fewest_active(
    measurement: Measurement, *, max_tool_s: float, slack_s: float = 1.0
) -> Absence | None:
    """Return the second of the window in which fewest agents were active.

    An agent is active while a request of its own is open and while it waits for a tool, which takes
    until the next request is due; after its last request, as long as a tool may take.

    Args:
        measurement: the phase. Broken off, it lacks what was open and says nothing: ``None``.
        max_tool_s: the longest tool time.
        slack_s: a request that is so late is the schedule slip's to judge; its agent was there.
    """
    by_agent = _by_agent(measurement)
    window = measurement.window
    if measurement.broken or measurement.cut or not by_agent or window.length_s <= 0:
        return None
    seconds = np.zeros(int(np.ceil(window.length_s)) + 1, dtype=np.int64)
    for agent in range(measurement.agents):
        for start_ns, end_ns in _absences(by_agent.get(agent, []), window, max_tool_s, slack_s):
            first = max(0, start_ns - window.start_ns) // 1_000_000_000
            last = -(-(min(end_ns, window.end_ns) - window.start_ns) // 1_000_000_000)
            if first < last:
                seconds[first] += 1
                seconds[last] -= 1
    missing = np.cumsum(seconds)[:-1]
    at_s = int(missing.argmax())
    return Absence(active=measurement.agents - int(missing[at_s]), at_s=at_s)


def _by_agent(measurement: Measurement) -> dict[int, list[TurnRecord]]:
    found: dict[int, list[TurnRecord]] = defaultdict(list)
    for turn in sorted(measurement.turns, key=lambda t: t.sent_ns):
        if turn.agent < measurement.agents:
            found[turn.agent].append(turn)
    return found


def _absences(
    turns: Sequence[TurnRecord], window: Window, max_tool_s: float, slack_s: float
) -> Iterable[tuple[int, int]]:
    """Yield spans in which an agent had neither a request open nor a tool to wait for."""
    if not turns:
        yield window.start_ns, window.end_ns
        return
    slack_ns = int(slack_s * 1e9)
    waits_ns = [later.scheduled_ns - turn.end_ns for turn, later in pairwise(turns)]
    tool_ns = max(int(max_tool_s * 1e9), *waits_ns, 0)
    starts_ns = [max(a.end_ns, b.scheduled_ns) + slack_ns for a, b in pairwise(turns)]
    yield window.start_ns, turns[0].sent_ns
    yield from zip(starts_ns, (turn.sent_ns for turn in turns[1:]), strict=True)
    yield turns[-1].end_ns + tool_ns + slack_ns, window.end_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """The server's own count of requests beside ours, at the same instants of the window."""

    ours: float
    """Requests in flight, mean."""
    theirs: float
    """Running and waiting, mean."""
    outside_s: float
    """How long a request of ours was on its way without being known to the server (Little's law);
    negative where the server knows of more than ours."""


def server_view(measurement: Measurement) -> ServerView | None:
    """Compare samples ``running`` and ``waiting``, all replicas added up, with our own requests.

    Returns:
        ``None`` where nobody asked the server.
    """
    window = measurement.window
    gauges = [s for s in measurement.samples if s.unit == "1" and window.holds(s.at_ns)]
    running = [s for s in gauges if s.series == "running"]
    waiting = [s for s in gauges if s.series == "waiting"]
    sent = [t.sent_ns for t in measurement.turns if window.holds(t.sent_ns)]
    if min(len(running), len(waiting)) < _LEAST_SAMPLES or not sent:
        return None
    at_ns = np.array([s.at_ns for s in running])
    ours = float(_in_flight(measurement.turns, at_ns).mean())
    theirs = float(np.mean([s.value for s in running]) + np.mean([s.value for s in waiting]))
    outside_s = (ours - theirs) * window.length_s / len(sent)
    return ServerView(ours=ours, theirs=theirs, outside_s=outside_s)


def _in_flight(
    turns: Iterable[TurnRecord], at_ns: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    spans = [(t.sent_ns, t.end_ns) for t in turns]
    begun = np.sort(np.array([sent for sent, _ in spans]))
    ended = np.sort(np.array([end for _, end in spans]))
    return np.searchsorted(begun, at_ns, "right") - np.searchsorted(ended, at_ns, "right")


def starved_agents(measurement: Measurement, *, max_error_ratio: float) -> int:
    """Count agents of which every request failed, while the others' did not.

    A server that is too slow fails them all alike. Whoever lets some connections pass and holds the
    others stands before it.
    """
    by_agent = _by_agent(measurement)
    starved = {
        agent
        for agent, turns in by_agent.items()
        if len(turns) >= _STARVED_REQUESTS and all(t.error for t in turns)
    }
    served = [t for a, turns in by_agent.items() if a not in starved for t in turns]
    failed = sum(t.error is not None for t in served)
    return len(starved) if served and failed <= max_error_ratio * len(served) else 0
