"""One agent: replay trajectory after trajectory, turn by turn, waiting out the tool times."""

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.api_key import redact
from pytest_agentperf.clock import Clock
from pytest_agentperf.encoded import EncodedTrajectories
from pytest_agentperf.plan import Assignment, Position, salts
from pytest_agentperf.protocols import Connection
from pytest_agentperf.records import RawAnswer, TurnRecord
from pytest_agentperf.wire import Body, ChatEncoder

__all__ = ["Agent"]

_SLICE_BYTES = 65_536
"""Decode this much between two turns of the event loop, so that no other agent's stamp is late."""
_LEAST_WAIT_AFTER_FAILURE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What one agent needs for one phase."""

    number: int
    phase: int
    run: str
    salt: str
    offset_ns: int
    """First request, after the begin of the phase."""
    trajectories: EncodedTrajectories
    assignment: Assignment
    start: Position | None = None
    """Trajectory and turn to begin with instead of the assigned trajectory's first turn."""
    encoder: ChatEncoder
    connection: Connection
    clock: Clock
    watch: Callable[[int, RawAnswer | None], None]
    """Told of every request that opens (with its answer to be) and is reported (``None``)."""
    emit: Callable[[TurnRecord, Answer], None]

    async def work(self, began_ns: int) -> None:
        """Run until cancelled."""
        due_ns = began_ns + self.offset_ns
        ordinal = 0
        if self.start is not None:
            trajectory, from_turn = self.start
            due_ns = await self._replay(0, trajectory, due_ns, from_turn=from_turn)
            ordinal = 1
        while True:
            due_ns = await self._replay(ordinal, self.assignment.index(ordinal), due_ns)
            ordinal += 1

    async def _replay(
        self, ordinal: int, trajectory: int, due_ns: int, *, from_turn: int = 0
    ) -> int:
        """Replay one trajectory; return when the next one is due."""
        encoded = self.trajectories[trajectory]
        prefixes = salts(
            self.salt,
            run=self.run,
            phase=self.phase,
            agent=self.number,
            ordinal=ordinal,
            shares_head=encoded.shares_head,
        )
        prompt = self.trajectories.prompt(trajectory, prefixes)
        last = len(encoded.turns) - 1
        for index, turn in enumerate(encoded.turns):
            prompt.go_on(turn)
            if index < from_turn:
                continue
            await _sleep_until(due_ns, self.clock)
            tools = self.trajectories.tools(turn)
            record = await self._ask(
                self.encoder.pieces(prompt.pieces(), tools, turn.recorded_osl_tokens),
                agent=self.number,
                ordinal=ordinal,
                trajectory=encoded.id,
                turn=index,
                last_turn=index == last,
                from_turn=from_turn,
                scheduled_ns=due_ns,
                recorded_osl_tokens=turn.recorded_osl_tokens,
            )
            wait_s = turn.tool_s
            if record.error is not None:
                return record.end_ns + int(max(wait_s, _LEAST_WAIT_AFTER_FAILURE_S) * 1e9)
            due_ns = record.end_ns + int(wait_s * 1e9)
        return due_ns

    async def _ask(self, body: Body, **known: Any) -> TurnRecord:
        reader = AnswerReader()
        raw = RawAnswer(reader=reader)
        self.watch(self.number, raw)
        try:
            await self.connection.chat(body, raw, osl_tokens=known["recorded_osl_tokens"])
            answer = await _decode(raw, reader)
            record = _turn_record(raw, answer, **known)
            self.emit(record, answer)
        finally:
            # Open until it is reported: a member that is still being decoded has not ended.
            self.watch(self.number, None)
        return record


async def _decode(raw: RawAnswer, reader: AnswerReader) -> Answer:
    """Read what the connection has left to be read."""
    pending = 0
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
        pending += len(data)
        if pending > _SLICE_BYTES:
            pending = 0
            await asyncio.sleep(0)
    return reader.finish(raw)


def _turn_record(raw: RawAnswer, answer: Answer, **known: Any) -> TurnRecord:
    tokens = answer.token_ns
    offsets = array("I", ((at - raw.sent_ns) // 1000 for at in tokens))
    return TurnRecord(
        **known,
        sent_ns=raw.sent_ns,
        end_ns=raw.end_ns,
        connect_ns=raw.connect_ns,
        reconnected=raw.reconnected,
        first_byte_ns=answer.first_byte_ns,
        first_token_merged=answer.first_token_merged,
        written_ns=raw.written_ns or None,
        first_token_ns=tokens[0] if tokens else None,
        last_token_ns=tokens[-1] if tokens else None,
        token_offsets_us=offsets.tobytes(),
        first_chunk_tokens=answer.first_chunk_tokens,
        largest_read_ratio=answer.largest_read_ratio,
        isl_tokens=answer.isl_tokens,
        osl_tokens=answer.osl_tokens,
        reasoning_tokens=answer.reasoning_tokens,
        cached_tokens=answer.cached_tokens,
        reasoning_streamed=answer.reasoning_streamed,
        tool_calls=answer.tool_calls,
        loops=answer.loops,
        finish_reason=answer.finish_reason and redact(answer.finish_reason),
        error=None if answer.error is None else redact(answer.error),
    )


async def _sleep_until(at_ns: int, clock: Clock) -> None:
    """Sleep to an instant; uvloop's timers may fire early, so look again."""
    while (left_ns := at_ns - clock.now_ns()) > 0:  # noqa: ASYNC110 a clock, no event
        await asyncio.sleep(left_ns / 1e9)
