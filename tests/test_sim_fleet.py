from typing import Any

import pytest

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.engine import Engine
from pytest_agentperf.sim.fleet import Fleet
from pytest_agentperf.sim.sequence import QueueFullError, Request


def fleet(**fields: Any) -> Fleet:
    return Fleet(EngineConfig(block_tokens=64, **fields))


def request(name: str, blocks: int = 1, osl_tokens: int = 1) -> Request:
    """As many blocks of a text that all such prompts begin with, and one token more."""
    keys = [f"block {index}" for index in range(blocks)]
    return Request(id=name, prompt_tokens=64 * blocks + 1, osl_tokens=osl_tokens, blocks=keys)


def other(name: str) -> Request:
    return Request(id=name, prompt_tokens=1, osl_tokens=1)


def serve(engine: Engine, request: Request) -> None:
    engine.submit(request)
    while engine.busy:
        assert engine.advance(0.0, 0.0) is not None


class TestRoundRobin:
    def test_takes_turns(self):
        three = fleet(replicas=3, router="round-robin")
        assert [three.route(other(str(number))) for number in range(5)] == [0, 1, 2, 0, 1]

    def test_takes_turns_among_those_that_prefill(self):
        both = fleet(replicas=2, prefill_replicas=2, router="round-robin")
        assert [both.route(other(str(number))) for number in range(3)] == [2, 3, 2]


class TestPrefixRouter:
    def test_prefers_the_replica_that_has_the_prompt(self):
        three = fleet(replicas=3)
        serve(three.engines[1], Request(id="a", prompt_tokens=65, osl_tokens=1, blocks=["x"]))
        again = Request(id="b", prompt_tokens=99, osl_tokens=1, blocks=["x"])
        assert three.route(again) == 1

    @pytest.mark.parametrize(
        ("load", "place"),
        [
            pytest.param(0, 1, id="it is idle"),
            pytest.param(1, 1, id="one request there: 2,560 - 2,048 tokens"),
            pytest.param(2, 0, id="two requests there: 2,560 - 4,096 tokens"),
        ],
    )
    def test_but_not_where_it_is_much_busier(self, load: int, place: int):
        two = fleet(replicas=2)
        serve(two.engines[1], request("a", blocks=40))  # 2,560 tokens
        for number in range(load):
            two.engines[1].submit(other(str(number)))
        assert two.route(request("b", blocks=41)) == place

    def test_among_equals_the_least_busy_is_chosen_and_the_first_of_those(self):
        three = fleet(replicas=3)
        for number in range(4):
            place = three.route(other(str(number)))
            assert place == number % 3
            three.engines[place].submit(other(str(number)))

    def test_looks_only_at_replicas_that_prefill(self):
        both = fleet(replicas=1, prefill_replicas=2)
        serve(both.engines[0], request("a", blocks=3))
        assert both.route(request("b", blocks=3)) == 1


class TestHandOver:
    def test_costs_the_transfer_of_the_whole_prompt(self):
        both = fleet(prefill_replicas=1, kv_bytes_per_token=10.0, transfer_bytes_per_s=2000.0)
        prompt = Request(id="a", prompt_tokens=1000, osl_tokens=5)
        place, successor, delay_s = both.hand_over(prompt)
        assert place == 0
        assert successor == Request(id="a", prompt_tokens=1000, osl_tokens=5, prefilled=True)
        assert delay_s == 5.0  # 1,000 x 10 / 2,000

    def test_goes_to_the_least_busy(self):
        both = fleet(replicas=3, prefill_replicas=1)
        for place in (0, 0, 1, 2, 2):
            both.engines[place].submit(other("x"))
        assert both.hand_over(other("a"))[0] == 1

    def test_of_one_step_are_spread(self):
        both = fleet(replicas=2, prefill_replicas=1)
        places = [both.hand_over(request(str(number), osl_tokens=9))[0] for number in range(4)]
        assert sorted(places) == [0, 0, 1, 1]

    def test_is_never_refused(self):
        both = fleet(prefill_replicas=1, max_waiting=1)
        prefilling, decoding = both.engines[1], both.engines[0]
        prefilling.submit(other("a"))
        with pytest.raises(QueueFullError):
            prefilling.submit(other("b"))
        for number in range(3):
            _, successor, _ = both.hand_over(request(str(number), osl_tokens=9))
            decoding.submit(successor)
        assert decoding.waiting == 3


class TestStatus:
    def test_of_each_replica(self):
        two = fleet(
            replicas=2, accelerators=2, context_limit_tokens=192, kv_capacity_tokens=256
        )  # 4 blocks
        two.engines[1].submit(request("a", blocks=1, osl_tokens=9))
        two.engines[1].submit(Request(id="b", prompt_tokens=129, osl_tokens=9))
        two.engines[1].advance(0.0, 0.0)
        idle, busy = two.status(0.001)
        assert (idle.running, idle.waiting, idle.kv_use_ratio, idle.accelerators) == (0, 0, 0, 2)
        assert (idle.energy_j, idle.power_w) == (pytest.approx(0.2), 200.0)  # 2 x 100 W x 1 ms
        # a has 2 of 4 blocks; b wants 3
        assert (busy.running, busy.waiting, busy.kv_use_ratio) == (1, 1, 0.5)
        assert busy.counters.generation_tokens == 1
        assert busy.power_w > 800.0  # a prompt is computed
        assert busy.evicted_blocks == 0
