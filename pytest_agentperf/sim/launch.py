"""Starts the simulator as an endpoint: ``sim:`` or ``sim:?field=value&field=value``."""

import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from typing import IO
from urllib.parse import parse_qsl, urlsplit

import msgspec

from pytest_agentperf.errors import ConfigError, EndpointError, did_you_mean
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.sim.engine import EngineConfig, parse_config

__all__ = ["connect"]

_START_LIMIT_S = 10
_STOP_LIMIT_S = 5
_TAIL_BYTES = 2000


class _Child:
    """The server's process, and the pipes that end it when ours ends."""

    def __init__(self, models: Sequence[str], config: str) -> None:
        command = [sys.executable, "-m", "pytest_agentperf.sim.server", "--config", config]
        for model in models:
            command += ["--model", model]
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 # closed by close()
        # A session of its own: Ctrl-C is for the test run, which then closes its endpoint.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )

    def port(self) -> int:
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], _START_LIMIT_S)
        line = stdout.readline() if ready else b""
        try:
            return msgspec.json.decode(line, type=dict[str, int])["port"]
        except (msgspec.MsgspecError, KeyError) as error:
            said = self._said()
            self.close()
            seen = f"{line.decode(errors='replace').strip()!r} instead of its port"
            raise EndpointError(
                f"the simulator did not start within {_START_LIMIT_S} s: it printed {seen}; "
                f"read what it said last: {said or '(nothing)'}"
            ) from error

    def _said(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-_TAIL_BYTES:].decode(errors="replace").strip()

    def close(self) -> None:
        """End the process for certain; a second call does nothing."""
        process = self._process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdin, process.stdout, self._stderr):
            if stream is not None:
                stream.close()


def connect(url: str, *, models: Sequence[str]) -> EndpointInfo:
    """Start a simulator that serves ``models`` and return where it listens.

    Raises:
        ConfigError: the URL has more than fields of ``EngineConfig``, or a value is wrong.
        EndpointError: the process does not start.
    """
    config = _config_of(url)
    child = _Child(models or ("sim",), config)
    return EndpointInfo(
        url=f"http://127.0.0.1:{child.port()}/v1",
        models=tuple(models or ("sim",)),
        server="agentperf-sim",
        osl_header="x-agentperf-osl",
        close=child.close,
    )


def _config_of(url: str) -> str:
    parts = urlsplit(url)
    preset = parts.netloc + parts.path
    if preset:
        raise ConfigError(
            f"endpoint {url!r}: there is no preset {preset!r}, nor any other yet; "
            "use 'sim:' or 'sim:?field=value'"
        )
    known = [field.name for field in fields(EngineConfig)]
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"endpoint {url!r}: unknown field {name!r}{hint}")
    try:
        parse_config(parts.query)
    except ValueError as error:
        raise ConfigError(f"endpoint {url!r}: {error}; correct this field") from error
    return parts.query
