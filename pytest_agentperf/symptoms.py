"""What a server's own counts say of a verdict, in words."""

from collections.abc import Callable, Iterator

from pytest_agentperf import words
from pytest_agentperf.serving import Late, Level, ServerMetrics
from pytest_agentperf.slo import Finding

__all__ = ["change_lines", "server_line", "why_line"]

_FULL = 0.9
"""From here on a KV cache is said to be full: who comes next waits, or throws something out."""
_MORE = 1.2
"""So many times as much is a difference worth a word."""


def server_line(server: ServerMetrics) -> str:
    """Write what the server counted over a window in one line."""
    parts = (
        _level("running", server.running),
        _level("waiting", server.waiting),
        _level("KV use", server.kv_use_ratio, percent=True),
        _ratio("prefix-cache hits", server.prefix_hit_ratio),
        _ratio("drafts accepted", server.accepted_ratio),
        _count("preemptions", server.preemptions),
        *(_level(name, level) for name, level in server.named.items()),
    )
    return "; ".join(part for part in parts if part)


def why_line(finding: Finding, server: ServerMetrics) -> str | None:
    """Say what the server was busy with where a limit was missed.

    Returns:
        ``None`` where nothing is known that belongs to this limit.
    """
    metric = finding.limit.partition(".")[0]
    name = words.metric(finding.limit)
    if metric == "ttft_s":
        late = next((x for x in server.late if x.limit_s == finding.bound and x.late), None)
        return _why_late(name, late) if late else None
    if metric.endswith("speed_tok_per_s"):
        return _why_slow(name, server)
    return None


def change_lines(passing: ServerMetrics, failing: ServerMetrics) -> list[str]:
    """Say what was different at the server between the phases of a bracket, one change a line."""
    return [
        f"{name} went from {before} to {after}"
        for name, before, after in _changes(passing, failing)
    ]


def _why_late(name: str, late: Late) -> str:
    who = f"{late.late:,} late requests"
    use, waiting = late.kv_use_late_ratio, late.waiting_late
    if use is not None and use >= _FULL:
        others = _others(late.kv_use_others_ratio, words.percent)
        return (
            f"{name} broke when KV use reached {words.percent(use)}: half of the {who} met that or "
            f"more{others}"
        )
    room = "" if use is None else f", and KV use was only {words.percent(use)}"
    if waiting is not None and waiting >= 1:
        others = _others(late.waiting_others, words.number)
        return (
            f"{name} broke in the queue: half of the {who} met {words.number(waiting)} or more "
            f"waiting{others}{room}"
        )
    if waiting is None:
        return f"{name}: the server does not tell of a queue that {who} met{room}"
    return (
        f"{name} broke without a queue{room}: the time of {who} went into prefill, or was spent "
        "before the server"
    )


def _others(met: float | None, write: Callable[[float], str]) -> str:
    return "" if met is None else f", the others {write(met)}"


def _why_slow(name: str, server: ServerMetrics) -> str | None:
    causes: list[str] = []
    if server.running is not None:
        causes.append(f"{words.number(server.running.mean)} requests ran at once (mean)")
    if server.preemptions:
        causes.append(f"{words.number(server.preemptions)} were preempted and computed again")
    if server.accepted_ratio is not None:
        causes.append(f"{words.percent(server.accepted_ratio)} of drafted tokens were accepted")
    if server.prefix_hit_ratio is not None:
        causes.append(f"{words.percent(server.prefix_hit_ratio)} of prompts came from the cache")
    return f"{name} broke while {', '.join(causes)}" if causes else None


def _changes(passing: ServerMetrics, failing: ServerMetrics) -> Iterator[tuple[str, str, str]]:
    for name in ("KV use", "waiting"):
        field = "kv_use_ratio" if name == "KV use" else "waiting"
        before, after = getattr(passing, field), getattr(failing, field)
        if before and after and _differ(before.most, after.most):
            write = words.percent if name == "KV use" else words.number
            yield f"most {name}", write(before.most), write(after.most)
    for name, field in (("prefix-cache hits", "prefix_hit_ratio"), ("preemptions", "preemptions")):
        was, now = getattr(passing, field), getattr(failing, field)
        if was is not None and now is not None and _differ(was, now):
            write = words.percent if field.endswith("_ratio") else words.number
            yield name, write(was), write(now)


def _differ(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return high > low * _MORE


def _level(name: str, level: Level | None, *, percent: bool = False) -> str:
    if level is None:
        return ""
    write = words.percent if percent else words.number
    return f"{name} {write(level.mean)} (most {write(level.most)})"


def _ratio(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {words.percent(value)}"


def _count(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {words.number(value)}"
