import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from pytest_agentperf.errors import ConfigError, EndpointError
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.sim.launch import connect

pytestmark = pytest.mark.e2e

TOOLS = [{"type": "function", "function": {"name": "read_file", "description": "Read it."}}]
QUESTION = {"role": "user", "content": "Fix the failing test."}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[EndpointInfo]:
    info = connect("sim:", models=["tiny", "other"])
    yield info
    info.close()


@pytest.fixture(scope="module")
def client(endpoint: EndpointInfo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, trust_env=False, timeout=30) as client:
        yield client


def body_of(**changes: Any) -> dict[str, Any]:
    body = {
        "model": "tiny",
        "messages": [{"role": "system", "content": "You are a coding agent."}, QUESTION],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return body | changes


def post(client: httpx.Client, osl_tokens: int | None = 40, **changes: Any) -> httpx.Response:
    headers = {} if osl_tokens is None else {"x-agentperf-osl": str(osl_tokens)}
    return client.post("/chat/completions", json=body_of(**changes), headers=headers)


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Decode the stream, and check its frame."""
    assert answer.status_code == 200
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def deltas_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [event["choices"][0]["delta"] for event in events_of(answer) if event["choices"]]


def usage_of(answer: httpx.Response) -> dict[str, Any]:
    return events_of(answer)[-1]["usage"]


def finish_reason_of(answer: httpx.Response) -> str:
    reasons = [event["choices"][0]["finish_reason"] for event in events_of(answer)[:-1]]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    return reasons[-1]


def arguments_of(answer: httpx.Response) -> str:
    calls = [each["tool_calls"][0] for each in deltas_of(answer) if "tool_calls" in each]
    return "".join(call["function"].get("arguments", "") for call in calls)


def metrics_of(endpoint: EndpointInfo) -> dict[str, float]:
    text = httpx.get(endpoint.url.removesuffix("/v1") + "/metrics", trust_env=False).text
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, value in rows}


class TestStream:
    def test_role_then_reasoning_then_content_then_finish(self, client: httpx.Client):
        deltas = deltas_of(post(client))
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert deltas[-1] == {}
        kinds = [tuple(delta) for delta in deltas[1:-1]]
        changes = [kinds[0], *(after for before, after in pairwise(kinds) if after != before)]
        # 16 of 40 tokens are reasoning; bursts of 1, 4, 4, 4, 4 cross that border
        assert changes == [("reasoning",), ("reasoning", "content"), ("content",)]

    def test_the_role_comes_together_with_the_first_token(self, client: httpx.Client):
        with client.stream("POST", "/chat/completions", json=body_of()) as answer:
            pieces = answer.iter_raw()
            first = next(pieces)
        assert first.count(b"data: ") == 2

    def test_usage_counts_what_was_sent(self, client: httpx.Client):
        answer = post(client)
        usage = usage_of(answer)
        assert usage["completion_tokens"] == 40
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 16  # 40 % of 40
        text = "".join(d.get("reasoning", "") + d.get("content", "") for d in deltas_of(answer))
        assert len(text) == 160  # 40 tokens of 4 bytes

    def test_a_step_is_one_event_with_all_its_tokens(self, client: httpx.Client):
        deltas = deltas_of(post(client))
        # role, first token, 39 / 4 = 9 bursts of 4 and one of 3, finish
        assert len(deltas) == 13

    def test_without_usage_when_not_asked(self, client: httpx.Client):
        events = events_of(post(client, stream_options=None))
        assert all(event["choices"] and "usage" not in event for event in events)

    def test_one_connection_carries_many_answers(self, endpoint: EndpointInfo):
        with httpx.Client(base_url=endpoint.url, trust_env=False) as client:
            ports = {
                post(client).extensions["network_stream"].get_extra_info("client_addr")
                for _ in range(3)
            }
        assert len(ports) == 1

    def test_connection_close_is_honoured(self, client: httpx.Client):
        answer = client.post("/chat/completions", json=body_of(), headers={"connection": "close"})
        assert events_of(answer)
        assert client.get("/models").status_code == 200  # over a new connection


class TestTools:
    def test_name_then_arguments_that_are_json(self, client: httpx.Client):
        answer = post(client, tools=TOOLS)
        calls = [each["tool_calls"][0] for each in deltas_of(answer) if "tool_calls" in each]
        assert calls[0]["function"]["name"] == "read_file"
        assert calls[0]["id"]
        assert all("id" not in call and "name" not in call["function"] for call in calls[1:])
        assert json.loads(arguments_of(answer))["cmd"]
        assert finish_reason_of(answer) == "tool_calls"

    @pytest.mark.parametrize("osl_tokens", [5, 6, 7, 8, 13, 17, 100])
    def test_arguments_are_json_at_every_length(self, client: httpx.Client, osl_tokens: int):
        answer = post(client, osl_tokens, tools=TOOLS)
        assert isinstance(json.loads(arguments_of(answer)), dict)
        assert usage_of(answer)["completion_tokens"] == osl_tokens

    @pytest.mark.parametrize(
        ("osl_tokens", "changes"),
        [
            pytest.param(40, {}, id="without tools"),
            pytest.param(40, {"tools": TOOLS, "tool_choice": "none"}, id="with tool_choice none"),
            pytest.param(4, {"tools": TOOLS}, id="when too short"),
        ],
    )
    def test_no_call(self, client: httpx.Client, osl_tokens: int, changes: dict[str, Any]):
        answer = post(client, osl_tokens, **changes)
        assert not any("tool_calls" in delta for delta in deltas_of(answer))
        assert finish_reason_of(answer) == "stop"


class TestLength:
    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_a_cap_cuts_and_says_so(self, client: httpx.Client, field: str):
        answer = post(client, 40, **{field: 10})
        assert usage_of(answer)["completion_tokens"] == 10
        assert finish_reason_of(answer) == "length"

    def test_a_length_beyond_all_bounds_is_cut_too(self, client: httpx.Client):
        assert finish_reason_of(post(client, 10**15, max_tokens=10)) == "length"

    def test_ignore_eos_fills_the_cap(self, client: httpx.Client):
        answer = post(client, 5, max_tokens=30, ignore_eos=True)
        assert usage_of(answer)["completion_tokens"] == 30

    def test_a_drawn_length_hangs_on_the_last_message_alone(self, client: httpx.Client):
        def drawn(salt: str, question: str) -> int:
            messages = [
                {"role": "system", "content": salt},
                {"role": "user", "content": question},
            ]
            answer = post(client, None, messages=messages, max_tokens=2000)
            return usage_of(answer)["completion_tokens"]

        assert drawn("1 2 3", "one") == drawn("4 5 6", "one")
        assert drawn("1 2 3", "one") != drawn("1 2 3", "two")

    def test_a_whole_answer_has_the_same_parts(self, client: httpx.Client):
        answer = post(client, stream=False, tools=TOOLS).json()
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["cmd"]
        # 40 tokens: 16 of reasoning, 12 for the call, 12 of content
        assert len(choice["message"]["reasoning"]) == 64
        assert len(choice["message"]["content"]) == 48
        assert answer["usage"]["completion_tokens"] == 40


class TestPrefixCache:
    def turns(self, client: httpx.Client, first_salt: str, second_salt: str) -> dict[str, Any]:
        def messages(salt: str) -> list[dict[str, str]]:
            return [
                {"role": "system", "content": salt + "x" * 8000},
                {"role": "user", "content": "y" * 8000},
            ]

        later = [{"role": "assistant", "content": "done"}, QUESTION]
        post(client, messages=messages(first_salt), tools=TOOLS)
        return usage_of(post(client, messages=messages(second_salt) + later, tools=TOOLS))

    def test_a_second_turn_finds_the_first(self, client: httpx.Client):
        usage = self.turns(client, "1 1", "1 1")
        # 16,000 bytes are 4,000 tokens; what is not found is one block and the new turn at most
        assert 4000 - 64 <= usage["prompt_tokens_details"]["cached_tokens"] <= 4100

    def test_another_salt_finds_nothing(self, client: httpx.Client):
        usage = self.turns(client, "2 2", "3 3")
        assert usage["prompt_tokens"] > 4000
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0


class TestErrors:
    def test_unknown_model(self, client: httpx.Client):
        answer = post(client, model="x")
        assert answer.status_code == 404
        assert answer.json() == {
            "error": {
                "message": "The model `x` does not exist.",
                "type": "NotFoundError",
                "param": "model",
                "code": 404,
            }
        }

    def test_too_long_a_context_names_limit_and_tokens(self, client: httpx.Client):
        messages = [{"role": "user", "content": "x" * 600_000}]
        answer = post(client, messages=messages, max_tokens=100)
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert "maximum context length is 131072 tokens" in message
        # 600,000 bytes and the 28 of {"role":"user","content":""}, at 4 a token
        assert "your prompt contains 150007 input tokens" in message

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            pytest.param({"messages": []}, "at least 1 item", id="no messages"),
            pytest.param({"messages": "hi"}, "Expected `array`", id="messages of another type"),
            pytest.param({"max_tokens": -5}, "must be at least 1, got -5", id="negative cap"),
            pytest.param(
                {"tools": [{"type": "function"}]}, "function.name is required", id="a nameless tool"
            ),
        ],
    )
    def test_invalid_body(self, client: httpx.Client, changes: dict[str, Any], message: str):
        answer = post(client, **changes)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]

    def test_malformed_json(self, client: httpx.Client):
        answer = client.post("/chat/completions", content=b'{"model":')
        assert answer.status_code == 400
        assert "JSON decode error" in answer.json()["error"]["message"]

    def test_invalid_length_header(self, client: httpx.Client):
        assert post(client, 0).status_code == 400

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            pytest.param("GET", "/nothing", 404, id="unknown path"),
            pytest.param("GET", "/chat/completions", 405, id="wrong method"),
        ],
    )
    def test_wrong_address(self, client: httpx.Client, method: str, path: str, status: int):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == status

    @pytest.mark.parametrize(
        "head",
        [
            pytest.param(b"hello\r\n\r\n", id="no request line"),
            pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunked"),
        ],
    )
    def test_what_is_no_request_ends_the_connection(self, endpoint: EndpointInfo, head: bytes):
        with socket.create_connection(("127.0.0.1", urlsplit(endpoint.url).port or 0)) as raw:
            raw.sendall(head)
            answer = b"".join(iter(lambda: raw.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


class TestServer:
    def test_models_with_their_context(self, client: httpx.Client):
        rows = client.get("/models").json()["data"]
        assert [(row["id"], row["max_model_len"]) for row in rows] == [
            ("tiny", 131072),
            ("other", 131072),
        ]

    def test_health(self, endpoint: EndpointInfo):
        health = httpx.get(endpoint.url.removesuffix("/v1") + "/health", trust_env=False)
        assert health.status_code == 200

    def test_tokenize_counts_as_the_chat_does(self, client: httpx.Client, endpoint: EndpointInfo):
        url, body = endpoint.url.removesuffix("/v1") + "/tokenize", body_of(tools=TOOLS)
        found = httpx.post(url, json=body, trust_env=False).json()
        assert found["count"] == usage_of(post(client, tools=TOOLS))["prompt_tokens"]
        assert found["max_model_len"] == 131072
        assert httpx.get(url, trust_env=False).status_code == 405

    def test_usage_on_every_event_when_asked(self, client: httpx.Client):
        options = {"include_usage": True, "continuous_usage_stats": True}
        events = events_of(post(client, 10, stream_options=options))
        counts = [event["usage"]["completion_tokens"] for event in events]
        # role, bursts of 1, 4, 4 and 1, finish reason, usage alone
        assert counts == [0, 1, 5, 9, 10, 10, 10]

    def test_metrics_count_tokens(self, client: httpx.Client, endpoint: EndpointInfo):
        before = metrics_of(endpoint)
        prompt_tokens = usage_of(post(client, 40))["prompt_tokens"]
        after = metrics_of(endpoint)
        grown = {name: after[name] - before[name] for name in after}
        assert grown["vllm:generation_tokens_total"] == 40
        assert grown["vllm:prompt_tokens_total"] == prompt_tokens
        assert grown["vllm:prefix_cache_queries_total"] == prompt_tokens
        assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
        assert after["vllm:kv_cache_usage_perc"] == 0

    def test_a_client_that_leaves_is_forgotten(self, client: httpx.Client, endpoint: EndpointInfo):
        long, headers = body_of(max_tokens=100_000), {"x-agentperf-osl": "100000"}
        with client.stream("POST", "/chat/completions", json=long, headers=headers) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            assert metrics_of(endpoint)["vllm:num_requests_running"] == 1
            assert metrics_of(endpoint)["vllm:kv_cache_usage_perc"] > 0
        deadline_s = time.perf_counter() + 3
        while metrics_of(endpoint)["vllm:num_requests_running"]:
            assert time.perf_counter() < deadline_s
        assert metrics_of(endpoint)["vllm:kv_cache_usage_perc"] == 0

    def test_steps_take_as_long_as_the_engine_says(self):
        info = connect("sim:?acceptance=&step_overhead_s=0.00045", models=["tiny"])
        with httpx.Client(base_url=info.url, trust_env=False) as client:
            started_s = time.perf_counter()
            post(client, 801)
            took_s = time.perf_counter() - started_s
        info.close()
        # 800 steps of 0.45 + 0.8 ms are 1.0 s; rounded up to 2 ms each they would be 1.6 s
        assert 1.0 <= took_s < 1.4


class TestLife:
    def test_says_what_it_is(self, endpoint: EndpointInfo):
        assert (endpoint.models, endpoint.server) == (("tiny", "other"), "agentperf-sim")
        assert endpoint.osl_header == "x-agentperf-osl"

    def test_close_ends_it_and_may_be_called_again(self):
        info = connect("sim:", models=["tiny"])
        info.close()
        info.close()
        with pytest.raises(httpx.ConnectError):
            httpx.get(info.url + "/models", trust_env=False)

    def test_ends_with_the_process_that_started_it(self):
        script = (
            "import os; from pytest_agentperf.sim.launch import connect\n"
            "print(connect('sim:', models=['tiny']).url, flush=True)\n"
            "os._exit(1)  # no clean-up of any kind"
        )
        parent = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        port = urlsplit(parent.stdout.strip()).port or 0
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return
            time.sleep(0.01)
        pytest.fail("the simulator outlived its parent by 3 s")

    def test_a_server_that_does_not_start_is_quoted(self):
        with pytest.raises(EndpointError, match=r"did not start(.|\n)*expected one argument"):
            connect("sim:", models=["--no-name"])

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            pytest.param(
                "sim:?max_sequence=4",
                "unknown field 'max_sequence'; did you mean 'max_sequences'?",
                id="unknown field",
            ),
            pytest.param(
                "sim:?max_sequences=many",
                "max_sequences is 'many', but must be a whole number; correct this field",
                id="bad value",
            ),
            pytest.param("sim:?usage=some", "usage is 'some', but must be one of", id="bad trait"),
            pytest.param("sim:h200x8/deepseek", "unknown preset 'h200x8/deepseek'", id="preset"),
            pytest.param("sim://h200x8", "unknown preset 'h200x8'", id="preset with slashes"),
        ],
    )
    def test_refuses_the_url(self, url: str, message: str):
        with pytest.raises(ConfigError) as caught:
            connect(url, models=["tiny"])
        assert message in str(caught.value)
