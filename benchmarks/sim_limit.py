"""How many events a second the simulator's server sends before it is late.

The server runs as a process of its own, configured to give every stream 50 tokens a second; this
process reads and counts, and begins the next answer of a stream when one has ended. Run it with:

    python -m benchmarks.sim_limit --streams 250 500 1000 1500 2000
"""

import argparse
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psutil

_TOKENS_PER_S = 50
# A step takes 20 ms, whatever is in it.
_CONFIG = (
    "step_overhead_s=0.02&sequence_overhead_s=0&kv_read_bytes_per_token=0&flops_per_token=1&"
    "acceptance=&max_sequences=8192&max_step_tokens=10000000&kv_capacity_tokens=200000000"
)
_EVENTS_BESIDE_TOKENS = 3  # role, finish reason and [DONE]
_STARTS_PER_S = 250
_SETTLE_S = 2.0


@contextmanager
def _server(config: str) -> Generator[tuple[int, psutil.Process]]:
    command = [sys.executable, "-m", "pytest_agentperf.sim.server", "--model", "m"]
    with subprocess.Popen(
        [*command, "--config", config], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())["port"], psutil.Process(process.pid)
        finally:
            process.terminate()


def _metrics(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=60).text
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def _request(stream: int, prompt_tokens: int, osl_tokens: int) -> bytes:
    system = f"{stream:08d} " + "read that file again " * (prompt_tokens * 4 // 21)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "go on"}]
    body = json.dumps({"model": "m", "stream": True, "messages": messages}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\n"
        f"x-agentperf-osl: {osl_tokens}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class _Client:
    """Reads all streams and counts."""

    port: int
    prompt_tokens: int
    osl_tokens: int
    events: int = 0
    sockets: dict[int, tuple[socket.socket, bytes]] = field(
        default_factory=dict[int, tuple[socket.socket, bytes]]
    )
    poll: select.epoll = field(default_factory=select.epoll)

    def open(self) -> None:
        """Begin one more stream; each has another length first, so that not all end at once."""
        number = len(self.sockets)
        peer = socket.create_connection(("127.0.0.1", self.port))
        first = 1 + (number * 7919) % self.osl_tokens
        peer.sendall(_request(number, self.prompt_tokens, first))
        self.sockets[peer.fileno()] = peer, _request(number, self.prompt_tokens, self.osl_tokens)
        self.poll.register(peer.fileno(), select.EPOLLIN)

    def read_until(self, end_s: float) -> None:
        """Count until then; a stream that has ended begins again."""
        while (left_s := end_s - time.perf_counter()) > 0:
            for descriptor, _ in self.poll.poll(left_s):
                peer, request = self.sockets[descriptor]
                data = peer.recv(1 << 18)
                self.events += data.count(b"data: ")
                if b"data: [DONE]" in data:
                    self.events -= _EVENTS_BESIDE_TOKENS
                    peer.sendall(request)

    def close(self) -> None:
        """Leave."""
        for peer, _ in self.sockets.values():
            peer.close()


def _measure(streams: int, given: argparse.Namespace) -> None:
    with _server(_CONFIG + "&" + given.config) as (port, process):
        client = _Client(port, given.prompt_tokens, given.osl_tokens)
        begin_s = time.perf_counter()
        for number in range(streams):
            client.open()
            client.read_until(begin_s + number / _STARTS_PER_S)
        client.read_until(time.perf_counter() + _SETTLE_S)
        before, cpu = _metrics(port), process.cpu_times()
        client.events, begin_s = 0, time.perf_counter()
        client.read_until(begin_s + given.seconds)
        took_s = time.perf_counter() - begin_s
        used_s = sum(process.cpu_times()[:2]) - sum(cpu[:2])
        after = _metrics(port)
        client.close()
    grown = {name: after[name] - before[name] for name in after}
    late = grown["agentperf_sim_late_steps_total"] / max(1, grown["agentperf_sim_steps_total"])
    print(
        f"{streams:>8}{streams * _TOKENS_PER_S:>10,}{client.events / took_s:>13,.0f}"
        f"{used_s / took_s:>8.0%}{late:>9.1%}"
        f"{after['agentperf_sim_behind_seconds_max'] * 1e3:>12,.0f} ms",
        flush=True,
    )


def main() -> None:
    """Print one row for each number of streams."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[250, 500, 1000, 1500, 2000])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--osl-tokens", type=int, default=400)
    parser.add_argument("--config", default="stream_interval=1", help="more fields, or traits")
    given = parser.parse_args()
    print(f"{'streams':>8}{'asked/s':>10}{'delivered/s':>13}{'CPU':>8}{'late':>9}{'worst':>15}")
    for streams in given.streams:
        _measure(streams, given)


if __name__ == "__main__":
    main()
