"""`python -m tools.audit`: has any pinned dependency a known vulnerability?

pip-audit asks a service of advisories. Where none answers nothing is known, which is said and is no
failure. From there on pip-audit decides: it fails for a vulnerability, and for pins it cannot read.

    python -m tools.audit --requirement constraints.txt
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

OSV_URL = "https://api.osv.dev/v1/query"
PINNED = Path(__file__).parents[1] / "constraints.txt"
EXCUSED: Mapping[str, str] = {}
"""Vulnerabilities that do not reach us, by id: why."""
_KNOCK_S = 10.0
_KNOCK = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "1.0"}


def silence(osv_url: str) -> str:
    """Return why the service cannot be asked; nothing where it answers."""
    try:
        httpx.post(osv_url, json=_KNOCK, timeout=_KNOCK_S).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as failed:
        return str(failed) or type(failed).__name__
    return ""


def main() -> int:
    """Say what is known, or that nothing is; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit")
    parser.add_argument("--requirement", type=Path, default=PINNED, metavar="FILE")
    parser.add_argument("--osv-url", default=OSV_URL, metavar="URL")
    asked = parser.parse_args()
    if reason := silence(asked.osv_url):
        print(f"audit LEFT OUT, no dependency was audited: {asked.osv_url}: {reason}")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service=osv"]
    command += [f"--osv-url={asked.osv_url}", f"--requirement={asked.requirement}"]
    command += ["--no-deps", "--disable-pip", "--strict", "--progress-spinner=off"]
    command += [f"--ignore-vuln={name}" for name in EXCUSED]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
