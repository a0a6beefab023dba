"""A server that says what it is, over HTTP."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from pytest_agentperf.server_facts import ask_facts
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
    facts = ask_facts(base, {"authorization": "Bearer k"})
    assert {f.key: (f.value, f.source) for f in facts} == {
        "engine.name": ("vLLM", "GET /v1/models"),
        "engine.max_model_len": (131072, "GET /v1/models"),
        "model.name": ("deepseek-ai/DeepSeek-V4-Pro", "GET /v1/models"),
        "engine.version": ("0.32.0", "GET /version"),
        "kv_cache.block_tokens": (16, "GET /metrics"),
        "kv_cache.dtype": ("fp8", "GET /metrics"),
    }


def test_a_server_that_says_nothing_is_no_fault(base: str) -> None:
    assert ask_facts(base, {}) == ()
    assert ask_facts("http://127.0.0.1:9/v1", {}) == ()
