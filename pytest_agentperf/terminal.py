"""What the terminal shows: live progress, and the tables at the end."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.conformance import is_conformant
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.records import Event

__all__ = ["LiveLines", "summary"]


class LiveLines:
    """Turn events into lines: one that is rewritten on a terminal, plain ones elsewhere."""

    def __init__(
        self,
        *,
        write: Callable[[str], None],
        interactive: bool,
        every_s: float,
        clock_s: Callable[[], float],
    ) -> None:
        """Write through ``write``; where it is not interactive, at most every ``every_s``."""
        self._write = write
        self._interactive = interactive
        self._every_s = every_s
        self._clock_s = clock_s
        self._told_s = clock_s()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        head = (
            f"[{event.model} phase {event.phase} · {event.agents} agents]"
            if event.phase
            else (f"[{event.model}]")
        )
        line = f"{head} {event.text}"
        if event.kind != "progress":
            self._told_s = self._clock_s()
            self._write(f"\r\x1b[2K{line}\n" if self._interactive else f"{line}\n")
        elif self._interactive:
            self._write(f"\r\x1b[2K{line}")
        elif self._clock_s() - self._told_s >= self._every_s:
            self._told_s = self._clock_s()
            self._write(f"{line}\n")


def summary(bundle: Bundle, width: int) -> str:
    """Return the phase tables and the capacities, for the end of the session."""
    return "\n".join(
        part
        for run in bundle.models
        for part in (
            _phase_table(bundle, run.spec.model, [t.name for t in run.spec.tiers], width),
            _capacity_table(bundle, run.spec.model, width),
            _conformance_line(bundle, run.spec.model),
        )
    )


def _phase_table(bundle: Bundle, model: str, tiers: Sequence[str], width: int) -> str:
    rows = [
        (
            str(p.number),
            str(p.agents),
            _speed(p.metrics),
            _ttft(p.metrics),
            *(_word(p, tier) for tier in tiers),
        )
        for p in bundle.phases
        if p.model == model
    ]
    heads = ("Phase", "Agents", "P25 speed tok/s", "P95 TTFT s", *tiers)
    return _table(model, heads, rows, width)


def _capacity_table(bundle: Bundle, model: str, width: int) -> str:
    rows = [
        (
            c.tier,
            c.label,
            ", ".join(c.limited_by) or "-",
            _figure(c.throughput_tok_per_s),
            _figure(c.per_accelerator),
            _figure(c.per_system),
            _figure(c.per_megawatt),
        )
        for c in bundle.capacities
        if c.model == model
    ]
    heads = ("Tier", "Agents", "Limited by", "tok/s", "/accelerator", "/system", "/MW")
    return _table(f"{model}: capacity", heads, rows, width)


def _conformance_line(bundle: Bundle, model: str) -> str:
    run = next(r for r in bundle.models if r.spec.model == model)
    missed = [rule.name for rule in run.conformance if rule.status == "not met"]
    if is_conformant(run.conformance):
        return "AA-AgentPerf: every checkable rule met"
    return f"Not AA-AgentPerf conformant; rules not met: {'; '.join(missed)}"


def _speed(metrics: Metrics) -> str:
    found = metrics.output_speed_tok_per_s
    return "-" if found is None else f"{found.p25:.1f} (n={found.n})"


def _ttft(metrics: Metrics) -> str:
    found = metrics.ttft_s
    return "-" if found is None else f"{found.p95:.2f} (n={found.n})"


def _word(phase: PhaseResult, tier: str) -> str:
    return phase.verdict(tier).outcome


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    from rich.console import Console  # noqa: PLC0415 only at the end of a session that measured
    from rich.table import Table  # noqa: PLC0415 the same

    table: Any = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in {"Tier", "Limited by"} else "right")
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=max(width, 80), color_system=None).print(table)
    return out.getvalue()
