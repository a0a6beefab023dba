"""Why a tier was met or missed, in words: every limit, the observed value, n, and the bracket."""

from collections.abc import Sequence

from pytest_agentperf import words
from pytest_agentperf.bundle import ClientCheck, PhaseResult
from pytest_agentperf.foreign import plain
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.slo import Finding, SLOTier, judge
from pytest_agentperf.symptoms import change_lines, server_line, why_line

__all__ = ["client_said", "explain_capacity", "explain_metrics", "explain_phase"]

_LATE_S = 0.010


def client_said(client: ClientCheck) -> str:
    """Say what our own load processes carry, and whether this machine is too busy for them."""
    carries = (
        f"the load client's self-check: {client.cpu_us_per_token:.0f} µs of CPU a token, P95 TTFT "
        f"right to {1e3 * client.ttft_error_p95_s:.1f} ms at {client.tok_per_s:,.0f} tok/s; about "
        f"{client.carries_tok_per_s:,.0f} tok/s in {client.processes} "
        f"process{'es' if client.processes > 1 else ''}"
    )
    if client.ttft_error_p95_s <= _LATE_S:
        return carries
    return (
        f"{carries}; WARNING: this machine is so busy that its times are wrong already: end what "
        "else runs on it, or phases will be invalid"
    )


def explain_metrics(tier: SLOTier, metrics: Metrics) -> list[str]:
    """Say how one phase stands against a tier."""
    findings = judge(tier, metrics).findings
    missed = sum(not f.met for f in findings)
    head = f"{metrics.agents} agents are {'outside' if missed else 'within'} '{tier}'"
    return [f"{head}: {missed} of {len(findings)} limits missed", *map(_limit_line, findings)]


def explain_capacity(
    tier: SLOTier,
    capacity: Capacity,
    *,
    passing: PhaseResult | None,
    failing: PhaseResult | None,
    invalid: Sequence[PhaseResult],
) -> str:
    """Say what a tier carries, with the two phases that bracket the answer.

    Args:
        tier: the tier.
        capacity: what the search found.
        passing: largest passing phase, if any.
        failing: smallest failing phase, if any.
        invalid: phases that this tier could not be judged by.
    """
    carried = "no number that can be trusted"
    if capacity.status != "invalid":
        carried = f"{capacity.label} agents"
    lines = [
        f"'{tier}' carries {carried}; asked for at least {tier.min_agents}",
        *_interval(capacity),
        f"limited by: {', '.join(capacity.limited_by) or 'nothing that was measured'}",
        *_bracket("largest passing", passing, tier.name),
        *_bracket("smallest failing", failing, tier.name),
        *_server(passing, failing, tier.name),
    ]
    if capacity.status == "at-limit" and capacity.agents < tier.min_agents:
        lines.append("the search was not allowed further: raise --agentperf-max-agents")
    lines += [
        f"invalid phase {p.number}, {p.agents} agents: {'; '.join(p.verdict(tier.name).reasons)}"
        for p in invalid
    ]
    if capacity.passes_above_failure:
        above = ", ".join(map(str, capacity.passes_above_failure))
        lines.append(f"not monotone: {above} agents passed above a failure and do not count")
    if capacity.by_curve:
        lines.append(
            f"{capacity.agents + 1} agents were not measured: by the slope of the short phases, "
            "from where the passing one stands, a limit is used up before"
        )
    if capacity.phases_used:
        used = words.count(capacity.phases_used, "phase")
        lines.append(f"needed {used}, {words.span(capacity.measured_s)}")
    return plain("\n".join(lines))


def _interval(capacity: Capacity) -> list[str]:
    if capacity.agents_low is None:
        return []
    high = capacity.agents_high
    span = f"{capacity.agents_low} or more" if high is None else f"{capacity.agents_low} to {high}"
    return [f"the phases, as unsure as they are, allow {span} agents"]


def _limit_line(finding: Finding) -> str:
    observed = words.apart(finding.observed, finding.bound)
    return (
        f"  {finding.limit:<30} {observed:>9} {finding.sign} {finding.bound:<8g} "
        f"{'met' if finding.met else 'missed':<7} n={finding.n}"
    )


def _bracket(role: str, phase: PhaseResult | None, tier: str) -> list[str]:
    if phase is None:
        return [f"{role} phase: none"]
    short = ", short" if phase.short else ""
    return [
        f"{role} phase: number {phase.number}, {phase.agents} agents{short}",
        *map(_limit_line, phase.verdict(tier).findings),
    ]


def _server(passing: PhaseResult | None, failing: PhaseResult | None, tier: str) -> list[str]:
    """Say what the server itself counted where the tier broke."""
    if failing is None or failing.server is None:
        return []
    missed = [f for f in failing.verdict(tier).findings if not f.met]
    reasons = [line for f in missed if (line := why_line(f, failing.server)) is not None]
    if passing is not None and passing.server is not None:
        changed = change_lines(passing.server, failing.server)
        reasons += [f"at {failing.agents} agents {line}" for line in changed]
    told = server_line(failing.server)
    return [*reasons, *([f"the server, {failing.agents} agents: {told}"] if told else [])]


def explain_phase(phase: PhaseResult) -> str:
    """Return what every tier says of a phase, on one line."""
    if phase.invalid:
        return f"INVALID: {phase.invalid[0]}"
    return ", ".join(
        " ".join((v.tier, words.outcome(v), *(f"({reason})" for reason in v.reasons)))
        for v in phase.verdicts
    )
