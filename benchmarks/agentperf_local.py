"""The same eight tasks at one agent, through Artificial Analysis' agentperf-local and through ours.

    python -m benchmarks.agentperf_local .aa/bin/agentperf-local ../shared/data/agentperf-local \
        --server sim --rounds 3 --write

agentperf-local is on PyPI and needs Python 3.12; it counts with tiktoken, which wants o200k_base in
TIKTOKEN_CACHE_DIR where there is no network. The folder holds the tasks that agentperf-local brings
(``data/replays/agentperf-default-v1`` of the package).

Both replay every task once, turn by turn, without tool times and salts, with the recorded lengths
exactly. Each round runs one after the other, on a server that was started for it, and every other
round in reverse order. A turn's figure is the median of its rounds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytest_agentperf.sim import launch
from tests.servers import llamacpp, process

__all__ = ["main"]

STUDY = Path("tests/data/study/agentperf_local.json")
SIMULATED = {
    "sim": "sim:h200x8/gpt-oss-120b",
    "sim-prefill": "sim:h200x8/gpt-oss-120b?flops_per_token=4e11",
}
"""*sim* answers within milliseconds, so that a client's own time is most of a TTFT; *sim-prefill*
takes some 0.4 s, as servers under load do."""
MODEL = "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one tool said of one turn."""

    ttft_s: float
    speed_tok_per_s: float
    osl_tokens: int
    isl_tokens: int


Turns = Mapping[tuple[str, int], Turn]
"""By task and place in it."""


@contextlib.contextmanager
def served(kind: str, folder: Path) -> Generator[str]:
    """Start a server, new and with nothing cached, and yield its URL."""
    if kind in SIMULATED:
        info = launch.connect(SIMULATED[kind], models=(MODEL,))
        try:
            yield info.url
        finally:
            info.close()
        return
    gguf = folder / "tiny.gguf"
    if not gguf.exists():
        llamacpp.make_gguf(gguf)
    with process.start("tests.servers.llamacpp", str(gguf), "--slots", "1") as server:
        yield server.url


def theirs(command: Path, url: str, out: Path) -> Turns:
    """Run agentperf-local; a turn that it lost has no figures."""
    arguments = ["--base-url", url, "--model", MODEL, "--output-dir", str(out), "--no-power"]
    arguments += ["--no-progress", "--no-cache-isolation", "--tool-mode=none", "--sampling=custom"]
    subprocess.run([command, "run", *arguments], check=False, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (out / "turns.jsonl").read_text("utf-8").splitlines()]
    found: dict[tuple[str, int], Turn] = {}
    for row in rows:
        osl, span_ms = row["tokens"]["server_output_tokens"], row["timing"]["generation_ms"]
        if row["success"] and span_ms:
            found[row["task_id"], row["conversation_idx"]] = Turn(
                ttft_s=row["timing"]["time_to_first_token_ms"] / 1e3,
                speed_tok_per_s=(osl - 1) / span_ms * 1e3,
                osl_tokens=osl,
                isl_tokens=row["tokens"]["server_prompt_tokens"],
            )
    return found


def ours(url: str, dataset: Path, tasks: int, out: Path) -> Turns:
    """Run one phase of one agent that replays every task."""
    options = {
        "endpoint": url, "model": MODEL, "dataset": dataset, "tier": "any:speed>=0.001",
        "results": out, "output": "exact", "salt": "none", "tool-delay": "none", "max-agents": 1,
        "start-agents": 1, "min-trajectories": tasks, "min-trajectories-per-agent": tasks,
        "min-steady-s": 1, "settle-s": 0, "start-spread-s": 0, "client-check-s": 0, "idle-s": 0,
    }  # fmt: skip
    arguments = [f"--agentperf-{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "pytest", "-q", "suites/test_fixed_load.py", *arguments]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    (log,) = out.glob("*/requests.jsonl")
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    found: dict[tuple[str, int], Turn] = {}
    for row in rows:
        if row["error"] is None and row["ordinal"] < tasks:
            span_ns = row["last_token_ns"] - row["first_token_ns"]
            if span_ns:
                found[row["trajectory"], row["turn"]] = Turn(
                    ttft_s=(row["first_token_ns"] - row["sent_ns"]) / 1e9,
                    speed_tok_per_s=(row["osl_tokens"] - 1) / span_ns * 1e9,
                    osl_tokens=row["osl_tokens"],
                    isl_tokens=row["isl_tokens"],
                )
    return found


def compared(mine: Sequence[Turns], other: Sequence[Turns]) -> dict[str, Any]:
    """Return how the figures of all turns compare, ours over theirs."""
    runs = [*mine, *other]
    turns = sorted(turn for turn in runs[0] if all(turn in run for run in runs))

    def ratios(name: str) -> dict[str, float]:
        both = [(_median(mine, turn, name), _median(other, turn, name)) for turn in turns]
        found: Any = np.percentile([a / b for a, b in both], (5, 50, 95))
        p05, p50, p95 = (round(float(each), 4) for each in found)
        apart = statistics.median(a - b for a, b in both)
        return {"p05": p05, "p50": p50, "p95": p95, "median_difference": apart}

    def equal(name: str) -> int:
        same = (len({getattr(run[turn], name) for run in runs}) == 1 for turn in turns)
        return sum(same)

    def level(runs: Sequence[Turns], name: str) -> float:
        return statistics.median(_median(runs, turn, name) for turn in turns)

    return {
        "turns": len(turns),
        "equal_osl": equal("osl_tokens"),
        "equal_isl": equal("isl_tokens"),
        "ttft": {"ours_s": level(mine, "ttft_s"), "theirs_s": level(other, "ttft_s")}
        | ratios("ttft_s"),
        "speed": {
            "ours_tok_per_s": level(mine, "speed_tok_per_s"),
            "theirs_tok_per_s": level(other, "speed_tok_per_s"),
        }
        | ratios("speed_tok_per_s"),
    }


def _median(runs: Sequence[Turns], turn: tuple[str, int], name: str) -> float:
    return statistics.median(getattr(run[turn], name) for run in runs)


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds."""
    dataset, kind, rounds = asked.dataset, asked.server, asked.rounds
    tasks = len(json.loads((dataset / "manifest.json").read_text("utf-8"))["tasks"])
    runs: dict[str, list[Turns]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for number in range(rounds):
            for who in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                out = folder / f"{who}-{number}"
                with served(kind, folder) as url:
                    seen = (
                        theirs(asked.command, url, out)
                        if who == "theirs"
                        else ours(url, dataset, tasks, out)
                    )
                runs[who].append(seen)
                print(f"round {number + 1}, {who}: {len(seen)} turns", flush=True)
    return {"rounds": rounds, "tasks": tasks} | compared(runs["ours"], runs["theirs"])


def main() -> None:
    """Run, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--server", choices=(*SIMULATED, "llama.cpp"), default="sim")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {STUDY}")
    asked = parser.parse_args()
    found = measured(asked)
    print(json.dumps(found, indent=2))
    if asked.write:
        kept: Any = json.loads(STUDY.read_text("utf-8")) if STUDY.exists() else {}
        kept["cores"] = os.cpu_count()
        kept[asked.server] = found
        STUDY.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
