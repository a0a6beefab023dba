"""`python -m tests.audit`: does any pinned dependency have a known vulnerability?

pip-audit asks an advisory service. Where none answers nothing is known: that is said, and is no
failure of this tree. A vulnerability is.
"""

import json
import subprocess
import sys
from pathlib import Path

import msgspec

PINNED = Path(__file__).resolve().parents[1] / "constraints.txt"
LIMIT_S = 300


class Dependency(msgspec.Struct):
    """What is told of one package."""

    name: str
    version: str = ""
    vulns: list[dict[str, object]] = []
    skip_reason: str | None = None


class Report(msgspec.Struct):
    """What pip-audit prints."""

    dependencies: list[Dependency]


def asked() -> Report | None:
    """Return what is known; ``None`` where nobody answered."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    command += ["--no-deps", "--disable-pip", f"--requirement={PINNED}"]
    try:
        found = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S)
        return msgspec.json.decode(found.stdout, type=Report)
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        return None


def said(report: Report | None) -> tuple[str, bool]:
    """Return what is known in words, and whether that is good."""
    if report is None:
        return "audit: no advisory service answers; nothing was audited", True
    skipped = sum(each.skip_reason is not None for each in report.dependencies)
    bad = [each for each in report.dependencies if each.vulns]
    count = len(report.dependencies)
    lines = [f"audit: {count - skipped} of {count} pinned packages audited, {len(bad)} vulnerable"]
    lines += [f"{each.name} {each.version}: {json.dumps(each.vulns)}" for each in bad]
    return "\n".join(lines), not bad


def main() -> None:
    """Print what is known, and end with 1 where that is bad."""
    text, good = said(asked())
    print(text)  # noqa: T201 a command
    sys.exit(not good)


if __name__ == "__main__":
    main()
