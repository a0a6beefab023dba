"""N agents in one event loop, and how late that loop is."""

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_agentperf.agent import Agent
from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.clock import Clock
from pytest_agentperf.encoded import EncodedTrajectories
from pytest_agentperf.plan import Assignment, Position, balanced_start
from pytest_agentperf.protocols import Connection
from pytest_agentperf.records import OpenRequest, RawAnswer, Start, TurnRecord
from pytest_agentperf.wire import ChatEncoder

__all__ = ["Load", "Workload"]

_LAG_PERIOD_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What stays the same in all phases of one model."""

    trajectories: EncodedTrajectories
    encoder: ChatEncoder
    seed: int
    run: str
    salt: str
    clock: Clock
    connect: Callable[[int], Connection]
    """Makes the connection of one agent, by its number."""

    def position(self, start: Start, agent: int) -> Position | None:
        """Return where an agent begins; ``None``: with its first assigned trajectory."""
        if start == "first":
            return None
        return balanced_start(self.trajectories.turns_by_isl, agent)


class Load:
    """The agents of one phase that this process runs."""

    def __init__(
        self,
        workload: Workload,
        *,
        phase: int,
        agents: Sequence[int],
        offsets_ns: Sequence[int],
        start: Start,
        emit: Callable[[TurnRecord, Answer], None],
    ) -> None:
        """Make agents ``agents``, each to send ``offsets_ns`` after the phase begins."""
        self._open: dict[int, RawAnswer] = {}
        self._first: dict[int, RawAnswer] = {}
        self._priming: dict[int, RawAnswer] = {}
        self._lag_s = array("d")
        self._clock = workload.clock
        self._connections = [workload.connect(number) for number in agents]
        self._agents = [
            Agent(
                number=number,
                phase=phase,
                run=workload.run,
                salt=workload.salt,
                offset_ns=offset_ns,
                trajectories=workload.trajectories,
                assignment=Assignment(
                    seed=workload.seed, agent=number, trajectories=len(workload.trajectories)
                ),
                start=workload.position(start, number),
                encoder=workload.encoder,
                connection=connection,
                clock=workload.clock,
                watch=self._watch,
                emit=emit,
            )
            for number, offset_ns, connection in zip(
                agents, offsets_ns, self._connections, strict=True
            )
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, at_ns: int) -> None:
        """Let the agents go; the phase begins at an instant."""
        work = [] if self._clock.jumps else [self._measure_lag()]
        work += [agent.work(at_ns) for agent in self._agents]
        self._tasks = [asyncio.create_task(each) for each in work]

    def fault(self) -> BaseException | None:
        """Return what broke an agent of ours, which is a bug and never a slow server."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (fault := task.exception()):
                return fault
        return None

    def first_sent(self) -> dict[int, int]:
        """Return the agents that have sent since the last call, and when they first did."""
        sent = {agent: raw.sent_ns for agent, raw in self._first.items() if raw.sent_ns}
        for agent in sent:
            self._first[agent] = _REPORTED
        return sent

    def answering(self) -> dict[int, int]:
        """Return the agents whose first answer has begun since the last call, and when."""
        found = {a: at for a, raw in self._priming.items() if (at := _first_token_ns(raw))}
        for agent in found:
            del self._priming[agent]
        return found

    def open_requests(self) -> list[OpenRequest]:
        """Return all requests that have been sent and have not ended."""
        return [
            OpenRequest(
                agent=agent,
                sent_ns=raw.sent_ns,
                first_read_ns=_first_read_ns(raw),
            )
            for agent, raw in self._open.items()
            if raw.sent_ns
        ]

    def open_before(self, at_ns: int) -> int:
        """Return how many requests are open that were sent before an instant."""
        return sum(0 < raw.sent_ns < at_ns for raw in self._open.values())

    async def stop(self) -> tuple[float, ...]:
        """Stop all agents, drop what is open, and return the loop's lags in seconds.

        There are none where the clock jumps.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(c.close() for c in self._connections), return_exceptions=True)
        return tuple(self._lag_s)

    def _watch(self, agent: int, raw: RawAnswer | None) -> None:
        if raw is None:
            self._open.pop(agent, None)
        else:
            self._open[agent] = raw
            if agent not in self._first:
                self._first[agent] = self._priming[agent] = raw

    async def _measure_lag(self) -> None:
        while True:
            due_ns = self._clock.now_ns() + int(_LAG_PERIOD_S * 1e9)
            await asyncio.sleep(_LAG_PERIOD_S)
            lag_s = max(0.0, (self._clock.now_ns() - due_ns) / 1e9)
            self._lag_s.append(lag_s)
            # A stalled loop takes no samples: add those that would have fallen into the stall.
            while (lag_s := lag_s - _LAG_PERIOD_S) > 0:
                self._lag_s.append(lag_s)


_REPORTED = RawAnswer()


def _first_read_ns(raw: RawAnswer) -> int | None:
    given_ns = raw.reader.first_byte_ns if raw.reader is not None else None
    return given_ns or (raw.reads[0][0] if raw.reads else None)


def _first_token_ns(raw: RawAnswer) -> int:
    """Return when an answer's first token came, or it ended without one; 0 before either."""
    if raw.reader is not None and (given_ns := raw.reader.first_token_ns):
        return given_ns
    reader = AnswerReader()
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
    tokens = reader.finish(raw).token_ns
    return tokens[0] if tokens else raw.end_ns
