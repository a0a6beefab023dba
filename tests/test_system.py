"""A system.yaml: what it may say, and what each mistake is told."""

import json
from pathlib import Path

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.system import SECTIONS, System, parse_system, system_schema

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHORT = "version: 1\nname: s\naccelerators: {name: H200, count: 8}\n"
WATTS = "accelerators.tdp_w is {}; it is in watts of one accelerator"
PRICE = "price_usd_per_hour is 100000, 12,500 $ for one accelerator; is it in cents, or"


def gpus(more: str) -> str:
    return SHORT.replace("8}", more)


FULL = """
version: 1
name: 2x DGX H200
provider: Cloud
systems: 2
nodes: 2
racks: 0.5
accelerators: {name: H200, count: 16, tdp_w: 700, memory_gib: 141}
interconnect: {scale_up: NVLink 4, scale_out: 8 x 400G InfiniBand}
host: {cpu: Xeon 8480C, sockets: 2, memory_gib: 2048, os: Ubuntu 24.04, driver: "580.65"}
price_usd_per_hour: 44.8
engine: {name: vLLM, version: 0.32.0, launch_command: vllm serve m, max_model_len: 131072}
parallelism: {tp: 8, pp: 1, dp: 2, ep: 8}
disaggregation: {prefill: 8, decode: 8}
quantization: {weights: fp8, activations: bf16}
kv_cache: {dtype: fp8, block_tokens: 64, prefix_caching: true, offload: host memory}
speculative: {method: mtp, draft_tokens: 3}
model: {name: deepseek-v4-pro, revision: 0813}
notes: none
"""


def test_says_everything_once():
    assert parse_system(FULL.replace("0813", '"0813"'), "system.yaml") == System(
        name="2x DGX H200",
        accelerator="H200",
        accelerators=16,
        tdp_w=700.0,
        memory_gib=141.0,
        systems=2,
        nodes=2,
        racks=0.5,
        price_usd_per_hour=44.8,
        provider="Cloud",
        interconnect={"scale_up": "NVLink 4", "scale_out": "8 x 400G InfiniBand"},
        host={
            "cpu": "Xeon 8480C",
            "sockets": 2,
            "memory_gib": 2048,
            "os": "Ubuntu 24.04",
            "driver": "580.65",
        },
        engine={
            "name": "vLLM",
            "version": "0.32.0",
            "launch_command": "vllm serve m",
            "max_model_len": 131072,
        },
        parallelism={"tp": 8, "pp": 1, "dp": 2, "ep": 8},
        disaggregation={"prefill": 8, "decode": 8},
        quantization={"weights": "fp8", "activations": "bf16"},
        kv_cache={
            "dtype": "fp8",
            "block_tokens": 64,
            "prefix_caching": True,
            "offload": "host memory",
        },
        speculative={"method": "mtp", "draft_tokens": 3},
        model={"name": "deepseek-v4-pro", "revision": "0813"},
        notes="none",
    )


def test_needs_a_name_and_the_accelerators():
    assert parse_system(SHORT, "x") == System(name="s", accelerator="H200", accelerators=8)


def test_a_key_that_was_left_empty_is_not_there():
    assert parse_system(SHORT + "racks:\nengine: {version:}\n", "x").engine == {}


def test_the_first_format_stays_valid():
    old = (
        "systems: 1\nracks: 0.25\nprice_usd_per_hour: 24\nprovider: Example Inc.\n"
        "engine: {name: vLLM, version: 0.32.0, launch_command: vllm serve}\nnodes: 1\nnotes: x\n"
    )
    found = parse_system(gpus("8, tdp_w: 700, memory_gib: 141}") + old, "x")
    assert (found.tdp_w, found.racks, found.engine["version"]) == (700.0, 0.25, "0.32.0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML: "),
        ("x", "the file: expected keys and values, got 'x'"),
        (SHORT.replace("version: 1", ""), "version is missing; write 'version: 1'"),
        (SHORT.replace("1", "2"), "version is 2; write 'version: 1'"),
        (SHORT.replace("name: s", "name:"), "name is missing; write 'name: 8x H200, vLLM'"),
        ("version: 1\nname: s", "accelerators is missing; write 'accelerators: {name: "),
        (SHORT + "gpus: 8", "unknown key 'gpus'; write it as 'accelerators'"),
        (SHORT + "rack: 1", "unknown key 'rack'; did you mean 'racks'?"),
        (SHORT + "quantisation: {}", "unknown key 'quantisation'; did you mean 'quanti"),
        (SHORT + "qzx: 1", "unknown key 'qzx'; known: accelerators, disaggregation, "),
        (SHORT + "engine: {tp: 8}", "engine: unknown key 'tp'; write it as 'parallelism.tp"),
        (SHORT + "engine: vLLM", "engine: expected keys and values, got 'vLLM'"),
        (SHORT + "engine: {version: 0.3}", "engine.version: expected a text, got 0.3; put "),
        (gpus("}").replace(", count: }", "}"), "accelerators.count is missing; write 'coun"),
        (gpus("0}"), "accelerators.count is 0; it is at least 1"),
        (gpus("eight}"), "accelerators.count: expected a whole number, got 'eight'"),
        (gpus("8, tdp_w: 0.7}"), WATTS.format(0.7) + ": is 0.7 in kilowatts? write 700"),
        (gpus("8, tdp_w: 700000}"), WATTS.format(700000) + ": is that the whole system, or mill"),
        (gpus("8, tdp_w: -7}"), WATTS.format(-7) + "; leave it out when it is not known"),
        (gpus("8, memory_gib: 144384}"), "accelerators.memory_gib is 144384, more than any"),
        (SHORT + "racks: 0", "racks is 0; it is more than 0, or left out"),
        (SHORT + "price_usd_per_hour: -1", "price_usd_per_hour is -1; it is more than 0, "),
        (SHORT + "price_usd_per_hour: x", "price_usd_per_hour: expected a number, got 'x'"),
        (SHORT + "price_usd_per_hour: .nan", "price_usd_per_hour: expected a number, got "),
        (SHORT + "price_usd_per_hour: 100000", PRICE),
        (SHORT + "systems: 0.5", "systems: expected a whole number, got 0.5"),
        (SHORT + "nodes: 16", "nodes is 16, but accelerators.count, of all nodes together,"),
        (SHORT + "parallelism: {tp: 8, pp: 2}", "parallelism.tp × parallelism.pp is 16, but"),
        (SHORT + "disaggregation: {prefill: 4}", "disaggregation.decode is missing; write i"),
        (SHORT + "disaggregation: {prefill: 4, decode: 8}", "disaggregation is 4 : 8 accel"),
        (SHORT + "kv_cache: {prefix_caching: 1}", "kv_cache.prefix_caching: expected true "),
    ],
    ids=[
        "text that is no YAML", "no keys", "no version", "another version", "no name",
        "no accelerators", "a key of another name", "a misspelt key", "British spelling",
        "an unknown key", "a key in the wrong place", "a text for a section",
        "a version as a number", "no count", "a count of none", "a count in words",
        "a TDP in kilowatts", "a TDP in milliwatts", "a negative TDP", "memory in MiB", "no rack",
        "a negative price", "a price in words", "a price that is no number", "a price of a month",
        "half a system", "more nodes than accelerators", "more ranks than accelerators",
        "half a disaggregation", "more roles than accelerators", "a number for yes or no",
    ],
)  # fmt: skip
def test_is_refused_for(text: str, message: str):
    with pytest.raises(ConfigError) as refused:
        parse_system(text, "s.yaml")
    assert str(refused.value).startswith(f"s.yaml: {message}")
    assert "\n" not in str(refused.value) or message.endswith("not YAML: ")


def test_every_mistake_has_a_line_of_its_own():
    with pytest.raises(ConfigError) as refused:
        parse_system(gpus("0, tdp: 7}") + "racks: -1\nmodel: {revision: 3}", "s.yaml")
    assert len(str(refused.value).splitlines()) == 4


def test_the_published_schema_is_the_one_that_checks():
    assert json.loads((DOCS / "system.schema.json").read_text("utf-8")) == system_schema()


def test_the_schema_and_the_system_have_the_same_sections():
    properties = system_schema()["properties"]
    assert {n for n, p in properties.items() if p.get("type") == "object"} == {
        "accelerators",
        *SECTIONS,
    }
