"""The tables of docs/studies.md, from what the studies have written.

python -m benchmarks.tables          # writes them anew, between their marks
python -m benchmarks.tables --check  # ends with 1 where the page says something else
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["main", "page"]

_STUDY = Path("tests/data/study")
_PAGE = Path("docs/studies.md")
_SHOWN = {"naive": "naive", "bisection": "shared", "guided": "exact", "fast": "fast"}


def _read(name: str) -> Any:
    return json.loads((_STUDY / f"{name}.json").read_text("utf-8"))


def _accuracy() -> Iterator[str]:
    yield "| shape | strategy | seeds | equal to the truth | within 1 | max(1, 2 %) | worst |"
    yield "|---|---|--:|---|---|---|---|"
    for shape, row in _read("search")["shapes"].items():
        truth = " / ".join(str(n) for n in row["truth"].values())
        for name, found in row["strategies"].items():
            tiers = found["tiers"].values()
            cells = [
                " / ".join(f"{tier[key]:.0%}".replace("%", " %") for tier in tiers)
                for key in ("equal", "within_1", "within_1_or_2_percent")
            ]
            worst = " / ".join(f"{tier['worst']:+d}".replace("+0", "0") for tier in tiers)
            head = f"`{shape}` ({truth})" if name == "naive" else ""
            seeds = found.get("seeds", len(row["seeds"]))
            yield f"| {head} | {_SHOWN[name]} | {seeds} | {' | '.join(cells)} | {worst} |"


def _exhaustive() -> Iterator[str]:
    yield "| shape | truth | measured | answers | max(1, 2 %) | *exact* finds the same |"
    yield "|---|--:|---|---|--:|--:|"
    for shape, row in _read("exhaustive")["shapes"].items():
        counts = sorted(Counter(row["answers"]).items())
        answers = ", ".join(f"{count} × {agents}" for agents, count in counts)
        low, high = row["agents"]
        near, equal = (
            f"{row[key]:.0%}".replace("%", " %") for key in ("within_1_or_2_percent", "exact_equal")
        )
        yield f"| `{shape}` | {row['truth']} | {low} to {high} | {answers} | {near} | {equal} |"


def _cost() -> Iterator[str]:
    yield "| shape | naive | shared | exact | fast |"
    yield "|---|---|---|---|---|"
    ratios: dict[str, list[float]] = {name: [] for name in _SHOWN}
    for shape, row in _read("search")["shapes"].items():
        cells: list[str] = []
        for name in _SHOWN:
            found = row["strategies"][name]
            ratios[name].append(found["minutes_to_naive"])
            full = found["full_phases"]
            short = found["phases"] - full
            phases = f"{short:.1f} short + {full:.1f}" if short else f"{full:.1f}"
            cells.append(f"{phases}, {found['minutes']:.0f} min ({found['minutes_to_naive']:.2f})")
        yield f"| `{shape}` | {' | '.join(cells)} |"
    means = (f"**{sum(each) / len(each):.2f}**" for each in ratios.values())
    yield f"| mean of the ratios | {' | '.join(means)} |"


def _intervals() -> Iterator[str]:
    yield "| shape | agents | windows | P25 speed held | half width | P95 TTFT held | half width |"
    yield "|---|--:|--:|---|---|---|---|"
    counts = {"p25_tok_per_s": 0.0, "p95_ttft_s": 0.0}
    windows = 0
    for load in _read("intervals")["loads"]:
        by_name = {each["percentile"]: each for each in load["percentiles"]}
        number = next(iter(by_name.values()))["windows"]
        windows += number
        cells: list[str] = []
        for name in counts:
            each = by_name[name]
            counts[name] += each["covered"] * number
            cells.append(f"{each['covered']:.1%} | ±{each['relative_half_width']:.1%}")
        yield f"| `{load['shape']}` | {load['agents']} | {number} | {' | '.join(cells)} |"
    held = [f"**{count / windows:.1%}** | " for count in counts.values()]
    yield f"| all | | {windows} | {' | '.join(held)} |"


def _coldstart() -> Iterator[str]:
    loads = _read("coldstart")["loads"]
    spans = list(loads[0]["first"]["spans_min"])
    yield f"| shape | agents | start | {' | '.join(f'{span} min' for span in spans)} |"
    yield f"|---|--:|---|{'---|' * len(spans)}"
    for load in loads:
        for start in ("first", "balanced"):
            cells = [_apart(*load[start]["spans_min"][span]) for span in spans]
            where = f"`{load['shape']}` | {load['agents']}" if start == "first" else " | "
            yield f"| {where} | {start} | {' | '.join(cells)} |"


def _apart(apart: float, error: float | None) -> str:
    return f"{apart:+.1%}" + ("" if error is None else f" ±{error:.1%}")


def _early() -> Iterator[str]:
    yield "| limit | from the truth | windows | certain | wrong | after |"
    yield "|---|--:|--:|--:|--:|--:|"
    sums: dict[tuple[str, float], list[float]] = {}
    for row in _read("early")["rows"]:
        each = sums.setdefault((row["limit"], row["apart"]), [0, 0, 0, 0])
        each[0] += row["windows"]
        each[1] += row["certain"]
        each[2] += row["wrong"]
        each[3] += row["certain"] * (row["mean_s"] or 0)
    for (limit, apart), (windows, certain, wrong, seconds) in sums.items():
        after = f"{seconds / certain / 60:.1f} min" if certain else "—"
        share = certain / windows
        yield f"| {limit} | {apart:+.0%} | {windows:.0f} | {share:.0%} | {wrong:.0f} | {after} |"


def _alarms() -> Iterator[str]:
    clean: Mapping[str, Any] = _read("false_alarms")["clean"]
    fired = sum(sum(each["fired"].values()) for each in clean.values())
    yield "| shape | phases | checks that fired |"
    yield "|---|--:|---|"
    for shape, each in clean.items():
        names = ", ".join(f"{n} × {name}" for name, n in each["fired"].items() if n) or "none"
        yield f"| `{shape}` | {each['phases']} | {names} |"
    yield f"| all | {sum(each['phases'] for each in clean.values())} | {fired} |"


_GATE_FIGURES = {
    "output_speed_tok_per_s.p25": "P25 speed",
    "ttft_s.p95": "P95 TTFT",
    "throughput_tok_per_s": "throughput",
    "reused_ratio": "prefix reuse",
}
_GATE_NAMES = {
    "same": "none",
    "decode": "decode 5 % slower",
    "kv": "KV cache 10 % smaller",
    "prefill": "prefill doubled",
}


def _gate() -> Iterator[str]:
    data = _read("gate")
    heads = "P25 | P95 TTFT | throughput | prefix reuse"
    yield f"| change | shape | agents | comparisons | regressed | {heads} |"
    yield "|---|---|--:|--:|--:|---|---|---|---|"
    for row in ({"case": "same"} | each for each in data["same"]):
        yield _gate_row(row)
    for row in data["changed"]:
        yield _gate_row(row)


def _gate_row(row: Mapping[str, Any]) -> str:
    n = row["comparisons"]
    cells: list[str] = []
    for name in _GATE_FIGURES:
        told = row["repeats"]["by_figure"].get(name)
        change = f"{row['change'][name]:+.0%}, " if told and "change" in row else ""
        cells.append("—" if told is None else f"{change}{told.get('regressed', 0)}")
    told = f"{row['repeats']['regressed']} ({row['intervals']['regressed']})"
    head = f"| {_GATE_NAMES[row['case']]} | `{row['shape']}` | {row['agents']} | {n} | {told} | "
    return f"{head}{' | '.join(cells)} |"


def _pairs() -> Iterator[str]:
    yield "| change | shape | agents | figure | pairs | comparisons | found | first one |"
    yield "|---|---|--:|---|--:|--:|--:|---|"
    for row in _read("gate")["pairs"]:
        figure = _GATE_FIGURES[row["figure"]]
        what = {"decode-3": "decode 3 % slower", **_GATE_NAMES}[row["case"]]
        for name, each in row.items():
            if name.endswith(" pairs") and each["comparisons"]:
                ratio, low, high = each["change"][0]
                yield (
                    f"| {what} | `{row['shape']}` | {row['agents']} | {figure} "
                    f"| {name.removesuffix(' pairs')} | {each['comparisons']} "
                    f"| {each['regressed']} | {ratio:+.1%}, {low:+.1%} to {high:+.1%} |"
                )


def _verify() -> Iterator[str]:
    yield "| change | shape | agents | phases | carried | unclear | missed |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for row in sorted(_read("gate")["verify"], key=lambda row: row["case"] != "same"):
        counts = [row.get(name, 0) for name in ("carried", "unclear", "missed")]
        cells = " | ".join(map(str, (row["agents"], sum(counts), *counts)))
        yield f"| {_GATE_NAMES[row['case']]} | `{row['shape']}` | {cells} |"


def _saturated() -> Iterator[str]:
    yield "| programs beside the client | right | late | invalid | wrong | invalid |"
    yield "|---|--:|--:|--:|--:|--:|"
    found = _read("saturated")
    keys = ("right", "right_and_late", "right_and_invalid", "wrong", "wrong_and_invalid")
    for name, counts in [*found["by_hog"].items(), ("**all**", found)]:
        cells = " | ".join(str(counts[key]) for key in keys)
        yield f"| {name} | {cells} |"


_TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "accuracy": _accuracy,
    "exhaustive": _exhaustive,
    "cost": _cost,
    "intervals": _intervals,
    "coldstart": _coldstart,
    "early": _early,
    "alarms": _alarms,
    "gate": _gate,
    "pairs": _pairs,
    "verify": _verify,
    "saturated": _saturated,
}


def page(text: str) -> str:
    """Return the page with every table as the data have it now."""
    for name, rows in _TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}{chr(10).join(rows())}\n{end}{tail}"
    return text


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    old = _PAGE.read_text("utf-8")
    new = page(old)
    if asked.check:
        sys.exit(old != new)
    _PAGE.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
