"""Loads of a client, from light to heavy, and what it carries by them."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_agentperf.api_key import keyless_environment
from pytest_agentperf.errors import LoadError
from pytest_agentperf.selfcheck.nullclient import Point
from pytest_agentperf.settings import FULL_CPU_RATIO

__all__ = ["Carries", "carries", "certificate", "climb", "measure", "null_server"]

_STEP = 2
_LIMIT_S = 0.010
_GRACE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Carries:
    """What one load process carries."""

    cpu_us_per_token: float
    tok_per_s: float
    """By CPU: as full as is valid."""
    within_1_ms_tok_per_s: float
    """The greatest load measured at which P95 TTFT is wrong by at most so much; 0 for none."""
    within_10_ms_tok_per_s: float


@contextmanager
def certificate() -> Generator[str]:
    """Make a key and a certificate of this machine by itself; yield the file that holds both.

    Raises:
        LoadError: there is no ``openssl`` to make them.
    """
    program = shutil.which("openssl")
    if program is None:
        raise LoadError(
            "no program openssl, which makes the certificate: install it, or leave --tls out"
        )
    with tempfile.TemporaryDirectory() as folder:
        pem = str(Path(folder) / "null.pem")
        subprocess.run(
            [
                *(program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", pem, "-out", f"{pem}.crt"),
            ],
            check=True,
            capture_output=True,
        )
        with Path(pem).open("ab") as both:
            both.write(Path(f"{pem}.crt").read_bytes())
        yield pem


@contextmanager
def null_server(pem: str | None = None) -> Generator[int]:
    """Run the null server; yield its port.

    Args:
        pem: a file with key and certificate, for TLS.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_agentperf.selfcheck.nullserver", *([pem] if pem else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=keyless_environment(),
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate(timeout=_GRACE_S)


def measure(
    port: int, *, streams: int, seconds: float, client: str, pem: str | None = None
) -> Point:
    """Run one load in a process of its own.

    Args:
        port: of the null server.
        streams: at once, of 50 tok/s each.
        seconds: of the load, after a first answer of every stream.
        client: ``engine`` or ``httpx``.
        pem: a file with the server's certificate, for TLS.

    Raises:
        LoadError: the process has failed, or a request of it.
    """
    command = [sys.executable, "-m", "pytest_agentperf.selfcheck.nullclient", f"--port={port}"]
    options = [f"--streams={streams}", f"--seconds={seconds}", f"--client={client}"]
    options += [f"--pem={pem}"] if pem else []
    found = subprocess.run(
        [*command, *options], capture_output=True, check=False, env=keyless_environment()
    )
    if found.returncode:
        raise LoadError(f"the client's self-check failed: {found.stderr.decode()[-500:]}")
    point = msgspec.json.decode(found.stdout, type=Point)
    if point.failed:
        raise LoadError(f"{point.failed} requests of the client's self-check failed")
    return point


def climb(run: Callable[[int], Point], *, start: int, most: int) -> Iterator[Point]:
    """Double the streams until P95 TTFT is wrong by more than 10 ms, or there are enough."""
    streams = start
    while streams <= most:
        point = run(streams)
        yield point
        if point.ttft_error_s[1] > _LIMIT_S:
            return
        streams *= _STEP


def carries(points: Sequence[Point]) -> Carries:
    """Return what one process carries, by one load or more.

    The heaviest load tells what a token costs: reads coalesce under load.
    """
    heaviest = points[-1]
    cpu_s_per_token = heaviest.cpu_s / heaviest.tokens

    def within(limit_s: float) -> float:
        found = [p.streams * p.rate_tok_per_s for p in points if p.ttft_error_s[1] <= limit_s]
        return max(found, default=0.0)

    return Carries(
        cpu_us_per_token=cpu_s_per_token * 1e6,
        tok_per_s=FULL_CPU_RATIO / cpu_s_per_token,
        within_1_ms_tok_per_s=within(0.001),
        within_10_ms_tok_per_s=within(_LIMIT_S),
    )
