"""One machine's side of a cluster, asked directly."""

import asyncio
import os
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from pytest_agentperf.api_key import API_KEY_VARIABLE
from pytest_agentperf.errors import LoadError
from pytest_agentperf.host import Host, versions
from pytest_agentperf.orders import Setup

T = TypeVar("T")
PLANNED = np.frombuffer(b"planned", dtype=np.uint8)
SETUP = Setup(
    trajectories="/elsewhere/planned", url="http://h/v1", headers={}, osl_header=None, model="m",
    request={}, max_tokens=9, output="natural", salt="none", seed=0, run="r", timeout_s=1.0,
    tokenizer=None, client="engine",
)  # fmt: skip


@pytest.fixture
def key() -> Iterator[str]:
    """A key that is gone afterwards: a host puts it where its processes find it."""
    before = os.environ.get(API_KEY_VARIABLE)
    yield "a-key-for-tests"
    os.environ.pop(API_KEY_VARIABLE, None)
    if before is not None:
        os.environ[API_KEY_VARIABLE] = before


@pytest.fixture
def host() -> Iterator[Host]:
    """A host that knows the time a billion seconds ahead."""
    host = Host(skew_ns=10**18)
    yield host
    asyncio.run(host.close())


def asked(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_it_tells_its_own_time(host: Host):
    before_ns = time.perf_counter_ns()
    now_ns = asked(host.now_ns())
    assert 0 <= now_ns - 10**18 - before_ns < 10**9


def test_it_tells_what_is_installed(host: Host):
    assert asked(host.versions()) == versions()
    assert set(versions()) == {"pytest-agentperf", "python"}


def test_the_distance_is_that_of_a_connection(host: Host):
    async def ask() -> float:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await host.distance_s(f"http://127.0.0.1:{port}/v1")

    assert 0 < asked(ask()) < 1


def test_an_endpoint_out_of_reach_is_told(host: Host):
    with pytest.raises(LoadError, match=r"cannot connect to the endpoint http://127\.0\.0\.1:1/v1"):
        asked(host.distance_s("http://127.0.0.1:1/v1"))


def test_a_set_up_brings_dataset_and_key(host: Host, key: str):
    asked(host.set_up(SETUP, PLANNED, key))
    assert os.environ[API_KEY_VARIABLE] == key
    assert (Path(host._folder.name) / "planned").read_bytes() == b"planned"  # pyright: ignore[reportPrivateUsage]
    asked(host.close())
    assert not Path(host._folder.name).exists()  # pyright: ignore[reportPrivateUsage]


def test_a_tokenizer_that_is_not_there_is_told(host: Host, key: str):
    setup = msgspec.structs.replace(SETUP, tokenizer="/no/such/folder")
    with pytest.raises(LoadError, match="no tokenizer in /no/such/folder; put it there as well"):
        asked(host.set_up(setup, PLANNED, key))


def test_more_agents_than_it_has_room_for_are_refused(host: Host):
    with pytest.raises(LoadError, match=r"room for \d+ agents and 10000000 were dealt"):
        asked(host.prepare(1, 1, range(10_000_000), [], "first"))
