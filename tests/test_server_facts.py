"""A server that says what it is, over HTTP."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from pytest_agentperf.detected import facts_of_props
from pytest_agentperf.server_facts import ask_server
from pytest_agentperf.server_settings import setting_changes, settings_of_json
from tests.test_detected import VLLM_MODELS

PATHS: dict[str, str] = {
    "/v1/models": json.dumps(VLLM_MODELS),
    "/version": '{"version": "0.32.0"}',
    "/server_info": "not JSON",
    "/metrics": 'vllm:cache_config_info{block_size="16",cache_dtype="fp8"} 1\n',
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = PATHS.get(self.path) if self.headers.get("authorization") == "Bearer k" else None
        self.send_response(404 if found is None else 200)
        self.end_headers()
        self.wfile.write((found or "").encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base's name
        pass


@pytest.fixture
def base() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_path_that_answers_tells_something(base: str) -> None:
    told = ask_server(base, {"authorization": "Bearer k"})
    assert {f.key: (f.value, f.source) for f in told.facts} == {
        "engine.name": ("vLLM", "GET /v1/models"),
        "engine.max_model_len": (131072, "GET /v1/models"),
        "model.name": ("deepseek-ai/DeepSeek-V4-Pro", "GET /v1/models"),
        "engine.version": ("0.32.0", "GET /version"),
        "kv_cache.block_tokens": (16, "GET /metrics"),
        "kv_cache.dtype": ("fp8", "GET /metrics"),
    }
    assert told.settings["/version version"] == "0.32.0"
    assert told.settings["vllm:cache_config_info cache_dtype"] == "fp8"


@pytest.mark.parametrize(
    "told", [(), ("/version version",), ("vllm:cache_config_info block_size",)]
)
def test_only_the_pages_that_told_something_are_asked_again(
    base: str, told: tuple[str, ...]
) -> None:
    first = ask_server(base, {"authorization": "Bearer k"})
    again = {name: first.settings[name] for name in told}
    found = ask_server(base, {"authorization": "Bearer k"}, again=again).settings
    pages = {name.partition(" ")[0] for name in told}
    assert found == {k: v for k, v in first.settings.items() if k.partition(" ")[0] in pages}


def test_settings_that_are_no_business_of_a_report_are_not_read() -> None:
    told = {
        "tp_size": 8,
        "reasoning_parser": "qwen3",
        "api_key": "secret",
        "admin_api_key": "secret",
        "internal_states": [{"max_total_num_tokens": 1_000_000}],
    }
    assert dict(settings_of_json("/get_server_info", told)) == {
        "/get_server_info tp_size": "8",
        "/get_server_info max_total_num_tokens": "1000000",
        "/get_server_info reasoning_parser": "qwen3",
    }


def test_llama_cpp_tells_the_context_of_a_slot() -> None:
    props = {
        "build_info": "b11549",
        "total_slots": 8,
        "default_generation_settings": {"n_ctx": 8192},
        "chat_template": "a long one",
    }
    facts = {f.key: f.value for f in facts_of_props(props, "GET /props")}
    assert facts["engine.max_model_len"] == 8192
    assert dict(settings_of_json("/props", props)) == {
        "/props build_info": "b11549",
        "/props total_slots": "8",
        "/props default_generation_settings.n_ctx": "8192",
    }


@pytest.mark.parametrize("body", [None, [], "text", {"data": "none"}, {"data": [1]}])
def test_settings_of_whatever_shape(body: object) -> None:
    assert not list(settings_of_json("/v1/models", body))


def test_a_server_that_says_nothing_is_no_fault(base: str) -> None:
    for url in (base, "http://127.0.0.1:9/v1"):
        told = ask_server(url, {})
        assert (told.facts, told.settings) == ((), {})


TOLD = {
    "/v1/models id": "m",
    "/v1/models max_model_len": "131072",
    "/version version": "0.19.1",
    "vllm:cache_config_info num_gpu_blocks": "10000",
    "vllm:cache_config_info kv_cache_size_tokens": "1280000",
    "vllm:cache_config_info kv_cache_max_concurrency": "9.765625",
    "vllm:cache_config_info engine": "0",
    "vllm:cache_config_info enable_prefix_caching": "True",
}


@pytest.mark.parametrize(
    "now",
    [
        {},
        {
            "vllm:cache_config_info num_gpu_blocks": "10150",
            "vllm:cache_config_info kv_cache_size_tokens": "1299200",
            "vllm:cache_config_info kv_cache_max_concurrency": "9.912109375",
        },
        {"vllm:cache_config_info engine": "3"},
        {"/v1/models id": "another", "/v1/models max_model_len": "8192"},
        {"/server_info tp_size": "8"},
    ],
    ids=[
        "the same",
        "as many blocks as memory had room for",
        "another process of it",
        "another of its models comes first",
        "a page that did not come before",
    ],
)
def test_it_is_the_same_server(now: dict[str, str]) -> None:
    assert list(setting_changes(TOLD, TOLD | now)) == []
    assert list(setting_changes(TOLD | now, TOLD)) == []


def test_a_page_that_does_not_come_says_nothing() -> None:
    assert list(setting_changes(TOLD, {})) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("/version version", "0.20.0"),
        ("/v1/models max_model_len", "65536"),
        ("vllm:cache_config_info enable_prefix_caching", "False"),
        ("vllm:cache_config_info num_gpu_blocks", "5000"),
        ("vllm:cache_config_info num_gpu_blocks", "None"),
    ],
)
def test_another_server_is_told_by_what_changed(name: str, value: str) -> None:
    found = list(setting_changes(TOLD, TOLD | {name: value}))
    assert found == [f"{name} was {TOLD[name]!r} and is {value!r}"]
