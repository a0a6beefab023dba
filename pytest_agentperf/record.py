"""``python -m pytest_agentperf.record --upstream URL --out FILE``: record what an agent does.

A proxy between an agent and its server. Point the agent at the URL that is printed; what it asks
over OpenAI's chat completions or Anthropic's messages is written to FILE, which ``--dataset=FILE``
replays. End it with Ctrl-C. ``docs/recorder.md`` tells all.
"""

import asyncio
import errno
import gc
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from socket import AF_INET, AF_INET6, create_server, socket

from pytest_agentperf.command import WRONG_USE, Parser
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.recording import load
from pytest_agentperf.recorder.journal import Journal
from pytest_agentperf.recorder.proxy import Proxy
from pytest_agentperf.recorder.upstream import Upstream, read_upstream

try:
    from uvloop import new_event_loop
except ImportError:  # it has no build for Windows
    from asyncio import new_event_loop

__all__ = ["main"]

_PORT = 8484
_BACKLOG = 1024
_SUFFIX = ".jsonl"


async def _record(asked: Namespace, upstream: Upstream, proxy: Proxy, listener: socket) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    gc.collect()
    gc.freeze()  # what is there now stays: no collection of it shall delay an answer
    server = await loop.create_server(proxy.serve, sock=listener, backlog=_BACKLOG)
    host, port = listener.getsockname()[:2]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}{upstream.prefix}"
    _say(f"recording {upstream.url} to {asked.out}; point the agent at {base} (Ctrl-C ends)")
    await stopped.wait()
    server.close()
    proxy.end()


def _listen(host: str, port: int) -> socket:
    family = AF_INET6 if ":" in host else AF_INET
    try:
        return create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is taken; give another one with --port, or 0 for a free one"
            ) from error
        raise ConfigError(
            f"cannot listen on --host {host} --port {port} ({error.strerror}); give others"
        ) from error


def _begin(asked: Namespace, upstream: Upstream) -> Journal:
    if asked.out.suffix != _SUFFIX:
        raise ConfigError(f"--out {str(asked.out)!r} must end in {_SUFFIX}; rename it")
    header = {
        "recording": token_hex(4),
        "upstream": upstream.url,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Journal(asked.out, header, began_ns=time.perf_counter_ns())


def _summary(proxy: Proxy, out: Path) -> str:
    """Say in one line what the file holds, having read it."""
    asked = proxy.journal.requests
    aside = proxy.passed_only.total()
    others = f"; {aside} other requests were passed on only" if aside else ""
    try:
        dataset = load(str(out))
    except ConfigError:  # what was asked was not answered
        dataset = None
    sessions = len(dataset.trajectories) if dataset else 0
    return f"recorded {asked} requests in {sessions} sessions to {out}{others}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> ArgumentParser:
    parser = Parser(
        prog="python -m pytest_agentperf.record",
        description="Record what an agent asks of a server, as trajectories to replay.",
    )
    parser.add_argument("--upstream", required=True, help="base URL of the server, with /v1")
    parser.add_argument("--out", required=True, type=Path, help="new file, FILE.jsonl")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=_PORT, help=f"{_PORT}; 0 takes a free one")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Record until Ctrl-C or SIGTERM; return the exit code."""
    asked = _parser().parse_args(argv)
    try:
        upstream = read_upstream(asked.upstream)
        with _listen(asked.host, asked.port) as listener:
            proxy = Proxy(upstream=upstream, journal=_begin(asked, upstream))
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(_record(asked, upstream, proxy, listener))
        proxy.journal.close()
        _say(_summary(proxy, asked.out))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_USE
    return 0 if proxy.journal.lost is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
