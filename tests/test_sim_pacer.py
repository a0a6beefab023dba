import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.fleet import Fleet
from pytest_agentperf.sim.pacer import Pacer
from pytest_agentperf.sim.sequence import Gain, QueueFullError, Request
from pytest_agentperf.sim.virtual_time import VirtualLoop

TOY: dict[str, Any] = {
    "max_sequences": 4,
    "max_step_tokens": 100,
    "acceptance": (),
    "context_limit_tokens": 960,
    "kv_capacity_tokens": 1024,  # 16 blocks of 64
    "step_overhead_s": 1.0,
    "sequence_overhead_s": 0.1,
    "memory_bytes_per_s": 1000.0,
    "kv_read_bytes_per_token": 1.0,  # 0.001 s
    "flops_per_s": 100.0,
    "flops_per_token": 1.0,  # 0.01 s
}

DISAGGREGATED: dict[str, Any] = {
    "prefill_replicas": 1,
    "kv_bytes_per_token": 10.0,
    "transfer_bytes_per_s": 200.0,
}


def request(
    name: str, prompt_tokens: int = 50, osl_tokens: int = 3, blocks: Sequence[str] = ()
) -> Request:
    return Request(id=name, prompt_tokens=prompt_tokens, osl_tokens=osl_tokens, blocks=blocks)


class Bench:
    """A pacer on a clock that jumps, and what its receivers were told."""

    def __init__(self, loop: VirtualLoop, *, far: bool = False, **fields: Any) -> None:
        self.loop = loop
        self.ahead_s = 0.0
        """By how much the clock is ahead of the loop: the loop is late."""
        self.fleet = Fleet(EngineConfig(**{**TOY, **fields}))
        self.pacer = Pacer(
            self.fleet,
            loop,
            lambda: loop.time() + self.ahead_s,
            horizon_s=loop.next_timer_s if far else None,
        )
        self.told: list[tuple[float, Gain]] = []
        self._open = 0
        self._done = asyncio.Event()

    def submit(self, each: Request, then: Callable[[Gain], None] | None = None) -> None:
        def receive(gain: Gain) -> None:
            self.told.append((self.loop.time(), gain))
            self._open -= gain.finished
            if then is not None:
                then(gain)
            if not self._open:
                self._done.set()

        self._open += 1
        self.pacer.submit(each, receive)

    def cancel(self, name: str) -> None:
        self._open -= 1
        self.pacer.cancel(name)

    def run(self, *, extra_s: float = 0.0) -> None:
        """Run until all answers are whole, and a while more."""
        self.loop.run_until_complete(self._done.wait())
        if extra_s:
            self.loop.run_until_complete(asyncio.sleep(extra_s))

    def tokens(self, name: str) -> list[tuple[float, int]]:
        """When which of a request's tokens came, as told."""
        return [
            pair
            for _, gain in self.told
            if gain.request_id == name
            for pair in zip(gain.ends_s, gain.tokens, strict=True)
        ]


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    virtual = VirtualLoop()
    yield virtual
    virtual.close()


def times(*values: float) -> Any:
    return pytest.approx(list(values))


def decode_times_s(bench: Bench, name: str) -> list[float]:
    return [at_s for at_s, _ in bench.tokens(name)]


class TestDelivery:
    def test_tokens_are_handed_out_when_their_steps_end(self, loop: VirtualLoop):
        bench = Bench(loop)
        bench.submit(request("a"))
        bench.run()
        # 1 + 50 x 0.01; 1 + 0.1 + 51 x 0.001; and 52
        assert [gain.ends_s[0] for _, gain in bench.told] == times(1.5, 2.651, 3.803)
        # a timer is rounded up to whole milliseconds
        assert [at_s for at_s, _ in bench.told] == pytest.approx([1.5, 2.651, 3.803], abs=0.0011)
        assert [gain.finished for _, gain in bench.told] == [False, False, True]

    def test_gains_of_a_step_come_in_order_of_admission(self, loop: VirtualLoop):
        bench = Bench(loop)
        for name in "ab":
            bench.submit(request(name, 10))
        bench.run()
        # b comes while a's step is under way: a a+b a+b b
        assert [gain.request_id for _, gain in bench.told] == ["a", "a", "b", "a", "b", "b"]

    def test_what_comes_in_reply_is_part_of_the_next_step(self, loop: VirtualLoop):
        bench = Bench(loop)

        def reply(gain: Gain) -> None:
            if gain.finished:
                bench.submit(request("b", 10, 1))

        bench.submit(request("a", 10, 1), reply)
        bench.run()
        assert decode_times_s(bench, "b") == times(2.2)  # 1.1 twice

    def test_an_idle_replica_begins_when_something_comes(self, loop: VirtualLoop):
        bench = Bench(loop)
        bench.submit(request("a", 10, 1))
        bench.run(extra_s=5.0)
        began_s = loop.time()
        bench.submit(request("b", 10, 1))
        bench.run(extra_s=2.0)
        assert decode_times_s(bench, "b") == times(began_s + 1.1)

    def test_a_refused_request_is_not_awaited(self, loop: VirtualLoop):
        bench = Bench(loop, max_waiting=1)
        bench.submit(request("a", 10, 1))
        bench.submit(request("b", 10, 1))
        with pytest.raises(QueueFullError):
            bench.pacer.submit(request("c", 10, 1), lambda _: pytest.fail("it was refused"))
        bench.run()
        assert {gain.request_id for _, gain in bench.told} == {"a", "b"}


class TestHorizon:
    def test_looks_ahead_as_far_as_nothing_happens(self, loop: VirtualLoop):
        bench = Bench(loop, far=True)
        bench.submit(request("a", 50, 500))
        bench.run()
        assert bench.tokens("a")[-1][1] == 500
        assert bench.pacer.lateness.steps <= 3

    def test_and_not_farther(self, loop: VirtualLoop):
        bench = Bench(loop, far=True)
        bench.submit(request("a", 50, 500))
        loop.call_at(10.0, bench.submit, request("b", 10, 1))
        bench.run()
        stepped = Bench(other := VirtualLoop())
        stepped.submit(request("a", 50, 500))
        other.call_at(10.0, stepped.submit, request("b", 10, 1))
        stepped.run()
        other.close()
        for name in "ab":
            assert bench.tokens(name) == stepped.tokens(name)
        assert bench.pacer.lateness.steps < 10 < stepped.pacer.lateness.steps

    def test_what_is_handed_out_is_not_late(self, loop: VirtualLoop):
        bench = Bench(loop, far=True)
        bench.submit(request("a", 50, 500))
        bench.run()
        assert bench.told[-1][0] == bench.told[-1][1].ends_s[-1]
        assert bench.pacer.lateness.worst_s == 0.0


class TestCancel:
    @pytest.mark.parametrize("far", [False, True])
    def test_during_a_step(self, loop: VirtualLoop, far: bool):  # noqa: FBT001
        bench = Bench(loop, far=far)
        bench.submit(request("a", 50, 100))
        bench.submit(request("b", 50, 9))
        loop.call_at(4.0, bench.cancel, "a")
        bench.run()
        assert max(at_s for at_s, gain in bench.told if gain.request_id == "a") < 4.0
        assert bench.tokens("b")[-1][1] == 9
        assert bench.fleet.engines[0].pool.free_blocks == 16

    def test_by_the_receiver_of_another(self, loop: VirtualLoop):
        bench = Bench(loop, max_sequences=2)
        bench.submit(request("first", 10, 1), lambda _: bench.cancel("b"))
        bench.submit(request("b", 10, 9))
        bench.run(extra_s=5.0)
        assert [gain.request_id for _, gain in bench.told] == ["first"]
        assert not bench.fleet.engines[0].busy

    def test_of_an_unknown_id_changes_nothing(self, loop: VirtualLoop):
        bench = Bench(loop)
        bench.submit(request("a", 10, 1))
        bench.pacer.cancel("nobody")
        bench.run()
        assert bench.tokens("a")[-1][1] == 1


class TestLateness:
    def test_one_late_step_does_not_move_those_after_it(self, loop: VirtualLoop):
        bench = Bench(loop)
        bench.submit(request("a"))
        loop.call_at(1.0, setattr, bench, "ahead_s", 0.06)
        bench.run()
        assert decode_times_s(bench, "a") == times(1.5, 2.651, 3.803)
        lateness = bench.pacer.lateness
        assert (lateness.steps, lateness.late_steps) == (3, 1)
        assert lateness.worst_s == pytest.approx(0.06, abs=0.0011)

    def test_a_little_late_is_not_counted(self, loop: VirtualLoop):
        bench = Bench(loop)
        bench.submit(request("a"))
        loop.call_at(1.0, setattr, bench, "ahead_s", 0.04)
        bench.run()
        assert bench.pacer.lateness.late_steps == 0
        assert bench.pacer.lateness.worst_s == pytest.approx(0.04, abs=0.0011)

    def test_missed_steps_leave_room_for_other_callbacks(self, loop: VirtualLoop):
        bench = Bench(loop)
        order: list[str] = []

        def receive(gain: Gain) -> None:
            order.append(f"step {gain.tokens[-1]}")
            loop.call_soon(order.append, "other")

        bench.submit(request("a"), receive)
        loop.call_at(1.0, setattr, bench, "ahead_s", 5.0)
        bench.run()
        assert order[:5] == ["step 1", "other", "step 2", "other", "step 3"]
        assert bench.pacer.lateness.late_steps == 3
        assert loop.time() == pytest.approx(1.5, abs=0.0011)


class TestDisaggregation:
    @pytest.mark.parametrize("far", [False, True])
    def test_prefill_transfer_decode(self, loop: VirtualLoop, far: bool):  # noqa: FBT001
        bench = Bench(loop, far=far, **DISAGGREGATED)
        bench.submit(request("a", 100, 3))
        bench.run()
        # 1 + 100 x 0.01 on the prefilling replica; 100 x 10 / 200 = 5 s; then 1.1 + 0.101 and
        # 1.1 + 0.102 on the other
        assert [tokens for _, tokens in bench.tokens("a")] == [1, 2, 3]
        assert decode_times_s(bench, "a") == pytest.approx([2.0, 8.201, 9.403], abs=0.0011)
        assert [gain.finished for _, gain in bench.told][-1]
        decoding, prefilling = bench.fleet.status(loop.time())
        assert (decoding.counters.generation_tokens, prefilling.counters.generation_tokens) == (
            2,
            1,
        )
        assert (decoding.kv_use_ratio, prefilling.kv_use_ratio) == (0.0, 0.0)

    def test_the_next_turn_finds_its_prompt_where_it_was_computed(self, loop: VirtualLoop):
        bench = Bench(loop, **DISAGGREGATED)
        bench.submit(request("a", 100, 3, ["x"]))
        bench.run()
        bench.submit(request("b", 100, 3, ["x"]))
        bench.run(extra_s=20.0)
        first = next(gain for _, gain in bench.told if gain.request_id == "b")
        assert first.cached_tokens == 64

    def test_an_answer_says_the_same_of_the_cache_from_its_first_token_to_its_last(
        self, loop: VirtualLoop
    ):
        bench = Bench(loop, replicas=2, **DISAGGREGATED)
        bench.submit(request("a", 100, 3, ["x"]))
        bench.run()
        bench.submit(request("busy", 10, 100))  # on the replica that has the prompt now
        bench.submit(request("b", 100, 3, ["x"]))
        bench.run(extra_s=200.0)
        assert {gain.cached_tokens for _, gain in bench.told if gain.request_id == "b"} == {64}

    @pytest.mark.parametrize(
        "at_s",
        [
            pytest.param(1.0, id="in the prefill"),
            pytest.param(4.0, id="in the transfer"),
            pytest.param(8.0, id="in the decode"),
        ],
    )
    def test_cancel(self, loop: VirtualLoop, at_s: float):
        bench = Bench(loop, **DISAGGREGATED)
        bench.submit(request("a", 100, 50))
        loop.call_at(at_s, bench.cancel, "a")
        loop.run_until_complete(asyncio.sleep(30.0))
        assert all(told_s <= at_s for told_s, _ in bench.told)
        assert not any(engine.busy for engine in bench.fleet.engines)
        assert all(engine.pool.free_blocks == 16 for engine in bench.fleet.engines)


def test_on_a_real_loop():
    """Ten steps of 2 ms each."""
    config = EngineConfig(
        acceptance=(), step_overhead_s=0.002, sequence_overhead_s=1e-9, flops_per_token=1.0
    )

    async def answer() -> list[Gain]:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        gains: list[Gain] = []

        def receive(gain: Gain) -> None:
            assert loop.time() >= gain.ends_s[-1]  # never before its time
            gains.append(gain)
            if gain.finished:
                done.set()

        Pacer(Fleet(config), loop, loop.time).submit(request("a", 10, 10), receive)
        await done.wait()
        return gains

    gains = asyncio.run(answer())
    assert [gain.tokens[-1] for gain in gains] == list(range(1, 11))
    # Deadlines are absolute: 9 steps later than the first, however late the loop was
    assert gains[-1].ends_s[-1] - gains[0].ends_s[-1] == pytest.approx(0.018, abs=1e-4)
