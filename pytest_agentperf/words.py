"""How numbers, metrics and limits are written for people."""

import math

from pytest_agentperf.records import HostHealth
from pytest_agentperf.slo import Finding, Limit, Verdict

__all__ = [
    "apart",
    "bound",
    "count",
    "exact",
    "host",
    "low_to_high",
    "metric",
    "miss",
    "number",
    "outcome",
    "percent",
    "short",
    "size",
    "span",
    "unit",
    "watts",
]

_METRICS = {
    "output_speed_tok_per_s": ("output speed", "tok/s"),
    "first_chunk_speed_tok_per_s": ("first-chunk speed", "tok/s"),
    "ttft_s": ("TTFT", "s"),
    "e2e_s": ("E2E latency", "s"),
}


def number(value: float | None) -> str:
    """Write a number with about three digits; ``—`` for none."""
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) or abs(value) >= 1000:  # noqa: PLR2004 from here on nobody reads decimals
        return f"{value:,.0f}"
    if abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"  # noqa: PLR2004 three digits


def count(many: int, one: str, several: str | None = None) -> str:
    """Write how many of something; its noun takes an ``s`` for several if nothing else is given."""
    return f"{many:,} {one if many == 1 else several or f'{one}s'}"


def low_to_high(low: int | None, high: int | None) -> str:
    """Write a range of agents; ``-``: nothing is known, ``≥``: it has no upper end."""
    if low is None:
        return "-"
    if low == high:
        return str(low)
    return f"≥ {low}" if high is None else f"{low}-{high}"


def outcome(verdict: Verdict) -> str:
    """Return a verdict's outcome, with a question mark where the phase ended before it was sure."""
    return f"{verdict.outcome} ?" if verdict.evidence == "unclear" else verdict.outcome


def percent(ratio: float | None) -> str:
    """Write a ratio (0-1) in percent."""
    return "—" if ratio is None else f"{ratio * 100:.3g} %"


def watts(value: float) -> str:
    """Write watts, in kW from 1,000 on."""
    return f"{number(value / 1000)} kW" if value >= 1000 else f"{number(value)} W"  # noqa: PLR2004 W to kW


def span(seconds: float) -> str:
    """Write a duration in seconds, in minutes from 100 s, in hours from 100 minutes."""
    if seconds < 100:  # noqa: PLR2004 where seconds stop being readable
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 100 minutes


def size(size_bytes: float) -> str:
    """Write a file's size in kB, MB or GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes / 1e3:.1f} kB"


def short(value: float) -> str:
    """Write a number with all digits that it needs."""
    return f"{value:,.12g}"


def exact(value: float | None) -> str:
    """Write a number so that it reads back as itself."""
    return "" if value is None else repr(value)


def host(health: HostHealth) -> str:
    """Return how many load processes a node ran, how its clock stood, how far the endpoint was."""
    return (
        f"node {health.name}: load processes {health.workers}, clock "
        f"{health.clock_offset_s * 1e3:+,.2f} ± {health.clock_error_s * 1e3:.2f} ms, "
        f"{health.endpoint_s * 1e3:.2f} ms to connect to the endpoint"
    )


def metric(name: str) -> str:
    """Return ``P95 TTFT`` for ``ttft_s.p95``; a name that is no limit's is its own words."""
    if name == "error_ratio":
        return "failed requests"
    metric, _, statistic = name.partition(".")
    words, _ = _METRICS.get(metric, (metric, ""))
    return f"{statistic.replace('p', 'P')} {words}" if statistic else words


def unit(name: str) -> str:
    """Return the unit of a metric or limit."""
    return _METRICS.get(name.partition(".")[0], ("", ""))[1]


def bound(limit: Limit) -> str:
    """Return ``P95 TTFT ≤ 5 s``."""
    sign = "≥" if limit.higher_is_better else "≤"
    return f"{metric(limit.name)} {sign} {short(limit.value)} {unit(limit.name)}"


def miss(finding: Finding) -> str:
    """Return ``P95 TTFT 5.2 > 5 s``, with as many digits as it takes to see the miss."""
    name = metric(finding.limit).replace("output ", "")
    if finding.observed is None:
        return f"{name}: no value"
    scale, of = (100, "%") if finding.limit == "error_ratio" else (1, unit(finding.limit))
    limit = finding.bound * scale
    sign = "<" if finding.sign == ">=" else ">"
    return f"{name} {apart(finding.observed * scale, limit)} {sign} {short(limit)} {of}"


def apart(observed: float | None, bound: float) -> str:
    """Write a value with as many digits as it takes to tell it from its bound."""
    if observed is None:
        return "no value"
    if math.isinf(observed):
        return "∞"
    texts = (f"{observed:.{digits}g}" for digits in (3, 4, 6, 9, 12))
    told = (
        t for t in texts if float(t) == observed or _side(float(t), bound) == _side(observed, bound)
    )
    return next((f"{float(t):,.12g}" for t in told), repr(observed))


def _side(value: float, bound: float) -> int:
    return (value > bound) - (value < bound)
