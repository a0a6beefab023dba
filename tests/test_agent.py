"""One agent against a connection written to the protocol, that answers from memory."""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.agent import Agent
from pytest_agentperf.answer import Answer
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.encoded import EncodedTrajectories, map_trajectories, write_trajectories
from pytest_agentperf.plan import Assignment, Position
from pytest_agentperf.records import RawAnswer, TurnRecord
from pytest_agentperf.trajectory import Message, Trajectory, Turn
from pytest_agentperf.wire import Body, ChatEncoder, joined

ENCODER = ChatEncoder(model="m", request={}, max_tokens=10, output="natural")
TRAJECTORY = Trajectory(
    id="t",
    turns=(
        Turn(
            kept=0,
            appended=(
                Message(role="system", content="You fix code."),
                Message(role="user", content="Fix it."),
                Message(role="user", content="Turn 1 of 9."),
            ),
            tool_s=0.0,
        ),
        # The reminder of the turn before is gone from this prompt.
        Turn(kept=2, appended=(Message(role="assistant", content="Done."),), tool_s=0.0),
    ),
)


class FromMemory:
    """Answers every request with as many one-token events as it was told to."""

    def __init__(self, events: int, *, fails: bool = False) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._events = events
        self._fails = fails

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        del osl_tokens
        self.bodies.append(json.loads(joined(body)))
        await asyncio.sleep(0)
        into.sent_ns = time.perf_counter_ns()
        into.status = 500 if self._fails else 200
        event = b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % (b"x" * 1000)
        last = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
        into.reads = [(time.perf_counter_ns(), data) for data in [event] * self._events + [last]]
        into.end_ns = time.perf_counter_ns()

    async def close(self) -> None:
        pass


def _encoded() -> EncodedTrajectories:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planned"
        write_trajectories(path, [TRAJECTORY], reasoning_field="reasoning")
        return map_trajectories(path)


def _replay(
    connection: FromMemory,
    *,
    salt: str = "trajectory",
    requests: int = 2,
    start: Position | None = None,
) -> tuple[list[str], list[TurnRecord]]:
    """Run an agent until it has been answered ``requests`` times; what it told, in order."""
    told: list[str] = []
    records: list[TurnRecord] = []

    def watch(_agent: int, raw: RawAnswer | None) -> None:
        told.append("closed" if raw is None else "opened")

    def emit(record: TurnRecord, _answer: Answer) -> None:
        told.append("reported")
        records.append(record)

    agent = Agent(
        number=3,
        phase=1,
        run="run",
        salt=salt,
        offset_ns=0,
        trajectories=_encoded(),
        assignment=Assignment(seed=0, agent=3, trajectories=1),
        start=start,
        encoder=ENCODER,
        connection=connection,
        clock=REAL_TIME,
        watch=watch,
        emit=emit,
    )

    async def run() -> None:
        task = asyncio.create_task(agent.work(time.perf_counter_ns()))
        while told.count("closed") < requests and not task.done():  # noqa: ASYNC110 the agent must not know
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return told, records


def test_a_request_stays_open_until_it_is_reported() -> None:
    # 300 kB: decoded in several slices, between which anybody may ask what is open.
    told, _ = _replay(FromMemory(events=300))
    assert told[:6] == ["opened", "reported", "closed"] * 2


def test_a_reminder_that_went_away_is_not_sent_again() -> None:
    connection = FromMemory(events=1)
    _replay(connection)
    first, second = ([m["content"] for m in body["messages"]] for body in connection.bodies[:2])
    assert first[1:] == ["Fix it.", "Turn 1 of 9."]
    assert second == [first[0], "Fix it.", "Done."]


def test_the_salt_is_a_line_before_the_first_message_and_new_each_time() -> None:
    connection = FromMemory(events=1)
    _replay(connection, requests=4)
    heads = [body["messages"][0]["content"].split("\n") for body in connection.bodies[:4]]
    assert all(len(head[0]) == 63 and head[1] == "You fix code." for head in heads)
    assert heads[0] == heads[1]
    assert heads[2] == heads[3] != heads[0]


def test_without_a_salt_prompts_are_as_recorded() -> None:
    connection = FromMemory(events=1)
    _replay(connection, salt="none")
    assert connection.bodies[0]["messages"][0]["content"] == "You fix code."


def test_two_levels_salt_the_system_prompt_and_the_next_message() -> None:
    connection = FromMemory(events=1)
    _replay(connection, salt="two-level", requests=4)
    first, again = connection.bodies[0]["messages"], connection.bodies[2]["messages"]
    assert first[0] == again[0]
    assert first[1] != again[1]
    assert first[1]["content"].endswith("\nFix it.")


def test_a_failed_request_ends_its_trajectory() -> None:
    _, records = _replay(FromMemory(events=0, fails=True), requests=2)
    assert [(r.ordinal, r.turn) for r in records[:2]] == [(0, 0), (1, 0)]
    assert records[0].error == "HTTP 500: data: " + '{"choices": [{"delta": {}, ' + (
        '"finish_reason": "stop"}]}'
    )


@pytest.mark.parametrize("turn", [0, 1])
def test_the_last_turn_is_marked(turn: int) -> None:
    _, records = _replay(FromMemory(events=1))
    assert records[turn].last_turn is (turn == 1)


def test_an_agent_that_begins_in_the_middle_sends_the_whole_prompt_so_far() -> None:
    connection = FromMemory(events=1)
    _, records = _replay(connection, requests=4, start=(0, 1))
    contents = [[m["content"] for m in body["messages"]] for body in connection.bodies[:3]]
    head = contents[0][0].split("\n")
    assert (len(head[0]), head[1]) == (63, "You fix code.")
    assert contents[0][1:] == ["Fix it.", "Done."]
    # Then it goes on with its assignment, under a new salt.
    assert contents[1][1:] == ["Fix it.", "Turn 1 of 9."]
    assert contents[1][0] == contents[2][0] != contents[0][0]
    asked = [(r.ordinal, r.turn, r.from_turn, r.last_turn) for r in records[:3]]
    assert asked == [(0, 1, 1, True), (1, 0, 0, False), (1, 1, 0, True)]
    assert [r.completes for r in records[:3]] == [False, False, True]


def test_a_balanced_start_may_be_a_first_turn() -> None:
    connection = FromMemory(events=1)
    _, records = _replay(connection, requests=2, start=(0, 0))
    assert [(r.ordinal, r.turn, r.completes) for r in records[:2]] == [(0, 0, False), (0, 1, True)]


def test_what_fails_in_the_middle_ends_its_trajectory_too() -> None:
    _, records = _replay(FromMemory(events=0, fails=True), requests=2, start=(0, 1))
    asked = [(r.ordinal, r.turn, r.from_turn, r.scheduled_ns > 0) for r in records[:2]]
    assert asked == [(0, 1, 1, True), (1, 0, 0, True)]
