"""Two endpoints in turns, of which one goes away, in virtual time."""
# pyright: reportPrivateUsage=false
# In virtual time nothing is warmed up: a run that was is handed to where runs are kept.

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from pytest_agentperf.ab import Turns, other_side
from pytest_agentperf.bench import Inputs, Models
from pytest_agentperf.bundle import read_bundle
from pytest_agentperf.change import ENERGY
from pytest_agentperf.detected import Fact
from pytest_agentperf.errors import ConfigError, EndpointError, HoursOverError
from pytest_agentperf.events import Event
from pytest_agentperf.fixed import measure_fixed, valid_phases
from pytest_agentperf.gate import Gate
from pytest_agentperf.instruments import open_meters
from pytest_agentperf.preflight import open_folder, with_facts
from pytest_agentperf.prelude import WarmUp
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.run_records import RunRecords
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.system import System
from tests.gated import run
from tests.test_revival import DATASET, SHORT, SPEC, TIER
from tests.virtual import Scripted, scripted_info

AGENTS = 5
"""What is carried; a phase takes some 125 s."""


@pytest.fixture
def sides() -> Iterator[tuple[Scripted, Scripted, Inputs, Inputs]]:
    """Both endpoints, with what is measured on them."""
    ends = Scripted(), Scripted()
    infos = [scripted_info(end) for end in ends]
    a, b = (Inputs(endpoint=i, dataset=DATASET, meters=(), system=None) for i in infos)
    yield *ends, a, b
    for info in infos:
        info.close()


@pytest.fixture
def begin(
    sides: tuple[Scripted, Scripted, Inputs, Inputs], tmp_path: Path
) -> Iterator[Callable[..., tuple[Turns, RunFolder]]]:
    """Make what measures both endpoints, and the folder of its run."""
    folders: list[RunFolder] = []

    def make(both: tuple[Inputs, Inputs] = sides[2:], **changes: float) -> tuple[Turns, RunFolder]:
        settings = _settings(tmp_path, **changes)
        folder = open_folder(settings, sides[3])
        folders.append(folder)
        turns = Turns(
            settings=settings,
            models=Models(specs={"m": SPEC}, published={}, verify={"m": {"t": AGENTS}}),
            sides=both,
            gate=Gate(baseline=run(), noise=None, differences=()),
            folder=folder,
            on_event=_unheard,
        )
        return turns, folder

    yield make
    for folder in folders:
        folder.close()


def _settings(folder: Path, **changes: float) -> Settings:
    return make_settings(SHORT | {"results": str(folder), "idle_s": 1.0} | changes)


def _unheard(event: Event) -> None:
    del event


def _unread(model: str, line: object) -> None:
    del model, line


def test_of_a_phase_that_was_measured_again_only_the_repeat_is_compared(
    sides: tuple[Scripted, Scripted, Inputs, Inputs], tmp_path: Path
) -> None:
    end, _, inputs, _ = sides
    end.down_s = [(80.0, 83.0)]
    found = asyncio.run(
        measure_fixed(
            _settings(tmp_path),
            Models(specs={"m": SPEC}, published={}),
            inputs,
            {"m": (AGENTS,)},
            on_event=_unheard,
        )
    )
    assert [bool(p.invalid) for p in found.phases] == [True, False]
    assert valid_phases(found) == found.phases[1:]


@pytest.mark.parametrize("who", ["one", "both"])
def test_an_endpoint_that_comes_back_leaves_whole_pairs(
    sides: tuple[Scripted, Scripted, Inputs, Inputs],
    begin: Callable[..., tuple[Turns, RunFolder]],
    who: str,
) -> None:
    first, second, _, _ = sides
    for end in (first,) if who == "one" else (first, second):
        end.down_s = [(80.0, 83.0)]
    turns, folder = begin()
    found = asyncio.run(turns.capacity(TIER))
    assert (found.agents, found.status) == (AGENTS, "at-limit")
    compared = turns.compare(folder.bundle)
    # Equal endpoints: a phase that was broken off would stand apart.
    assert {row.by for row in compared.rows} == {"4 pairs"}
    assert compared.verdict == "unchanged"


def test_pairs_that_were_begun_are_no_answer(
    begin: Callable[..., tuple[Turns, RunFolder]],
) -> None:
    # Two turns of some 125 s each: the hours are over after the first pair.
    turns, folder = begin(max_hours=200 / 3600)
    for _ in range(2):
        with pytest.raises(HoursOverError):
            asyncio.run(turns.capacity(TIER))
    assert folder.bundle.capacities == ()
    assert turns.compare(folder.bundle).rows == ()


def test_the_seed_of_a_turn_that_broke_off_serves_no_other(
    sides: tuple[Scripted, Scripted, Inputs, Inputs],
    begin: Callable[..., tuple[Turns, RunFolder]],
    tmp_path: Path,
) -> None:
    _, end, _, _ = sides
    end.down_s = [(80.0, inf)]
    turns, folder = begin(max_down_s=9.0)
    with pytest.raises(EndpointError, match=r"for 9 s: .* Measure anew: a part of t") as down:
        asyncio.run(turns.capacity(TIER))
    assert "--agentperf-resume" not in str(down.value)  # which turns refuse
    end.down_s = []
    assert asyncio.run(turns.capacity(TIER)).status == "at-limit"
    bundles = [read_bundle(p.read_bytes(), "b") for p in tmp_path.glob("*/bundle.json")]
    own = folder.bundle.provenance.run
    of_turns = [b for b in bundles if b.provenance.run != own]
    seeds = [b.settings.seed for b in of_turns]
    # The broken pair's, and both turns of each of the four others.
    assert sorted(seeds) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    # Nor does the number of its phase.
    assert sorted(p.number for b in of_turns for p in b.phases) == [*range(1, 11)]


def test_a_turn_that_broke_off_counts_among_the_hours(
    sides: tuple[Scripted, Scripted, Inputs, Inputs],
    begin: Callable[..., tuple[Turns, RunFolder]],
    tmp_path: Path,
) -> None:
    # A takes some 125 s; B is away from its second 80, and waited for until 90 at least.
    sides[1].down_s = [(80.0, inf)]
    turns, _ = begin(max_down_s=10.0, max_hours=200 / 3600)
    with pytest.raises(EndpointError):
        asyncio.run(turns.capacity(TIER))
    before = set(tmp_path.glob("*"))
    sides[1].down_s = []
    with pytest.raises(HoursOverError):
        asyncio.run(turns.capacity(TIER))
    assert set(tmp_path.glob("*")) == before


def test_energy_that_one_endpoint_does_not_tell_is_not_compared(
    sides: tuple[Scripted, Scripted, Inputs, Inputs],
    begin: Callable[..., tuple[Turns, RunFolder]],
) -> None:
    _, _, a, b = sides
    meter = a.endpoint.meter
    assert meter is not None
    turns, folder = begin((replace(a, meters=(meter,)), b))
    asyncio.run(turns.capacity(TIER))
    compared = turns.compare(folder.bundle)
    assert compared.verdict == "unchanged"
    assert ENERGY not in {row.figure for row in compared.rows}


def test_the_other_endpoint_tells_its_own_version(
    sides: tuple[Scripted, Scripted, Inputs, Inputs], tmp_path: Path
) -> None:
    system = System(name="s", accelerator="H200", accelerators=2, engine={"name": "vLLM"})
    one, other = (
        replace(
            side.endpoint,
            simulated=False,
            facts=(Fact(key="engine.version", value=version, source="GET /version"),),
        )
        for side, version in zip(sides[2:], ("0.1", "0.2"), strict=True)
    )
    a = with_facts(replace(sides[2], endpoint=one, system=system))
    models = Models(specs={"m": SPEC}, published={})

    async def seen() -> Inputs:
        settings = _settings(tmp_path)
        async with other_side(other, a, models, settings, system=system, tell=_unread) as b:
            return b

    b = asyncio.run(seen())
    assert b.contradictions == ()
    assert b.system == replace(
        system,
        engine={"name": "vLLM", "version": "0.2"},
        detected={"engine.version": "GET /version"},
    )


def test_what_was_seen_of_a_phase_is_found_in_the_run_that_measured_it(
    begin: Callable[..., tuple[Turns, RunFolder]],
) -> None:
    turns, folder = begin()
    asyncio.run(turns.capacity(TIER))
    records, phases = RunRecords(folder.path), folder.bundle.phases
    # A B B A A B B A
    assert [p.number for p in phases] == [2, 3, 6, 7]
    seen = [records.profile(phase) for phase in phases]
    assert all(one is not None and one.ttft_s is not None for one in seen)


def test_power_that_is_required_is_not_sought_by_a_meter_that_is_refused(
    sides: tuple[Scripted, Scripted, Inputs, Inputs], tmp_path: Path
) -> None:
    _, _, a, b = sides
    silent = replace(b.endpoint, url="http://b/v1", meter=None, simulated=False)
    in_turns = {"baseline": "before", "gate": "ab", "endpoint_b": "http://b/v1"}
    settings = replace(_settings(tmp_path), require_power=True, **in_turns)
    models = Models(specs={"m": SPEC}, published={})

    async def seen() -> None:
        async with other_side(silent, a, models, settings, system=None, tell=_unread):
            pass

    with pytest.raises(ConfigError, match=r"accelerators of http://b/v1; leave the option") as said:
        asyncio.run(seen())
    assert "--agentperf-meter" not in str(said.value)
    with pytest.raises(ConfigError, match="name one by --agentperf-meter"):
        open_meters(replace(settings, gate="search", meter=("none",)), silent)


def test_two_that_are_simulated_know_each_their_own_system(
    sides: tuple[Scripted, Scripted, Inputs, Inputs], tmp_path: Path
) -> None:
    one, other = (
        System(name=f"{count} accelerators", accelerator="H200", accelerators=count)
        for count in (8, 16)
    )
    a = replace(sides[2], system=one)
    end = replace(sides[3].endpoint, system=other)
    models = Models(specs={"m": SPEC}, published={})

    async def seen(declared: System | None) -> System | None:
        settings = _settings(tmp_path)
        async with other_side(end, a, models, settings, system=declared, tell=_unread) as b:
            return b.system

    assert asyncio.run(seen(None)) == other
    assert asyncio.run(seen(one)) == one


def test_what_warmed_an_endpoint_up_is_kept_with_its_phases(
    begin: Callable[..., tuple[Turns, RunFolder]],
) -> None:
    turns, folder = begin()
    own = WarmUp(
        model="m", agents=8, seconds=20.0, requests=30, failed=0, first_ttft_s=2.0, last_ttft_s=1.0
    )
    for _ in range(2):
        turns._keep(replace(run(), warm_ups=(own,)))
    assert folder.bundle.warm_ups == (replace(own, sent_in=run().provenance.run),) * 2
