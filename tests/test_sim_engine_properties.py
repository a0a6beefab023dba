from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.engine import Engine
from pytest_agentperf.sim.sequence import Request
from tests.engines import request, run, toy


@dataclass(frozen=True)
class Load:
    """A random workload on a cache so small that it runs out."""

    config: EngineConfig
    arrivals: Sequence[tuple[float, Request]]


def _load(config: EngineConfig, rows: Sequence[tuple[float, int, int, str, int, bool]]) -> Load:
    now_s, arrivals = 0.0, list[tuple[float, Request]]()
    for number, (gap_s, prompt_tokens, osl_tokens, stem, shared, prefilled) in enumerate(rows):
        now_s += gap_s
        keys = [
            (stem, index) if index < shared else (number, index)
            for index in range(prompt_tokens // config.block_tokens)
        ]
        each = Request(
            id=str(number),
            prompt_tokens=prompt_tokens,
            osl_tokens=osl_tokens + prefilled,
            blocks=keys,
            seed=number,
            prefilled=prefilled,
        )
        arrivals.append((now_s, each))
    return Load(config, arrivals)


def loads(*, some_prefilled: bool = False) -> st.SearchStrategy[Load]:
    configs = st.builds(
        toy,
        block_tokens=st.just(4),
        context_limit_tokens=st.just(96),
        kv_capacity_tokens=st.sampled_from([100, 132, 200]),
        max_sequences=st.integers(1, 6),
        max_step_tokens=st.sampled_from([18, 40, 100]),
        acceptance=st.sampled_from([(), (1.0,), (0.8, 0.5)]),
    )
    row = st.tuples(
        st.sampled_from([0.0, 0.5, 3.0, 40.0]),
        st.integers(1, 60),
        st.integers(1, 35),
        st.sampled_from("ab"),
        st.integers(0, 12),
        st.booleans() if some_prefilled else st.sampled_from([False]),
    )
    return st.builds(_load, configs, st.lists(row, min_size=1, max_size=10))


class TestProperties:
    @settings(max_examples=150)
    @given(loads(some_prefilled=True))
    def test_a_run_of_steps_is_what_its_steps_are(self, load: Load):
        by_step, by_run = Engine(load.config), Engine(load.config)
        one = run(by_step, load.arrivals)
        other = run(by_run, load.arrivals, looks_ahead=True)
        assert one.tokens.keys() == other.tokens.keys()
        for name in one.tokens:
            assert one.bursts(name) == other.bursts(name)
            assert one.times_s(name) == pytest.approx(other.times_s(name), rel=0, abs=1e-9)
        assert one.cached_tokens == other.cached_tokens
        assert by_step.counters == by_run.counters
        assert by_step.pool.evicted_blocks == by_run.pool.evicted_blocks
        end_s = one.ends_s[-1]
        assert by_step.energy_j(end_s) == pytest.approx(by_run.energy_j(end_s))
        assert len(other.ends_s) <= len(one.ends_s)

    @settings(max_examples=60)
    @given(loads())
    def test_every_answer_is_whole_and_in_order(self, load: Load):
        seen = run(Engine(load.config), load.arrivals, looks_ahead=True)
        for arrived_s, each in load.arrivals:
            tokens = [count for _, count in seen.tokens[each.id]]
            assert tokens[-1] == each.osl_tokens
            assert all(before < after for before, after in pairwise([0, *tokens]))
            times_s = [arrived_s, *seen.times_s(each.id)]
            assert all(before < after for before, after in pairwise(times_s))
        assert sorted(seen.finished) == sorted(each.id for _, each in load.arrivals)

    @settings(max_examples=100)
    @given(loads(some_prefilled=True), st.dictionaries(st.integers(0, 40), st.integers(0, 9)))
    def test_no_block_is_lost_whoever_is_cancelled(self, load: Load, cancels: dict[int, int]):
        engine = Engine(load.config)
        names = {number: str(name) for number, name in cancels.items()}
        run(engine, load.arrivals, looks_ahead=True, cancels=names)
        assert engine.pool.free_blocks == engine.pool.capacity_blocks
        assert engine.pool.try_take(engine.pool.capacity_blocks)
        assert engine.pool.free_blocks == 0

    @settings(max_examples=60)
    @given(loads())
    def test_blocks_are_conserved_at_every_step(self, load: Load):
        engine = Engine(load.config)
        for _, each in load.arrivals:
            engine.submit(each)
        now_s = 0.0
        while engine.busy:
            segment = engine.advance(now_s, now_s)
            assert segment is not None
            now_s = segment.end_s
            assert 0 <= engine.pool.free_blocks <= engine.pool.capacity_blocks
            assert 0 <= engine.kv_use_ratio <= 1
            assert engine.running <= load.config.max_sequences
            assert engine.kv_use_ratio > 0 or engine.running == 0

    @settings(max_examples=40)
    @given(
        st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=2, max_size=12),
        st.integers(1, 50),
        st.integers(1, 200),
    )
    def test_first_come_first_served(
        self, gaps_s: list[float], osl_tokens: int, prompt_tokens: int
    ):
        engine = Engine(toy(max_sequences=3))
        arrivals, now_s = list[tuple[float, Request]](), 0.0
        for number, gap_s in enumerate(gaps_s):
            now_s += gap_s
            arrivals.append((now_s, request(str(number), prompt_tokens, osl_tokens)))
        seen = run(engine, arrivals)
        assert engine.counters.preemptions == 0
        assert list(seen.tokens) == [each.id for _, each in arrivals]  # in order of first tokens

    @settings(max_examples=20)
    @given(loads(), st.booleans())
    def test_the_same_twice_is_the_same(self, load: Load, looks_ahead: bool):  # noqa: FBT001
        one, other = (
            run(Engine(load.config), load.arrivals, looks_ahead=looks_ahead) for _ in range(2)
        )
        assert one == other
