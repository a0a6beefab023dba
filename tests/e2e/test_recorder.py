"""The recorder between a scripted agent and the embedded simulator, both over real sockets."""

import asyncio
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pytest_agentperf.agent import Agent
from pytest_agentperf.answer import Answer
from pytest_agentperf.clock import REAL_TIME
from pytest_agentperf.encoded import map_trajectories, write_trajectories
from pytest_agentperf.endpoint import HttpConnection
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.recording import load
from pytest_agentperf.plan import Assignment
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import RawAnswer, TurnRecord
from pytest_agentperf.sim.launch import connect
from pytest_agentperf.trajectory import Dataset, Trajectory, prompts
from pytest_agentperf.wire import ChatEncoder, encode_message

pytestmark = pytest.mark.e2e

KEY = "sk-planted-0123456789"
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]
PAUSES_S = (0.05, 0.12, 0.03, 0.2, 0.08)
START_LIMIT_S = 30


@pytest.fixture(scope="module")
def upstream() -> Iterator[EndpointInfo]:
    info = connect("sim:", models=["m"])
    yield info
    info.close()


class Recorder:
    """The command, running."""

    def __init__(self, upstream: str, out: Path) -> None:
        self.out = out
        self.has_ended = False
        options = (f"--upstream={upstream}", f"--out={out}", "--port=0")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest_agentperf.record", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"point the agent at (\S+)", line)
        assert found, line
        self.url = found[1]

    def end(self, number: int = signal.SIGINT) -> str:
        """End it and return what it said last."""
        self.process.send_signal(number)
        self.has_ended = True
        said, errors = self.process.communicate(timeout=START_LIMIT_S)
        assert errors == ""
        return said.strip()

    def dataset(self) -> Dataset:
        dataset = load(str(self.out), strict=True)
        assert dataset is not None
        return dataset


@contextmanager
def recorder(upstream: str, out: Path) -> Generator[Recorder]:
    running = Recorder(upstream, out)
    try:
        yield running
    finally:
        running.process.kill()
        if not running.has_ended:
            running.process.communicate()


class ScriptedAgent:
    """Asks, hears the answer to its end, works for a while, and asks again with all of it."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        stream: bool = True,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.pauses_s: list[float] = []
        self._stream = stream
        self._ended_ns = 0
        self._messages: list[dict[str, Any]] = [
            {"role": "system", "content": 'You mend programs. ☕ "quoted"\ttab'},
            {"role": "user", "content": [{"type": "text", "text": f"Mend {name}."}]},
        ]
        info = EndpointInfo(url=url, osl_header="x-agentperf-osl")
        self._connection = HttpConnection(
            info,
            timeout_s=30,
            tls=ssl.create_default_context(),
            headers={"authorization": f"Bearer {KEY}", **(headers or {})},
        )

    async def work(self, turns: int) -> None:
        for turn in range(turns):
            await self.ask()
            await asyncio.sleep(PAUSES_S[turn % len(PAUSES_S)])
        await self._connection.close()

    async def ask(self) -> None:
        body: dict[str, Any] = {"model": "m", "messages": self._messages, "tools": TOOLS}
        if self._stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        # Spaces and line ends between tokens are the agent's to choose.
        content = msgspec.json.format(msgspec.json.encode(body), indent=2)
        self.sent.append(body)
        answer = RawAnswer()
        await self._connection.chat(content, answer, osl_tokens=30)
        assert (answer.status, answer.error) == (200, None)
        if self._ended_ns:
            self.pauses_s.append((answer.sent_ns - self._ended_ns) / 1e9)
        self._ended_ns = answer.end_ns
        self._hear(b"".join(data for _, data in answer.reads))

    def _hear(self, content: bytes) -> None:
        said = _streamed(content.decode()) if self._stream else _whole(msgspec.json.decode(content))
        message = {k: v for k, v in said.items() if v} | {"role": "assistant"}
        calls = message.get("tool_calls", ())
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": f"turn {len(self.sent)}"}
            for call in calls
        ]
        go_on = [] if results else [{"role": "user", "content": f"Go on, {len(self.sent)}."}]
        self._messages = [*self._messages, message, *results, *go_on]


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    message = body["choices"][0]["message"]
    return {
        "content": message.get("content"),
        "reasoning_content": message.get("reasoning"),
        "tool_calls": message.get("tool_calls"),
    }


def _streamed(text: str) -> dict[str, Any]:
    said: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for event in text.split("\n\n")[:-2]:
        for choice in msgspec.json.decode(event.removeprefix("data: "))["choices"]:
            delta = choice["delta"]
            said["content"] += delta.get("content") or ""
            said["reasoning_content"] += delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or ():
                function = call["function"]
                if call.get("id"):
                    made = {"name": function["name"], "arguments": ""}
                    said["tool_calls"].append(
                        {"id": call["id"], "type": "function", "function": made}
                    )
                said["tool_calls"][-1]["function"]["arguments"] += function.get("arguments") or ""
    return said


_BUSY_MACHINE_S = 2.0
REASONING_FIELD = "reasoning_content"


def canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def replayed(trajectory: Trajectory) -> list[bytes]:
    """Return the messages of each request as a replay sends them."""
    sent = ([encode_message(m, REASONING_FIELD) for m in prompt] for prompt in prompts(trajectory))
    return [canonical(msgspec.json.decode(b"[" + b",".join(each) + b"]")) for each in sent]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_session_is_recorded_as_it_was(upstream: EndpointInfo, tmp_path: Path, stream: bool):  # noqa: FBT001
    with recorder(upstream.url, tmp_path / "session.jsonl") as running:
        agent = ScriptedAgent(running.url, "clock", stream=stream)
        asyncio.run(agent.work(6))
        said = running.end()
    assert said == f"recorded 6 requests in 1 sessions to {running.out}"
    (trajectory,) = running.dataset().trajectories
    assert replayed(trajectory) == [canonical(body["messages"]) for body in agent.sent]
    assert list(trajectory.tools) == TOOLS
    assert [turn.recorded_osl_tokens for turn in trajectory.turns] == [30] * 6
    *pauses_s, last = [turn.tool_s for turn in trajectory.turns]
    assert last is None
    assert_alike(pauses_s, agent.pauses_s)


def assert_alike(some: Sequence[float | None], others: Sequence[float | None]) -> None:
    """Check that pauses are of the same turns; how exact they are `benchmarks.recorder` says."""
    for a, b in zip(some, others, strict=True):
        assert a == pytest.approx(b, abs=_BUSY_MACHINE_S)


def test_a_replay_asks_the_same_at_the_same_pace(upstream: EndpointInfo, tmp_path: Path):
    with recorder(upstream.url, tmp_path / "first.jsonl") as running:
        asyncio.run(ScriptedAgent(running.url, "clock").work(6))
        running.end()
    (first,) = running.dataset().trajectories
    with recorder(upstream.url, tmp_path / "second.jsonl") as running:
        asyncio.run(replay(first, running.url))
        running.end()
    (second,) = running.dataset().trajectories
    assert prompts(second) == prompts(first)
    assert second.tools == first.tools
    pauses_s = [[turn.tool_s for turn in each.turns[:-1]] for each in (first, second)]
    assert_alike(*pauses_s)


async def replay(trajectory: Trajectory, url: str) -> None:
    """Replay it once, as a phase does."""
    encoder = ChatEncoder(model="m", request={}, max_tokens=99, output="natural")
    with tempfile.TemporaryDirectory() as folder:
        write_trajectories(Path(folder) / "one", [trajectory], reasoning_field=REASONING_FIELD)
        encoded = map_trajectories(Path(folder) / "one")
    connection = HttpConnection(
        EndpointInfo(url=url, osl_header="x-agentperf-osl"),
        timeout_s=30,
        tls=ssl.create_default_context(),
    )
    ended = asyncio.Event()

    def emit(record: TurnRecord, answer: Answer) -> None:
        assert answer.error is None
        if record.last_turn:
            ended.set()

    agent = Agent(
        number=0,
        phase=1,
        run="test",
        salt="none",
        offset_ns=0,
        trajectories=encoded,
        assignment=Assignment(seed=0, agent=0, trajectories=1),
        encoder=encoder,
        connection=connection,
        clock=REAL_TIME,
        watch=lambda number, answer: None,  # noqa: ARG005 part of a signature
        emit=emit,
    )
    working = asyncio.create_task(agent.work(time.perf_counter_ns()))
    await ended.wait()
    working.cancel()
    await asyncio.wait([working])
    await connection.close()


def test_agents_at_once_are_told_apart(upstream: EndpointInfo, tmp_path: Path):
    with recorder(upstream.url, tmp_path / "many.jsonl") as running:
        # Two of each begin alike, and nothing but their answers tells them apart.
        agents = [ScriptedAgent(running.url, f"program {n // 2}") for n in range(8)]

        async def work() -> None:
            await asyncio.gather(*(agent.work(5) for agent in agents))

        asyncio.run(work())
        assert running.end() == f"recorded 40 requests in 8 sessions to {running.out}"
    recorded = sorted(replayed(each) for each in running.dataset().trajectories)
    sent = sorted([canonical(body["messages"]) for body in agent.sent] for agent in agents)
    assert recorded == sent


def test_kill_9_loses_no_more_than_the_open_request(upstream: EndpointInfo, tmp_path: Path):
    with recorder(upstream.url, tmp_path / "killed.jsonl") as running:
        agent = ScriptedAgent(running.url, "clock")

        async def work() -> None:
            for _ in range(4):
                await agent.ask()
            # The fifth answer is on its way when the recorder dies.
            asking = asyncio.create_task(agent.ask())
            await until(lambda: running.out.read_bytes().count(b'{"request":') == 5)
            running.process.kill()
            with pytest.raises(AssertionError, match="connection"):
                await asking

        asyncio.run(work())
    dataset = running.dataset()
    (trajectory,) = dataset.trajectories
    assert replayed(trajectory) == [canonical(body["messages"]) for body in agent.sent[:4]]
    assert dataset.losses == (
        "1 requests had no answer when the recording ended and are not replayed",
    )


def test_a_full_disk_ends_the_recording_and_not_the_agent(
    upstream: EndpointInfo, tmp_path: Path
) -> None:
    with recorder(upstream.url, tmp_path / "full.jsonl") as running:
        agent = ScriptedAgent(running.url, "clock")

        async def work() -> None:
            for _ in range(2):
                await agent.ask()
            held = running.out.stat().st_size + 100
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (held, held))
            await agent.work(2)

        asyncio.run(work())
        running.process.send_signal(signal.SIGINT)
        running.has_ended = True
        _, errors = running.process.communicate(timeout=START_LIMIT_S)
    assert running.process.returncode == 1
    assert errors.count("cannot be written any more (File too large)") == 1
    (trajectory,) = running.dataset().trajectories
    assert replayed(trajectory) == [canonical(body["messages"]) for body in agent.sent[:2]]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(START_LIMIT_S):
        while not happened():  # noqa: ASYNC110 another process does it
            await asyncio.sleep(0.002)


def test_keys_do_not_reach_the_disk(upstream: EndpointInfo, tmp_path: Path):
    with recorder(upstream.url, tmp_path / "secret.jsonl") as running:
        headers = {"x-api-key": f"{KEY}-2", "cookie": f"id={KEY}-3", "x-session-id": "s1"}
        body = {"model": "m", "messages": [{"role": "user", "content": f"echo {KEY}-2"}]}
        for query in (f"?key={KEY}-4", ""):
            httpx.post(
                f"{running.url}/chat/completions{query}",
                json=body,
                headers=headers | {"authorization": f"Bearer {KEY}"},
                trust_env=False,
            ).raise_for_status()
        running.end(signal.SIGTERM)
    content = running.out.read_bytes()
    assert b"planted" not in content
    assert content.count(b"echo [redacted]") == 1
    assert b'"x-session-id":"s1"' in content


def test_an_upstream_that_is_not_there_is_told_and_recorded(tmp_path: Path):
    with recorder("http://127.0.0.1:9", tmp_path / "nobody.jsonl") as running:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        response = httpx.post(f"{running.url}/v1/chat/completions", json=body, trust_env=False)
        assert response.status_code == 502
        message = response.json()["error"]["message"]
        assert message.startswith("upstream http://127.0.0.1:9 cannot be reached (")
        assert message.endswith("is the server up?")
        assert running.end() == f"recorded 1 requests in 0 sessions to {running.out}"
    with pytest.raises(ConfigError, match="holds no request that was answered"):
        running.dataset()


def test_other_paths_are_passed_on_only(upstream: EndpointInfo, tmp_path: Path):
    with recorder(upstream.url, tmp_path / "other.jsonl") as running:
        models = httpx.get(f"{running.url}/models", trust_env=False)
        assert models.json()["data"][0]["id"] == "m"
        assert running.end() == (
            f"recorded 0 requests in 0 sessions to {running.out}; "
            "1 other requests were passed on only"
        )


def refusal(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_agentperf.record", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (4, "")
    return done.stderr.strip()


def test_a_missing_option_is_told_on_one_line():
    assert refusal("--port=0") == (
        "error: the following arguments are required: --upstream, --out; see python -m "
        "pytest_agentperf.record --help"
    )


def test_a_port_that_is_taken_is_told(tmp_path: Path):
    out = tmp_path / "new.jsonl"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal("--upstream=http://127.0.0.1:9", f"--out={out}", f"--port={port}")
    assert said == (
        f"port {port} of 127.0.0.1 is taken; give another one with --port, or 0 for a free one"
    )
    assert not out.exists()


def test_a_file_that_exists_is_kept(tmp_path: Path):
    out = tmp_path / "old.jsonl"
    out.write_text("precious", encoding="utf-8")
    said = refusal("--upstream=http://127.0.0.1:9", f"--out={out}", "--port=0")
    assert said == (
        f"--out '{out}' exists; a recording overwrites nothing: "
        "give another name, or move the file away"
    )
    assert out.read_text("utf-8") == "precious"
