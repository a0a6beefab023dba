"""The pytest plugin's hooks: options, parametrisation over model × tier, reports.

Only this module and `fixtures` read ``pytest.Config`` and turn our errors into pytest's. It is
imported in every pytest run of the environment, so what is heavy is imported where it is used.
"""

import inspect
import shutil
import sys
from collections.abc import Generator, Mapping
from typing import Any, cast

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.fixtures import (
    agentperf,
    agentperf_dataset,
    agentperf_endpoint,
    agentperf_endpoint_b,
    agentperf_hosts,
    agentperf_meters,
    agentperf_settings,
    agentperf_system,
    capacity,
)
from pytest_agentperf.session import SESSION, USAGE, XDIST, Session, read_text
from pytest_agentperf.settings import Value, knobs, make_settings, option_name, parse_value

# pytest takes fixtures from the plugin's own namespace.
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register one option and one ini value per knob."""
    group = parser.getgroup("agentperf", "capacity of an inference endpoint (pytest-agentperf)")
    for knob in knobs():
        default = "" if knob.default in (None, (), False) else f" (default: {knob.default})"
        if knob.metadata["choices"]:
            default = f" ({', '.join(knob.metadata['choices'])}; default: {knob.default})"
        group.addoption(
            option_name(knob.name),
            dest=f"agentperf_{knob.name}",
            default=None,
            **_action(knob.default),
            help=f"{knob.metadata['help']}{default}".replace("%", "%%"),
        )
        parser.addini(f"agentperf_{knob.name}", knob.metadata["help"], default=None)


def _action(default: object) -> dict[str, str]:
    if default is False:
        return {"action": "store_const", "const": "true"}
    return {"action": "append" if default == () else "store"}


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; refuse what cannot work before anything is collected."""
    config.addinivalue_line("markers", "slo(*names): run only for these SLO tiers")
    try:
        settings = make_settings(_given(config))
    except ConfigError as wrong:
        raise pytest.UsageError(str(wrong)) from wrong
    config.stash[SESSION] = Session(settings)
    if (settings.endpoint or settings.plan) and config.getoption("numprocesses", None):
        raise pytest.UsageError(XDIST)


_NO_ENDPOINT = (
    "these tests measure an endpoint and none was given: pass --agentperf-endpoint "
    "(or --endpoint where the suites' conftest is in use) with http://HOST:PORT/v1, or with sim: "
    "for the embedded simulator"
)


def _given(config: pytest.Config) -> Mapping[str, Value]:
    """Return what the user named, command line over ini file."""
    given: dict[str, Value] = {}
    for knob in knobs():
        named = config.getoption(f"agentperf_{knob.name}", None)
        if named is None:
            named = config.getini(f"agentperf_{knob.name}")
        if named is not None:
            text = "\n".join(named) if isinstance(named, list) else str(named)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] pytest's options are untyped
            given[knob.name] = parse_value(knob.name, text)
    return given


def _models(session: Session) -> Any:
    from pytest_agentperf.bench import Models  # noqa: PLC0415 only when a test measures
    from pytest_agentperf.shipped import published, shipped_models  # noqa: PLC0415 the same
    from pytest_agentperf.sim.address import model_of_preset  # noqa: PLC0415 the same
    from pytest_agentperf.tierfile import choose_models, parse_tiers  # noqa: PLC0415 the same

    settings = session.settings
    specs, where = shipped_models(), "the tiers of this package"
    if settings.slo is not None:
        specs, where = (
            parse_tiers(read_text(settings.slo, "--agentperf-slo"), settings.slo),
            settings.slo,
        )
    models = settings.model or model_of_preset(settings.endpoint or "")
    chosen = choose_models(specs, models=models, tiers=settings.tier, where=where)
    return Models(specs=chosen, published=published(chosen))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``slo`` once per model and tier."""
    if "slo" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[SESSION]
    if session.models is None and session.problem is None:
        try:
            session.models = _models(session)
        except ConfigError as wrong:
            session.problem = str(wrong)
    marker = metafunc.definition.get_closest_marker("slo")
    wanted = set(marker.args) if marker else None
    specs = session.models.specs.values() if session.models else ()
    tiers = [t for s in specs for t in s.tiers if wanted is None or t.name in wanted]
    metafunc.parametrize("slo", tiers, ids=[f"{t.model}-{t.name}" for t in tiers], scope="session")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Put async tests that measure on the session's event loop, where the load is directed from."""
    made: Any = yield
    _join_session_loop(made)
    return made


def _join_session_loop(made: object) -> None:
    for item in cast("list[object]", made) if isinstance(made, list) else ():
        if isinstance(item, pytest.Function) and _measures(item):
            test: Any = item.obj
            if inspect.iscoroutinefunction(test):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def _measures(item: pytest.Item) -> bool:
    return "agentperf" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to start when a test measures and cannot."""
    session = config.stash[SESSION]
    if config.option.collectonly or not any(map(_measures, items)):
        return
    workeroutput: dict[str, object] | None = getattr(config, "workeroutput", None)
    if workeroutput is not None:
        session.measures_under_xdist = workeroutput["agentperf_measures"] = True
        return
    plans = session.settings.plan
    session.measured = not plans
    problem = session.problem
    if session.settings.endpoint is None and not plans:
        problem = _NO_ENDPOINT
    elif session.models is None and problem is None:
        try:
            session.models = _models(session)
        except ConfigError as wrong:
            problem = str(wrong)
    if problem is not None:
        raise pytest.UsageError(problem)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Where only a plan is wanted, run no test."""
    own = session.config.stash[SESSION]
    if not own.settings.plan or session.config.option.collectonly or session.testsfailed:
        return None
    from pytest_agentperf.planning import plan_session  # noqa: PLC0415 only where a plan is wanted

    own.planned = plan_session(session, own)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from an xdist worker that it was given tests that measure."""
    if getattr(node, "workeroutput", {}).get("agentperf_measures"):
        node.config.stash[SESSION].measures_under_xdist = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """Show, with every failure, how the capacity that it speaks of was found."""
    found: Any = getattr(item, "funcargs", {}).get("capacity")
    text = getattr(found, "explanation", None)
    if call.when == "call" and text:
        from pytest_agentperf.ending import add_properties  # noqa: PLC0415 only when a test measured

        add_properties(item, found)
    report: Any = yield
    if report.failed and call.excinfo is not None and item.config.stash[SESSION].measured:
        from pytest_agentperf.ending import note_failure  # noqa: PLC0415 as above

        note_failure(item, call.excinfo.value, measures=_measures(item))
    if report.when == "call" and report.failed and text:
        report.sections.append(("agentperf capacity", text))
    return report


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Print every limit when ``metrics in slo`` does not hold."""
    slo = sys.modules.get("pytest_agentperf.slo")
    explain = sys.modules.get("pytest_agentperf.explain")
    if slo is None or explain is None or not isinstance(right, slo.SLOTier) or "in" not in op:
        return None
    metrics = sys.modules["pytest_agentperf.metrics"]
    if not isinstance(left, metrics.Metrics):
        return None
    return explain.explain_metrics(right, left)


@pytest.hookimpl(tryfirst=True)  # before the JUnit XML is written
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the stand-alone report beside the bundle."""
    own = session.config.stash.get(SESSION, None)
    if own is not None and own.measures_under_xdist:
        session.exitstatus = USAGE
    if own is None or not own.measured:
        return
    from pytest_agentperf.ending import finish  # noqa: PLC0415 only when a test measures

    finish(session, own)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the phases, the capacities and where everything lies."""
    own = config.stash.get(SESSION, None)
    if own is not None and own.planned is not None:
        terminalreporter.section("agentperf plan")
        terminalreporter.write_line(own.planned)
    if own is None or own.folder is None:
        return
    from pytest_agentperf.terminal import summary  # noqa: PLC0415 only when a test measured

    width = shutil.get_terminal_size().columns
    terminalreporter.section("agentperf")
    if own.outcome is not None:
        _write_outcome(terminalreporter, own)
    if own.comparison is not None:
        from pytest_agentperf.gate_text import comparison_table  # noqa: PLC0415 as above

        terminalreporter.write_line(f"\n{comparison_table(own.comparison, width)}")
    terminalreporter.write_line(f"\n{summary(own.folder.bundle, width)}")
    for contradiction in own.bench.revised if own.bench is not None else ():
        terminalreporter.write_line(f"CONTRADICTED: {contradiction}", red=True)
    terminalreporter.write_line(f"results: {own.folder.path}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print, last of all, what the session came to."""
    own = config.stash.get(SESSION, None)
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if own is None or own.outcome is None or reporter is None:
        return
    from pytest_agentperf.ending import tell_ci  # noqa: PLC0415 only when a test measured

    tell_ci(own, reporter)
    _write_outcome(reporter, own)


def _write_outcome(reporter: Any, own: Session) -> None:
    bad = bool(own.outcome.code)
    reporter.write_line(own.outcome.line, bold=True, red=bad, green=not bad)


@pytest.hookimpl(optionalhook=True)
def pytest_html_results_summary(prefix: list[str], session: pytest.Session) -> None:
    """Open pytest-html's report with our section."""
    own = session.config.stash.get(SESSION, None)
    if own is None or own.folder is None:
        return
    from pytest_agentperf.report import render_first  # noqa: PLC0415 only when a test measured

    prefix.append(render_first(own.folder.bundle, own.folder.path))
