"""Starts the simulator as an endpoint: ``sim:`` in a process of its own, ``sim+virtual:`` here."""

import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO
from urllib.parse import parse_qsl

import httpx
import msgspec

from pytest_agentperf.api_key import keyless_environment
from pytest_agentperf.errors import ConfigError, EndpointError, did_you_mean
from pytest_agentperf.gauges import open_gauges
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.sim.address import Address, field_names, read_address, split_address
from pytest_agentperf.sim.virtual import VirtualGauges, VirtualMeter, VirtualServer
from pytest_agentperf.system import System

__all__ = ["connect", "connect_virtual"]

_SERVER = "agentperf-sim"

_OURS = "agentperf_sim_"
_ASK_S = 5.0
_START_LIMIT_S = 10
_STOP_LIMIT_S = 5
_TAIL_BYTES = 2000


class _Child:
    """The server's process, and the pipes that end it when ours ends."""

    def __init__(self, models: Sequence[str], preset: str, config: str) -> None:
        command = [sys.executable, "-m", "pytest_agentperf.sim.server", "--config", config]
        command += ["--preset", preset]
        for model in models:
            command += ["--model", model]
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 # closed by close()
        # A session of its own: Ctrl-C is for the test run, which then closes its endpoint.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=keyless_environment(),
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


class _Punctuality:
    """Asks the server how many of its steps came late since it was last asked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._steps = self._late_steps = 0.0

    def __call__(self) -> float | None:
        """Return the share (0-1); ``None`` when there was no step, or no answer."""
        try:
            page = httpx.get(self._url, timeout=_ASK_S, trust_env=False).text
        except httpx.HTTPError:
            return None
        told = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith(_OURS))
        steps = float(told[f"{_OURS}steps_total"])
        late_steps = float(told[f"{_OURS}late_steps_total"])
        new, new_late = steps - self._steps, late_steps - self._late_steps
        self._steps, self._late_steps = steps, late_steps
        return new_late / new if new else None


def connect(url: str, *, models: Sequence[str]) -> EndpointInfo:
    """Start a simulator that serves ``models`` and return where it listens.

    Raises:
        ConfigError: the address names an unknown preset or field, or a value is wrong.
        EndpointError: the process does not start.
    """
    address = _read(url)
    served = _served(address, models)
    child = _Child(served, *split_address(url))
    port = child.port()
    url = f"http://127.0.0.1:{port}/v1"
    gauges = open_gauges(url, {})

    def close() -> None:
        if gauges is not None:
            gauges.close()
        child.close()

    return EndpointInfo(
        url=url,
        models=served,
        server=_SERVER,
        osl_header="x-agentperf-osl",
        simulated=True,
        system=_system(address),
        late_steps=_Punctuality(f"http://127.0.0.1:{port}/metrics"),
        gauges=gauges,
        close=close,
    )


def connect_virtual(url: str, *, models: Sequence[str]) -> EndpointInfo:
    """Make a simulator in this process, in a time that jumps.

    Raises:
        ConfigError: the address names an unknown preset or field, or a value is wrong.
    """
    address = _read(url)
    served = _served(address, models)
    try:
        server = VirtualServer(address.config, address.traits, served)
    except ValueError as error:
        raise ConfigError(f"endpoint {url!r}: {error}") from error
    accelerator = address.system.accelerator if address.system else "simulated accelerator"
    return EndpointInfo(
        url=url,
        models=served,
        server=_SERVER,
        in_process=server,
        simulated=True,
        system=_system(address),
        meter=VirtualMeter(server, accelerator),
        gauges=VirtualGauges(server),
        close=server.close,
    )


def _read(url: str) -> Address:
    name, query = split_address(url)
    known = field_names()
    for field, _ in parse_qsl(query, keep_blank_values=True):
        if field not in known:
            hint = did_you_mean(field, known)
            raise ConfigError(f"endpoint {url!r}: unknown field {field!r}{hint}")
    try:
        return read_address(name, query)
    except ValueError as error:
        raise ConfigError(f"endpoint {url!r}: {error}; correct this field") from error


def _served(address: Address, models: Sequence[str]) -> tuple[str, ...]:
    return tuple(models or (address.model or "sim",))


def _system(address: Address) -> System | None:
    """Return the system that a preset stands on, as many times as there are accelerators."""
    found, accelerators = address.system, address.config.total_accelerators
    if found is None:
        return None
    share = accelerators / found.accelerators
    price = found.price_usd_per_hour
    return System(
        name=f"{found.name}, simulated",
        accelerator=found.accelerator,
        accelerators=accelerators,
        systems=max(1, round(share)),
        tdp_w=found.tdp_w,
        racks=None if found.racks is None else found.racks * share,
        price_usd_per_hour=None if price is None else price * share,
        notes=f"preset {address.preset!r}: plausible figures, not a claim about this system",
    )
