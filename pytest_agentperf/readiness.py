"""Makes a server ready for a phase: warm before a model's first one, idle before each."""

from collections.abc import Callable
from pathlib import Path

from pytest_agentperf import words
from pytest_agentperf.asking import say_hello
from pytest_agentperf.clients import connections_of
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.ledger import Ledger
from pytest_agentperf.orders import Setup
from pytest_agentperf.prelude import Rest, WarmUp
from pytest_agentperf.protocols import Connection, EndpointInfo
from pytest_agentperf.rest import Canary, Rester
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.warmup import outside, warm_up

__all__ = ["Readiness"]

_AGENTS = 8
_CANARY_S = 30.0
_USUAL_ISL_TOKENS = 4_000
"""Where no recorded length is known."""


class Readiness:
    """What precedes the phases of a run, in real time; where time jumps there is no call for it."""

    def __init__(
        self,
        endpoint: EndpointInfo,
        settings: Settings,
        *,
        folder: Path,
        tell: Callable[[str, str], None],
    ) -> None:
        """Do nothing yet.

        Args:
            endpoint: where load goes.
            settings: what the run was asked to do.
            folder: for files that last as long as the run.
            tell: hears notes, with their model.
        """
        self._endpoint = endpoint
        self._settings = settings
        self._folder = folder
        self._tell = tell
        self._resters: dict[str, Rester] = {}
        self.warm_ups: tuple[WarmUp, ...] = ()

    async def before_phase(self, ledger: Ledger, setup: Setup) -> Rest | None:
        """Warm a model up before its first phase, and wait until the server is idle.

        Returns:
            How the server came to rest; ``None`` where nobody waited.
        """
        model, limit_s = ledger.spec.model, self._settings.rest_s
        if model not in self._resters:
            rester = self._resters[model] = Rester(
                gauges=self._endpoint.gauges,
                canary=self._canary(ledger.spec),
                clock=REAL_TIME,
                limit_s=limit_s,
            )
            if limit_s > 0:
                await rester.know()
            await self._warm_up(ledger, setup)
        if limit_s <= 0:
            return None
        rest = await self._resters[model].until_idle()
        if not rest.idle:
            waited = words.span(rest.waited_s)
            self._tell(model, f"the server was not idle after {waited}: {rest.text}")
        return rest

    async def _warm_up(self, ledger: Ledger, setup: Setup) -> None:
        settings = self._settings
        if self._endpoint.simulated or settings.warmup_s <= 0:
            return
        lengths = [
            turn.recorded_isl_tokens
            for trajectory in ledger.plan.trajectories
            for turn in trajectory.turns
            if turn.recorded_isl_tokens is not None
        ]
        warm = await warm_up(
            outside(
                setup,
                self._folder,
                isl_tokens=sum(lengths) // len(lengths) if lengths else _USUAL_ISL_TOKENS,
                reasoning_field=self._endpoint.history_field(ledger.spec),
            ),
            _connections,
            agents=min(_AGENTS, settings.max_agents),
            for_s=settings.warmup_s,
            clock=REAL_TIME,
        )
        self.warm_ups = (*self.warm_ups, warm)
        failed = f", {warm.failed} failed" if warm.failed else ""
        self._tell(
            warm.model,
            f"warmed up for {words.span(warm.seconds)}: {warm.requests} requests{failed}, TTFT "
            f"{words.number(warm.first_ttft_s)} s at first, {words.number(warm.last_ttft_s)} s at "
            "last",
        )

    def _canary(self, spec: ModelSpec) -> Canary:
        async def ask() -> float | None:
            client = self._settings.client
            return (await say_hello(self._endpoint, spec, client, limit_s=_CANARY_S)).answered_s

        return ask


def _connections(setup: Setup) -> Callable[[int], Connection]:
    return connections_of(setup, ReadLags())
