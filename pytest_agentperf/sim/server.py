"""The simulator as a process: an OpenAI-compatible server around the replicas.

``python -m pytest_agentperf.sim.server --model NAME [--port 0] [--preset PRESET]
[--config 'field=value&…'] [--log FILE]`` prints one JSON line, ``{"port": 12345}``, when it
listens, and ends on SIGTERM or when its standard input does, so that it never outlives the
process that started it.
"""

import asyncio
import gc
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from time import perf_counter

from pytest_agentperf.sim.address import Address, read_address
from pytest_agentperf.sim.answer import Speaker
from pytest_agentperf.sim.connection import Connection
from pytest_agentperf.sim.endpoints import Endpoints
from pytest_agentperf.sim.fleet import Fleet
from pytest_agentperf.sim.pacer import Pacer
from pytest_agentperf.sim.watch import LateWarner, SendLog

try:
    from uvloop import new_event_loop
except ImportError:  # it has no build for Windows
    from asyncio import new_event_loop

__all__ = ["main"]

_KEY_VARIABLE = "AGENTPERF_SIM_API_KEY"
_LOOK_S = 1.0


async def _run(arguments: Namespace, address: Address) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    pacer = Pacer(Fleet(address.config, began_s=perf_counter()), loop, perf_counter)
    log = SendLog(arguments.log.open("wb")) if arguments.log else None
    endpoints = Endpoints(
        pacer,
        arguments.model,
        speaker=Speaker(address.traits),
        api_key=os.environ.get(_KEY_VARIABLE),
        log=log,
    )
    listener = await loop.create_server(
        partial(Connection, endpoints), "127.0.0.1", arguments.port, backlog=4096
    )
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    Thread(target=_watch_stdin, args=(loop, stopped), daemon=True).start()
    gc.collect()
    gc.freeze()  # what is there now stays: no collection of it shall delay a step
    port = listener.sockets[0].getsockname()[1]
    sys.stdout.write(f'{{"port": {port}}}\n')
    sys.stdout.flush()
    looking = asyncio.create_task(_look_on(LateWarner(pacer.lateness), log))
    await stopped.wait()
    looking.cancel()
    listener.close()
    if log is not None:
        log.close()


async def _look_on(warner: LateWarner, log: SendLog | None) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        if log is not None:
            log.flush()
        warning = warner.look(perf_counter())
        if warning is not None:
            sys.stderr.write(warning + "\n")
            sys.stderr.flush()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    # os.read, as a daemon thread inside sys.stdin holds a lock that the interpreter's end needs.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stopped.set)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until standard input ends or SIGTERM comes."""
    parser = ArgumentParser(prog="python -m pytest_agentperf.sim.server", description=__doc__)
    parser.add_argument("--model", action="append", required=True, help="may be given again")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--preset", default="", help="accelerators/model, as in docs/presets.md")
    parser.add_argument("--config", default="", help="field=value&…: of EngineConfig and Traits")
    parser.add_argument("--log", type=Path, help="when tokens were sent: a JSON line an answer")
    arguments = parser.parse_args(argv)
    try:
        address = read_address(arguments.preset, arguments.config)
    except ValueError as error:
        parser.error(str(error))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(arguments, address))


if __name__ == "__main__":
    main()
