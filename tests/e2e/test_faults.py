"""Servers that misbehave on purpose, before the real engine: what is recorded, judged and read.

One phase each, several at a time, in the load process's own code but in this process.
"""

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_agentperf.answer import AnswerReader
from pytest_agentperf.bundle import PhaseResult
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.engine.connection import EngineConnection
from pytest_agentperf.explain import explain_metrics
from pytest_agentperf.inprocess import InProcessPool
from pytest_agentperf.judged import judge_phase
from pytest_agentperf.phase import Listeners, PhaseRun
from pytest_agentperf.procedure import full_phase
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import Measurement, RawAnswer
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.synthesis import synthesize
from tests.faults import FAULTS, HEAVY, TIMEOUT_S, Fault
from tests.servers.certificate import make_certificate, speaks
from tests.servers.sockets import serve
from tests.workloads import small_setup

pytestmark = pytest.mark.e2e

T = TypeVar("T")
AT_ONCE = 16
"""So many phases run beside each other, of which most wait."""
MOST_MORE_MB = 400
"""The largest body that is taken is 64 MB; the rest is what Python makes of it for a moment."""
TIER = SLOTier(
    model="m",
    name="t",
    limits=(Limit(metric="output_speed_tok_per_s", statistic="p25", value=10.0),),
)
SPEC = ModelSpec(model="m", tiers=(TIER,))
SETTINGS = make_settings(
    {
        "mode": "smoke",
        "start_spread_s": 0.1,
        "settle_s": 0.1,
        "min_steady_s": 0.6,
        "min_trajectories": 1,
        "max_phase_s": 15.0,
        "request_timeout_s": TIMEOUT_S,
        # Here client and servers share one process.
        "max_loop_lag_p95_s": 10.0,
        "max_loop_lag_p99_s": 10.0,
    }
)
DATASET = synthesize(trajectories=4, turns=2, isl_tokens=1500, osl_tokens=16, tool_s=0.02, seed=1)


@dataclass(frozen=True, slots=True)
class Beside:
    """The endpoint behind a URL, with load in this process."""

    info: EndpointInfo
    tls: ssl.SSLContext
    clock = REAL_TIME

    def connect(self, *, timeout_s: float) -> EngineConnection:
        """Return one agent's connection."""
        return EngineConnection(self.info, timeout_s=timeout_s, tls=self.tls)

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run on the running loop."""
        return await work()


@dataclass(frozen=True, slots=True)
class Seen:
    """One phase."""

    measurement: Measurement
    phase: PhaseResult


@dataclass(frozen=True, slots=True)
class Trust:
    """Who trusts whom."""

    ours: ssl.SSLContext
    theirs: dict[str, ssl.SSLContext | None]


async def _phase(fault: Fault, folder: Path, trust: Trust) -> Seen:
    with contextlib.ExitStack() as serving:
        server = serving.enter_context(
            serve(
                fault.does,
                closes=fault.closes,
                host=fault.host,
                tls=trust.theirs[fault.certificate],
            )
        )
        if fault.refuses:
            serving.close()
        pool = InProcessPool(Beside(EndpointInfo(url=server.url), trust.ours))
        setup = small_setup(DATASET, url=server.url, model="m", folder=folder)
        setup.timeout_s = TIMEOUT_S
        await pool.set_up(setup)
        await pool.grow(1)
        run = PhaseRun(
            pool=pool,
            settings=SETTINGS,
            procedure=full_phase(SPEC, SETTINGS),
            readings=(),
            clock=REAL_TIME,
            tell=Listeners(),
        )
        try:
            seen = await run.measure(number=1, agents=fault.agents, workers=1)
        finally:
            await pool.close()
    return Seen(seen, judge_phase(seen, SPEC, SETTINGS))


def _trust(folder: Path) -> Trust:
    known, unknown = folder / "known", folder / "unknown"
    for each in (known, unknown):
        each.mkdir()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", str(make_certificate(known)))
        ours = ssl.create_default_context()
    return Trust(
        ours,
        {
            "none": None,
            "trusted": speaks(known / "both.pem"),
            "unknown": speaks(make_certificate(unknown)),
        },
    )


@pytest.fixture(scope="module", autouse=True)
def proxies() -> Iterator[None]:
    """Name proxies in the environment at which nobody answers."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            environment.setenv(name, "http://127.0.0.1:9")
        yield


@pytest.fixture(scope="module")
def phases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Seen | None]:
    """A phase of every fault that was asked for; none where this machine lacks the address."""
    specs = (getattr(item, "callspec", None) for item in request.session.items)
    asked = {spec.params.get("fault") for spec in specs if spec is not None}
    folder = tmp_path_factory.mktemp("faults")
    trust = _trust(folder)
    folders = [folder / str(number) for number in range(len(FAULTS))]
    for each in folders:
        each.mkdir()

    async def work() -> dict[str, Seen | None]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, fault: Fault) -> tuple[str, Seen | None]:
            async with room:
                if fault.host == "::1" and not _has_ipv6():
                    return fault.name, None
                return fault.name, await _phase(fault, folders[number], trust)

        wanted = [one(n, fault) for n, fault in enumerate(FAULTS) if fault in asked]
        return dict(await asyncio.gather(*wanted))

    return asyncio.run(work())


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def _read_by_user(seen: Seen) -> str:
    """Return what is said of a phase that is no pass."""
    verdict = seen.phase.verdict("t")
    if verdict.outcome == "fail":
        return "\n".join(explain_metrics(TIER, seen.phase.metrics))
    return "; ".join(verdict.reasons)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(phases: dict[str, Seen | None], fault: Fault) -> None:
    seen = phases[fault.name]
    if seen is None:
        pytest.skip("no IPv6 here")
    said = {turn.error for turn in seen.measurement.turns}
    if fault.recorded is None:
        assert said == {None}
    else:
        assert said
        assert all(fnmatchcase(error or "", fault.recorded) for error in said), said
    assert seen.phase.verdict("t").outcome == fault.verdict, _read_by_user(seen)
    if fault.reads:
        read = _read_by_user(seen)
        assert any(fnmatchcase(line, f"*{fault.reads}*") for line in read.splitlines()), read
    else:
        assert not seen.phase.invalid


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("fault", HEAVY, ids=lambda fault: fault.name)
def test_an_answer_without_end_costs_little(fault: Fault) -> None:
    async def ask(url: str) -> str | None:
        connection = EngineConnection(
            EndpointInfo(url=url), timeout_s=30.0, tls=ssl.create_default_context()
        )
        reader = AnswerReader()
        raw = RawAnswer(reader=reader)
        await connection.chat(b"{}", raw, osl_tokens=None)
        await connection.close()
        return reader.finish(raw).error

    before_mb, began_s = _peak_mb(), time.perf_counter()
    with serve(fault.does) as server:
        error = asyncio.run(ask(server.url))
    assert error == fault.recorded
    assert _peak_mb() - before_mb < MOST_MORE_MB
    assert time.perf_counter() - began_s < 30
