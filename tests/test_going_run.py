"""A run's folder while the run goes on: judged again, exported and reported by who reads along."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from pytest_agentperf import export, rescore
from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import Bundle, read_bundle
from pytest_agentperf.preflight import open_folder
from pytest_agentperf.records import TurnRecord
from pytest_agentperf.report import render_page
from pytest_agentperf.run_folder import RunFolder, request_logs
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.synthesis import synthesize
from tests.virtual import Scripted, scripted_info

# n agents get 100 / n tok/s each: 5 are carried.
TIER = SLOTier(
    model="m",
    name="t",
    limits=(Limit(metric="output_speed_tok_per_s", statistic="p25", value=20.0),),
)
GIVEN = {
    "start_agents": 4,
    "min_steady_s": 60.0,
    "min_trajectories": 8,
    "min_trajectories_per_agent": 1,
}
DATASET = synthesize(trajectories=8, turns=3, isl_tokens=1500, osl_tokens=20, tool_s=0.1, seed=1)
LOG_BYTES = 50_000


class _Watched(RunFolder):
    """Calls somebody in the middle of a phase, when its first requests have been written."""

    def __init__(self, results: Path, bundle: Bundle, act: Callable[[int, Path], None]) -> None:
        super().__init__(results, bundle, most_log_bytes=LOG_BYTES)
        self._act = act
        self._seen: set[int] = set()

    def turns(self, phase: int, turns: Iterable[TurnRecord]) -> None:
        super().turns(phase, turns)
        if phase not in self._seen:
            self._seen.add(phase)
            self._act(phase, self.path)


def _search(results: Path, act: Callable[[int, Path], None]) -> Path:
    info = scripted_info(Scripted())
    settings = make_settings(GIVEN | {"results": str(results / "first")})
    inputs = Inputs(endpoint=info, dataset=DATASET, meters=(), system=None)
    usual = open_folder(settings, inputs)
    folder = _Watched(results, usual.bundle, act)
    usual.close()
    bench = Bench(
        settings=settings,
        models=Models(specs={"m": ModelSpec(model="m", tiers=(TIER,))}, published={}),
        inputs=inputs,
        folder=folder,
        on_event=lambda _: None,
    )

    async def work() -> None:
        assert (await bench.capacity(TIER)).agents == 5
        await bench.close()

    try:
        asyncio.run(work())
    finally:
        info.close()
    return folder.path


def _read(folder: Path, out: Path) -> None:
    """Judge, export and report a folder as it is now."""
    assert rescore.main([str(folder), "--out", str(out / "again")]) == 0
    judged = json.loads((out / "again" / "bundle.json").read_bytes())
    assert judged == json.loads((folder / "bundle.json").read_bytes())
    assert export.main([str(folder), "--out", str(out / "tables")]) == 0
    bundle = read_bundle((folder / "bundle.json").read_bytes(), "b")
    assert f"run {bundle.provenance.run}" in render_page(bundle, folder)


def test_a_run_is_read_while_it_is_written(tmp_path: Path) -> None:
    phases: list[int] = []

    def read_along(phase: int, folder: Path) -> None:
        kept = json.loads((folder / "bundle.json").read_bytes())["phases"]
        phases.append(len(kept))
        if phase == 1:  # nothing is judged yet
            return
        _read(folder, tmp_path / f"live-{phase}")
        half = Path(shutil.copytree(folder, tmp_path / f"half-{phase}"))
        with request_logs(half)[-1].open("ab") as log:
            log.write(b'{"phase": 3, "agent": 0, "ord')
        with (half / "timeline.jsonl").open("ab") as log:
            log.write(b'{"phase": 3, "window_')
        _read(half, tmp_path / f"half-{phase}-read")

    folder = _search(tmp_path / "results", read_along)
    assert phases == [0, 1, 2, 3]
    logs = request_logs(folder)
    assert len(logs) > 3  # phases lie across files
    assert all(log.stat().st_size <= LOG_BYTES for log in logs)
    _read(folder, tmp_path / "whole")
