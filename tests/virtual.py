"""An endpoint in virtual time whose answers can be worked out by hand."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import RawAnswer, Role, Sample
from pytest_agentperf.sim.virtual_time import VirtualTime
from pytest_agentperf.wire import Body, joined

__all__ = ["FIRST_S", "TOKENS", "Scripted", "scripted_info"]

T = TypeVar("T")

FIRST_S = 0.25
TOKENS = 51
_TOKEN_S = 0.01


def _event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


_TOKEN = _event(choices=[{"delta": {"content": " the"}}])
_LAST = _event(choices=[{"delta": {}, "finish_reason": "stop"}]) + _event(
    choices=[], usage={"prompt_tokens": 1000, "completion_tokens": TOKENS}
)


class Scripted:
    """Sends the first token after 0.25 s and then one every 0.01 s for each open connection.

    So n agents get 50 tokens in 0.5 n s after the first: 100 / n tok/s.
    """

    def __init__(
        self, *, token_s: float = _TOKEN_S, down_s: Sequence[tuple[float, float]] = ()
    ) -> None:
        """Be down from the one to the other second of each pair."""
        self._time = VirtualTime()
        self.down_s = down_s
        self.token_s = token_s
        self.clock = self._time.clock
        self.open = 0
        """Connections that are open."""
        self.closed = False

    def connect(self, *, timeout_s: float) -> "_Connection":
        """Return one agent's connection."""
        self.open += 1
        return _Connection(self, timeout_s)

    @property
    def is_down(self) -> bool:
        """Tell whether nothing answers now."""
        now_s = self.clock.now_ns() / 1e9
        return any(since <= now_s < until for since, until in self.down_s)

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run in virtual time."""
        return await self._time.run(work)

    def close(self) -> None:
        """End the time."""
        self.closed = True
        self._time.close()


class _Connection:
    def __init__(self, endpoint: Scripted, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        del osl_tokens
        now_ns = self._endpoint.clock.now_ns
        into.sent_ns, into.status = now_ns(), 200
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._endpoint.is_down:
                    raise ConnectionRefusedError
                await asyncio.sleep(FIRST_S)
                into.reads.append((now_ns(), _TOKEN))
                for _ in range(TOKENS - 1):
                    await asyncio.sleep(self._endpoint.token_s * self._endpoint.open)
                    if self._endpoint.is_down:
                        raise ConnectionResetError
                    into.reads.append((now_ns(), _TOKEN))
            into.reads.append((now_ns(), _LAST))
        except TimeoutError:
            into.error = f"timeout after {self._timeout_s:g} s"
        except ConnectionError as cut:
            into.error = f"connection: {type(cut).__name__}: "
        into.end_ns = now_ns()
        if b"raise" in joined(body):
            raise RuntimeError("a connection must not raise")

    async def close(self) -> None:
        self._endpoint.open -= 1


class _Meter:
    """Two devices of 350 W each."""

    name = "scripted power"
    kind = "scripted"
    role: Role = "accelerator"
    period_s = 1.0
    devices: Sequence[Mapping[str, Any]] = ({"series": "gpu0"}, {"series": "gpu1"})

    def __init__(self, endpoint: Scripted) -> None:
        self._now_ns = endpoint.clock.now_ns

    def sample(self) -> Sequence[Sample]:
        at_ns = self._now_ns()
        return [
            Sample(at_ns=at_ns, series=f"gpu{i}", unit="J", value=350 * at_ns / 1e9)
            for i in range(2)
        ]

    def clock(self) -> None:
        pass

    def close(self) -> None:
        raise AssertionError("the meter ends with its endpoint")


def scripted_info(endpoint: Scripted) -> EndpointInfo:
    """Return the endpoint as a scheme's ``connect`` would."""
    return EndpointInfo(
        url="scripted:",
        in_process=endpoint,
        simulated=True,
        meter=_Meter(endpoint),
        close=endpoint.close,
    )
