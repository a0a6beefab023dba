"""What a router may keep an agent by: its connection, a header of its own, its cookies."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from pytest_agentperf.clients import connections_of
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.synthesis import synthesize
from tests.servers.sockets import Answers, Server, serve
from tests.workloads import small_setup

DATASET = synthesize(trajectories=1, turns=1, isl_tokens=800, osl_tokens=20, tool_s=0.0, seed=1)


def cookies_then(*heads: bytes) -> Answers:
    """Return what answers each request with the next head, then with none."""
    left = list(heads)

    def answer(_server: Server, _request: bytes) -> list[bytes]:
        head = left.pop(0) if left else b""
        return [b"HTTP/1.1 200 OK\r\n%bcontent-length: 2\r\n\r\n{}" % head]

    return answer


def ask(
    server: Server,
    tmp_path: Path,
    *,
    agents: list[int],
    client: str = "engine",
    header: str | None = None,
) -> None:
    """Have agents ask, one after the other, in the order given."""
    setup = msgspec.structs.replace(
        small_setup(DATASET, url=server.url, model="m", folder=tmp_path),
        client=client,
        affinity_header=header,
    )

    async def work() -> None:
        connect = connections_of(setup, ReadLags())
        connections = {agent: connect(agent) for agent in agents}
        for agent in agents:
            await connections[agent].chat(b"{}", RawAnswer(), osl_tokens=None)
        for connection in connections.values():
            await connection.close()

    asyncio.run(work())


def cookie_lines(server: Server) -> list[bytes]:
    lines = [r.lower().split(b"\r\n") for r in server.requests]
    return [next((x for x in each if x.startswith(b"cookie:")), b"") for each in lines]


@pytest.mark.parametrize("client", ["engine", "httpx"])
def test_an_agent_names_itself(client: str, tmp_path: Path) -> None:
    with serve(cookies_then()) as server:
        ask(server, tmp_path, agents=[0, 1, 0], client=client, header="X-Session-ID")
    named = [
        r.lower().partition(b"x-session-id: ")[2].partition(b"\r\n")[0] for r in server.requests
    ]
    assert named == [b"test-0", b"test-1", b"test-0"]
    assert server.connections == 2


def test_no_header_is_sent_unasked(tmp_path: Path) -> None:
    with serve(cookies_then()) as server:
        ask(server, tmp_path, agents=[0])
    assert b"session" not in server.requests[0].lower()


@pytest.mark.parametrize("client", ["engine", "httpx"])
def test_an_agent_keeps_its_own_cookies(client: str, tmp_path: Path) -> None:
    first = b"set-cookie: route=a1; Path=/; HttpOnly\r\nset-cookie: lb=x\r\n"
    with serve(cookies_then(first, b"")) as server:
        ask(server, tmp_path, agents=[0, 1, 0, 1], client=client)
    again = cookie_lines(server).pop(2)
    assert set(again.removeprefix(b"cookie: ").split(b"; ")) == {b"route=a1", b"lb=x"}
    assert cookie_lines(server) == [b"", b"", again, b""]


def test_a_cookie_changes_and_ends(tmp_path: Path) -> None:
    heads = (
        b"set-cookie: route=a1\r\n",
        b"set-cookie: route=b2\r\n",
        b"set-cookie: route=; Max-Age=0\r\n",
    )
    with serve(cookies_then(*heads)) as server:
        ask(server, tmp_path, agents=[0, 0, 0, 0])
    assert cookie_lines(server) == [b"", b"cookie: route=a1", b"cookie: route=b2", b""]
