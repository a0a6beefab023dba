"""One stored phase, judged again: other tiers, another output speed, a part of its window.

Metrics, verdicts, intervals and the checks of what agents and server did are computed from the
requests, by the formulas that a run uses. What a run's folder keeps in sum only stands as the run
said it: how the load processes and the clocks did, power, and the server's own counts. Power and
counts are of the whole steady window, so a part of it has none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isclose

from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.early import judge_early, verdicts_by
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.inside import intervals
from pytest_agentperf.judged import marks_of, ttft_limits_s
from pytest_agentperf.metrics import Metrics, summarize
from pytest_agentperf.power import MeterPower, Power, role_power
from pytest_agentperf.records import ClientHealth, Measurement, Window
from pytest_agentperf.serving import ServerMetrics
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec, SLOTier, Verdict
from pytest_agentperf.steady import Floors, PhaseState
from pytest_agentperf.stored import StoredPhase
from pytest_agentperf.validity import Check, check

__all__ = ["Part", "Terms", "rejudge"]

_AS_IT_WAS = frozenset(
    {
        "client loop lag p95", "client loop lag p99", "client cpu", "client read lag p95", "timing",
        "clock alignment", "phase complete", "members cut off", "simulator late steps",
        "requests at the server",
    }
)  # fmt: skip
"""Checks of what is not kept request by request."""
_JUDGED = (
    "requests", "failed", "ttft_s", "usage_speed_tok_per_s", "first_chunk_speed_tok_per_s", "e2e_s",
    "isl_tokens", "osl_tokens", "throughput_tok_per_s", "trajectories",
)  # fmt: skip
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
        return Floors(
            min_trajectories=self.settings.min_trajectories,
            min_trajectories_per_agent=self.settings.min_trajectories_per_agent,
            min_steady_s=self.settings.min_steady_s,
        )


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
    checks = tuple(_checks(measurement, metrics, was, now, missing))
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
    met = not _missing_floors(measurement, then.floors)
    evidence = was.short or any(v.evidence != "floors" for v in was.verdicts)
    # An invalid phase says nothing of evidence; where it could end one, floors do.
    decided = evidence or (bool(was.invalid) and then.settings.mode == "fast" and not met)
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
    """Hold what the requests give against what the run said of them."""
    for name in _JUDGED:
        said, given = _numbers(getattr(was.metrics, name)), _numbers(getattr(found, name))
        if len(said) != len(given) or not all(
            isclose(a, b, rel_tol=_SAME) for a, b in zip(said, given, strict=True)
        ):
            raise ConfigError(
                f"phase {was.number}: its requests are not those that the run judged, or another "
                f"version did: {name} was {_shown(said)} and is {_shown(given)}; nothing can be "
                "judged again by what is kept"
            )


def _numbers(value: object) -> tuple[float, ...]:
    if value is None:
        return ()
    return (float(value),) if isinstance(value, int | float) else tuple(asdict(value).values())  # pyright: ignore[reportArgumentType] a Distribution


def _shown(numbers: Sequence[float]) -> str:
    return ", ".join(f"{n:.6g}" for n in numbers) or "nothing"


def _under(
    measured: Measurement, was: PhaseResult, then: Terms, now: Terms
) -> tuple[Measurement, tuple[str, ...]]:
    """Return a phase as other terms see it, and what it then lacks of its floors."""
    if now.part.is_all and now.floors == then.floors:
        return measured, ()
    part = replace(measured, window=now.part.of(measured.window))
    if measured.decided or was.short:
        return part, ()
    missing = _missing_floors(part, now.floors)
    return replace(part, floors_met=not missing), missing


def _missing_floors(measurement: Measurement, floors: Floors) -> tuple[str, ...]:
    window = measurement.window
    state = PhaseState(agents=measurement.agents, settle_s=0.0, floors=floors)
    state.started(dict.fromkeys(range(measurement.agents), window.start_ns))
    for turn in measurement.turns:
        if turn.end_ns <= window.end_ns:
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
    for found in check(measurement, metrics, marks_of(now.spec, now.settings)):
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
    invalid = [f"{c.name}: {c.text}" for c in checks if c.invalidates and not c.ok]
    speed = now.settings.speed
    if invalid or not measurement.decided:
        return verdicts_by((), now.spec.tiers, metrics, invalid=invalid)
    early = [
        judge_early(tier, measurement.turns, measurement.window, speed=speed)
        for tier in now.spec.tiers
    ]
    found = verdicts_by(early, now.spec.tiers, metrics)
    if was.invalid or not now.part.is_all or speed != then.settings.speed:
        return found
    # Requests that were open when the phase ended had a part in these; they are not kept.
    known = {_limits(tier): was.verdict(tier.name) for tier in then.spec.tiers}
    return tuple(known.get(_limits(t), v) for t, v in zip(now.spec.tiers, found, strict=True))


def _limits(tier: SLOTier) -> SLOTier:
    return replace(tier, min_agents=1)
