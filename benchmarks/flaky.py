"""Searches on a simulated system that fails: one request in a hundred at random, and one restart.

    python -m benchmarks.flaky --seeds 20
    python -m benchmarks.flaky --seeds 20 --allowed 0.05

In virtual time. Each seed fails other requests, and restarts the server at another instant of the
search, for 1 to 60 s; requests that are open then are cut, later ones refused. What is found is
held against the search on the same system that does not fail: the same capacity (within one
agent or 5 %), or no answer and the reason. Anything else ends the script with 1.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import Bundle
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.preflight import connect, open_folder
from pytest_agentperf.protocols import Connection, InProcess
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.resume import check_same, read_run
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.wire import Body

__all__ = ["Found", "Trouble", "main", "search", "trouble_of"]

T = TypeVar("T")

_ADDRESS = "sim+virtual:h200x8/deepseek-v4-pro?acceptance=0.8,0.5&kv_capacity_tokens=400000"
_DATASET = "synthetic:trajectories=12,turns=4,isl=6000,osl=60~300,tool_s=0.1~0.5,seed=1"
_RESOLUTION = 0.02
_ALIKE = 0.05
"""A failure ends a trajectory early, so that what is replayed is not quite the same."""
_SMALL = {"start_spread_s": 5.0, "settle_s": 5.0, "min_steady_s": 20.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong."""

    seed: int = 0
    failing: float = 0.0
    """Share of the requests that fail at random."""
    down_s: tuple[float, float] = (0.0, 0.0)
    """From when to when the server is down."""
    allowed: float = 0.01
    """Share of the requests that the tier lets fail."""
    small: bool = False
    """Three agents are to be found in short phases, not fifteen."""

    @property
    def tier(self) -> SLOTier:
        """What is searched."""
        speed = Limit(
            metric="output_speed_tok_per_s", statistic="p25", value=110.0 if self.small else 40.0
        )
        late = Limit(metric="ttft_s", statistic="p95", value=30.0)
        return SLOTier(model="m", name="t", limits=(speed, late), max_error_ratio=self.allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to."""

    capacity: Capacity
    bundle: Bundle

    def is_right(self, truth: Capacity) -> bool:
        """Tell whether it is the same number, within what another replay may make of it."""
        apart = abs(self.capacity.agents - truth.agents)
        return self.capacity.status == truth.status and apart <= max(1, _ALIKE * truth.agents)

    @property
    def reasons(self) -> Sequence[str]:
        """Why there is no answer, where there is none."""
        verdicts = (phase.verdict("t") for phase in self.bundle.phases)
        return [reason for verdict in verdicts for reason in verdict.reasons]


class _Flaky:
    """Stands before an endpoint of our own process."""

    def __init__(self, inner: InProcess, trouble: Trouble) -> None:
        self._inner = inner
        self.trouble = trouble
        self.random = random.Random(trouble.seed)
        self.clock = inner.clock

    def connect(self, *, timeout_s: float) -> "_Connection":
        """Return one agent's connection."""
        return _Connection(self, self._inner.connect(timeout_s=timeout_s))

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run in the endpoint's time."""
        return await self._inner.run(work)


class _Connection:
    def __init__(self, flaky: _Flaky, inner: Connection) -> None:
        self._flaky = flaky
        self._inner = inner

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        now_ns, trouble = self._flaky.clock.now_ns, self._flaky.trouble
        since_s, until_s = trouble.down_s
        if since_s <= now_ns() / 1e9 < until_s:
            into.sent_ns = into.end_ns = now_ns()
            into.error = "connection: ConnectError: refused"
            return
        if self._flaky.random.random() < trouble.failing:
            into.sent_ns = now_ns()
            await asyncio.sleep(self._flaky.random.uniform(0.0, 2.0))
            into.status, into.end_ns = 500, now_ns()
            into.reads.append((into.end_ns, b'{"error": "at random"}'))
            return
        asking = asyncio.ensure_future(self._inner.chat(body, into, osl_tokens=osl_tokens))
        left_s = since_s - now_ns() / 1e9
        try:
            await asyncio.wait({asking}, timeout=left_s if left_s > 0 else None)
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                into.error, into.end_ns = "connection: ReadError: cut", now_ns()

    async def close(self) -> None:
        await self._inner.close()


def trouble_of(seed: int, span_s: float, allowed: float) -> Trouble:
    """Return what goes wrong by a seed, in a search of so many seconds."""
    drawn = random.Random(1000 + seed)
    since_s = drawn.uniform(0.05, 0.95) * span_s
    down_s = since_s, since_s + drawn.uniform(1.0, 60.0)
    return Trouble(seed=seed, failing=0.01, down_s=down_s, allowed=allowed)


def search(trouble: Trouble, results: Path, *, resume: str | None = None) -> Found:
    """Search once, in virtual time; go on with an earlier run where one is named."""
    info = connect(_ADDRESS, ("m",))
    assert info.in_process is not None
    place: Any = _Flaky(info.in_process, trouble)
    settings = make_settings(
        {
            "results": str(results),
            "start_agents": 4,
            "max_agents": 64,
            "resolution": _RESOLUTION,
            "min_trajectories": 8,
            "min_trajectories_per_agent": 1,
            "min_steady_s": 60.0,
        }
        | (_SMALL if trouble.small else {})
    )
    tier = trouble.tier
    inputs = Inputs(
        endpoint=replace(info, in_process=place),
        dataset=load_dataset(_DATASET, None),
        meters=(),
        system=None,
    )
    models = Models(specs={"m": ModelSpec(model="m", tiers=(tier,))}, published={})
    earlier = None
    if resume is not None:
        earlier = read_run(resume, str(results))
        check_same(earlier, settings, models, inputs)
    folder = open_folder(settings, inputs, resumed_from=resume)
    bench = Bench(
        settings=settings,
        models=models,
        inputs=inputs,
        folder=folder,
        on_event=lambda _: None,
    )
    if earlier is not None:
        bench.take_over(earlier)

    async def work() -> Capacity:
        try:
            return await bench.capacity(tier)
        finally:
            await bench.close()

    try:
        return Found(capacity=asyncio.run(work()), bundle=folder.bundle)
    finally:
        info.close()


def main() -> None:
    """Print what every seed came to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flaky", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--allowed", type=float, default=0.01, help="the tier's max_error_ratio")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        truth = search(Trouble(), Path(name) / "truth")
        print(f"undisturbed: {truth.capacity.label} agents", flush=True)
        counts = {"right": 0, "no answer": 0, "WRONG": 0}
        for seed in range(asked.seeds):
            found = search(
                trouble_of(seed, truth.bundle.system_s, asked.allowed), Path(name) / str(seed)
            )
            kind = "right" if found.is_right(truth.capacity) else "WRONG"
            kind = "no answer" if found.capacity.status == "invalid" else kind
            counts[kind] += 1
            void = sum(bool(phase.verdict("t").reasons) for phase in found.bundle.phases)
            print(
                f"seed {seed}: {found.capacity.label}, {kind}; {void} of "
                f"{len(found.bundle.phases)} phases void; {'; '.join(found.reasons)[:300]}",
                flush=True,
            )
    print(", ".join(f"{kind}: {count}" for kind, count in counts.items()))
    sys.exit(counts["WRONG"] > 0)


if __name__ == "__main__":
    main()
