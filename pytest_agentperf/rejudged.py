"""One stored phase, judged again: other tiers, another output speed, a part of its window.

Metrics, verdicts, intervals and the checks of what agents and server did are computed from the
requests, by the formulas that a run uses. What a run's folder keeps in sum only stands as the run
said it: how the load processes and the clocks did, power, and the server's own counts. Power and
counts are of the whole steady window, so a part of it has none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from math import isclose
from typing import cast

from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.checks import invalid_by
from pytest_agentperf.early import judge_early, verdicts_by
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.inside import intervals
from pytest_agentperf.judged import marks_of, ttft_limits_s
from pytest_agentperf.metrics import Metrics, summarize
from pytest_agentperf.power import MeterPower, Power, role_power
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.records import ClientHealth, Measurement, Window
from pytest_agentperf.search import says_nothing
from pytest_agentperf.serving import ServerMetrics
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec, SLOTier, Verdict
from pytest_agentperf.steady import Floors, PhaseState
from pytest_agentperf.stored import StoredPhase
from pytest_agentperf.validity import Check, check

__all__ = ["Part", "Terms", "is_alike", "rejudge"]

_AS_IT_WAS = frozenset(
    {
        "client loop lag p95", "client loop lag p99", "client cpu", "client read lag p95", "timing",
        "clock alignment", "phase complete", "members cut off", "simulator late steps",
        "requests at the server",
    }
)  # fmt: skip
"""Checks of what is not kept request by request."""
_BY_LATENESS = frozenset({"client loop lag p95", "client loop lag p99", "client read lag p95"})
"""Checks that only warn where lateness has moved nothing that the run itself judged."""
_ENDED_EARLY = (
    "floors met: evidence against the run's tiers ended the phase, and of this one it is not sure; "
    "measure it"
)
_SAME = 1e-9
"""Relative: another build of NumPy may add up in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of every steady window, in seconds after its opening."""

    start_s: float = 0.0
    end_s: float | None = None
    """``None``: to its end."""

    @property
    def is_all(self) -> bool:
        """Tell whether it is the whole window, however long that is."""
        return not self.start_s and self.end_s is None

    @property
    def length_s(self) -> float | None:
        """Its length in seconds, to the nanosecond; ``None`` where it ends with the window."""
        if self.end_s is None:
            return None
        return (round(self.end_s * 1e9) - round(self.start_s * 1e9)) / 1e9

    def __str__(self) -> str:
        if self.is_all:
            return "the whole steady window"
        end = "its end" if self.end_s is None else f"{self.end_s:g} s"
        return f"{self.start_s:g} s to {end} of the steady window"

    def lies_in(self, window: Window) -> bool:
        """Tell whether a window is long enough to have this part."""
        end_s = window.length_s if self.end_s is None else self.end_s
        return self.start_s < end_s <= window.length_s

    def of(self, window: Window) -> Window:
        """Return this part of a window, or what there is of it."""
        start_ns = min(window.start_ns + round(self.start_s * 1e9), window.end_ns)
        end_ns = window.end_ns
        if self.end_s is not None:
            end_ns = min(window.start_ns + round(self.end_s * 1e9), end_ns)
        return Window(start_ns=start_ns, end_ns=max(start_ns, end_ns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the phases of one model are judged by."""

    spec: ModelSpec
    settings: Settings
    part: Part = field(default_factory=Part)

    @property
    def floors(self) -> Floors:
        """What a full phase must reach."""
        return full_phase(self.spec, self.settings).floors


def rejudge(stored: StoredPhase, then: Terms, now: Terms) -> PhaseResult:
    """Judge a stored phase by other terms.

    Args:
        stored: the phase; its requests are read.
        then: what the run judged by.
        now: what is judged by.

    Raises:
        ConfigError: its requests do not give what the run says of it.
    """
    was = stored.result
    measured = _measurement(stored, then)
    _check_kept(was, summarize(measured, speed=then.settings.speed))
    measurement, missing = _under(measured, was, then, now)
    metrics = summarize(measurement, speed=now.settings.speed)
    meters = was.meters if now.part.is_all else tuple(map(_without_figure, was.meters))
    judged = [marks_of(terms.spec, terms.settings).judged for terms in (then, now)]
    checks = tuple(
        _as_a_late_client_leaves(found)
        if found.name in _BY_LATENESS and not (now.part.is_all and judged[0] >= judged[1])
        else found
        for found in _checks(measurement, metrics, was, now, missing)
    )
    if not now.part.lies_in(measured.window):
        checks = (*checks, _outside(now.part, measured.window))
    return replace(
        was,
        metrics=metrics,
        power=was.power if now.part.is_all else role_power(meters, "accelerator"),
        meters=meters,
        verdicts=_verdicts(measurement, metrics, checks, was, (then, now)),
        checks=checks,
        server=_server(was.server, now),
        intervals=intervals(measurement, speed=now.settings.speed),
    )


def _measurement(stored: StoredPhase, then: Terms) -> Measurement:
    """Return what was seen, as far as it is kept."""
    was = stored.result
    turns = tuple(stored.turns)
    told = {c.name: c for c in was.checks}
    measurement = Measurement(
        agents=was.agents,
        window=stored.window,
        turns=turns,
        samples=(),
        health=ClientHealth(
            loop_lag_s=(),
            cpu_ratio=0.0,
            # When each began is kept to the second; how many did is what is asked.
            first_sent_ns=(stored.window.start_ns,) * max(stored.timeline.started, default=0),
            hosts=was.hosts,
        ),
        floors_met=False,
        cut=int(told["members cut off"].value or 0) if "members cut off" in told else 0,
        broken=_missed(told, "phase complete"),
    )
    if _missed(told, "floors met") is not None:
        return measurement
    # What was met before evidence or failures ended the phase is met still.
    met = not _missing_floors(measurement, then)
    evidence = was.short or any(v.evidence != "floors" for v in was.verdicts)
    # An invalid phase does not tell whether it was evidence that ended it before its floors.
    decided = evidence or (bool(was.invalid) and not met)
    bound = marks_of(then.spec, then.settings).max_error_ratio
    failed_out = not (decided or met) and was.metrics.error_ratio > bound
    return replace(
        measurement,
        floors_met=not (decided or failed_out),
        decided=decided,
        failed_out=failed_out,
    )


def _missed(told: Mapping[str, Check], name: str) -> str | None:
    found = told.get(name)
    return None if found is None or found.ok else found.text


def _check_kept(was: PhaseResult, found: Metrics) -> None:
    """Hold what the requests give against what the run said of them, figure by figure."""
    for each in fields(Metrics):
        said, given = getattr(was.metrics, each.name), getattr(found, each.name)
        unknown = each.default is not MISSING and said == each.default  # to an older run
        if not (unknown or is_alike(said, given)):
            raise ConfigError(
                f"phase {was.number}: its requests are not those that the run judged, or another "
                f"version did: {each.name} was {_shown(said)} and is {_shown(given)}; nothing can "
                "be judged again by what is kept"
            )


def is_alike(one: object, other: object) -> bool:
    """Tell whether two results are the same, but for the last digits of their numbers."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isclose(one, other, rel_tol=_SAME)
    mine, theirs = _parts(one), _parts(other)
    if mine is None or theirs is None:
        return one == other
    return mine.keys() == theirs.keys() and all(is_alike(mine[k], theirs[k]) for k in mine)


def _parts(value: object) -> Mapping[object, object] | None:
    """Return what a result consists of, by name or place; ``None`` where it has no parts."""
    if is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return cast(Mapping[object, object], value)
    return dict(enumerate(cast(tuple[object, ...], value))) if isinstance(value, tuple) else None


def _shown(value: object) -> str:
    if is_dataclass(value):
        return ", ".join(_shown(getattr(value, f.name)) for f in fields(value))
    return (
        f"{value:.6g}" if isinstance(value, float) else "nothing" if value is None else str(value)
    )


def _under(
    measured: Measurement, was: PhaseResult, then: Terms, now: Terms
) -> tuple[Measurement, tuple[str, ...]]:
    """Return a phase as other terms see it, and what it then lacks of its floors."""
    if now.part.is_all and now.floors == then.floors:
        return measured, ()
    part = replace(measured, window=now.part.of(measured.window))
    if measured.decided or was.short:
        return part, ()
    missing = _missing_floors(part, now)
    return replace(part, floors_met=not missing), missing


def _missing_floors(measurement: Measurement, terms: Terms) -> tuple[str, ...]:
    """Return what is missing; a part has only the trajectories that completed inside it."""
    window = measurement.window
    state = PhaseState(agents=measurement.agents, settle_s=0.0, floors=terms.floors)
    state.started(dict.fromkeys(range(measurement.agents), window.start_ns))
    for turn in measurement.turns:
        counts = terms.part.is_all or turn.end_ns >= window.start_ns
        if counts and turn.end_ns <= window.end_ns:
            state.turn(turn)
    return state.missing(window.end_ns)


def _checks(
    measurement: Measurement,
    metrics: Metrics,
    was: PhaseResult,
    now: Terms,
    missing: Sequence[str],
) -> Iterator[Check]:
    told = {c.name: c for c in was.checks}
    again = check(measurement, metrics, marks_of(now.spec, now.settings))
    for found in again:
        before = told.get(found.name)
        if found.name in _AS_IT_WAS:
            if before is not None:
                yield before
        elif found.name == "power coverage":
            yield found if before is None else _power(before, was, now)
        elif found.name == "starved agents" and before is not None and before.value is None:
            yield before  # the server told where its requests were
        elif found.name == "floors met" and missing:
            lacking = f"{now.part} has not what the floors ask for: {'; '.join(missing)}"
            yield replace(found, text=f"{lacking}; lower them, or take a longer part")
        else:
            yield found
    names = {found.name for found in again}
    yield from (c for c in was.checks if c.name not in names)  # another version's


def _as_a_late_client_leaves(found: Check) -> Check:
    if found.ok:
        return found
    text = f"{found.text}; told of what the run judged, and of what is judged now nothing is known"
    return replace(found, text=text, invalidates=True)


def _power(before: Check, was: PhaseResult, now: Terms) -> Check:
    if now.part.is_all or not any(m.counted for m in was.meters):
        return before
    return replace(before, value=0.0, ok=False, text=f"{_NO_READINGS}: no figure per megawatt")


_NO_READINGS = "readings are kept of the whole steady window only, in sum"


def _without_figure(meter: MeterPower) -> MeterPower:
    missing = Power(
        mean_w=None,
        energy_j=None,
        devices=meter.power.devices,
        samples=0,
        coverage=0.0,
        reason=f"{meter.meter}: {_NO_READINGS}",
    )
    return replace(meter, power=missing)


def _outside(part: Part, window: Window) -> Check:
    return Check(
        name="part of the window",
        value=window.length_s,
        limit=None,
        ok=False,
        invalidates=True,
        text=f"{part} was asked for, and that is {window.length_s:g} s long",
    )


def _server(server: ServerMetrics | None, now: Terms) -> ServerMetrics | None:
    """Return the server's counts; what requests met that were late by another limit is unknown."""
    if server is None or not now.part.is_all:
        return None
    limits = ttft_limits_s(now.spec)
    return replace(server, late=tuple(late for late in server.late if late.limit_s in limits))


def _verdicts(
    measurement: Measurement,
    metrics: Metrics,
    checks: Sequence[Check],
    was: PhaseResult,
    terms: tuple[Terms, Terms],
) -> tuple[Verdict, ...]:
    then, now = terms
    invalid = invalid_by(checks)
    speed = now.settings.speed
    if invalid or not measurement.decided:
        return verdicts_by((), now.spec.tiers, metrics, invalid=invalid)
    early = [
        judge_early(tier, measurement.turns, measurement.window, speed=speed)
        for tier in now.spec.tiers
    ]
    found = verdicts_by(early, now.spec.tiers, metrics)
    if not was.short:
        found = tuple(map(_sure, found))
    if was.invalid or not now.part.is_all or speed != then.settings.speed:
        return found
    # Requests that were open when the phase ended had a part in these; they are not kept.
    known = {_limits(tier): was.verdict(tier.name) for tier in then.spec.tiers}
    return tuple(known.get(_limits(t), v) for t, v in zip(now.spec.tiers, found, strict=True))


def _sure(verdict: Verdict) -> Verdict:
    """Return what a full phase before its floors says of a tier: a certain miss, or nothing."""
    if not says_nothing(verdict, short=False):
        return verdict
    return replace(verdict, outcome="invalid", reasons=(_ENDED_EARLY, *verdict.reasons))


def _limits(tier: SLOTier) -> SLOTier:
    return replace(tier, min_agents=1)
