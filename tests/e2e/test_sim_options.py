import json
import socket
import struct
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.servers.process import read_port, spawn, start, stop

pytestmark = pytest.mark.e2e

SERVER = "pytest_agentperf.sim.server"
MESSAGES = [{"role": "user", "content": "Fix the failing test."}]


@contextmanager
def serve(config: str, *more: str) -> Generator[httpx.Client]:
    """Start a server and return a client whose paths begin at its root."""
    with start(SERVER, "--model=m", f"--config={config}", *more) as server:
        url = server.url.removesuffix("/v1")
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            yield client


def body_of(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, "stream": True} | changes


def post(client: httpx.Client, osl_tokens: int = 40, **changes: Any) -> httpx.Response:
    headers = {"x-agentperf-osl": str(osl_tokens)}
    return client.post("/v1/chat/completions", json=body_of(**changes), headers=headers)


def open_stream(client: httpx.Client, osl_tokens: int) -> socket.socket:
    """Ask for an answer over a connection of its own and read nothing."""
    url, body = urlsplit(str(client.base_url)), json.dumps(body_of()).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\n"
        f"x-agentperf-osl: {osl_tokens}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    peer = socket.create_connection(("127.0.0.1", url.port or 0), timeout=10)
    peer.sendall(head.encode() + body)
    return peer


def texts_of(answer: httpx.Response) -> list[str]:
    """The token-bearing texts of a stream."""
    events = [event.removeprefix("data: ") for event in answer.text.split("\n\n")[:-2]]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    texts = [delta.get("reasoning", "") + delta.get("content", "") for delta in deltas]
    return [text for text in texts if text]


def rows_of(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    rows = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def wait_for(client: httpx.Client, row: str, value: float) -> None:
    deadline_s = time.perf_counter() + 60  # a busy machine, not a slow server
    while rows_of(client)[row] != value:
        assert time.perf_counter() < deadline_s, f"{row} did not become {value}"


@pytest.fixture(scope="module")
def locked() -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # not for the other servers
            patch.setenv("AGENTPERF_SIM_API_KEY", "secret")
            client = stack.enter_context(serve(""))
        yield client


@pytest.fixture(scope="module")
def fleet() -> Iterator[httpx.Client]:
    config = "replicas=2&accelerators=2&router=round-robin&acceptance=1,0&idle_w=70"
    with serve(config) as client:
        yield client


class TestKey:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/tokenize")],
    )
    @pytest.mark.parametrize("given", [None, "Bearer other", "secret"])
    def test_without_it_nobody_is_let_in(
        self, locked: httpx.Client, method: str, path: str, given: str | None
    ):
        headers = {"authorization": given} if given else {}
        answer = locked.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})

    def test_with_it_all_is_open(self, locked: httpx.Client):
        headers = {"authorization": "Bearer secret"}
        assert locked.get("/v1/models", headers=headers).status_code == 200
        asked = locked.post("/v1/chat/completions", json=body_of(), headers=headers)
        assert asked.status_code == 200

    @pytest.mark.parametrize("path", ["/health", "/metrics"])
    def test_some_paths_need_none(self, locked: httpx.Client, path: str):
        assert locked.get(path).status_code == 200


class TestMetrics:
    def test_of_every_replica(self, fleet: httpx.Client):
        before = rows_of(fleet)
        post(fleet, 9)
        post(fleet, 5, max_tokens=3)
        after = rows_of(fleet)
        grown = {name: after[name] - before[name] for name in after}

        def of(name: str) -> list[float]:
            return sorted(
                grown[f'vllm:{name}{{engine="{place}",model_name="m"}}'] for place in range(2)
            )

        assert of("generation_tokens_total") == [3, 9]
        # The first of two drafts is accepted, the second is not: after the first token, the answer
        # of 9 takes 4 steps of 2 tokens, that of 3 takes 1.
        assert of("spec_decode_num_draft_tokens_total") == [2, 8]
        assert of("spec_decode_num_accepted_tokens_total") == [1, 4]
        assert of("num_preemptions_total") == [0, 0]
        reason = 'vllm:request_success_total{{finished_reason="{}",model_name="m"}}'
        assert [grown[reason.format(name)] for name in ("stop", "length", "abort")] == [1, 1, 0]
        assert grown["agentperf_sim_steps_total"] == 7  # 5 and 2

    def test_of_every_accelerator(self, fleet: httpx.Client):
        def energy_mj() -> list[float]:
            return [
                rows_of(fleet)[f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{label}"] for label in labels
            ]

        labels = [f'{{gpu="{i}",UUID="sim-{i}",modelName="agentperf-sim"}}' for i in range(4)]
        rows = rows_of(fleet)
        assert [rows[f"DCGM_FI_DEV_POWER_USAGE{label}"] for label in labels] == [70] * 4
        before, began_s = energy_mj(), time.perf_counter()
        post(fleet, 40)
        passed_s = time.perf_counter() - began_s
        # 70 W at the least, and 600 W at the most; the reading itself takes a moment
        for now, then in zip(energy_mj(), before, strict=True):
            assert 70_000 * passed_s * 0.9 <= now - then

    def test_families_are_described(self, fleet: httpx.Client):
        page = fleet.get("/metrics").text
        assert (
            "# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).\n"
            "# TYPE DCGM_FI_DEV_POWER_USAGE gauge\n"
            'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="sim-0",modelName="agentperf-sim"} '
        ) in page
        names = {line.partition("{")[0].split(" ")[0] for line in rows_of(fleet)}
        for name in names:
            assert page.count(f"# HELP {name} ") == page.count(f"# TYPE {name} ") == 1


class TestTraits:
    def test_an_interval_makes_larger_events(self):
        with serve("acceptance=&stream_interval=16") as client:
            texts = texts_of(post(client, 40))
        # 1, then 16, 16 and the last 7 tokens of 4 bytes
        assert [len(text) for text in texts] == [4, 64, 64, 28]

    def test_every_second_answer_stalls(self):
        with serve("stall_every=2&stall_s=0.7") as client:
            took_s: list[float] = []
            texts: list[list[str]] = []
            for _ in range(4):
                began_s = time.perf_counter()
                texts.append(texts_of(post(client)))
                took_s.append(time.perf_counter() - began_s)
        assert [taken_s >= 0.7 for taken_s in took_s] == [False, True, False, True]
        # 40 tokens in bursts of 4 after the first: 17 before the middle, the other 23 at once
        assert [len(text) for text in texts[1]] == [4, 16, 16, 16, 16, 92]
        assert "".join(texts[1]) == "".join(texts[0])

    def test_an_answer_that_goes_on_after_a_stall_goes_on_as_before(self):
        with serve("acceptance=&stall_every=1&stall_s=0.1&step_overhead_s=0.02") as client:
            texts = texts_of(post(client, 20))
        assert len("".join(texts)) == 80
        assert len(texts) > 12  # ten before the stall, the next ones together, some after it

    def test_every_second_answer_is_reset(self):
        with serve("reset_every=2") as client:
            assert post(client).status_code == 200
            received = b""
            with pytest.raises(httpx.ReadError):  # noqa: PT012 # it breaks off in the middle
                headers = {"x-agentperf-osl": "40"}
                path = "/v1/chat/completions"
                with client.stream("POST", path, json=body_of(), headers=headers) as answer:
                    for piece in answer.iter_raw():
                        received += piece
            assert received.count(b"data: ") == 6  # role, 1 token, 4 bursts of 4
            aborted = 'vllm:request_success_total{finished_reason="abort",model_name="m"}'
            wait_for(client, aborted, 1)
            assert post(client).status_code == 200  # over a new connection

    def test_a_reset_is_a_reset(self):
        with (
            serve("reset_every=1") as client,
            open_stream(client, 40) as peer,
            pytest.raises(ConnectionResetError),
        ):
            list(iter(lambda: peer.recv(4096), b""))


def test_a_client_that_reads_late_gets_everything():
    config = "acceptance=&step_overhead_s=1e-6&sequence_overhead_s=0&flops_per_token=1&usage=every"
    path, headers = "/v1/chat/completions", {"x-agentperf-osl": "40000"}
    with serve(config) as client:
        with client.stream("POST", path, json=body_of(), headers=headers) as answer:
            # 40,000 events of about 400 bytes, which no socket's buffer takes
            wait_for(client, 'vllm:request_success_total{finished_reason="stop",model_name="m"}', 1)
            answer.read()
        texts = texts_of(answer)
    assert len(texts) == 40_000
    assert {len(text) for text in texts} == {4}


def test_a_full_queue_is_told():
    with serve("max_sequences=1&max_waiting=1&step_overhead_s=0.2") as client:
        running = open_stream(client, 1000)
        wait_for(client, 'vllm:num_requests_running{engine="0",model_name="m"}', 1)
        waiting = open_stream(client, 1000)
        wait_for(client, 'vllm:num_requests_waiting{engine="0",model_name="m"}', 1)
        answer = post(client)
        running.close()
        waiting.close()
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "ServiceUnavailableError"
    assert answer.json()["error"]["message"].startswith("The request queue is full: ")


def test_the_log_has_the_stamps_of_every_streamed_answer(tmp_path: Path):
    log = tmp_path / "sent.jsonl"
    with serve("acceptance=&step_overhead_s=0.01", f"--log={log}") as client:
        before_s = time.perf_counter()
        headers = {"x-agentperf-osl": "11", "x-request-id": "turn-7"}
        path = "/v1/chat/completions"
        with client.stream("POST", path, json=body_of(), headers=headers) as answer:
            reads = [(time.perf_counter(), piece) for piece in answer.iter_raw()]
        after_s = time.perf_counter()
        post(client, 5, stream=False)
        leaver = open_stream(client, 10_000)
        wait_for(client, 'vllm:num_requests_running{engine="0",model_name="m"}', 1)
        # A reset, as the server does not read while an answer is under way.
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaver.close()
        wait_for(client, 'vllm:num_requests_running{engine="0",model_name="m"}', 0)
    row, left = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert (row["request_id"], row["osl_tokens"], row["cached_tokens"]) == ("turn-7", 11, 0)
    # [{"role":"user","content":"Fix the failing test."}] without its brackets has 49 bytes
    assert row["prompt_tokens"] == 13
    first_read_s = next(at_s for at_s, piece in reads if b"reasoning" in piece)
    assert before_s < row["received_s"] < row["first_token_sent_s"] < first_read_s
    # ten steps of 10.8 ms after the first token
    assert row["last_token_sent_s"] - row["first_token_sent_s"] > 0.1
    assert row["first_token_sent_s"] < row["last_token_sent_s"] < after_s
    assert left["last_token_sent_s"] is None
    assert left["osl_tokens"] < 10_000


def test_a_server_that_cannot_keep_its_clock_says_so():
    # Steps of a microsecond, which no machine hands out in time.
    config = "--config=acceptance=&step_overhead_s=1e-6&sequence_overhead_s=0&flops_per_token=1"
    with (
        tempfile.TemporaryFile("w+") as stderr,
        spawn(SERVER, ("--model=m", config), stderr) as process,
    ):
        try:
            port = read_port(process, SERVER, stderr)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                peer = open_stream(client, 100_000)
                said = _first_line(stderr, peer)
                peer.close()
                assert rows_of(client)["agentperf_sim_late_steps_total"] > 0
        finally:
            stop(process)
    assert "were handed out more than 50 ms late" in said
    assert "use fewer agents" in said


def _first_line(file: IO[str], peer: socket.socket) -> str:
    """Wait until something is said, and read the stream meanwhile."""
    deadline_s = time.perf_counter() + 10
    while time.perf_counter() < deadline_s:
        peer.recv(1 << 20)
        file.seek(0)
        if line := file.readline():
            return line
    pytest.fail("no warning came within 10 s")
