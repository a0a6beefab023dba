"""The fixtures: inputs that a conftest may override, the bench, and the capacity of a tier.

What is heavy is imported where it is used: this module loads with every pytest run.
"""

import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import pytest
import pytest_asyncio

from pytest_agentperf.errors import ConfigError, EndpointError, LoadError, StorageError
from pytest_agentperf.foreign import plain
from pytest_agentperf.session import SESSION, USAGE, XDIST, Session, read_text
from pytest_agentperf.settings import Settings
from pytest_agentperf.signals import sigterm_as_ctrl_c

__all__ = [
    "agentperf",
    "agentperf_dataset",
    "agentperf_endpoint",
    "agentperf_endpoint_b",
    "agentperf_hosts",
    "agentperf_meters",
    "agentperf_settings",
    "agentperf_system",
    "capacity",
]


@contextmanager
def _ends_session(session: Session | None = None) -> Generator[None]:
    """End the session at once, with one line, when the user has to act."""
    try:
        yield
    except (ConfigError, EndpointError, LoadError, StorageError) as wrong:
        if session is not None and isinstance(wrong, EndpointError):
            session.note_down(wrong)
        _leave(str(wrong))


def _leave(message: str) -> NoReturn:
    pytest.exit(plain(message), returncode=USAGE)


@pytest.fixture(scope="session")
def agentperf_settings(pytestconfig: pytest.Config) -> Settings:
    """What this run was asked to do."""
    session = pytestconfig.stash[SESSION]
    if session.measures_under_xdist:
        pytest.fail(XDIST, pytrace=False)
    return session.settings


@pytest.fixture(scope="session")
def agentperf_dataset(agentperf_settings: Settings) -> Any:
    """The trajectories to replay; override it to bring your own `Dataset`."""
    from pytest_agentperf.importers import load_dataset  # noqa: PLC0415 only when a test measures

    with _ends_session():
        return load_dataset(agentperf_settings.dataset, agentperf_settings.importer)


@pytest.fixture(scope="session")
def agentperf_system(agentperf_settings: Settings) -> Any:
    """The system under test as declared, or ``None``; override it to return a `System`."""
    from pytest_agentperf.system import parse_system  # noqa: PLC0415 only when a test measures

    path = agentperf_settings.system
    if path is None:
        return None
    with _ends_session():
        return parse_system(read_text(path, "--agentperf-system"), path)


@pytest.fixture(scope="session")
def agentperf_hosts(agentperf_settings: Settings) -> Iterator[Any]:
    """What runs load on other machines, or ``None``; override it to yield a `Pool`."""
    from pytest_agentperf.api_key import api_key, use_key  # noqa: PLC0415 only when a test measures
    from pytest_agentperf.hosts import HostPool  # noqa: PLC0415 the same
    from pytest_agentperf.places import parse_places  # noqa: PLC0415 the same
    from pytest_agentperf.preflight import open_cluster  # noqa: PLC0415 the same

    # The endpoint, which uses the key as well, is looked for after the machines.
    use_key(agentperf_settings.api_key_file, insecure=agentperf_settings.insecure_key)
    with _ends_session():
        cluster = open_cluster(agentperf_settings)
    if cluster is None:
        yield None
        return
    asked = parse_places(str(agentperf_settings.workers)).workers
    try:
        with _ends_session():
            key = api_key()
        yield HostPool(cluster, asked=asked, key=key)
    finally:
        cluster.disconnect()


@pytest.fixture(scope="session")
def agentperf_endpoint(
    agentperf_settings: Settings, pytestconfig: pytest.Config, agentperf_dataset: Any
) -> Iterator[Any]:
    """Where load goes, probed once; override it to yield an `EndpointInfo` of your own."""
    del agentperf_dataset  # a wrong dataset is told before a server is started or asked
    from pytest_agentperf.api_key import use_key  # noqa: PLC0415 only when a test measures
    from pytest_agentperf.preflight import connect_checked  # noqa: PLC0415 the same

    if agentperf_settings.plan:
        _leave("--agentperf-plan sends nothing, and a fixture of this project needs the endpoint")
    session = pytestconfig.stash[SESSION]
    models = session.models
    use_key(agentperf_settings.api_key_file, insecure=agentperf_settings.insecure_key)
    with _ends_session(session):
        info = connect_checked(agentperf_settings.endpoint or "", tuple(models.specs))
    yield info
    info.close()


@pytest.fixture(scope="session")
def agentperf_endpoint_b(
    agentperf_settings: Settings, pytestconfig: pytest.Config, agentperf_endpoint: Any
) -> Iterator[Any]:
    """The other endpoint of gate ``ab``, or ``None``; override it to yield an `EndpointInfo`."""
    del agentperf_endpoint  # A is looked for first
    if agentperf_settings.endpoint_b is None:
        yield None
        return
    from pytest_agentperf.preflight import connect_checked  # noqa: PLC0415 only when one is named

    session = pytestconfig.stash[SESSION]
    with _ends_session(session):
        info = connect_checked(agentperf_settings.endpoint_b, tuple(session.models.specs))
    yield info
    info.close()


@pytest.fixture(scope="session")
def agentperf_meters(agentperf_settings: Settings, agentperf_endpoint: Any) -> Iterator[Any]:
    """The power meters, none where there are none; override it to yield `Meter` of your own."""
    from pytest_agentperf.instruments import close_meters, open_meters  # noqa: PLC0415 the same

    with _ends_session():
        meters, close = open_meters(agentperf_settings, agentperf_endpoint)
    yield meters
    close_meters(close)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def agentperf(  # noqa: PLR0913, PLR0917 every input is a fixture that may be overridden
    pytestconfig: pytest.Config,
    agentperf_settings: Settings,
    agentperf_dataset: Any,
    agentperf_system: Any,
    agentperf_hosts: Any,
    agentperf_endpoint: Any,
    agentperf_endpoint_b: Any,
    agentperf_meters: Any,
) -> AsyncIterator[Any]:
    """The bench: ``await agentperf.measure(agents=8)``."""
    from pytest_agentperf.ab import other_side  # noqa: PLC0415 only when a test measures
    from pytest_agentperf.asking import observe_models  # noqa: PLC0415 the same
    from pytest_agentperf.bench import Inputs  # noqa: PLC0415 the same
    from pytest_agentperf.events import Event  # noqa: PLC0415 the same
    from pytest_agentperf.explain import client_said  # noqa: PLC0415 the same
    from pytest_agentperf.instruments import named_gauges  # noqa: PLC0415 the same
    from pytest_agentperf.preflight import (  # noqa: PLC0415 the same
        check_client,
        check_place,
        check_room_for_phases,
        open_folder,
        with_facts,
    )

    session = pytestconfig.stash[SESSION]
    inputs = Inputs(
        endpoint=agentperf_endpoint,
        dataset=agentperf_dataset,
        meters=tuple(agentperf_meters),
        system=agentperf_system or agentperf_endpoint.system,
        hosts=agentperf_hosts,
    )
    tell = _live(pytestconfig, agentperf_settings)
    async with AsyncExitStack() as open_:
        open_.enter_context(sigterm_as_ctrl_c())
        with _ends_session(session):
            check_place(agentperf_endpoint, agentperf_settings)
            earlier = _earlier(agentperf_settings, session.models, inputs)
            observed = await observe_models(
                agentperf_endpoint,
                session.models.specs,
                agentperf_settings,
                agentperf_dataset,
                tell=_line_teller(tell, agentperf_endpoint),
            )
            # Some series stand on a page only when a first request has been answered.
            endpoint = open_.enter_context(named_gauges(observed, agentperf_settings))
            inputs = with_facts(replace(inputs, endpoint=endpoint))
            _accept_baseline(session, agentperf_settings, inputs)
            short = check_room_for_phases(
                agentperf_settings, session.models, inputs, earlier=earlier
            )
            other = None
            if agentperf_endpoint_b is not None and agentperf_settings.gate == "ab":
                other = await open_.enter_async_context(
                    other_side(
                        agentperf_endpoint_b,
                        inputs,
                        session.models,
                        agentperf_settings,
                        system=agentperf_system,
                        tell=_line_teller(tell, agentperf_endpoint_b),
                    )
                )
            client = await asyncio.to_thread(check_client, endpoint, agentperf_settings)
            session.folder = open_folder(
                agentperf_settings,
                other or inputs,
                client=client,
                resumed_from=earlier and earlier.provenance.run,
                resumable=other is None,
            )
        if client is not None:
            tell(Event(kind="note", model="client", phase=0, agents=0, text=client_said(client)))
        for line in (*short, *inputs.contradictions):
            tell(Event(kind="note", model="system", phase=0, agents=0, text=line))
        bench = session.bench = _bench(session, agentperf_settings, inputs, other, tell)
        if earlier is not None:
            with _ends_session():
                bench.take_over(earlier)
        try:
            yield bench
        finally:
            tell.close()
        with _ends_session():
            await bench.close()


def _bench(session: Session, settings: Settings, inputs: Any, other: Any, on_event: Any) -> Any:
    """Return what measures: one endpoint, or two in turns."""
    from pytest_agentperf.ab import Turns  # noqa: PLC0415 only when a test measures
    from pytest_agentperf.bench import Bench  # noqa: PLC0415 the same

    gc.collect()
    gc.freeze()  # the dataset stays: no collection shall walk it in a phase, nor ten at the end
    given: dict[str, Any] = {
        "settings": settings,
        "models": session.models,
        "folder": session.folder,
        "on_event": on_event,
    }
    if other is None:
        return Bench(inputs=inputs, **given)
    session.gate = Turns(sides=(inputs, other), gate=session.gate, **given)
    return session.gate


def _earlier(settings: Settings, models: Any, inputs: Any) -> Any:
    """Return the bundle of the run that is gone on with; ``None`` when there is none."""
    if settings.resume is None:
        return None
    from pytest_agentperf.resume import check_same, read_run  # noqa: PLC0415 only when one is named

    earlier = read_run(settings.resume, settings.results)
    check_same(earlier, settings, models, inputs)
    return earlier


def _accept_baseline(session: Session, settings: Settings, inputs: Any) -> None:
    """Take the run to compare with, or refuse it before any load."""
    if settings.baseline is None:
        return
    from pytest_agentperf.baseline import accept  # noqa: PLC0415 only when one is named

    session.gate, session.models = accept(settings, session.models, inputs)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def capacity(pytestconfig: pytest.Config, agentperf: Any, slo: Any) -> Any:
    """The greatest number of agents that meets this test's tier."""
    with _ends_session(pytestconfig.stash[SESSION]):
        try:
            found = await agentperf.capacity(slo)
        except LoadError as broke:
            pytest.fail(f"INVALID, neither pass nor fail: {broke}", pytrace=False)
    if found.status == "open":
        reason = f"NOT FINISHED, neither pass nor fail: {agentperf.how_to_go_on}"
        pytest.fail(f"{reason}\n{found.explanation}", pytrace=False)
    if found.status == "invalid":
        pytest.fail(f"INVALID, neither pass nor fail:\n{found.explanation}", pytrace=False)
    return found


def _live(config: pytest.Config, settings: Settings) -> Any:
    """Return what shows events while the run goes on: a panel, or lines."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None:
        return _Unheard()
    from pytest_agentperf.live_view import LiveLines, LivePanel  # noqa: PLC0415 only when a test measures

    capture: Any = config.pluginmanager.getplugin("capturemanager")
    screen: Any = config.get_terminal_writer()

    def write(text: str) -> None:
        reporter.write(text, flush=True)

    def begin_line() -> None:
        reporter.ensure_newline()
        if screen.width_of_current_line:
            screen.line()

    if settings.live == "on" or (settings.live == "auto" and _is_ours(config, reporter)):
        return LivePanel(
            write=write,
            begin_line=begin_line,
            free=capture.global_and_fixture_disabled,
            colors=bool(reporter.hasmarkup),
            shares=config.getoption("capture") == "no",
        )

    def write_line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            begin_line()
            write(text)

    return LiveLines(write=write_line, every_s=settings.progress_s, clock_s=time.perf_counter)


def _is_ours(config: pytest.Config, reporter: Any) -> bool:
    """Tell whether a panel can stand on the terminal: one that draws, and no log goes there."""
    logs = config.getoption("log_cli_level") is not None or config.getini("log_cli")
    dumb = os.environ.get("TERM", "dumb") in {"", "dumb", "unknown"}
    spelt = (getattr(sys.__stdout__, "encoding", None) or "").lower().startswith("utf")
    return bool(reporter.isatty) and spelt and not dumb and not logs and "CI" not in os.environ


class _Unheard:
    """Where pytest has no terminal."""

    def __call__(self, event: object) -> None:
        pass

    def close(self) -> None:
        pass


def _line_teller(tell: Any, endpoint: Any) -> Any:
    """Return what tells a preflight's lines; of an endpoint of ours, what is not as usual."""
    from pytest_agentperf.events import Event  # noqa: PLC0415 only when a test measures

    def write(model: str, line: Any) -> None:
        if endpoint.in_process is None or line.state == "missing":
            tell(Event(kind="note", model=model, phase=0, agents=0, text=str(line)))

    return write
