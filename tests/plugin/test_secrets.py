"""A planted key is in no result, log, traceback or list of processes, and no terminal is obeyed."""

import json
import re

import pytest

from tests.plugin.conftest import ROOT, SHORT

pytestmark = pytest.mark.e2e

SECRET = "sk-planted-9f3b"
ECHOES = r"""
import json
import os
import re
import psutil
import pytest
from dataclasses import replace
from pathlib import Path
from tests.servers.sockets import serve
from tests.faults import GOOD, HEAD, LAST, chunk, event, paced

def key_in(request):
    found = re.search(rb"authorization: Bearer ([^\r\n]*)", request, re.I)
    return found[1].decode() if found else "nothing"

def answers(server, request):
    # A server that repeats the key wherever it can, with terminal escapes and HTML around it.
    key = key_in(request)
    evil = f"\x1b[2J\x1b]0;owned\x07<script>alert(1)</script> bad key {key}"
    if request.startswith(b"GET"):
        body = json.dumps({"data": [{"id": "m"}, {"id": evil}]}).encode()
        head = f"HTTP/1.1 200 OK\r\nserver: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        return [head.encode() + body]
    kind = len(server.requests) % 25
    if kind == 0 and len(server.requests) > 30:
        body = json.dumps({"error": {"message": evil}}).encode()
        return [b"HTTP/1.1 401 No\r\ncontent-length: %d\r\n\r\n" % len(body) + body]
    if kind == 1 and len(server.requests) > 30:
        return [HEAD, chunk(event(error=evil)), LAST]
    if kind == 2 and len(server.requests) > 30:
        return [f"{key} is no HTTP\r\n\r\n".encode(), "hang up"]
    return paced([HEAD, *map(chunk, GOOD), LAST])

@pytest.fixture(scope="session")
def agentperf_settings(agentperf_settings):
    with serve(answers) as server:
        yield replace(agentperf_settings, endpoint=server.url)

@pytest.fixture(autouse=True)
def processes(request):
    yield
    listed = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    Path("processes.json").write_text(json.dumps(listed))
"""
TESTS = """
async def test_measured(agentperf, slo):
    metrics = await agentperf.measure(agents=3)
    assert metrics.failed == 0, metrics.errors

def test_searched(capacity, agentperf_endpoint):
    assert capacity.agents > 1000

async def test_raises(agentperf, agentperf_endpoint):
    raise RuntimeError(repr(agentperf_endpoint))
"""


def test_a_planted_key_appears_nowhere(
    project: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = tmp_path_factory.mktemp("secret") / "key"
    key.write_text(f"{SECRET}\n", "utf-8")
    project.makeconftest((ROOT / "conftest.py").read_text("utf-8") + ECHOES)
    project.makepyfile(TESTS)
    result = project.runpytest_subprocess(
        *(
            "--endpoint=sim:",
            "--model=m",
            *SHORT,
            "--tier=t:speed>=1",
            f"--agentperf-api-key-file={key}",
        ),
        *("--agentperf-start-agents=3", "--agentperf-max-agents=3", "--agentperf-idle-s=0"),
        *("--html=report.html", "--self-contained-html", "--junitxml=junit.xml"),
        *("-rA", "--showlocals", "--tb=long", "--agentperf-ci-json=ci.json"),
    )
    said = result.stdout.str() + result.stderr.str()
    assert "[key]" in said, said  # the server's own words, without it
    assert SECRET not in said
    files = [p for p in project.path.rglob("*") if p.is_file()]
    names = {p.name for p in files}
    assert {"bundle.json", "requests.jsonl", "report.html", "junit.xml", "ci.json"} <= names
    assert [p for p in files if SECRET.encode() in p.read_bytes()] == []
    listed = json.loads((project.path / "processes.json").read_text("utf-8"))
    assert any("pytest_agentperf.worker" in command for command in listed)
    assert SECRET not in json.dumps(listed)
    # Nor is a terminal told anything by the server, or a browser.
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", said)
    reports = [p.read_text("utf-8") for p in files if p.name == "report.html"]
    assert len(reports) == 2
    assert not [text for text in reports if "<script>alert(1)" in text]


def test_the_key_of_a_file_is_in_use_before_machines_are_given_it(
    project: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = tmp_path_factory.mktemp("secret") / "key"
    key.write_text(SECRET, "utf-8")
    project.makepyfile(
        f"""
        from pytest_agentperf.api_key import api_key

        def test_it(agentperf_hosts):
            assert api_key() == {SECRET!r}
        """
    )
    result = project.runpytest_subprocess(
        "--endpoint=sim:", "--model=m", f"--agentperf-api-key-file={key}"
    )
    result.assert_outcomes(passed=1)
