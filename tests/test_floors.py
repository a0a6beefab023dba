"""Each floor holds a phase open alone, and who is a member at its edges: in virtual time, by hand.

With n agents an answer takes 0.25 + 0.5 n s, and the pause after it 2 s.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.metrics import members, summarize
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.protocols import Connection, InProcess
from pytest_agentperf.records import Measurement, RawAnswer
from pytest_agentperf.settings import make_settings
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.validity import Marks, check
from pytest_agentperf.wire import Body
from tests.virtual import Scripted
from tests.workloads import SPEC, small_setup

DATASET = synthesize(trajectories=6, turns=3, isl_tokens=3000, osl_tokens=50, tool_s=2.0, seed=1)


class Straggling:
    """The scripted endpoint, but the connection made first takes longer for every answer."""

    def __init__(self, extra_s: float) -> None:
        self._inner = Scripted()
        self._extra_s = extra_s
        self.clock = self._inner.clock
        self.run = self._inner.run
        self.close = self._inner.close

    def connect(self, *, timeout_s: float) -> Connection:
        extra_s, self._extra_s = self._extra_s, 0.0
        return _Late(self._inner.connect(timeout_s=timeout_s), extra_s)


class _Late:
    def __init__(self, inner: Connection, extra_s: float) -> None:
        self._inner = inner
        self._extra_s = extra_s

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        raw = RawAnswer()
        asking = asyncio.ensure_future(self._inner.chat(body, raw, osl_tokens=osl_tokens))
        await asyncio.sleep(0)
        into.sent_ns, into.status = raw.sent_ns, raw.status
        await asyncio.sleep(self._extra_s)
        await asking
        took_s = (raw.end_ns - raw.sent_ns) / 1e9
        await asyncio.sleep(min(took_s, self._extra_s))
        late_ns = int(self._extra_s * 1e9)
        into.reads += [(at_ns + late_ns, data) for at_ns, data in raw.reads]
        into.end_ns = raw.end_ns + late_ns

    async def close(self) -> None:
        await self._inner.close()


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


def measured(endpoint: InProcess, folder: Path, agents: int, **floors: float) -> Measurement:
    """Measure a phase whose floors are none but the ones given; no spread, no settling."""
    none = {"min_trajectories": 0, "min_trajectories_per_agent": 0, "min_steady_s": 1.0,
            "start_spread_s": 0.0, "settle_s": 0.0}  # fmt: skip
    settings = make_settings({**none, **floors})
    pool = InProcessPool(endpoint)
    phase = PhaseRun(
        pool=pool,
        settings=settings,
        procedure=full_phase(SPEC, settings),
        readings=(),
        clock=endpoint.clock,
        tell=Listeners(),
    )

    async def work() -> Measurement:
        await pool.set_up(small_setup(DATASET, url="scripted:", model="m", folder=folder))
        await pool.grow(1)
        found = await phase.measure(number=1, agents=agents, workers=1)
        await pool.close()
        return found

    return asyncio.run(endpoint.run(work))


def invalid(seen: Measurement) -> list[str]:
    marks = Marks(max_loop_lag_p95_s=0.003, max_loop_lag_p99_s=0.005, max_cpu_ratio=0.8)
    return [c.name for c in check(seen, summarize(seen), marks) if c.invalidates and not c.ok]


class TestAFloorAlone:
    # With 2 agents a turn takes 1.25 + 2 s, and a trajectory three of them: 9.75 s.
    @pytest.mark.parametrize(
        ("floors", "seconds"),
        [
            ({"min_steady_s": 100.0}, 100),
            # 12 trajectories by 2 agents: the last answer of the sixth of each, 6 x 9.75 - 2.
            ({"min_trajectories": 12}, 56.5),
            # 5 by every agent: 5 x 9.75 - 2.
            ({"min_trajectories_per_agent": 5}, 46.75),
        ],
        ids=["minutes", "trajectories", "trajectories of each agent"],
    )
    def test_holds_the_window_open(
        self, endpoint: Scripted, tmp_path: Path, floors: dict[str, float], seconds: float
    ):
        seen = measured(endpoint, tmp_path, 2, **floors)
        # Reports come every half second and are looked at every second.
        assert seconds <= seen.window.length_s <= seconds + 1.5
        assert seen.floors_met
        assert invalid(seen) == []

    def test_of_each_agent_waits_for_the_slowest(self, tmp_path: Path):
        # The straggler's answers take 21.25 s, and two trajectories 6 x 23.25 - 2 = 137.5 s. The
        # other agent has completed far more than 2 by then.
        endpoint = Straggling(extra_s=20.0)
        seen = measured(endpoint, tmp_path, 2, min_trajectories_per_agent=2)
        endpoint.close()
        completed = [sum(t.completes for t in seen.turns if t.agent == a) for a in (0, 1)]
        assert completed[0] == 2
        assert completed[1] > 10
        assert 137.5 <= seen.window.length_s <= 139


class TestMembers:
    def test_one_that_is_sent_when_the_window_opens_is_one_and_before_is_none(
        self, endpoint: Scripted, tmp_path: Path
    ):
        # 1 agent answers in 0.75 s and pauses 2 s: it sends at 0, 2.75, 5.5 s. It settles 2.75 s.
        seen = measured(endpoint, tmp_path, 1, settle_s=2.75, min_steady_s=1.0)
        first_ns = seen.turns[0].sent_ns
        sent = [(t.sent_ns - first_ns) / 1e9 for t in members(seen.turns, seen.window)]
        assert seen.window.start_ns == first_ns + 2_750_000_000
        assert sent[0] == 2.75

    def test_the_tail_is_followed_to_its_end_under_load(self, tmp_path: Path):
        # The straggler's answer of 201.25 s is open when the window closes after 60 s.
        endpoint = Straggling(extra_s=200.0)
        seen = measured(endpoint, tmp_path, 2, min_steady_s=60.0)
        endpoint.close()
        late = [t for t in members(seen.turns, seen.window) if t.agent == 0]
        assert [t.error for t in late] == [None]
        assert late[0].end_ns > seen.window.end_ns + 140_000_000_000
        assert seen.cut == 0
        # The other agent went on all the while, with requests that do not count.
        after = [t for t in seen.turns if t.agent == 1 and t.sent_ns >= seen.window.end_ns]
        assert len(after) > 20
        assert not any(seen.window.holds(t.sent_ns) for t in after)


class TestAPhaseThatCannotMeetItsFloors:
    def test_because_one_agent_never_completes_is_invalid(self, tmp_path: Path):
        endpoint = Straggling(extra_s=100_000.0)
        seen = measured(endpoint, tmp_path, 2, min_trajectories_per_agent=1, max_phase_s=300.0)
        endpoint.close()
        assert not seen.floors_met
        assert "floors met" in invalid(seen)

    def test_because_no_trajectory_is_complete_is_invalid(self, endpoint: Scripted, tmp_path: Path):
        seen = measured(endpoint, tmp_path, 2, min_trajectories=1, max_phase_s=5.0)
        assert sum(t.completes for t in seen.turns) == 0
        assert summarize(seen).trajectories == 0
        assert invalid(seen) == ["floors met"]
