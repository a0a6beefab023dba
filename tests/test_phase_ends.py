"""When a phase ends before its floors, and by what: in virtual time."""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.early import verdicts_by
from pytest_agentperf.errors import InvalidPhaseError
from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.metrics import summarize
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.preflight import open_folder
from pytest_agentperf.procedure import Procedure, full_phase, short_phase
from pytest_agentperf.protocols import EndpointInfo, InProcess
from pytest_agentperf.records import Measurement
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.sim.launch import connect_virtual
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier, Verdict
from pytest_agentperf.synthesis import synthesize
from tests.virtual import Scripted
from tests.workloads import small_setup

OFFICIAL = Settings()
SMALL = synthesize(trajectories=6, turns=3, isl_tokens=3000, osl_tokens=50, tool_s=2.0, seed=1)
LONG = synthesize(trajectories=6, turns=3, isl_tokens=3000, osl_tokens=400, tool_s=0.5, seed=1)
FIRST_LOOK_S = 180
SLOW = "sim+virtual:?acceptance=&step_overhead_s=0.02"
"""At most 50 tok/s, so that 400 tokens take 8 s."""


def speed(value: float) -> Limit:
    return Limit(metric="output_speed_tok_per_s", statistic="p25", value=value)


def ttft(value: float, statistic: str = "p95") -> Limit:
    return Limit(metric="ttft_s", statistic=statistic, value=value)


def tier(name: str, *limits: Limit) -> SLOTier:
    return SLOTier(model="m", name=name, limits=limits)


# 4 agents get 25 tok/s each, 0.25 s after they send.
EASY, HARD = tier("easy", speed(10.0)), tier("hard", speed(60.0))
MISSED = tier("missed", speed(40.0), ttft(3.0))
NEARLY = tier("nearly", speed(26.0))
"""26 / 25 = 1.04, and 4 agents must miss by more than 1.053 to miss clearly."""
NEVER_SURE = tier("never sure", ttft(3.0, "mean"))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A phase that has ended."""

    measurement: Measurement
    verdicts: dict[str, Verdict]

    @property
    def window_s(self) -> float:
        return self.measurement.window.length_s

    @property
    def told(self) -> dict[str, tuple[str, str]]:
        return {name: (v.outcome, v.evidence) for name, v in self.verdicts.items()}


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


async def _phase(place: InProcess, procedure: Procedure, settings: Settings, agents: int) -> Ended:
    pool = InProcessPool(place)
    run = PhaseRun(
        pool=pool,
        settings=settings,
        procedure=procedure,
        readings=(),
        clock=place.clock,
        tell=Listeners(),
    )
    with tempfile.TemporaryDirectory() as folder:
        setup = small_setup(SMALL, url="", model="m", folder=Path(folder))
        setup = msgspec.structs.replace(setup, timeout_s=settings.request_timeout_s)

        async def work() -> Measurement:
            await pool.set_up(setup)
            await pool.grow(1)
            return await run.measure(number=1, agents=agents, workers=1)

        seen = await place.run(work)
        await place.run(pool.close)
    found = verdicts_by(run.early, procedure.tiers, summarize(seen))
    return Ended(measurement=seen, verdicts={v.tier: v for v in found})


def measured(
    place: InProcess, procedure: Procedure, *, settings: Settings = OFFICIAL, agents: int = 4
) -> Ended:
    return asyncio.run(_phase(place, procedure, settings, agents))


def spec(*tiers: SLOTier) -> ModelSpec:
    return ModelSpec(model="m", tiers=tiers)


class TestShort:
    def test_ends_at_the_first_look_where_all_is_certain(self, endpoint: Scripted):
        ended = measured(endpoint, short_phase(spec(EASY, HARD), OFFICIAL))
        assert ended.told == {"easy": ("pass", "certain"), "hard": ("fail", "certain")}
        # Its window closes at the last instant before which all had ended: 2.25 s and 2 s of tools.
        assert FIRST_LOOK_S - 5 <= ended.window_s <= FIRST_LOOK_S + 1
        seen = ended.measurement
        assert (seen.decided, seen.floors_met, seen.cut, seen.broken) == (True, False, 0, None)

    def test_agents_begin_where_contexts_are_as_long_as_they_become(self, endpoint: Scripted):
        seen = measured(endpoint, short_phase(spec(EASY), OFFICIAL)).measurement
        first = {t.agent: t for t in sorted(seen.turns, key=lambda t: -t.sent_ns)}
        assert {t.from_turn for t in first.values()} > {0}
        answered = [t.first_token_ns for t in first.values() if t.first_token_ns]
        assert seen.window.start_ns == max(answered) + 30_000_000_000

    def test_goes_on_while_a_tier_is_not_certain_until_the_least_window(self, endpoint: Scripted):
        ended = measured(endpoint, short_phase(spec(EASY, NEVER_SURE), OFFICIAL))
        assert ended.told == {"easy": ("pass", "certain"), "never sure": ("pass", "unclear")}
        assert 595 <= ended.window_s <= 601
        assert (ended.measurement.decided, ended.measurement.floors_met) == (True, False)

    def test_is_not_held_by_tiers_that_nobody_asked_for(self, endpoint: Scripted):
        procedure = replace(short_phase(spec(EASY, NEVER_SURE), OFFICIAL), asked={"easy"})
        ended = measured(endpoint, procedure)
        # It is judged by them all the same.
        assert ended.told == {"easy": ("pass", "certain"), "never sure": ("pass", "unclear")}
        assert ended.window_s <= FIRST_LOOK_S + 1

    def test_is_as_short_as_it_may_be_where_that_is_before_the_first_look(self, endpoint: Scripted):
        settings = make_settings({"min_steady_s": 60.0})
        ended = measured(endpoint, short_phase(spec(EASY), settings), settings=settings)
        assert 55 <= ended.window_s <= 61
        assert ended.measurement.decided


class TestFull:
    def test_ends_at_the_first_look_where_every_tier_is_clearly_missed(self, endpoint: Scripted):
        procedure = full_phase(spec(HARD, MISSED), OFFICIAL, may_end_missed=True)
        ended = measured(endpoint, procedure)
        assert ended.told == {"hard": ("fail", "certain"), "missed": ("fail", "certain")}
        assert ended.window_s <= FIRST_LOOK_S + 1
        assert {t.from_turn for t in ended.measurement.turns} == {0}

    @pytest.mark.parametrize("other", [EASY, NEARLY, NEVER_SURE], ids=lambda t: t.name)
    def test_meets_its_floors_where_another_tier_is_not(self, endpoint: Scripted, other: SLOTier):
        procedure = full_phase(spec(HARD, other), OFFICIAL, may_end_missed=True)
        ended = measured(endpoint, procedure)
        assert (ended.measurement.floors_met, ended.measurement.decided) == (True, False)
        assert ended.window_s >= 600
        assert {evidence for _, evidence in ended.told.values()} == {"floors"}
        assert ended.told["hard"] == ("fail", "floors")

    def test_ends_by_a_miss_of_those_that_asked_for_it(self, endpoint: Scripted):
        procedure = full_phase(spec(HARD, EASY), OFFICIAL, may_end_missed=True)
        ended = measured(endpoint, replace(procedure, asked={"hard"}))
        assert ended.told["hard"] == ("fail", "certain")
        assert ended.window_s <= FIRST_LOOK_S + 1

    def test_never_ends_early_in_exact_mode(self, endpoint: Scripted):
        ended = measured(endpoint, full_phase(spec(HARD, MISSED), OFFICIAL))
        assert ended.told == {"hard": ("fail", "floors"), "missed": ("fail", "floors")}
        assert ended.window_s >= 600


class TestOverdue:
    """24 agents for 4 places of a slow machine, and not half the time that the floors take."""

    SETTINGS = make_settings({"max_phase_s": 480.0})

    def measured(self, *tiers: SLOTier) -> Ended:
        info = connect_virtual(f"{SLOW}&max_sequences=4", models=["m"])
        try:
            assert info.in_process is not None
            procedure = full_phase(spec(*tiers), self.SETTINGS)
            return measured(info.in_process, procedure, settings=self.SETTINGS, agents=24)
        finally:
            info.close()

    def test_a_clear_miss_is_one(self):
        ended = self.measured(tier("t", ttft(1.0)))
        assert ended.told == {"t": ("fail", "certain")}
        assert (ended.measurement.decided, ended.measurement.broken) == (True, None)

    @pytest.mark.parametrize(
        "other",
        [tier("met", speed(1.0)), tier("never sure", ttft(1.0, "mean"))],
        ids=lambda t: t.name,
    )
    def test_it_is_none_while_a_tier_is_not_clearly_missed(self, other: SLOTier):
        ended = self.measured(tier("t", ttft(1.0)), other)
        seen = ended.measurement
        assert (seen.decided, seen.floors_met, seen.broken) == (False, False, None)


def benched(
    info: EndpointInfo, folder: Path, tiers: tuple[SLOTier, ...], /, *, agents: int, **settings: Any
) -> Bundle:
    """Measure one number of agents by name, or search in mode ``fast``; return what is on disk."""
    given = make_settings({"results": str(folder), "start_agents": agents} | settings)
    inputs = Inputs(endpoint=info, dataset=LONG, meters=(), system=None)
    run = open_folder(given, inputs)
    bench = Bench(
        settings=given,
        models=Models(specs={"m": spec(*tiers)}, published={}),
        inputs=inputs,
        folder=run,
        on_event=lambda _: None,
    )

    async def work() -> None:
        try:
            if given.mode == "exact":
                await bench.measure(agents)
            else:
                await bench.capacity(tiers[0])
        finally:
            await bench.close()

    try:
        asyncio.run(work())
    except InvalidPhaseError:
        pass
    finally:
        info.close()
    return run.bundle


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """60 agents for one place, 8 s an answer: each waits for 8 minutes, and times out after 5."""
    info = connect_virtual(f"{SLOW}&max_sequences=1", models=["m"])
    tiers = (tier("t", speed(10.0), ttft(2.0)),)
    return benched(info, tmp_path_factory.mktemp("run"), tiers, agents=60, mode="fast")


class TestInABench:
    def overdue(self, folder: Path, limit: Limit) -> PhaseResult:
        info = connect_virtual(f"{SLOW}&max_sequences=4", models=["m"])
        bundle = benched(info, folder, (tier("t", limit),), agents=24, max_phase_s=480.0)
        (phase,) = bundle.phases
        assert phase.duration_s < 600
        return phase

    def test_a_phase_that_is_overdue_fails_where_it_is_certain(self, tmp_path: Path):
        phase = self.overdue(tmp_path, ttft(1.0))
        assert phase.invalid == ()
        verdict = phase.verdict("t")
        assert (verdict.outcome, verdict.evidence) == ("fail", "certain")

    def test_and_is_invalid_where_it_is_not(self, tmp_path: Path):
        phase = self.overdue(tmp_path, ttft(1.0, "mean"))
        assert phase.verdict("t").outcome == "invalid"
        assert [each.partition(":")[0] for each in phase.invalid] == ["floors met"]

    def test_a_hopeless_overload_ends_in_minutes(self, hopeless: Bundle):
        first = hopeless.phases[0]
        assert (first.agents, first.short, first.invalid) == (60, True, ())
        assert first.duration_s < 660
        assert hopeless.capacities[0].status == "found"

    def test_a_hopeless_overload_is_missed_for_certain(self, hopeless: Bundle):
        verdict = hopeless.phases[0].verdict("t")
        assert (verdict.outcome, verdict.evidence) == ("fail", "certain")

    def test_a_hopeless_overload_tells_how_late_first_tokens_are(self, hopeless: Bundle):
        """Too few answers have ended to count; but that first tokens are late is known."""
        findings = {f.limit: f for f in hopeless.phases[0].verdict("t").findings}
        late = findings["ttft_s.p95"]
        assert late.observed is not None
        assert late.observed > 100
        assert late.n > 0
