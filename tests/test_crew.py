"""A crew alone: what it obeys, what it reports, and what it asks of its place."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pytest_agentperf.crew import Crew, Place
from pytest_agentperf.orders import (
    Begin,
    Close,
    Drained,
    Ended,
    Failed,
    Look,
    Opened,
    Prepare,
    Ready,
    Report,
    Setup,
    Started,
    Stop,
    Stopped,
)
from pytest_agentperf.plan import turns_by_isl
from pytest_agentperf.protocols import Connection
from pytest_agentperf.records import OpenRequest, RawAnswer
from pytest_agentperf.sim.virtual_time import VirtualTime
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.wire import Body
from tests.virtual import Scripted
from tests.workloads import small_setup

DATASET = synthesize(trajectories=2, turns=2, isl_tokens=3000, osl_tokens=50, tool_s=1, seed=1)
PREPARE = Prepare(phase=1, agents=[0, 7], offsets_ns=[0, 2_000_000_000])


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return small_setup(DATASET, url="scripted:", model="m", folder=tmp_path)


class Told:
    """A crew in virtual time, and in order what it reported and asked of its place."""

    def __init__(self, endpoint: Scripted) -> None:
        self.all: list[Report | str] = []

        def connections(setup: Setup) -> Callable[[int], Connection]:
            return lambda _: endpoint.connect(timeout_s=setup.timeout_s)

        def note(text: str) -> Callable[[], None]:
            return partial(self.all.append, text)

        place = Place(
            clock=endpoint.clock,
            connections=connections,
            cpu_s=lambda: endpoint.clock.now_ns() / 4e9,
            equipped=note("equipped"),
            load_begins=note("load begins"),
            load_ended=note("load ended"),
        )
        self.crew = Crew(place, send=self._hear)

    async def _hear(self, report: Report) -> None:
        self.all.append(report)

    def kinds(self) -> list[str]:
        """Return the kinds of reports, and what was asked, in order."""
        return [each if isinstance(each, str) else type(each).__name__ for each in self.all]


def test_a_phase_from_set_up_to_stop(endpoint: Scripted, setup: Setup) -> None:
    told = Told(endpoint)

    async def work() -> None:
        crew = told.crew
        await crew.obey(setup)
        await crew.obey(PREPARE)
        await crew.obey(Begin(at_ns=1_000_000_000))
        # 2 agents: 0.25 + 50 x 0.02 = 1.25 s an answer. Agent 0 from 1 s, agent 7 from 3 s.
        await asyncio.sleep(2.5)
        await crew.tick()
        await asyncio.sleep(1.0)
        await crew.obey(Close(at_ns=3_500_000_000))
        await crew.tick()
        await asyncio.sleep(1.5)
        await crew.tick()
        await crew.obey(Stop())

    asyncio.run(endpoint.run(work))
    assert told.kinds() == [
        *("equipped", "Ready", "Ready", "load begins"),
        *("Started", "Ended"),
        "Started",
        *("Ended", "Drained"),
        *("load ended", "Stopped"),
    ]
    # Agent 0 has ended at 2.25 s, and sends again at 3.25 s after 1 s of tools.
    ended = [each for each in told.all if isinstance(each, Ended)]
    assert [[(t.agent, t.turn, t.sent_ns) for t in each.turns] for each in ended] == [
        [(0, 0, 1_000_000_000)],
        [(7, 0, 3_000_000_000), (0, 1, 3_250_000_000)],
    ]
    assert [each.first_sent_ns for each in told.all if isinstance(each, Started)] == [
        {0: 1_000_000_000},
        {7: 3_000_000_000},
    ]
    # A quarter of a second of CPU for every second; nothing sent before 3.5 s is open at 5 s.
    assert told.all[-1] == Stopped(lag_s=[], cpu_ratio=0.25, open_members=0)
    assert endpoint.open == 0


def test_agents_of_a_balanced_start_begin_where_the_plan_says(
    endpoint: Scripted, setup: Setup
) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(Prepare(phase=1, agents=[0, 1], offsets_ns=[0, 0], start="balanced"))
        await told.crew.obey(Begin(at_ns=0))
        await asyncio.sleep(20)
        await told.crew.obey(Stop())

    asyncio.run(endpoint.run(work))
    turns = [t for each in told.all if isinstance(each, Ended) for t in each.turns]
    # Of 4 turns by ISL, agent 0 begins at quantile 0.5: the third; agent 1 at 0.118: the first.
    by_isl = turns_by_isl(DATASET.trajectories)
    first = {t.agent: t for t in reversed(turns)}
    begun = [(first[agent].trajectory, first[agent].turn) for agent in (0, 1)]
    assert begun == [(DATASET.trajectories[p].id, turn) for p, turn in (by_isl[2], by_isl[0])]
    second = next(t for t in turns if t.agent == 0 and t.ordinal == 1)
    assert (second.turn, second.from_turn) == (0, 0)


def test_members_that_are_open_at_the_stop_are_counted(endpoint: Scripted, setup: Setup) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(PREPARE)
        await told.crew.obey(Begin(at_ns=1_000_000_000))
        await asyncio.sleep(3.5)
        await told.crew.obey(Close(at_ns=3_500_000_000))
        await told.crew.obey(Stop())

    asyncio.run(endpoint.run(work))
    assert told.all[-1] == Stopped(lag_s=[], cpu_ratio=0.25, open_members=2)
    assert not any(isinstance(each, Drained) for each in told.all)


def test_orders_out_of_order_are_refused(endpoint: Scripted, setup: Setup) -> None:
    crew = Told(endpoint).crew

    async def work() -> None:
        with pytest.raises(RuntimeError, match="Begin without a phase"):
            await crew.obey(Begin(at_ns=0))
        with pytest.raises(RuntimeError, match="Prepare before Setup, or while a phase runs"):
            await crew.obey(PREPARE)
        await crew.obey(setup)
        await crew.obey(PREPARE)
        with pytest.raises(RuntimeError, match="Prepare before Setup, or while a phase runs"):
            await crew.obey(PREPARE)

    asyncio.run(endpoint.run(work))


def test_a_stop_without_a_phase_says_nothing(endpoint: Scripted) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.tick()
        await told.crew.obey(Stop())
        await told.crew.dismiss()

    asyncio.run(endpoint.run(work))
    assert told.all == []


def test_a_crew_that_is_dismissed_drops_its_load_and_says_nothing(
    endpoint: Scripted, setup: Setup
) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(PREPARE)
        await told.crew.obey(Begin(at_ns=0))
        await asyncio.sleep(10)
        await told.crew.dismiss()
        await told.crew.tick()

    asyncio.run(endpoint.run(work))
    assert told.kinds() == ["equipped", "Ready", "Ready", "load begins", "load ended"]
    assert endpoint.open == 0


def test_an_agent_that_broke_is_told_at_the_next_tick(endpoint: Scripted, tmp_path: Path) -> None:
    told = Told(endpoint)
    setup = small_setup(DATASET, url="scripted:", model="raise", folder=tmp_path)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(PREPARE)
        await told.crew.obey(Begin(at_ns=0))
        await asyncio.sleep(1.5)
        await told.crew.tick()
        await told.crew.dismiss()

    asyncio.run(endpoint.run(work))
    assert Failed(text="RuntimeError: a connection must not raise") in told.all
    assert Ready() in told.all


def begun(told: Told) -> list[tuple[dict[int, int], dict[int, int]]]:
    """Return who was told to have sent, and to be answered, in order."""
    return [(e.first_sent_ns, e.answering_ns) for e in told.all if isinstance(e, Started)]


def test_a_start_is_told_once_and_its_first_token_once(endpoint: Scripted, setup: Setup) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(PREPARE)
        await told.crew.obey(Begin(at_ns=1_000_000_000))
        for _ in range(8):
            await asyncio.sleep(0.9)
            await told.crew.tick()
        await told.crew.obey(Stop())

    asyncio.run(endpoint.run(work))
    # Agents send at 1 and 3 s; first tokens 0.25 s later. Looked for every 0.9 s.
    assert begun(told) == [
        ({0: 1_000_000_000}, {0: 1_250_000_000}),
        ({7: 3_000_000_000}, {7: 3_250_000_000}),
    ]


def test_a_first_token_is_told_when_it_has_come(endpoint: Scripted, setup: Setup) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(PREPARE)
        await told.crew.obey(Begin(at_ns=1_000_000_000))
        for _ in range(2):
            await asyncio.sleep(1.2)
            await told.crew.tick()
        await told.crew.obey(Stop())

    asyncio.run(endpoint.run(work))
    assert begun(told) == [({0: 1_000_000_000}, {}), ({}, {0: 1_250_000_000})]


class Muttering:
    """Sends a role alone after 1 s, after 4 s more a token or nothing, and ends 2 s later."""

    def __init__(self, clock_of: VirtualTime, *, error: str | None = None) -> None:
        self._time = clock_of
        self._error = error

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        del body, osl_tokens
        now_ns = self._time.clock.now_ns
        into.sent_ns, into.status = now_ns(), 200
        await asyncio.sleep(1.0)
        role = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
        into.reads.append((now_ns(), role))
        await asyncio.sleep(4.0)
        if self._error is None:
            into.reads.append((now_ns(), role.replace(b'""', b'"now"')))
        await asyncio.sleep(2.0)
        into.error, into.end_ns = self._error, now_ns()
        await asyncio.sleep(100.0)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "since_ns"),
    [(None, 6_000_000_000), ("timeout after 7 s", 8_000_000_000)],
    ids=["a token", "an end without any"],
)
def test_a_chunk_with_a_role_alone_is_no_token(
    setup: Setup, error: str | None, since_ns: int
) -> None:
    time = VirtualTime()
    heard: list[Report] = []

    async def hear(report: Report) -> None:
        heard.append(report)

    def connections(_: Setup) -> Callable[[int], Connection]:
        return lambda _agent: Muttering(time, error=error)

    crew = Crew(Place(clock=time.clock, connections=connections, cpu_s=lambda: 0.0), send=hear)

    async def work() -> None:
        await crew.obey(setup)
        await crew.obey(Prepare(phase=1, agents=[0], offsets_ns=[0], start="balanced"))
        await crew.obey(Begin(at_ns=1_000_000_000))
        for _ in range(10):
            await asyncio.sleep(1.0)
            await crew.obey(Look())
            await crew.tick()
        await crew.dismiss()

    asyncio.run(time.run(work))
    time.close()
    started = [(e.first_sent_ns, e.answering_ns) for e in heard if isinstance(e, Started)]
    assert started == [({0: 1_000_000_000}, {}), ({}, {0: since_ns})]
    # A byte has come all the same, which is all that a look at what is open tells.
    opened = [e.requests for e in heard if isinstance(e, Opened)]
    first_read = OpenRequest(agent=0, sent_ns=1_000_000_000, first_read_ns=2_000_000_000)
    assert opened[2] == [first_read]


def test_a_look_tells_what_is_open_after_all_that_has_ended(
    endpoint: Scripted, setup: Setup
) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(PREPARE)
        await told.crew.obey(Begin(at_ns=1_000_000_000))
        # 2 agents: 1.25 s an answer. Agent 0 sends at 1 s and 3.25 s, agent 7 at 3 s.
        for at_s in (0.5, 1.1, 1.5, 2.5, 3.1, 3.4, 4.3):
            await asyncio.sleep(at_s - asyncio.get_running_loop().time())
            told.all.append(f"at {at_s}")
            await told.crew.obey(Look())
        await told.crew.obey(Stop())

    asyncio.run(endpoint.run(work))
    opened = [each.requests for each in told.all if isinstance(each, Opened)]
    first = OpenRequest(agent=0, sent_ns=1_000_000_000, first_read_ns=None)
    seventh = OpenRequest(agent=7, sent_ns=3_000_000_000, first_read_ns=None)
    second = OpenRequest(agent=0, sent_ns=3_250_000_000, first_read_ns=None)
    assert opened == [
        [],
        [first],
        [OpenRequest(agent=0, sent_ns=1_000_000_000, first_read_ns=1_250_000_000)],
        [],
        [seventh],
        [OpenRequest(agent=7, sent_ns=3_000_000_000, first_read_ns=3_250_000_000), second],
        [OpenRequest(agent=0, sent_ns=3_250_000_000, first_read_ns=3_500_000_000)],
    ]
    kinds = told.kinds()
    assert kinds[kinds.index("at 2.5") : kinds.index("at 3.1")] == ["at 2.5", "Ended", "Opened"]
    assert kinds[kinds.index("at 4.3") :][:3] == ["at 4.3", "Ended", "Opened"]


def test_a_look_without_a_phase_finds_nothing_open(endpoint: Scripted, setup: Setup) -> None:
    told = Told(endpoint)

    async def work() -> None:
        await told.crew.obey(setup)
        await told.crew.obey(Look())

    asyncio.run(endpoint.run(work))
    assert told.all[-1] == Opened(requests=[])
