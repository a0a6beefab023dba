"""Asks an endpoint the small requests of a preflight, before any load."""

import asyncio
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace

from pytest_agentperf.answer import AnswerReader
from pytest_agentperf.api_key import redact
from pytest_agentperf.clients import open_connection
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.errors import EndpointError
from pytest_agentperf.ledger import max_tokens
from pytest_agentperf.observe import observe
from pytest_agentperf.observed import Line, Needs, Observed
from pytest_agentperf.plan import Demands, demands
from pytest_agentperf.probes import Probes, Seen
from pytest_agentperf.protocols import Connection, EndpointInfo
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.tokens import LocalTokenizer
from pytest_agentperf.trajectory import Dataset

__all__ = ["Asker", "needs_of", "observe_model", "observe_models", "say_hello"]

_FIRST_S = 60.0
"""A server may have to load what the first request needs."""
_OTHERS_S = 9.0
"""All others together."""
_LOOK_S = 0.01


class Asker:
    """Sends requests one at a time, each on a connection of its own, in the endpoint's time."""

    def __init__(self, info: EndpointInfo, client: str, *, first_s: float = _FIRST_S) -> None:
        """Ask nothing yet.

        Args:
            info: the endpoint.
            client: what carries a request; see `clients`.
            first_s: limit of the first request, seconds; all others together have less.
        """
        self._first_s = first_s
        self._info = info
        self._client = client
        self.clock = REAL_TIME if info.in_process is None else info.in_process.clock
        self._tls: ssl.SSLContext | None = None
        self._until_ns: int | None = None
        """When the time for all further requests is over."""

    async def __call__(self, body: bytes, hang_up: bool) -> RawAnswer:  # noqa: FBT001 probes.Ask
        """Send one request; where asked to, hang up at its first token."""
        if self._until_ns is None:
            limit_s = self._first_s
        else:
            limit_s = max(0.0, (self._until_ns - self.clock.now_ns()) / 1e9)
        raw = RawAnswer(error="the time for a preflight is over")
        if limit_s > 0:
            raw = await self._in_its_time(body, limit_s, hang_up=hang_up)
        self._until_ns = self._until_ns or self.clock.now_ns() + int(_OTHERS_S * 1e9)
        return raw

    async def _in_its_time(self, body: bytes, limit_s: float, *, hang_up: bool) -> RawAnswer:
        place = self._info.in_process
        if place is not None:
            connection = place.connect
            return await place.run(
                lambda: self._ask(connection(timeout_s=limit_s), body, hang_up=hang_up)
            )
        self._tls = self._tls or ssl.create_default_context()
        opened = open_connection(
            self._client, self._info, timeout_s=limit_s, tls=self._tls, lags=ReadLags()
        )
        return await self._ask(opened, body, hang_up=hang_up)

    async def _ask(self, connection: Connection, body: bytes, *, hang_up: bool) -> RawAnswer:
        raw = RawAnswer(reader=_Keeper() if hang_up else None)
        asking = asyncio.create_task(connection.chat(body, raw, osl_tokens=None))
        try:
            while hang_up and not asking.done() and not _has_token(raw):  # noqa: ASYNC110 no event tells
                await asyncio.sleep(_LOOK_S)
            if not hang_up:
                await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await connection.close()
        if isinstance(raw.reader, _Keeper):
            raw.reads[:0] = raw.reader.reads
        raw.end_ns = raw.end_ns or self.clock.now_ns()
        raw.error = None if raw.error is None else redact(raw.error)
        return raw


class _Keeper(AnswerReader):
    """Decodes an answer while it comes, and keeps its bytes all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, bytes]] = []

    def feed(self, at_ns: int, data: bytes) -> None:
        """Take the bytes of one read."""
        self.reads.append((at_ns, data))
        super().feed(at_ns, data)


def _has_token(raw: RawAnswer) -> bool:
    if raw.reader is not None and raw.reader.first_token_ns:
        return True
    reader = AnswerReader()
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
    return reader.first_token_ns is not None


async def say_hello(info: EndpointInfo, spec: ModelSpec, client: str, *, limit_s: float) -> Seen:
    """Send one small request outside any phase, as the load would, on a connection of its own."""
    asker = Asker(info, client, first_s=limit_s)
    field = info.dialect(spec.model).max_tokens_field
    return await Probes(asker, spec, key="hello", max_tokens_field=field).hello()


def needs_of(
    info: EndpointInfo, spec: ModelSpec, settings: Settings, asked: Demands, *, key: str
) -> Needs:
    """Return what a run needs of its server for one model."""
    facts = [fact for fact in info.facts if fact.key == "engine.max_model_len"]
    limits = [fact.value for fact in facts if isinstance(fact.value, int)]
    names = (str(fact.value) for fact in info.facts if fact.key == "engine.name")
    return Needs(
        spec=spec,
        demands=asked,
        max_tokens=max_tokens(spec, settings),
        output=settings.output,
        salted=settings.salt != "none",
        counts_locally=settings.tokenizer is not None,
        first_chunk=settings.speed == "first-chunk" or spec.limits_first_chunk,
        served=info.models,
        limit_tokens=min(limits, default=None),
        engine=next(names, None),
        key=key,
        prefix_hits=lambda: _prefix_hits(info),
    )


def _prefix_hits(info: EndpointInfo) -> float | None:
    told = info.gauges.sample() if info.gauges is not None else ()
    return next((s.value for s in told if s.series == "prefix_hits"), None)


async def observe_model(
    info: EndpointInfo,
    spec: ModelSpec,
    settings: Settings,
    dataset: Dataset,
    *,
    thorough: bool | None = None,
) -> Observed:
    """Ask one model what the load will need.

    Args:
        info: the endpoint.
        spec: the model.
        settings: what the run was asked to do.
        dataset: what will be replayed.
        thorough: ask more than one request. ``None``: wherever that is free; further ones would
            leave traces in the cache and the time of an endpoint of our own process, whose runs
            are the same to the last bit.

    Raises:
        ConfigError: the tokenizer that was named cannot be read.
    """
    if settings.tokenizer is not None:
        LocalTokenizer(settings.tokenizer, download=settings.tokenizer_download)
    asked = demands(
        dataset,
        context_tokens=spec.context_tokens,
        max_tokens=max_tokens(spec, settings),
        salted=settings.salt != "none",
    )
    asker = Asker(info, settings.client)
    needs = needs_of(info, spec, settings, asked, key=secrets.token_hex(8))
    began_ns = asker.clock.now_ns()
    thorough = info.in_process is None if thorough is None else thorough
    seen = await observe(asker, needs, thorough=thorough)
    return replace(seen, took_s=(asker.clock.now_ns() - began_ns) / 1e9)


async def observe_models(
    info: EndpointInfo,
    specs: Mapping[str, ModelSpec],
    settings: Settings,
    dataset: Dataset,
    *,
    tell: Callable[[str, Line], None],
) -> EndpointInfo:
    """Ask every model of a run; return the endpoint with what was observed.

    Args:
        info: the endpoint.
        specs: the models, by name.
        settings: what the run was asked to do.
        dataset: what will be replayed.
        tell: hears every line, with its model.

    Raises:
        ConfigError: the tokenizer that was named cannot be read.
        EndpointError: no number of this server could be trusted.
    """
    observed: list[Observed] = []
    for spec in specs.values():
        seen = await observe_model(info, spec, settings, dataset)
        for line in seen.lines:
            tell(spec.model, line)
        if seen.refused:
            raise EndpointError(f"endpoint {info.url}: {redact(seen.refusal)}")
        observed.append(seen)
    return replace(info, observed=tuple(observed))
