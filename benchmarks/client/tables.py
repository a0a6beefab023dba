"""The tables of docs/client.md, from tests/data/study/client.json.

python -m benchmarks.client.tables          # writes them anew, between their marks
python -m benchmarks.client.tables --check  # ends with 1 where the page says something else
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.client.analysis import Goal, cell, goals, is_disturbed, ladder_top
from benchmarks.client.loads import CLIENTS, LADDER, LOADS

__all__ = ["DATA", "PAGE", "goal_line", "main", "page", "summary", "write"]

DATA = Path("tests/data/study/client.json")
PAGE = Path("docs/client.md")
_NONE = "–"
_US = "\N{MICRO SIGN}s"


def _number(value: float | None, scale: float = 1.0) -> str:
    """Return three digits of a number."""
    if value is None:
        return _NONE
    value *= scale
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _three(quantiles: Mapping[str, float] | None) -> str:
    """Return p50 / p95 / p99 in milliseconds."""
    if quantiles is None:
        return _NONE
    return " / ".join(f"{value * 1e3:.2f}" for value in quantiles.values())


def goal_line(goal: Goal) -> str:
    """Return one goal as a row."""
    said = {True: "met", False: "**NOT met**", None: "not measured"}[goal.is_met]
    limit = f"{'≥' if goal.at_least else '≤'} {goal.limit:g} {goal.unit}".strip()
    value = f"{_number(goal.value)} {goal.unit}".strip() if goal.value is not None else _NONE
    return f"| {goal.text} | {limit} | {value} | {said} |"


def _goals(data: Mapping[str, Any]) -> Iterator[str]:
    yield "| goal | demanded | measured | |"
    yield "|---|--:|--:|---|"
    yield from map(goal_line, goals(data))


def _loads(data: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"| load | client | CPU {_US} an event | a request | to C | TTFT error, ms | receive side "
        "| last token | loop lag | CPU | RSS MB |"
    )
    yield "|---|---|--:|--:|--:|---|---|---|---|--:|--:|"
    for load in LOADS:
        clients = data.get("loads", {}).get(load.name, {})
        limit = cell(clients.get("limit", ()))
        for number, (client, trials) in enumerate(clients.items()):
            head = load.name.replace(" x ", " × ") if not number else ""
            yield f"| {head} | {CLIENTS[client].shown} | {_row(trials, limit)} |"


def _row(trials: list[dict[str, Any]], limit: dict[str, Any] | None) -> str:
    found = cell(trials)
    if found is None:
        return f"failed: {trials[-1]['failed']}" + " | " * 8
    mark = " (disturbed)" if found["disturbed"] else ""
    part = f", {found['done_ratio']:.0%} done" if found["done_ratio"] < 1 else ""
    event, request = found["cpu_s_per_event"], found["cpu_s_per_request"]
    ratio = event / limit["cpu_s_per_event"] if limit and event else None
    return " | ".join(
        (
            _number(event, 1e6),
            _number(request, 1e6),
            _number(ratio),
            _three(found["ttft_error_s"]) + mark + part,
            _three(found["receive_error_s"]),
            _three(found["last_token_error_s"]),
            _three(found["loop_lag_s"]),
            f"{found['cpu_ratio']:.0%}",
            _number(found["rss_mb"]),
        )
    )


def _ladder(data: Mapping[str, Any]) -> Iterator[str]:
    yield "| client | most streams × 50 | to C | steps tried |"
    yield "|---|--:|--:|---|"
    ladder = data.get("ladder", {})
    limit = ladder_top(ladder.get("limit", {}))
    for client in LADDER:
        if steps := ladder.get(client):
            top = ladder_top(steps)
            tried = ", ".join(
                f"{streams} {'yes' if carried else 'no'}"
                for streams, carried in sorted(steps.items(), key=lambda each: int(each[0]))
            )
            ratio = _number(top / limit if limit else None)
            yield f"| {CLIENTS[client].shown} | {top} | {ratio} | {tried} |"


def _peers(data: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"| client | requests | CPU s | {_US} an event | to ours | without start, to ours "
        "| start to first request, s | peak PSS MB | processes | TTFT error, ms |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    peers = data.get("peers", {})
    ours = peers.get("ours", {})
    for found in peers.values():
        if "failed" in found:
            yield f"| {found['shown']} | failed: {found['failed']}" + " |" * 9
            continue
        whole, load = (
            _number(found[key] / ours[key] if key in ours else None)
            for key in ("cpu_s_per_event", "load_cpu_s_per_event")
        )
        yield (
            f"| {found['shown']} | {found['requests']} | {_number(found['cpu_s'])} "
            f"| {_number(found['cpu_s_per_event'], 1e6)} | {whole} | {load} "
            f"| {_number(found['start_s'])} | {_number(found['pss_mb'])} "
            f"| {found['processes']} | {_three(found['ttft_error_s'])} |"
        )


def _agents(data: Mapping[str, Any]) -> Iterator[str]:
    yield "| agents | processes | at once | requests a s | KB an agent | loop lag, ms | CPU |"
    yield "|--:|--:|--:|--:|--:|---|--:|"
    for found in data.get("agents", ()):
        yield (
            f"| {found['agents']:,} | {found['workers']} | {found['active']:,} "
            f"| {_number(found['requests_per_s'])} | {_number(found['kb_per_agent'])} "
            f"| {_three(found['loop_lag_s'])} | {found['cpu_ratio']:.0%} |"
        )


def _machine(data: Mapping[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{name} {told}" for name, told in data.get("machine", {}).items()) + "."


_TABLES: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "machine": _machine,
    "goals": _goals,
    "loads": _loads,
    "ladder": _ladder,
    "peers": _peers,
    "agents": _agents,
}


def page(text: str, data: Mapping[str, Any]) -> str:
    """Return the page with every table as the data have it."""
    for name, rows in _TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}{chr(10).join(rows(data))}\n{end}{tail}"
    return text


def write(found: Mapping[str, Any], *, whole: bool = False) -> None:
    """Put what was measured in the place of what is older, in the data and in the page.

    Args:
        found: the parts that were measured.
        whole: nothing of these parts stays; otherwise only single loads are replaced.
    """
    data = json.loads(DATA.read_text("utf-8")) if DATA.exists() else {}
    for part, measured in found.items():
        joins = isinstance(measured, Mapping) and not whole
        data[part] = {**data.get(part, {}), **measured} if joins else measured
    DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page(PAGE.read_text("utf-8"), data), "utf-8")


def summary(trial: Mapping[str, Any]) -> str:
    """Return one trial as a line of the run."""
    if "failed" in trial:
        return f"FAILED: {trial['failed']}"
    lost = trial["lost_tokens"] + trial["lost_chars"]
    return (
        f"{_number(trial['cpu_s_per_event'], 1e6):>6} us/event "
        f"{_number(trial['cpu_s_per_request'], 1e6):>6} us/request  "
        f"TTFT {_three(trial['ttft_error_s']):<22} receive {_three(trial['receive_error_s']):<22} "
        f"lag {_three(trial['loop_lag_s']):<20} {_number(trial['rss_mb']):>4} MB"
        + (f"  {lost} LOST" if lost else "")
        + (f"  {trial['done_ratio']:.0%} done" if trial["done_ratio"] < 1 else "")
        + ("  (disturbed)" if is_disturbed(trial) else "")
    )


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client.tables", description=__doc__)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    old = PAGE.read_text("utf-8")
    new = page(old, json.loads(DATA.read_text("utf-8")))
    if asked.check:
        sys.exit(old != new)
    PAGE.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
