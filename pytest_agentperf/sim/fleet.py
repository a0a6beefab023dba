"""All replicas of a deployment: which one takes a request, and what it costs to hand it over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.engine import Engine
from pytest_agentperf.sim.sequence import Counters, Request

__all__ = ["Fleet", "ReplicaStatus"]

_LOAD_TOKENS = 2048
"""What a router would rather compute again than queue behind one more request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """Gauges and totals of one replica."""

    running: int
    waiting: int
    kv_use_ratio: float
    counters: Counters
    evicted_blocks: int
    accelerators: int
    energy_j: float
    """Of all its accelerators, since the beginning."""
    power_w: float


class Fleet:
    """The replicas; with disaggregation, those that decode come first."""

    def __init__(self, config: EngineConfig, *, began_s: float = 0.0) -> None:
        self.config = config
        decoding = [Engine(config, began_s=began_s) for _ in range(config.replicas)]
        prefilling = [
            Engine(config, only_prefills=True, began_s=began_s)
            for _ in range(config.prefill_replicas)
        ]
        self.engines: tuple[Engine, ...] = (*decoding, *prefilling)
        self._turn = 0
        self._coming = [0] * len(self.engines)
        """Requests on their way from a prefilling replica."""

    def route(self, request: Request) -> int:
        """Return the index of the replica that takes a request."""
        replicas, first = self.config.replicas, 0
        if self.config.prefill_replicas:
            replicas, first = len(self.engines), self.config.replicas
        return self._choose(request, range(first, replicas))

    def hand_over(self, request: Request) -> tuple[int, Request, float]:
        """Return where a computed prompt goes on.

        Returns:
            The replica's index, the request to submit there, and the transfer's duration, s.
        """
        least = min(range(self.config.replicas), key=lambda i: (self._load(i), i))
        self._coming[least] += 1
        sent_bytes = request.prompt_tokens * self.config.kv_bytes_per_token
        return (
            least,
            replace(request, prefilled=True),
            sent_bytes / self.config.transfer_bytes_per_s,
        )

    def arrived(self, place: int) -> None:
        """What was handed over to a replica has come there, or is not wanted any more."""
        self._coming[place] -= 1

    def status(self, now_s: float) -> Sequence[ReplicaStatus]:
        """Return what each replica would publish now."""
        return [
            ReplicaStatus(
                running=engine.running,
                waiting=engine.waiting,
                kv_use_ratio=engine.kv_use_ratio,
                counters=engine.counters,
                evicted_blocks=engine.pool.evicted_blocks,
                accelerators=self.config.accelerators,
                energy_j=engine.energy_j(now_s),
                power_w=engine.power_w(now_s),
            )
            for engine in self.engines
        ]

    def _choose(self, request: Request, places: range) -> int:
        if len(places) == 1:
            return places[0]
        if self.config.router == "round-robin":
            self._turn += 1
            return places[(self._turn - 1) % len(places)]
        return max(places, key=lambda i: (self._score(i, request), -i))

    def _score(self, place: int, request: Request) -> int:
        """Tokens that need no computing, less what the replica's other requests are worth."""
        found = self.engines[place].pool.find(request.blocks)
        return len(found) * self.config.block_tokens - _LOAD_TOKENS * self._load(place)

    def _load(self, place: int) -> int:
        engine = self.engines[place]
        return engine.running + engine.waiting + self._coming[place]
