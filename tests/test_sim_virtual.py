"""The simulated deployment in virtual time: the agents' code around it, hand-worked times."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.sim.config import EngineConfig
from pytest_agentperf.sim.launch import connect_virtual
from pytest_agentperf.sim.traits import Traits
from pytest_agentperf.sim.virtual import VirtualConnection, VirtualMeter, VirtualServer

CONFIG = EngineConfig(
    acceptance=(),
    step_overhead_s=0.1,
    sequence_overhead_s=0.0,
    flops_per_token=2e9,  # 1 ms for each token on two accelerators
    flops_per_s=1e12,
    kv_read_bytes_per_token=0.0,
    accelerators=2,
    idle_w=100.0,
    decode_w=300.0,
    prefill_w=300.0,
)


def body(**changes: Any) -> bytes:
    fields = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "stream": True}
    return json.dumps(fields | changes).encode()


def make(config: EngineConfig = CONFIG, **traits: Any) -> VirtualServer:
    return VirtualServer(config, Traits(**traits), ["m"])


@pytest.fixture
def server() -> Iterator[VirtualServer]:
    made = make()
    yield made
    made.close()


def ask(server: VirtualServer, data: bytes, *, osl: int = 5, timeout_s: float = 60) -> RawAnswer:
    raw = RawAnswer()

    async def work() -> None:
        await asyncio.sleep(1.0)
        await server.connect(timeout_s=timeout_s).chat(data, raw, osl_tokens=osl)

    asyncio.run(server.run(work))
    return raw


def read(raw: RawAnswer) -> Answer:
    reader = AnswerReader()
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
    return reader.finish(raw)


def test_tokens_come_when_their_steps_end(server: VirtualServer):
    raw = ask(server, body(stream_options={"include_usage": True}))
    answer = read(raw)
    assert answer.error is None
    assert (raw.sent_ns, answer.osl_tokens) == (1_000_000_000, 5)
    prompt_tokens = answer.isl_tokens or 0
    assert 100 < prompt_tokens < 120  # 400 bytes of content at four bytes a token, and its JSON
    # The prompt's step: 0.1 s and a millisecond a token. Each of the four others: 0.101 s.
    first_ns = 1_100_000_000 + prompt_tokens * 1_000_000
    wanted = [first_ns + step * 101_000_000 for step in range(5)]
    assert list(answer.token_ns) == pytest.approx(wanted, abs=1)
    assert raw.end_ns == answer.token_ns[-1]


def test_an_unknown_model_is_refused_as_over_http(server: VirtualServer):
    raw = ask(server, body(model="other"))
    assert raw.status == 404
    assert read(raw).error == "HTTP 404: The model `other` does not exist."
    assert raw.end_ns == raw.sent_ns


def test_a_full_queue_is_an_error_of_the_server():
    server = make(EngineConfig(max_sequences=1, max_waiting=1, acceptance=()))
    answers = [RawAnswer() for _ in range(4)]

    async def work() -> None:
        connections = [server.connect(timeout_s=60) for _ in answers]
        await asyncio.gather(
            *(
                c.chat(body(), raw, osl_tokens=9)
                for c, raw in zip(connections, answers, strict=True)
            )
        )

    asyncio.run(server.run(work))
    server.close()
    # One begins at once, one waits; there is no place for two more.
    assert [raw.status for raw in answers] == [200, 200, 503, 503]
    assert "queue is full" in (read(answers[3]).error or "")


def test_a_request_that_takes_too_long_ends_at_its_limit(server: VirtualServer):
    raw = ask(server, body(), osl=100, timeout_s=0.5)
    assert raw.error == "timeout after 0.5 s"
    assert raw.end_ns == 1_500_000_000
    assert all(at_ns <= raw.end_ns for at_ns, _ in raw.reads)
    # It was cancelled: the step under way ends, and nothing is left.
    assert not server.fleet.engines[0].busy


def test_the_meter_counts_idle_and_busy_time(server: VirtualServer):
    meter = VirtualMeter(server, "toy")
    assert [device["name"] for device in meter.devices] == ["toy", "toy"]
    raw = ask(server, body())
    busy_s = raw.end_ns / 1e9 - 1.0
    # One second idle at 100 W, then 300 W for as long as the request took; each of two.
    samples = meter.sample()
    assert [(s.series, s.unit) for s in samples] == [("gpu0", "J"), ("gpu1", "J")]
    assert [s.value for s in samples] == pytest.approx([100 + 300 * busy_s] * 2)


def test_a_stream_interval_moves_neither_the_first_nor_the_last_token():
    ends: list[tuple[int, int, int]] = []
    for interval in (1, 3):
        server = make(stream_interval=interval)
        answer = read(ask(server, body(), osl=9))
        server.close()
        ends.append((answer.token_ns[0], answer.token_ns[-1], len(answer.token_ns)))
    # One each of nine; then 1, 4, 7, and the last two at the end.
    assert ends[0][:2] == ends[1][:2]
    assert [count for _, _, count in ends] == [9, 4]


def test_what_needs_a_socket_is_refused():
    with pytest.raises(ConfigError, match="stall_every and reset_every need a socket: use sim:"):
        connect_virtual("sim+virtual:?reset_every=3", models=["m"])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("sim+virtual:h200", "unknown preset 'h200'", id="preset"),
        pytest.param(
            "sim+virtual:?kv_capacity_token=1", "did you mean 'kv_capacity_tokens'", id="field"
        ),
        pytest.param("sim+virtual:?acceptance=2", "shares lie between 0 and 1", id="value"),
    ],
)
def test_a_wrong_address_says_what_is_wrong(url: str, message: str):
    with pytest.raises(ConfigError, match=message):
        connect_virtual(url, models=["m"])


def test_a_preset_brings_its_system_and_its_model():
    info = connect_virtual("sim+virtual:h200x8/deepseek-v4-pro?replicas=2", models=[])
    info.close()
    assert info.models == ("deepseek-v4-pro",)
    assert info.system is not None
    # Two replicas of eight accelerators stand on two systems.
    assert (info.system.accelerators, info.system.systems) == (16, 2)
    assert info.system.name.endswith(", simulated")
    assert info.simulated


def test_one_connection_hashes_only_what_is_new(server: VirtualServer):
    connection: VirtualConnection = server.connect(timeout_s=60)
    first, second = RawAnswer(), RawAnswer()
    long = [{"role": "user", "content": "x" * 4000}]
    grown = [*long, {"role": "user", "content": "and now?"}]
    usage = {"include_usage": True}

    async def work() -> None:
        await asyncio.sleep(1.0)
        await connection.chat(body(messages=long, stream_options=usage), first, osl_tokens=3)
        await connection.chat(body(messages=grown, stream_options=usage), second, osl_tokens=3)

    asyncio.run(server.run(work))
    # 4,000 characters and their JSON are 15 full blocks of 64 tokens of 4 bytes.
    assert read(first).cached_tokens == 0
    assert read(second).cached_tokens == 15 * 64
