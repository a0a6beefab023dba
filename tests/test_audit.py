"""The audit fails for what it finds, never for a service that is away, and says which it was."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.sockets import answered, serve

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pip_audit") is None, reason="pip-audit comes with the extra check"
)
PIN = "jinja2==3.1.0\n"
FOUND = {
    "id": "PYSEC-0000-1",
    "summary": "runs what it is given",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.1"}]}],
        }
    ],
}


def audit(folder: Path, url: str, pins: str = PIN) -> tuple[int, str]:
    """Return the exit code and what was said."""
    (folder / "pins.txt").write_text(pins)
    options = (f"--requirement={folder / 'pins.txt'}", f"--osv-url={url}")
    done = subprocess.run(
        [sys.executable, "-m", "tools.audit", *options], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def audited(folder: Path, answer: bytes, pins: str = PIN) -> tuple[int, str]:
    """Return the same, of a service that always answers this."""
    with serve(answered(answer), closes=True) as server:
        return audit(folder, server.url, pins)


def test_a_service_that_knows_nothing_bad_passes(tmp_path: Path):
    code, said = audited(tmp_path, b"{}")
    assert (code, "No known vulnerabilities found" in said) == (0, True), said


def test_a_vulnerability_fails_and_is_named(tmp_path: Path):
    code, said = audited(tmp_path, json.dumps({"vulns": [FOUND]}).encode())
    assert code == 1
    assert "PYSEC-0000-1" in said
    assert "3.1.1" in said


@pytest.mark.parametrize("answer", [None, b"<html>sign in</html>"], ids=["silence", "a page"])
def test_without_a_service_it_is_left_out_and_says_so(tmp_path: Path, answer: bytes | None):
    # Nobody listens on port 1.
    found = audit(tmp_path, "http://127.0.0.1:1/") if answer is None else audited(tmp_path, answer)
    assert (found[0], "audit LEFT OUT, no dependency was audited" in found[1]) == (0, True), found


def test_pins_that_are_none_fail(tmp_path: Path):
    code, said = audited(tmp_path, b"{}", pins="jinja2>=3\n")
    assert (code, "jinja2" in said) == (1, True), said
