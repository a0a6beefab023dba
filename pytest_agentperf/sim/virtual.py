"""The simulator inside our own process, in a time that jumps: ``sim+virtual:``.

The same engine and the same answers as behind HTTP, without sockets: an agent's connection hands
its request body over and gets stamped bytes back. Nothing waits, so that hours take seconds.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from pytest_agentperf.clock import Clock
from pytest_agentperf.records import RawAnswer, Role, Sample
from pytest_agentperf.sim.answer import Answer, Speaker
from pytest_agentperf.sim.chat import PrefixHasher, RefusedError, error_body
from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.fleet import Fleet
from pytest_agentperf.sim.pacer import Pacer
from pytest_agentperf.sim.quirks import read_as
from pytest_agentperf.sim.sequence import Gain, QueueFullError, Request
from pytest_agentperf.sim.traits import Traits
from pytest_agentperf.sim.virtual_time import VirtualTime
from pytest_agentperf.wire import Body, joined

__all__ = ["VirtualConnection", "VirtualGauges", "VirtualMeter", "VirtualServer"]

T = TypeVar("T")

_OK = 200
_UNAVAILABLE = 503


class VirtualServer:
    """A simulated deployment with a time of its own."""

    def __init__(self, config: EngineConfig, traits: Traits, models: Sequence[str]) -> None:
        """Make it idle, at second 0.

        Args:
            config: the deployment.
            traits: how it speaks.
            models: names that it serves.

        Raises:
            ValueError: a trait needs a connection that can be cut or held.
        """
        if traits.stall_every or traits.reset_every:
            raise ValueError("stall_every and reset_every need a socket: use sim: instead")
        if traits.stream == "whole":
            raise ValueError("stream=whole needs a socket: use sim: instead")
        self._time = VirtualTime()
        loop = self._time.loop
        self.fleet = Fleet(config)
        self.pacer = Pacer(self.fleet, loop, loop.time, horizon_s=loop.next_timer_s)
        self.speaker = Speaker(traits)
        self.models = models

    @property
    def clock(self) -> Clock:
        """The time that jumps."""
        return self._time.clock

    def connect(self, *, timeout_s: float) -> "VirtualConnection":
        """Return one agent's connection."""
        return VirtualConnection(self, timeout_s=timeout_s)

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in this time; see `pytest_agentperf.protocols.InProcess`."""
        return await self._time.run(work)

    def close(self) -> None:
        """End the time."""
        self._time.close()


class VirtualConnection:
    """One agent's connection; see `pytest_agentperf.protocols.Connection`."""

    def __init__(self, server: VirtualServer, *, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._hasher = PrefixHasher(server.fleet.config.block_tokens)

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        """Answer one request."""
        now_ns = self._server.clock.now_ns
        into.sent_ns = now_ns()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._answer(joined(body), into, osl_tokens)
        except TimeoutError:
            into.error = f"timeout after {self._timeout_s:g} s"
        into.end_ns = now_ns()

    async def close(self) -> None:
        """Do nothing: there is no socket."""

    async def _answer(self, body: bytes, into: RawAnswer, osl_tokens: int | None) -> None:
        server = self._server
        try:
            request = read_as(
                server.speaker.traits,
                body,
                osl_header=str(osl_tokens) if osl_tokens else None,
                models=server.models,
                context_limit_tokens=server.fleet.config.context_limit_tokens,
                hasher=self._hasher,
            )
            answer = server.speaker.answer(request)
            into.status = _OK
            await self._stream(answer, into)
        except RefusedError as refused:
            self._refuse(refused, into)

    async def _stream(self, answer: Answer, into: RawAnswer) -> None:
        pacer = self._server.pacer
        ended = asyncio.get_running_loop().create_future()
        keep, take = into.reads.append, answer.take

        def receive(gain: Gain) -> None:
            cached_tokens = gain.cached_tokens
            for end_s, tokens in zip(gain.ends_s, gain.tokens, strict=True):
                if data := take(tokens, cached_tokens, end_s):
                    keep((int(end_s * 1e9 + 0.5), data))
            if gain.finished:
                ended.set_result(None)

        request = answer.request
        try:
            pacer.submit(
                Request(
                    id=answer.id,
                    prompt_tokens=request.prompt_tokens,
                    osl_tokens=request.osl_tokens,
                    blocks=request.blocks,
                    seed=request.seed,
                ),
                receive,
            )
        except QueueFullError as full:
            raise RefusedError(f"The request queue is full: {full}.", status=_UNAVAILABLE) from full
        try:
            await ended
        finally:
            pacer.cancel(answer.id)

    def _refuse(self, refused: RefusedError, into: RawAnswer) -> None:
        into.status = refused.status
        into.reads.append((self._server.clock.now_ns(), error_body(refused)))


class VirtualGauges:
    """Tells what the simulated replicas count themselves."""

    def __init__(self, server: VirtualServer) -> None:
        self._server = server

    def sample(self) -> Sequence[Sample]:
        """Add up all replicas; of their KV caches, the fullest counts."""
        at_ns = self._server.clock.now_ns()
        rows = self._server.fleet.status(at_ns / 1e9)
        now: dict[str, float] = {
            "running": sum(row.running for row in rows),
            "waiting": sum(row.waiting for row in rows),
            "kv_use_ratio": max(row.kv_use_ratio for row in rows),
        }
        counted: dict[str, float] = {
            "prefix_hits": sum(row.counters.prefix_hits_tokens for row in rows),
            "prefix_queries": sum(row.counters.prefix_queries_tokens for row in rows),
            "drafted": sum(row.counters.draft_tokens for row in rows),
            "accepted": sum(row.counters.accepted_tokens for row in rows),
            "preemptions": sum(row.counters.preemptions for row in rows),
        }
        return [
            Sample(at_ns=at_ns, series=name, unit=unit, value=value)
            for unit, told in (("1", now), ("n", counted))
            for name, value in told.items()
        ]

    def close(self) -> None:
        """Do nothing: the server goes with its endpoint."""


class VirtualMeter:
    """Reads the energy counters of the simulated accelerators."""

    name = "simulated power"
    kind = "simulated"
    role: Role = "accelerator"
    period_s = 1.0

    def __init__(self, server: VirtualServer, accelerator: str) -> None:
        self._server = server
        count = server.fleet.config.total_accelerators
        self.devices: Sequence[Mapping[str, Any]] = [
            {"series": f"gpu{index}", "name": accelerator, "uuid": f"sim-{index}"}
            for index in range(count)
        ]

    def sample(self) -> Sequence[Sample]:
        """Read every accelerator; those of one replica share its energy evenly."""
        at_ns = self._server.clock.now_ns()
        rows = self._server.fleet.status(at_ns / 1e9)
        each_j = [row.energy_j / row.accelerators for row in rows for _ in range(row.accelerators)]
        return [
            Sample(at_ns=at_ns, series=f"gpu{index}", unit="J", value=value)
            for index, value in enumerate(each_j)
        ]

    def clock(self) -> None:
        """Return nothing: stamps are of the endpoint's own time."""

    def close(self) -> None:
        """Do nothing: the server goes with its endpoint."""
