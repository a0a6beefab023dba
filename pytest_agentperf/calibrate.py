"""``python -m pytest_agentperf.calibrate``: what a client and a system's numbers are worth."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from pytest_agentperf import noise, words
from pytest_agentperf.errors import AgentPerfError
from pytest_agentperf.room import cores, room
from pytest_agentperf.selfcheck.ladder import (
    Carries,
    carries,
    certificate,
    climb,
    measure,
    null_server,
)
from pytest_agentperf.selfcheck.nullclient import Point
from pytest_agentperf.settings import FULL_CPU_RATIO

__all__ = ["main"]

_MOST_STREAMS = 16_384
_LATE_S = 0.015
_TITLE = "One load process, against a server that computes nothing"
_CAPTION = (
    "p50, p95, p99: TTFT is wrong by, ms; last: the last token's time, P95; lag: event loop, P99"
)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 0 where all went well."""
    asked = _parser().parse_args(given)
    run: Callable[[argparse.Namespace], int] = asked.run
    return run(asked)


def _client(asked: argparse.Namespace) -> int:
    console = Console(highlight=False)
    try:
        points = _points(asked, console)
    except AgentPerfError as failed:
        Console(stderr=True, highlight=False).print(f"error: {failed}", markup=False)
        return 1
    found = carries(points)
    if asked.json:
        sys.stdout.buffer.write(msgspec.json.encode({"points": points, "carries": found}) + b"\n")
    else:
        console.print(_table(points))
        console.print("\n".join(_said(points, found)), markup=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_agentperf.calibrate",
        description="Measure what the numbers of this machine, or of a system, are worth.",
    )
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    spread = commands.add_parser(
        "noise",
        help="how far repeats of one phase lie apart, on the system of a baseline",
        description=noise.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    noise.add_arguments(spread)
    spread.set_defaults(run=noise.run)
    client = commands.add_parser(
        "client",
        help="how many tokens per second one load process carries",
        description="Stream from a server that computes nothing and tells when it sent what, with "
        "twice as many streams of 50 tok/s each time, until P95 TTFT is wrong by more than 10 ms.",
    )
    client.set_defaults(run=_client)
    client.add_argument("--start", type=int, default=64, help="streams of the first load")
    client.add_argument("--most", type=int, default=_MOST_STREAMS, help="streams of the last one")
    client.add_argument("--seconds", type=float, default=3.0, help="of each load")
    client.add_argument("--client", choices=("engine", "httpx"), default="engine")
    client.add_argument("--tls", action="store_true", help="over TLS, whose stamps are our own")
    client.add_argument("--json", action="store_true", help="print figures for a program")
    return parser


def _points(asked: argparse.Namespace, console: Console) -> list[Point]:
    most = min(asked.most, room().most_agents(1) or asked.most)
    points: list[Point] = []
    with (
        certificate() if asked.tls else nullcontext() as pem,
        null_server(pem) as port,
        console.status("streams: ") as status,
    ):

        def run(streams: int) -> Point:
            status.update(f"{streams} streams of 50 tok/s")
            return measure(
                port, streams=streams, seconds=asked.seconds, client=asked.client, pem=pem
            )

        points += climb(run, start=asked.start, most=most)
    return points


def _table(points: Sequence[Point]) -> Table:
    table = Table(title=_TITLE, caption=_CAPTION, box=box.SIMPLE)
    for name in ("streams", "tok/s", "CPU", "µs/token", "p50", "p95", "p99", "last", "lag"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        errors_s = (*point.ttft_error_s, point.last_token_error_s[1], point.loop_lag_p99_s)
        table.add_row(
            f"{point.streams:,}",
            f"{point.tokens / point.wall_s:,.0f}",
            f"{point.cpu_s / point.wall_s:.0%}",
            f"{point.cpu_s / point.tokens * 1e6:.1f}",
            *(f"{1e3 * error_s:.2f}" for error_s in errors_s),
        )
    return table


def _said(points: Sequence[Point], found: Carries) -> list[str]:
    processes = max(1, cores() - 1)
    said = [
        (
            f"a token costs {found.cpu_us_per_token:.1f} µs of CPU: one process carries "
            f"{found.tok_per_s:,.0f} tok/s at {words.percent(FULL_CPU_RATIO)} of a core"
        ),
        (
            f"P95 TTFT was right to 1 ms up to {found.within_1_ms_tok_per_s:,.0f} tok/s, "
            f"to 10 ms up to {found.within_10_ms_tok_per_s:,.0f} tok/s"
        ),
        (
            f"a run on these {cores()} cores has up to {processes} load processes: "
            f"{processes * found.within_10_ms_tok_per_s:,.0f} tok/s, if nothing else needs them"
        ),
    ]
    late_s = max(point.server_late_p95_s for point in points)
    if late_s > _LATE_S:
        said.append(
            "the machine was busy with other work: the server of this check was "
            f"{1e3 * late_s:.0f} ms late (P95), so these figures are too low; repeat it when it is "
            "quiet"
        )
    return said


if __name__ == "__main__":
    sys.exit(main())
