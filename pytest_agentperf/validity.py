"""Can this phase be trusted? Each check with its pass mark; *invalid* is never a pass or a fail."""

from collections.abc import Sequence

import numpy as np

from pytest_agentperf.activity import fewest_active, server_view, starved_agents
from pytest_agentperf.checks import Check, Marks, at_most
from pytest_agentperf.drift import Change, Steadiness, look_at
from pytest_agentperf.lateness import doubt
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.power import measure_meters
from pytest_agentperf.records import HostHealth, Measurement
from pytest_agentperf.served import check_served

__all__ = ["Check", "Marks", "check"]

_MOST_READ_LAG_S = 0.003
_STANDS = "but its times are the kernel's and stand"
_MOST_SLIP_S = 0.1
_MOST_LATE_STEPS = 0.05
_SLACK_S = 1.0
_MOST_ELSEWHERE = 0.2
_MOST_OUTSIDE_S = 0.5
_MOST_START_GAIN = 0.05
_FAIR_CLOCK_S, _MOST_CLOCK_S = 0.005, 0.025
"""Above the one, the alignment of clocks is doubtful; above the other, so is the phase."""


def check(measurement: Measurement, metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    """Run every check on one phase."""
    return (
        *_client(measurement, marks),
        *_phase(measurement, metrics.error_ratio > marks.max_error_ratio),
        at_most(
            "simulator late steps",
            measurement.simulator_late_ratio,
            _MOST_LATE_STEPS,
            "the simulator's own process was too slow for its clock, so this is a busy CPU and not "
            "the simulated system: fewer agents, a larger stream_interval, or sim+virtual:",
            warning=not marks.simulator_keeps_time,
        ),
        *_load(measurement, metrics, marks),
        *_held(measurement, marks),
        *check_served(metrics, marks),
        *_steady(look_at(measurement)),
        _power(measurement, marks),
    )


def _client(measurement: Measurement, marks: Marks) -> tuple[Check, ...]:
    health = measurement.health
    # The worst process decides: one that stalls must not hide behind many that idle.
    lags = [lag for lag in health.loop_lag_s if lag] or [(0.0,)]
    p95, p99 = (max(float(np.percentile(lag, q)) for lag in lags) for q in (95, 99))
    cpu = at_most(
        "client cpu",
        health.cpu_ratio,
        marks.max_cpu_ratio,
        "the load generator was late itself: give it more cores or --agentperf-workers",
    )
    lag = max((lag.p95_s for lag in health.read_lag if lag.stamped), default=None)
    is_late = (
        p95 > marks.max_loop_lag_p95_s
        or p99 > marks.max_loop_lag_p99_s
        or (lag is not None and lag > _MOST_READ_LAG_S)
    )
    why = doubt(measurement, marks.judged) if is_late else "which may move its times"
    stands = why is None
    late = (
        f"the load generator was late itself, {why or _STANDS}: give it more cores or "
        "--agentperf-workers"
    )
    return (
        at_most(
            "client loop lag p95", p95, marks.max_loop_lag_p95_s, late, warning=stands, unit="s"
        ),
        at_most(
            "client loop lag p99", p99, marks.max_loop_lag_p99_s, late, warning=stands, unit="s"
        ),
        cpu,
        *_clocks(health.hosts),
        at_most("client read lag p95", lag, _MOST_READ_LAG_S, late, warning=stands, unit="s"),
        Check(
            name="timing",
            value=None,
            limit=None,
            ok=health.degraded is None,
            invalidates=False,
            text=f"timing: {health.degraded}: first tokens are stamped late when many stream at "
            "once; leave --agentperf-client=httpx out",
        ),
    )


def _clocks(hosts: Sequence[HostHealth]) -> tuple[Check, ...]:
    """Do the stamps of all machines mean the same time? Nothing to ask where there is but one."""
    if not hosts:
        return ()
    worst = max(hosts, key=lambda host: host.clock_error_s)
    return (
        Check(
            name="clock alignment",
            value=worst.clock_error_s,
            limit=_FAIR_CLOCK_S,
            unit="s",
            ok=worst.clock_error_s <= _FAIR_CLOCK_S,
            invalidates=worst.clock_error_s > _MOST_CLOCK_S,
            text=f"the clock of node {worst.name} may have been {worst.clock_error_s * 1e3:.1f} ms "
            "off: let NTP or PTP discipline the nodes, and take one that is near and not busy",
        ),
    )


def _phase(measurement: Measurement, every_tier_fails: bool) -> tuple[Check, ...]:  # noqa: FBT001 reads as a statement at the call
    return (
        Check(
            name="phase complete",
            value=None,
            limit=None,
            ok=measurement.broken is None,
            invalidates=True,
            text=measurement.broken or "",
        ),
        Check(
            name="floors met",
            value=None,
            limit=None,
            # A phase that fails by its errors needs no floors to be believed.
            ok=measurement.floors_met
            or measurement.decided
            or (measurement.failed_out and every_tier_fails),
            invalidates=True,
            text="the phase ended before its floors"
            + ("" if measurement.broken else "; raise --agentperf-max-phase-s"),
        ),
        at_most(
            "members cut off",
            measurement.cut,
            0,
            "requests of the window were still open when the phase was stopped",
        ),
    )


def _load(measurement: Measurement, metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    strangers = {t.agent for t in measurement.turns if t.agent >= measurement.agents}
    return (
        at_most(
            "schedule slip p99",
            metrics.slip_s.p99 if metrics.slip_s else None,
            max(_MOST_SLIP_S, marks.max_loop_lag_p99_s),
            "requests were sent later than the agents meant to: the load generator, or connecting, "
            "was slow",
            unit="s",
        ),
        at_most(
            "agents of another phase",
            len(strangers),
            0,
            "requests of agents that this phase has not were seen: two phases overlapped",
        ),
        at_most(
            "requests in flight",
            metrics.in_flight,
            measurement.agents + 1e-6,
            "more requests were open than there are agents: two phases overlapped",
        ),
        at_most(
            "reconnected share",
            metrics.reconnects / metrics.requests if metrics.requests else None,
            0.05,
            "many reused connections had died before the request: the server or a proxy closes "
            "idle ones early",
            warning=True,
        ),
    )


def _held(measurement: Measurement, marks: Marks) -> tuple[Check, ...]:
    """Was the named number of agents held, and did their requests arrive?"""
    started = len(measurement.health.first_sent_ns)
    absence = fewest_active(
        measurement,
        max_tool_s=marks.max_tool_s,
        slack_s=max(_SLACK_S, 10 * marks.max_loop_lag_p99_s),
    )
    active, text = started, f"{started} of {measurement.agents} agents ever sent a request"
    if started == measurement.agents and absence is not None:
        active = absence.active
        text = (
            f"{absence.at_s} s into the window only {active} of {measurement.agents} agents were "
            "at work: the load generator lost the others, so it measured fewer than it says"
        )
    view = server_view(measurement)
    elsewhere = None if view is None else abs(view.theirs / view.ours - 1) if view.ours else 0.0
    agrees = elsewhere is None or elsewhere <= _MOST_ELSEWHERE
    # Short requests are on their way for a good part of their time, which holds nobody up.
    held_up = view is not None and not agrees and abs(view.outside_s) > _MOST_OUTSIDE_S
    starved = starved_agents(measurement, max_error_ratio=marks.max_error_ratio)
    return (
        Check(
            name="active agents",
            value=active,
            limit=measurement.agents,
            ok=active == measurement.agents,
            invalidates=True,
            text=text,
        ),
        Check(
            name="requests at the server",
            value=elsewhere,
            limit=_MOST_ELSEWHERE,
            ok=not held_up,
            invalidates=True,
            text="the server did not tell" if view is None else _elsewhere(view.ours, view.theirs),
        ),
        at_most(
            "starved agents",
            # A server that knows of them keeps them waiting itself; and one cause has one name.
            None if held_up or (view is not None and agrees) else starved,
            0,
            f"no request of {starved} agents was answered, and almost all of the others' were: a "
            "proxy or balancer holds back what is above its number of connections; raise that",
        ),
    )


def _elsewhere(ours: float, theirs: float) -> str:
    seen = f"{ours:.1f} requests were in flight, and the server counted {theirs:.1f}: "
    if theirs < ours:
        return seen + "a proxy or pool before it holds requests back; raise its limit"
    return seen + "somebody else uses it, or it still works for an earlier phase"


def _steady(seen: Steadiness) -> tuple[Check, ...]:
    """No steady state is a result, so nothing here makes a phase invalid."""
    shift, drift = seen.shift, seen.drift
    shifted = shift is not None and shift.counts
    return (
        _changed(
            "level shift",
            shift,
            "at once{at}: no steady state; look at KV cache use, preemptions and clocks then",
            ok=not shifted,
        ),
        _changed(
            "drift",
            drift,
            "from the first third to the last{at}: no steady state, and a longer phase would say "
            "something else",
            # One thing has one name: a level shift parts the thirds as well.
            ok=shifted or drift is None or not drift.counts,
        ),
        at_most(
            "start in the result",
            seen.start_gain,
            _MOST_START_GAIN,
            "P25 speed of the whole window is that much above the speed once every agent had begun "
            "its second trajectory: the published start at turn 0 flatters this number",
            warning=True,
        ),
    )


def _changed(name: str, change: Change | None, text: str, *, ok: bool) -> Check:
    said = f"its {name} cannot be told"
    if change is not None:
        at = f", {change.at_s:.0f} s into the window"
        said = f"{change.name} went from {change.before:.4g} to {change.after:.4g} "
        said += text.format(at=at)
    return Check(
        name=name,
        value=None if change is None else change.size if change.significant else 0.0,
        limit=None if change is None else change.limit,
        ok=ok,
        invalidates=False,
        text=said,
    )


def _power(measurement: Measurement, marks: Marks) -> Check:
    meters = measure_meters(measurement.meters, measurement.window)
    is_empty = measurement.window.length_s <= 0  # a phase that was broken off before its window
    counted = [m.power for m in meters if m.counted and not is_empty]
    reasons = [p.reason for p in counted if p.reason is not None]
    return Check(
        name="power coverage",
        value=min((p.coverage for p in counted), default=None),
        limit=None,  # a limit is shown as a greatest value; the text tells the least
        ok=not reasons,
        invalidates=marks.power_required,
        text=f"{'; '.join(reasons)}: there is no figure per megawatt; look at the meter",
    )
