"""One small request outside any phase: does the endpoint answer, and when does it again?"""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.api_key import redact
from pytest_agentperf.clients import open_connection
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.errors import EndpointError
from pytest_agentperf.protocols import Connection, EndpointInfo
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.trajectory import Message
from pytest_agentperf.wire import ChatEncoder, encode_message

__all__ = ["ask", "await_answer"]

T = TypeVar("T")

_LIMIT_S = 60.0
_TOKENS = 16
_EVERY_S = 2.0


async def ask(
    info: EndpointInfo, spec: ModelSpec, client: str, *, timeout_s: float = _LIMIT_S
) -> Answer:
    """Send one small request with a model's own fields, on a connection of its own."""
    encoder = ChatEncoder(
        model=spec.model,
        request=spec.request,
        max_tokens=_TOKENS,
        max_tokens_field=info.dialect(spec.model).max_tokens_field,
        output="natural",
    )
    hello = encode_message(Message(role="user", content="Say hello."), spec.reasoning_field)
    body = encoder.body([hello], b"", None)

    async def send(connection: Connection) -> Answer:
        raw, reader = RawAnswer(), AnswerReader()
        try:
            await connection.chat(body, raw, osl_tokens=_TOKENS)
        finally:
            await connection.close()
        for at_ns, data in raw.reads:
            reader.feed(at_ns, data)
        return reader.finish(raw)

    place = info.in_process
    if place is not None:
        return await place.run(lambda: send(place.connect(timeout_s=timeout_s)))
    tls = ssl.create_default_context()
    return await send(open_connection(client, info, timeout_s=timeout_s, tls=tls, lags=ReadLags()))


async def await_answer(
    info: EndpointInfo, spec: ModelSpec, client: str, *, limit_s: float
) -> float:
    """Ask again and again until an endpoint that went away answers; return after how long, s.

    Args:
        info: where to.
        spec: the model that was measured.
        client: what carries the load.
        limit_s: how long is waited, in the endpoint's own time.

    Raises:
        EndpointError: it did not come back.
    """
    clock = REAL_TIME if info.in_process is None else info.in_process.clock
    began_ns = clock.now_ns()
    while True:
        left_s = limit_s - (clock.now_ns() - began_ns) / 1e9
        answer = await ask(info, spec, client, timeout_s=max(_EVERY_S, min(_LIMIT_S, left_s)))
        waited_s = (clock.now_ns() - began_ns) / 1e9
        # A small cap may go into hidden thoughts: an empty answer is one.
        if answer.error is None or answer.finished:
            return waited_s
        if waited_s >= limit_s:
            raise EndpointError(
                f"endpoint {info.url} went away and did not answer for {waited_s:.0f} s: "
                f"{redact(answer.error)}; look at the server, or wait longer with "
                "--agentperf-max-down-s"
            )
        pause_s = min(_EVERY_S, limit_s - waited_s)
        await _in_time_of(info, partial(asyncio.sleep, pause_s))


async def _in_time_of(info: EndpointInfo, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await (work() if info.in_process is None else info.in_process.run(work))
