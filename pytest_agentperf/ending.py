"""The end of a session in pytest's terms: which tests have no answer, exit codes, properties."""

import contextlib
from typing import Any

import pytest
from _pytest.junitxml import xml_key

from pytest_agentperf.errors import EndpointError, InvalidPhaseError, StorageError
from pytest_agentperf.gate import end, tell
from pytest_agentperf.gate_text import properties
from pytest_agentperf.outcome import Facts
from pytest_agentperf.report import render_page
from pytest_agentperf.session import SESSION, Session
from pytest_agentperf.words import metric

__all__ = ["add_properties", "finish", "note_failure", "tell_ci"]

_NO_ANSWER = ("INVALID,", "NOT FINISHED,")
_OVERRULED = {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}


def add_properties(item: pytest.Item, capacity: Any) -> None:
    """Put a tier's answer into the test's JUnit entry, with its comparison where there is one."""
    own = item.config.stash[SESSION]
    compared = own.gate.compare(own.folder.bundle) if own.gate is not None and own.folder else None
    item.user_properties.extend(properties(capacity, compared))


def note_failure(item: pytest.Item, raised: BaseException, *, measures: bool) -> None:
    """Keep apart what missed its tier, what has no answer, and what measures nothing."""
    own = item.config.stash[SESSION]
    text = str(raised)
    if isinstance(raised, InvalidPhaseError):
        own.invalid += raised.reasons
    if not measures:
        own.others_failed = True
    elif isinstance(raised, EndpointError):
        own.note_down(raised)
    elif isinstance(raised, pytest.exit.Exception):
        pass  # who ends the session says why
    elif isinstance(raised, AssertionError | pytest.fail.Exception) and not text.startswith(
        _NO_ANSWER
    ):
        own.missed.append(_said(item, raised))
    else:  # whatever else was raised says nothing of the server
        own.unmeasured.append(f"{item.name}: {text or type(raised).__name__}")


def _said(item: pytest.Item, raised: BaseException) -> str:
    found: Any = getattr(item, "funcargs", {}).get("capacity")
    text = getattr(found, "explanation", "") or str(raised)
    limits = ", ".join(map(metric, getattr(found, "limited_by", ())))
    by = f"; limited by {limits}" if limits else ""
    return f"{item.name}: {text.splitlines()[0] if text else type(raised).__name__}{by}"


def finish(session: pytest.Session, own: Session) -> None:
    """Write the stand-alone report beside the bundle, and name the exit code."""
    if own.folder is not None:
        if own.bench is not None and own.bench.revised and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            own.missed += own.bench.revised
        with contextlib.suppress(OSError, StorageError):  # the session has said so already
            own.folder.close()
            page = render_page(own.folder.bundle, own.folder.path)
            (own.folder.path / "report.html").write_text(page, encoding="utf-8")
    if own.down is None and session.exitstatus not in _OVERRULED:
        return
    seen = Facts(
        missed=own.missed,
        unmeasured=own.unmeasured,
        invalid=[own.invalid],
        down=own.down,
        is_other=own.is_other,
    )
    wanted = own.settings.baseline is not None
    own.outcome, own.comparison = end(own.gate, own.folder, seen, wanted=wanted)
    if not own.others_failed and own.outcome.code:
        session.exitstatus = own.outcome.code
    _tell_junit(session.config, own)


def _tell_junit(config: pytest.Config, own: Session) -> None:
    """Say what the session came to where a reader of the XML alone would see tests that passed."""
    xml = config.stash.get(xml_key, None)
    if xml is not None:
        xml.add_global_property("agentperf_cause", own.outcome.cause)
        xml.add_global_property("agentperf_exit_code", own.outcome.code)
        xml.add_global_property("agentperf_line", own.outcome.line)


def tell_ci(own: Session, reporter: Any) -> None:
    """Tell a CI what the session came to."""
    tell(
        own.outcome,
        own.comparison,
        own.folder,
        ci_json=own.settings.ci_json,
        write_line=reporter.write_line,
    )
