"""vLLM's own histograms of TTFT and inter-token latency against ours, over the same requests.

    curl HOST:PORT/metrics > before.txt; pytest suites/ …; curl HOST:PORT/metrics > after.txt
    python -m benchmarks.vllm_histograms before.txt after.txt RUN/requests.jsonl --figure out.svg

The pages are read before a run and after it, and every request of the run counts.
"""

import argparse
import base64
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["compared", "main", "page"]

SERIES = {"ttft": "vllm:time_to_first_token_seconds", "itl": "vllm:inter_token_latency_seconds"}
NAMES = {"ttft": "Time to first token", "itl": "Between two tokens"}
WIDTH, HEIGHT, MARGIN = 420, 260, 44

Buckets = Mapping[float, float]
"""Greatest value of each, and how many values are not above it."""


def page(url: str) -> str:
    """Return a server's page of metrics; nothing where it has none."""
    answer = httpx.get(f"{url.removesuffix('/v1')}/metrics")
    return answer.text if answer.is_success else ""


def compared(before: str, after: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return both sides of both histograms."""
    answered = [row for row in rows if row["error"] is None]
    ours = {
        "ttft": [(row["first_token_ns"] - row["sent_ns"]) / 1e9 for row in answered],
        "itl": [gap for row in answered for gap in _gaps_s(row)],
    }
    found: dict[str, Any] = {}
    for name, series in SERIES.items():
        buckets, total_s = _between(before, after, series)
        seen = np.asarray(ours[name])
        found[name] = {
            "ours_n": len(seen),
            "theirs_n": int(buckets[math.inf]),
            "ours_mean_s": float(seen.mean()),
            "theirs_mean_s": total_s / buckets[math.inf],
            "ours": {str(edge): float((seen <= edge).mean()) for edge in buckets},
            "theirs": {str(edge): n / buckets[math.inf] for edge, n in buckets.items()},
        }
    return found


def _gaps_s(row: Mapping[str, Any]) -> list[float]:
    """Return the time between token-bearing events of one answer."""
    offsets = np.frombuffer(base64.b64decode(row["token_offsets_us"]), "<u4")
    return [(b - a) / 1e6 for a, b in itertools.pairwise(offsets.tolist())]


def _between(before: str, after: str, series: str) -> tuple[Buckets, float]:
    """Return what was added to a histogram between two pages, and its sum in seconds."""
    old, old_sum = _histogram(before, series)
    new, new_sum = _histogram(after, series)
    return {edge: n - old.get(edge, 0) for edge, n in new.items()}, new_sum - old_sum


def _histogram(text: str, series: str) -> tuple[dict[float, float], float]:
    buckets: dict[float, float] = {}
    total = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{series}_bucket":
                edge = float(sample.labels["le"])
                buckets[edge] = buckets.get(edge, 0) + sample.value
            if sample.name == f"{series}_sum":
                total += sample.value
    return buckets, total


def figure(found: Mapping[str, Any]) -> str:
    """Return both histograms as shares of values up to each bucket's edge, one beside the other."""
    panels = "".join(
        f'<g transform="translate({number * WIDTH} 0)">{_panel(NAMES[name], found[name])}</g>'
        for number, name in enumerate(SERIES)
    )
    size = f'width="{2 * WIDTH}" height="{HEIGHT}"'
    style = "<style>text{font:12px sans-serif;fill:#333}</style>"
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{ground}{panels}</svg>\n'


def _panel(title: str, both: Mapping[str, Any]) -> str:
    edges = [float(e) for e in both["theirs"] if both["theirs"][e] > 0 and float(e) < math.inf]
    edges = edges[: 1 + next((n for n, e in enumerate(edges) if both["ours"][str(e)] == 1), 99)]
    low, high = math.log10(edges[0]), math.log10(edges[-1])

    def x(edge: float) -> float:
        return MARGIN + (math.log10(edge) - low) / (high - low) * (WIDTH - 2 * MARGIN)

    def y(share: float) -> float:
        return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)

    lines = "".join(
        _line([(x(e), y(both[side][str(e)])) for e in edges], colour, dashes)
        for side, colour, dashes in (("theirs", "#888", "5 4"), ("ours", "#1667c0", ""))
    )
    marks = "".join(
        f'<text x="{x(e):.0f}" y="{HEIGHT - 26}" text-anchor="middle">{e:g} s</text>'
        for e in edges[:: max(1, len(edges) // 5)]
    )
    shares = "".join(
        f'<text x="{MARGIN - 6}" y="{y(s) + 4:.0f}" text-anchor="end">{s:.0%}</text>'
        for s in (0, 0.5, 1)
    )
    key = "dashed: vLLM's own histogram; line: ours, at its edges"
    head = f'<text x="{MARGIN}" y="18">{title}</text>'
    return f'{head}<text x="{MARGIN}" y="{HEIGHT - 8}">{key}</text>{lines}{marks}{shares}'


def _line(points: Sequence[tuple[float, float]], colour: str, dashes: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    look = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
    return f'<polyline points="{path}" {look}/>'


def main() -> None:
    """Compare, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("requests", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    rows = [json.loads(line) for line in asked.requests.read_text("utf-8").splitlines()]
    found = compared(asked.before.read_text("utf-8"), asked.after.read_text("utf-8"), rows)
    print(json.dumps(found, indent=2))
    if asked.figure:
        asked.figure.write_text(figure(found), "utf-8")


if __name__ == "__main__":
    main()
