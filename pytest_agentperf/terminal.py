"""What the terminal shows at the end of a session: tables of phases and capacities."""

from collections.abc import Sequence

from pytest_agentperf import words
from pytest_agentperf.bundle import Bundle
from pytest_agentperf.conformance import is_conformant
from pytest_agentperf.foreign import plain
from pytest_agentperf.metrics import Distribution
from pytest_agentperf.tables import normalized_table, table

__all__ = ["summary"]


def summary(bundle: Bundle, width: int) -> str:
    """Return the phase tables and the capacities, for the end of the session."""
    parts = [
        part
        for run in bundle.models
        for part in (
            _phase_table(bundle, run.spec.model, [t.name for t in run.spec.tiers], width),
            _capacity_table(bundle, run.spec.model, width),
            normalized_table([c for c in bundle.capacities if c.model == run.spec.model], width),
            _conformance_line(bundle, run.spec.model),
        )
    ]
    end = (
        *_contradicted(bundle),
        *_resumed(bundle),
        *_hosts(bundle),
        _time_line(bundle),
        *_plan(bundle),
        *_unfinished(bundle),
    )
    return plain("\n".join((*parts, *end)))


def _resumed(bundle: Bundle) -> Sequence[str]:
    """Say which phases another run has measured."""
    runs = dict.fromkeys(p.measured_in for p in bundle.phases if p.measured_in is not None)
    return [
        f"Measured in run {run}: phases "
        + ", ".join(str(p.number) for p in bundle.phases if p.measured_in == run)
        for run in runs
    ]


def _hosts(bundle: Bundle) -> Sequence[str]:
    """Say, of each node that ran load, how it was in the last phase that it was in."""
    last = {host.name: host for phase in bundle.phases for host in phase.hosts}
    return [f"Load from {words.host(host)}" for host in last.values()]


def _contradicted(bundle: Bundle) -> Sequence[str]:
    return [f"WARNING: {line}" for line in bundle.contradictions]


def _unfinished(bundle: Bundle) -> Sequence[str]:
    if not any(c.status == "open" for c in bundle.capacities):
        return ()
    return (f"Not finished: go on with --agentperf-resume={bundle.provenance.run}",)


def _time_line(bundle: Bundle) -> str:
    usd = bundle.system_usd
    cost = "" if usd is None else f", ${usd:,.2f} at the declared price"
    return (
        f"Time on the system: {words.span(bundle.system_s)} for "
        f"{words.count(len(bundle.phases), 'phase')}{cost}"
    )


def _plan(bundle: Bundle) -> Sequence[str]:
    if not bundle.provenance.simulated:
        return ()
    return ("SIMULATED: a plan for such a system, not a measurement of one.",)


def _phase_table(bundle: Bundle, model: str, tiers: Sequence[str], width: int) -> str:
    rows = [
        (
            f"{p.number} short" if p.short else str(p.number),
            str(p.agents),
            _statistic(p.metrics.output_speed_tok_per_s, "p25"),
            _statistic(p.metrics.ttft_s, "p95"),
            f"{p.metrics.requests:,}",
            *(words.outcome(p.verdict(tier)) for tier in tiers),
        )
        for p in bundle.phases
        if p.model == model
    ]
    heads = ("Phase", "Agents", "P25 tok/s", "P95 TTFT s", "n", *tiers)
    shorts = any(p.short for p in bundle.phases if p.model == model)
    note = "short: it aims only, no answer rests on it; ?: was not certain when it ended\n"
    return table(model, heads, rows, width) + (note if shorts else "")


def _capacity_table(bundle: Bundle, model: str, width: int) -> str:
    found = [c for c in bundle.capacities if c.model == model]
    if not found:
        return ""
    columns: dict[str, list[str]] = {
        "Tier": [c.tier for c in found],
        "Agents": [c.label for c in found],
        "Allowed": [words.low_to_high(c.agents_low, c.agents_high) for c in found],
        "Limited by": [", ".join(map(words.metric, c.limited_by)) or "-" for c in found],
        "tok/s": [_figure(c.throughput_tok_per_s) for c in found],
    }
    shown = {head: column for head, column in columns.items() if set(column) != {"-"}}
    rows = list(zip(*shown.values(), strict=True))
    return table(f"{model}: capacity", tuple(shown), rows, width)


def _conformance_line(bundle: Bundle, model: str) -> str:
    run = next(r for r in bundle.models if r.spec.model == model)
    missed = [rule.name for rule in run.conformance if rule.status == "not met"]
    if is_conformant(run.conformance):
        return "AA-AgentPerf: every checkable rule met"
    return f"Not AA-AgentPerf conformant; rules not met: {'; '.join(missed)}"


def _statistic(values: Distribution | None, name: str) -> str:
    return "-" if values is None else words.number(values.statistic(name))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
