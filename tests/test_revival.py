"""An endpoint that goes away in a phase: the phase is void, and measured again when it answers."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import Bundle, read_bundle
from pytest_agentperf.errors import EndpointError
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.preflight import open_folder
from pytest_agentperf.protocols import EndpointInfo
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
SPEC = ModelSpec(model="m", tiers=(TIER,))
DATASET = synthesize(trajectories=8, turns=3, isl_tokens=1500, osl_tokens=20, tool_s=0.1, seed=1)
SHORT = {
    "start_agents": 4,
    "min_steady_s": 60.0,
    "min_trajectories": 8,
    "min_trajectories_per_agent": 1,
}
"""A phase takes some 125 s."""
Heard = list[str]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., tuple[Bench, Heard]]]:
    """Make a bench on an endpoint that is down at times."""
    infos: list[EndpointInfo] = []

    def make(
        down_s: Sequence[tuple[float, float]], other_from_s: float = inf, replicas: int = 1
    ) -> tuple[Bench, Heard]:
        endpoint = Scripted(down_s=down_s)
        turns = itertools.cycle(range(replicas))

        def version() -> dict[str, str]:
            """Of several replicas, which answer in turn, the first stays what it was."""
            of_first = replicas > 1 and next(turns) == 0
            is_other = not of_first and endpoint.clock.now_ns() / 1e9 > other_from_s
            return {"/version version": "2" if is_other else "1"}

        info = scripted_info(endpoint)
        info = replace(info, settings=version(), ask_settings=version)
        infos.append(info)
        settings = make_settings(SHORT | {"results": str(tmp_path)})
        inputs = Inputs(endpoint=info, dataset=DATASET, meters=(), system=None)
        heard: Heard = []
        made = Bench(
            settings=settings,
            models=Models(specs={"m": SPEC}, published={}),
            inputs=inputs,
            folder=open_folder(settings, inputs),
            on_event=lambda event: heard.append(event.text),
        )
        return made, heard

    yield make
    for info in infos:
        info.close()


async def _searched(bench: Bench) -> Capacity:
    try:
        return await bench.capacity(TIER)
    finally:
        await bench.close()


def _bundle(folder: Path) -> Bundle:
    (path,) = folder.glob("*/bundle.json")
    return read_bundle(path.read_bytes(), "b")


@pytest.mark.parametrize(
    "down_s",
    [(80.0, 81.0), (80.0, 200.0), (220.0, 223.0)],
    ids=["a blink", "two minutes", "in the second phase"],
)
def test_a_search_over_a_restart_finds_what_is_carried(
    bench: Callable[..., tuple[Bench, Heard]], tmp_path: Path, down_s: tuple[float, float]
) -> None:
    made, heard = bench([down_s])
    found = asyncio.run(_searched(made))
    assert (found.agents, found.first_failing, found.status) == (5, 6, "found")
    phases = _bundle(tmp_path).phases
    (void,) = [p for p in phases if p.invalid]
    assert void.invalid[0].startswith("phase complete: the endpoint stopped answering: ")
    assert void.verdict("t").outcome == "invalid"
    # Noticed within seconds: the window ends there.
    assert down_s[0] < void.started_s + void.duration_s < down_s[0] + 15
    again = next(p for p in phases if p.number == void.number + 1)
    assert (again.agents, again.invalid) == (void.agents, ())
    assert again.started_s >= down_s[1] - 1
    assert "waiting up to 600 s for the endpoint to answer again" in heard
    assert any(text.startswith("the endpoint answers again, after ") for text in heard)


def test_an_endpoint_that_stays_away_ends_the_run_and_keeps_what_was_measured(
    bench: Callable[..., tuple[Bench, Heard]], tmp_path: Path
) -> None:
    made, _ = bench([(220.0, inf)])
    with pytest.raises(EndpointError, match=r"went away and did not answer for \d+ s: .*") as down:
        asyncio.run(_searched(made))
    bundle = _bundle(tmp_path)
    assert f"Go on with --agentperf-resume={bundle.provenance.run}" in str(down.value)
    assert [(p.agents, bool(p.invalid)) for p in bundle.phases] == [(4, False), (8, True)]
    assert [(c.tier, c.status) for c in bundle.capacities] == [("t", "open")]


def test_nothing_more_is_tried_on_an_endpoint_that_stayed_away(
    bench: Callable[..., tuple[Bench, Heard]],
) -> None:
    made, heard = bench([(80.0, inf)])

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(EndpointError):
                await made.measure(4)
        await made.close()

    asyncio.run(work())
    assert len([text for text in heard if text.startswith("waiting")]) == 1


def test_a_phase_by_name_is_measured_once_more(
    bench: Callable[..., tuple[Bench, Heard]],
) -> None:
    made, _ = bench([(80.0, 83.0)])

    async def work() -> Metrics:
        try:
            return await made.measure(4)
        finally:
            await made.close()

    assert asyncio.run(work()).failed == 0


@pytest.mark.parametrize(
    ("down_s", "other_from_s", "why"),
    [
        ([(220.0, 223.0)], 221.0, "phase complete: the endpoint stopped answering: "),
        (
            [],
            220.0,
            "phase complete: it ended on another server: /version version was '1' and is '2'",
        ),
    ],
    ids=["after a restart", "while it answered"],
)
def test_phases_of_two_servers_make_no_capacity(
    bench: Callable[..., tuple[Bench, Heard]],
    tmp_path: Path,
    down_s: Sequence[tuple[float, float]],
    other_from_s: float,
    why: str,
) -> None:
    made, _ = bench(down_s, other_from_s)
    said = r"is another server than the run began with: /version version was '1' and is '2'\. .*"
    with pytest.raises(EndpointError, match=f"{said}--agentperf-resume="):
        asyncio.run(_searched(made))
    bundle = _bundle(tmp_path)
    assert [(p.agents, bool(p.invalid)) for p in bundle.phases] == [(4, False), (8, True)]
    assert bundle.phases[1].invalid[0].startswith(why)
    assert [(c.agents, c.status) for c in bundle.capacities] == [(4, "open")]


def test_several_servers_behind_one_address_are_no_other_server(
    bench: Callable[..., tuple[Bench, Heard]], tmp_path: Path
) -> None:
    made, heard = bench([], 0.0, replicas=3)
    assert asyncio.run(_searched(made)).agents == 5
    assert [p.invalid for p in _bundle(tmp_path).phases if p.invalid] == []
    (said,) = [text for text in heard if text.startswith("several servers answer at ")]
    assert "/version version was '1' and is '2'" in said


def test_nothing_more_is_tried_on_another_server(
    bench: Callable[..., tuple[Bench, Heard]], tmp_path: Path
) -> None:
    made, _ = bench([], 80.0)

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(EndpointError, match="is another server"):
                await made.measure(4)
        await made.close()

    asyncio.run(work())
    assert len(_bundle(tmp_path).phases) == 1
