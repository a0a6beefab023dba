"""Nothing but the endpoint is looked up or connected to, and bad dependencies are named."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.audit import Report, said
from tests.plugin.conftest import ROOT, SHORT

WATCHES = """
import json
import os
import sys
from pathlib import Path

def _watch(event, details):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
        with Path("asked.txt").open("a") as out:
            asked = details[-1] if event == "socket.connect" else details[0]
            out.write(json.dumps([event, repr(asked)]) + "\\n")

sys.addaudithook(_watch)

import asyncio
import uvloop

uvloop.run = asyncio.run  # what uvloop looks up and connects to, no audit hook is told
"""


def test_a_vulnerability_is_named_and_silence_is_no_failure() -> None:
    rows: list[dict[str, object]] = [
        {"name": "a", "version": "1", "vulns": []},
        {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}]},
        {"name": "c", "skip_reason": "not found"},
    ]
    report = msgspec.json.decode(json.dumps({"dependencies": rows}), type=Report)
    text, good = said(report)
    assert text == 'audit: 2 of 3 pinned packages audited, 1 vulnerable\nb 2: [{"id": "CVE-1"}]'
    assert not good
    assert said(None) == ("audit: no advisory service answers; nothing was audited", True)


@pytest.mark.e2e
def test_a_run_asks_nobody_but_its_endpoint(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own audit events tell of all look-ups and connections, in every process."""
    site = project.mkdir("site")
    (site / "sitecustomize.py").write_text(WATCHES, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    project.makepyfile("def test_it(capacity):\n    assert capacity.agents\n")
    options = ("--endpoint=sim:", "--model=m", "--tier=t:speed>=1", "--agentperf-idle-s=0", *SHORT)
    result = project.runpytest_subprocess(
        *options,
        *("--agentperf-start-agents=2", "--agentperf-max-agents=2", "--html=report.html"),
    )
    result.assert_outcomes(passed=1)
    rows = [json.loads(line) for line in (project.path / "asked.txt").read_text().splitlines()]
    assert any(event == "socket.connect" for event, _ in rows)
    hosts = {text.strip("('\"").split("'")[0] for _, text in rows}
    assert hosts <= {"127.0.0.1", "localhost", "/", ""}, hosts


def test_a_tokenizer_that_is_no_folder_is_looked_for_nowhere(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "asked = []\n"
        "sys.addaudithook(lambda e, a: asked.append(a) if e == 'socket.getaddrinfo' else None)\n"
        "from pytest_agentperf.tokens import LocalTokenizer\n"
        "try:\n"
        "    LocalTokenizer(sys.argv[1])\n"
        "except Exception as refused:\n"
        "    print(type(refused).__name__, asked)\n"
    )
    for named in ("openai/gpt-oss-120b", str(tmp_path)):
        done = subprocess.run(
            [sys.executable, "-c", program, named], capture_output=True, text=True, check=True
        )
        assert done.stdout == "ConfigError []\n", done
