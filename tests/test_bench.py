"""Answers of the bench from phases that are there already: nothing is measured here."""
# pyright: reportPrivateUsage=false
# Phases are put where measured ones would be: the ledger has no other door.

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import SCHEMA, Bundle, PhaseResult, provenance, read_bundle
from pytest_agentperf.errors import ConfigError, HoursOverError, StorageError
from pytest_agentperf.power import Power
from pytest_agentperf.prelude import WarmUp
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier, judge
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.validity import Check
from tests.phases import metrics, request

TIER = SLOTier(
    model="m",
    name="quick",
    limits=(Limit(metric="ttft_s", statistic="p95", value=2.0),),
)
SPEC = ModelSpec(model="m", tiers=(TIER,))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    settings = make_settings({"max_agents": 16})
    bundle = Bundle(
        schema=SCHEMA,
        provenance=provenance(
            endpoint="http://h/v1",
            server="",
            served_models=(),
            meter="no meter",
            devices=(),
            simulated=False,
        ),
        settings=settings,
        system=None,
    )
    made = Bench(
        settings=settings,
        models=Models(specs={"m": SPEC}, published={}),
        inputs=Inputs(
            endpoint=EndpointInfo(url="http://h/v1"),
            dataset=synthesize(trajectories=2, turns=2, isl_tokens=5000, seed=1),
            meters=(),
            system=None,
        ),
        folder=RunFolder(tmp_path, bundle),
        on_event=lambda _event: None,
    )
    yield made
    asyncio.run(made.close())


def _add(bench: Bench, agents: int, ttft_s: float) -> None:
    ledger = bench._ledger("m")
    found = replace(metrics(request(ttft_s=ttft_s)), agents=agents)
    ledger.phases.append(
        PhaseResult(
            number=len(ledger.phases) + 1,
            model="m",
            agents=agents,
            started_s=0.0,
            duration_s=1.0,
            metrics=found,
            power=Power(
                mean_w=None, energy_j=None, devices=0, samples=0, coverage=0.0, reason="no meter"
            ),
            verdicts=(judge(TIER, found),),
            checks=(),
        )
    )


def test_what_was_made_for_a_run_goes_also_where_its_end_cannot_be_written(
    bench: Bench, tmp_path: Path
) -> None:
    assert [*(tmp_path / "scratch").iterdir()]
    results = bench._folder.path
    results.rename(tmp_path / "aside")
    with pytest.raises(StorageError):
        asyncio.run(bench.close())
    assert not [*(tmp_path / "scratch").iterdir()]
    (tmp_path / "aside").rename(results)


def test_phases_that_are_there_are_not_measured_again(bench: Bench) -> None:
    _add(bench, 8, ttft_s=1.0)
    _add(bench, 9, ttft_s=3.0)
    found = asyncio.run(bench.capacity(TIER))
    assert (found.agents, found.first_failing, found.status) == (8, 9, "found")
    assert (found.passing_phase, found.failing_phase) == (1, 2)
    assert found.limited_by == ("ttft_s.p95",)


def test_an_answer_that_a_later_phase_contradicts_is_revised(bench: Bench) -> None:
    _add(bench, 16, ttft_s=1.0)
    assert asyncio.run(bench.capacity(TIER)).label == "≥ 16"
    assert bench.revised == ()
    _add(bench, 4, ttft_s=3.0)
    (said,) = bench.revised
    assert said.startswith("'m quick' was answered with 16 agents, but 4 failed in a later phase")
    bench._save()
    (path,) = bench._folder.path.parent.glob("*/bundle.json")
    (kept,) = read_bundle(path.read_bytes(), "b").capacities
    assert (kept.agents, kept.passes_above_failure, kept.status) == (0, (16,), "open")


def test_a_later_pass_above_an_answer_changes_nothing(bench: Bench) -> None:
    _add(bench, 8, ttft_s=1.0)
    _add(bench, 9, ttft_s=3.0)
    given = asyncio.run(bench.capacity(TIER))
    _add(bench, 12, ttft_s=1.0)
    assert bench.revised == ()
    bench._save()
    assert bench._folder.bundle.capacities == (given,)


def test_a_later_failure_above_an_answer_changes_nothing(bench: Bench) -> None:
    _add(bench, 16, ttft_s=1.0)
    given = asyncio.run(bench.capacity(TIER))
    _add(bench, 20, ttft_s=3.0)
    assert bench.revised == ()
    bench._save()
    assert bench._folder.bundle.capacities == (given,)


def test_an_unknown_model_is_named_with_its_neighbour(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="no model of this run is called 'n'; known: m"):
        asyncio.run(bench.measure(1, model="n"))


def test_no_agents_are_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"measure\(agents=0\): at least 1 agent is needed"):
        asyncio.run(bench.measure(0))


def test_a_search_has_no_answer_when_the_hours_are_over(bench: Bench) -> None:
    # Real time: a nanosecond has passed since the bench was made, and 1e-12 h are 3.6 ns.
    bench._settings = replace(bench._settings, max_hours=1e-12)
    _add(bench, 8, ttft_s=1.0)
    found = asyncio.run(bench.capacity(TIER))
    assert (found.status, found.label) == ("open", "not finished (8 passed)")
    assert bench._folder.bundle.capacities == (found,)
    # What was measured is not in question, and is given.
    assert asyncio.run(bench.measure(8)).agents == 8
    with pytest.raises(HoursOverError, match=r"9 agents were not measured: .*--agentperf-resume="):
        asyncio.run(bench.measure(9))
    # Phases that are there in the end are enough.
    _add(bench, 9, ttft_s=3.0)
    assert asyncio.run(bench.capacity(TIER)).status == "found"


def test_what_is_taken_over_is_not_measured_again(bench: Bench) -> None:
    _add(bench, 8, ttft_s=1.0)
    _add(bench, 9, ttft_s=3.0)
    bench._save()
    run = bench._folder.bundle
    late = Check(
        name="client cpu", value=1.0, limit=0.8, ok=False, invalidates=True, text="too slow"
    )
    unsound = replace(run.phases[1], number=3, agents=12, checks=(late,))
    bench._ledgers.clear()
    bench.take_over(replace(run, phases=(*run.phases, unsound)))
    kept = bench._folder.bundle.phases
    assert [(p.number, p.agents) for p in kept] == [(1, 8), (2, 9)]
    assert {p.measured_in for p in kept} == {run.provenance.run}
    assert bench._phases == 3  # an invalid phase keeps its number to itself
    assert asyncio.run(bench.capacity(TIER)).label == "8"


def test_what_warmed_the_server_before_phases_taken_over_is_told_with_them(bench: Bench) -> None:
    _add(bench, 8, ttft_s=1.0)
    bench._save()
    run = bench._folder.bundle
    own = WarmUp(
        model="m", agents=8, seconds=20.0, requests=30, failed=0, first_ttft_s=2.0, last_ttft_s=1.0
    )
    bench._ledgers.clear()
    bench.take_over(replace(run, warm_ups=(replace(own, sent_in="grandmother"), own)))
    told = bench._folder.bundle.warm_ups
    assert [w.sent_in for w in told] == ["grandmother", run.provenance.run]
    assert [replace(w, sent_in=None) for w in told] == [own, own]


def test_a_phase_remembers_the_first_run_that_measured_it(bench: Bench) -> None:
    _add(bench, 8, ttft_s=1.0)
    bench._save()
    run = bench._folder.bundle
    bench._ledgers.clear()
    bench.take_over(replace(run, phases=(replace(run.phases[0], measured_in="grandmother"),)))
    assert [p.measured_in for p in bench._folder.bundle.phases] == ["grandmother"]
