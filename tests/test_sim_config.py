from dataclasses import dataclass
from typing import Any

import pytest

from pytest_agentperf.sim.config import EngineConfig, convert_fields, override

SMALL: dict[str, Any] = {"context_limit_tokens": 16, "block_tokens": 4, "acceptance": ()}
"""A context of 5 blocks at most."""


@dataclass(frozen=True)
class Kinds:
    whole: int
    real: float
    text: str
    flag: bool
    numbers: tuple[float, ...]


class TestValidation:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            pytest.param(
                {"max_sequences": 0},
                "max_sequences is 0, but must be positive and finite",
                id="zero where it cannot be",
            ),
            pytest.param(
                {"collective_s": -0.5},
                "collective_s is -0.5, but must be 0 or more and finite",
                id="negative where zero can be",
            ),
            pytest.param(
                {"decode_w": 700.0},
                "idle_w, decode_w and prefill_w are 100.0, 700.0 and 600.0, but must not fall in "
                "this order",
                id="more power for decode than for prefill",
            ),
            pytest.param(
                {"accelerators": 8, "tensor_parallel": 4, "pipeline_parallel": 4},
                "tensor_parallel x pipeline_parallel is 4 x 4, but a replica has 8 accelerators",
                id="more stages than accelerators",
            ),
            pytest.param(
                {"flops_per_s": float("inf")},
                "flops_per_s is inf, but must be positive and finite",
                id="infinite",
            ),
            pytest.param(
                {"idle_w": float("nan")},
                "idle_w is nan, but must be 0 or more and finite",
                id="not a number",
            ),
            pytest.param(
                {"router": "random"},
                "router is 'random', but must be one of prefix, round-robin",
                id="router",
            ),
            pytest.param(
                {"acceptance": (0.8, 1.5)},
                r"acceptance is \(0.8, 1.5\), but shares lie between 0 and 1",
                id="acceptance",
            ),
            pytest.param(
                {"accelerators": 2, "tensor_parallel": 4},
                "tensor_parallel is 4, but a replica has 2 accelerators",
                id="tensor parallel",
            ),
            pytest.param(
                {"accelerators": 2, "expert_parallel": 3},
                "expert_parallel is 3, but a replica has 2 accelerators",
                id="expert parallel",
            ),
            pytest.param(
                {"kv_parallel": 2},
                "kv_parallel is 2, but a replica has 1 accelerators",
                id="kv parallel",
            ),
            pytest.param(
                {"pipeline_parallel": 2},
                "pipeline_parallel is 2, but a replica has 1 accelerators",
                id="pipeline parallel",
            ),
            pytest.param(
                {"experts": 4, "experts_per_token": 5},
                "experts_per_token is 5, but there are 4",
                id="more experts than there are",
            ),
            pytest.param(
                {**SMALL, "kv_capacity_tokens": 19},
                r"kv_capacity_tokens is 19 tokens, but must hold one request of "
                r"context_limit_tokens \(16\) and a block of 4",
                id="small cache",
            ),
            pytest.param(
                # 1,000 - 990 = 10 bytes are left, one token each
                {
                    **SMALL,
                    "kv_capacity_tokens": 0,
                    "memory_bytes": 1000.0,
                    "dense_bytes": 990.0,
                    "kv_bytes_per_token": 1.0,
                },
                "what memory_bytes leaves is 10 tokens, but must hold one request",
                id="little memory",
            ),
            pytest.param(
                {"kv_capacity_tokens": 0, "memory_bytes": 1.0, "dense_bytes": 2.0},
                "what memory_bytes leaves is 0 tokens",
                id="weights that do not fit",
            ),
            pytest.param(
                # 1 + 2 drafts for each of 10
                {"max_sequences": 10, "acceptance": (0.5, 0.5), "max_step_tokens": 29},
                r"max_step_tokens is 29, but must hold 3 tokens for each of max_sequences \(10\)",
                id="small step",
            ),
        ],
    )
    def test_refuses(self, fields: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=message):
            EngineConfig(**fields)

    def test_takes_what_just_fits(self):
        config = EngineConfig(**SMALL, kv_capacity_tokens=20, max_sequences=10, max_step_tokens=10)
        assert config.kv_tokens == 20

    @pytest.mark.parametrize("name", ["seed", "idle_w", "prefill_replicas", "step_overhead_s"])
    def test_takes_zero_where_it_means_something(self, name: str):
        fields: dict[str, Any] = {name: 0}
        assert getattr(EngineConfig(**fields), name) == 0


class TestDerived:
    def test_the_cache_gets_what_the_weights_leave(self):
        config = EngineConfig(
            **SMALL,
            kv_capacity_tokens=0,
            accelerators=8,
            tensor_parallel=2,
            pipeline_parallel=2,
            expert_parallel=4,
            kv_parallel=2,
            memory_bytes=100.0,
            dense_bytes=80.0,
            expert_bytes=160.0,
            kv_bytes_per_token=3.0,
        )
        # 100 - 80 / (2 x 2) - 160 / (4 x 2) = 60 bytes on each; 60 x 2 / 3 bytes
        assert config.kv_tokens == 40

    def test_a_given_capacity_goes_before_the_memory(self):
        config = EngineConfig(**SMALL, kv_capacity_tokens=24, memory_bytes=1e9)
        assert config.kv_tokens == 24

    @pytest.mark.parametrize(
        ("acceptance", "tokens"),
        [pytest.param((), 1, id="no drafts"), pytest.param((0.9, 0.1), 3, id="two drafts")],
    )
    def test_a_step_verifies_the_next_token_and_all_drafts(
        self, acceptance: tuple[float, ...], tokens: int
    ):
        assert EngineConfig(acceptance=acceptance).verified_tokens == tokens

    def test_counts_the_accelerators_of_all_replicas(self):
        config = EngineConfig(accelerators=4, replicas=2, prefill_replicas=1)
        assert config.total_accelerators == 12  # 4 x (2 + 1)


class TestConvertFields:
    def test_to_the_type_of_each_field(self):
        values = convert_fields(
            Kinds,
            [
                ("whole", "3"),
                ("real", "1e3"),
                ("text", "a b"),
                ("flag", "1"),
                ("numbers", "0.5,1"),
            ],
        )
        assert values == {
            "whole": 3,
            "real": 1000.0,
            "text": "a b",
            "flag": True,
            "numbers": (0.5, 1.0),
        }
        assert values["flag"] is True

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            pytest.param("flag", "0", False, id="no"),
            pytest.param("numbers", "", (), id="no numbers"),
            pytest.param("numbers", "0.7", (0.7,), id="one number"),
        ],
    )
    def test_to_the_edges_of_a_type(self, name: str, text: str, value: object):
        assert convert_fields(Kinds, [(name, text)]) == {name: value}

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            pytest.param("speed", "1", "unknown field 'speed'", id="unknown"),
            pytest.param("whole", "1.5", "whole is '1.5', but must be a whole number", id="whole"),
            pytest.param("real", "", "real is '', but must be a number", id="real"),
            pytest.param("flag", "yes", "flag is 'yes', but must be 0 or 1", id="flag"),
            pytest.param(
                "numbers",
                "1;2",
                "numbers is '1;2', but must be numbers joined by commas",
                id="numbers",
            ),
        ],
    )
    def test_refuses(self, name: str, text: str, message: str):
        with pytest.raises(ValueError, match=message):
            convert_fields(Kinds, [(name, text)])


class TestOverride:
    def test_keeps_what_is_not_named(self):
        config = EngineConfig(layers=7)
        changed = override(config, [("max_sequences", "8"), ("acceptance", "0.8,0.5")])
        assert (changed.layers, changed.max_sequences, changed.acceptance) == (7, 8, (0.8, 0.5))
        assert config.max_sequences == 128

    def test_checks_the_result(self):
        with pytest.raises(ValueError, match="step_overhead_s is -1"):
            override(EngineConfig(), [("step_overhead_s", "-1")])
