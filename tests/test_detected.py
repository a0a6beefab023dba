"""What servers and meters say of a system, in the shape in which they say it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.detected import (
    Fact,
    complete,
    declared,
    facts_of_devices,
    facts_of_metrics,
    facts_of_models,
    facts_of_props,
    facts_of_sglang,
    facts_of_version,
)
from pytest_agentperf.system import System

PAGES = Path(__file__).parent / "data" / "metrics"
VLLM_MODELS = {
    "object": "list",
    "data": [
        {
            "id": "m",
            "object": "model",
            "owned_by": "vllm",
            "root": "deepseek-ai/DeepSeek-V4-Pro",
            "max_model_len": 131072,
        }
    ],
}
SGLANG_INFO = {
    "model_path": "openai/gpt-oss-120b",
    "api_key": "secret",
    "tp_size": 8,
    "pp_size": 1,
    "dp_size": 8,
    "ep_size": 8,
    "quantization": "mxfp4",
    "kv_cache_dtype": "auto",
    "revision": None,
    "speculative_algorithm": "EAGLE3",
    "speculative_num_draft_tokens": 4,
    "page_size": 64,
    "internal_states": [{"max_total_num_tokens": 373883}],
    "version": "0.5.19",
}
DEVICES = [
    {"series": f"gpu{i}", "name": "NVIDIA H200", "limit_w": 700, "memory_gib": 140.4}
    for i in range(8)
]
SYSTEM = System(name="s", accelerator="H200 SXM", accelerators=8)


def told(facts: Any) -> dict[str, Any]:
    return {fact.key: fact.value for fact in facts}


def test_vllm_tells_its_name_model_and_context():
    assert told(facts_of_models(VLLM_MODELS, "x")) == {
        "engine.name": "vLLM",
        "engine.max_model_len": 131072,
        "model.name": "deepseek-ai/DeepSeek-V4-Pro",
    }


def test_llama_cpp_tells_its_context_and_build():
    models = {"data": [{"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 65536}}]}
    assert told(facts_of_models(models, "x")) == {
        "engine.name": "llama.cpp",
        "engine.max_model_len": 65536,
    }
    props = {"build_info": "b11549-abc", "model_path": "/m/tiny.gguf"}
    assert told(facts_of_props(props, "x"))["engine.version"] == "b11549-abc"


def test_sglang_tells_its_settings_and_its_key_is_left_alone():
    assert told(facts_of_sglang(SGLANG_INFO, "x")) == {
        "engine.name": "SGLang",
        "engine.version": "0.5.19",
        "parallelism.tp": 8,
        "parallelism.pp": 1,
        "parallelism.dp": 8,
        "parallelism.ep": 8,
        "quantization.weights": "mxfp4",
        "kv_cache.block_tokens": 64,
        "kv_cache.size_tokens": 373883,
        "speculative.method": "EAGLE3",
        "speculative.draft_tokens": 4,
        "model.name": "openai/gpt-oss-120b",
    }


def test_a_recorded_page_of_vllm_tells_of_its_cache():
    page = (PAGES / "vllm-0.32.txt").read_text("utf-8")
    assert told(facts_of_metrics(page, "x")) == {
        "kv_cache.block_tokens": 128,
        "kv_cache.size_tokens": 1048576,
        "kv_cache.prefix_caching": True,
    }


def test_tensorrt_llm_tells_its_ranks():
    page = 'trtllm_parallel_config_info{tensor_parallel_size="4",pipeline_parallel_size="2"} 1\n'
    assert told(facts_of_metrics(page, "x")) == {"parallelism.tp": 4, "parallelism.pp": 2}


def test_a_version():
    assert told(facts_of_version({"version": "0.32.0"}, "x")) == {"engine.version": "0.32.0"}


def test_devices_tell_their_number_and_what_they_share():
    assert told(facts_of_devices(DEVICES, "nvml")) == {
        "accelerators.count": 8,
        "accelerators.name": "NVIDIA H200",
        "accelerators.tdp_w": 700,
        "accelerators.memory_gib": 140.4,
    }
    mixed = [*DEVICES, {"name": "NVIDIA B200"}]
    assert told(facts_of_devices(mixed, "nvml")) == {"accelerators.count": 9}
    assert told(facts_of_devices([], "nvml")) == {}


@pytest.mark.parametrize(
    "body",
    [None, [], "x", {}, {"data": []}, {"data": [3]}, {"data": "x"}, {"version": None}],
    ids=["nothing", "a list", "a text", "no key", "no model", "a number", "no list", "no version"],
)
def test_whatever_else_is_answered_tells_nothing(body: Any):
    for read in (facts_of_models, facts_of_version, facts_of_sglang, facts_of_props):
        assert list(read(body, "x")) == []


def test_a_page_that_is_none_tells_nothing():
    assert list(facts_of_metrics("<html>{</html>", "x")) == []


def test_what_was_not_declared_is_filled_in_and_marked():
    facts = [
        Fact(key="engine.version", value="0.32.0", source="GET /version"),
        Fact(key="accelerators.tdp_w", value=700, source="nvml"),
    ]
    system, wrong = complete(SYSTEM, facts)
    assert (system.engine, system.tdp_w, wrong) == ({"version": "0.32.0"}, 700, ())
    assert system.detected == {"engine.version": "GET /version", "accelerators.tdp_w": "nvml"}


def test_what_was_filled_in_can_be_taken_out_again():
    own = replace(SYSTEM, engine={"name": "vLLM"}, kv_cache={"dtype": "fp8"})
    facts = [
        Fact(key="engine.version", value="0.1", source="s"),
        Fact(key="parallelism.tp", value=8, source="s"),
        Fact(key="accelerators.tdp_w", value=700.0, source="nvml"),
    ]
    found, _ = complete(own, facts)
    assert (found.engine["version"], found.tdp_w) == ("0.1", 700.0)
    assert declared(found) == own


def test_who_says_it_first_is_believed():
    facts = [Fact(key="engine.version", value=v, source=s) for v, s in (("1", "a"), ("2", "b"))]
    system, wrong = complete(SYSTEM, facts)
    assert (system.engine["version"], wrong) == ("1", ())


def test_a_contradiction_is_told_and_what_was_declared_stays():
    declared = System(name="s", accelerator="H200", accelerators=8, engine={"version": "0.31.2"})
    facts = [Fact(key="engine.version", value="0.32.0", source="GET /version")]
    system, wrong = complete(declared, facts)
    assert (system, wrong) == (
        declared,
        (
            (
                "system.yaml declares engine.version: 0.31.2, but GET /version says 0.32.0; "
                "correct the one that is wrong"
            ),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "fact", "agrees"),
    [
        ({}, ("accelerators.name", "NVIDIA H200"), True),
        ({}, ("accelerators.name", "NVIDIA B200"), False),
        ({"accelerator": "an accelerator"}, ("accelerators.name", "NVIDIA B200"), True),
        ({}, ("accelerators.count", 8), True),
        ({}, ("accelerators.count", 4), False),
        ({"memory_gib": 141.0}, ("accelerators.memory_gib", 140.4), True),
        ({"memory_gib": 141.0}, ("accelerators.memory_gib", 80.0), False),
        ({"tdp_w": 700.0}, ("accelerators.tdp_w", 500), False),
        ({"engine": {"version": "v0.32.0"}}, ("engine.version", "0.32.0+cu129"), True),
        ({"engine": {"name": "vllm"}}, ("engine.name", "vLLM"), True),
        ({"engine": {"name": "TensorRT-LLM"}}, ("engine.name", "SGLang"), False),
        ({"kv_cache": {"dtype": "fp8"}}, ("kv_cache.dtype", "fp8_e4m3"), True),
        ({"kv_cache": {"prefix_caching": False}}, ("kv_cache.prefix_caching", True), False),
        ({"model": {"name": "DeepSeek V4 Pro"}}, ("model.name", "/m/DeepSeek-V4-Pro/"), True),
        ({"parallelism": {"tp": 8}}, ("parallelism.tp", 4), False),
        ({"speculative": {"draft_tokens": 3}}, ("speculative.draft_tokens", "3"), True),
    ],
    ids=[
        "more words", "another accelerator", "a name without a model", "as many", "fewer",
        "what a driver leaves", "other memory", "a lower limit", "a build", "letters",
        "another engine", "a kind of number", "the other way", "a path", "other ranks",
        "a number as text",
    ],
)  # fmt: skip
def test_declared_and_detected(changes: dict[str, Any], fact: tuple[str, Any], *, agrees: bool):
    base: dict[str, Any] = {"name": "s", "accelerator": "H200 SXM", "accelerators": 8}
    _, wrong = complete(System(**(base | changes)), [Fact(key=fact[0], value=fact[1], source="x")])
    assert (not wrong) == agrees
