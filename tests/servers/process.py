"""Starts a server module as a process of its own, and ends it."""

import contextlib
import json
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PROJECT_ROOT = Path(__file__).parents[2]
START_LIMIT_S = 30.0
STOP_LIMIT_S = 5.0


class ServerError(Exception):
    """A server that did not come up; the message ends with what it wrote to stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A running server."""

    url: str
    """Base of the OpenAI API, ending in `/v1`."""
    pid: int


@contextlib.contextmanager
def start(module: str, *args: str) -> Generator[ServerProcess]:
    """Run `python -m module args` until the block ends.

    The module prints one JSON line `{"port": N}` once it listens, and exits when its stdin closes,
    so that it never outlives a killed test run.

    Raises:
        ServerError: The line did not come within 30 s.
    """
    with tempfile.TemporaryFile("w+") as stderr, spawn(module, args, stderr) as process:
        try:
            port = read_port(process, module, stderr)
            yield ServerProcess(url=f"http://127.0.0.1:{port}/v1", pid=process.pid)
        finally:
            stop(process)


def spawn(module: str, args: tuple[str, ...], stderr: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def read_port(process: subprocess.Popen[str], module: str, stderr: IO[str]) -> int:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_LIMIT_S) else ""
    try:
        return json.loads(line)["port"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        stderr.seek(0)
        message = f"{module} printed {line!r} instead of its port; its stderr:\n{stderr.read()}"
        raise ServerError(message) from error


def stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
