"""`--agentperf-plan`: what the tests of a session would ask for, without running any of them."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from pytest_agentperf.baseline import check_answers, read_baseline, verified_agents
from pytest_agentperf.bundle import Bundle
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.ledger import Ledger, make_ledger, taken_over
from pytest_agentperf.outlook import outlook
from pytest_agentperf.resume import read_run
from pytest_agentperf.session import Session

__all__ = ["plan_session"]


def plan_session(session: pytest.Session, own: Session) -> str:
    """Return what a session would ask for.

    Dataset and system come from their fixtures, which a project may have overridden; nothing else
    of a test runs.

    Raises:
        pytest.UsageError: a baseline or an earlier run cannot be read, or two endpoints are named.
    """
    if own.settings.gate == "ab":
        raise pytest.UsageError(
            "--agentperf-plan knows the phases of one endpoint, not those of --agentperf-gate ab; "
            "leave out --agentperf-gate and --agentperf-endpoint-b"
        )
    measuring = [i for i in session.items if "agentperf" in getattr(i, "fixturenames", ())]
    if not measuring:
        return "no test of this session measures; nothing would be sent"
    inputs = _inputs(measuring[0])
    try:
        models = _models(own)
        earlier = _earlier(own)
        ledgers = [_ledger(own, models, name, inputs, earlier) for name in models.specs]
    except ConfigError as wrong:
        raise pytest.UsageError(str(wrong)) from wrong
    width = shutil.get_terminal_size().columns
    return "\n".join(
        (
            "Nothing was sent and no test has run.",
            _askers(measuring),
            "",
            *(f"{outlook(ledger, width)}\n" for ledger in ledgers),
        )
    )


def _inputs(item: pytest.Item) -> dict[str, Any]:
    """Evaluate the fixtures that need no endpoint, as a test beside this one would see them."""
    inputs: dict[str, Any] = {}

    def agentperf_plan(agentperf_dataset: Any, agentperf_system: Any) -> None:
        inputs.update(dataset=agentperf_dataset, system=agentperf_system)

    parent: Any = item.getparent(pytest.Module) or item.parent
    planner: pytest.Item = pytest.Function.from_parent(  # pyright: ignore[reportUnknownMemberType] its keywords are untyped
        parent, name="agentperf_plan", callobj=agentperf_plan
    )
    for report in runtestprotocol(planner, log=False, nextitem=None):
        if report.failed:
            raise pytest.UsageError(
                f"the plan needs its dataset and system:\n{report.longreprtext}"
            )
    return inputs


def _models(own: Session) -> Any:
    if own.settings.baseline is None:
        return own.models
    baseline, _ = read_baseline(own.settings.baseline)
    check_answers(baseline, own.models)
    if own.settings.gate != "verify":
        return own.models
    return replace(own.models, verify=verified_agents(baseline))


def _earlier(own: Session) -> Bundle | None:
    settings = own.settings
    return None if settings.resume is None else read_run(settings.resume, settings.results)


def _ledger(
    own: Session, models: Any, name: str, inputs: dict[str, Any], earlier: Bundle | None
) -> Ledger:
    dataset = inputs["dataset"]
    ledger = make_ledger(
        models.specs[name],
        dataset,
        sha256=dataset.sha256,
        settings=own.settings,
        system=inputs["system"],
        verify=models.verify.get(name, {}),
    )
    if earlier is not None:
        ledger.phases += taken_over(earlier, name)
    return ledger


def _askers(measuring: list[pytest.Item]) -> str:
    searches = sum("capacity" in getattr(item, "fixturenames", ()) for item in measuring)
    others = len(measuring) - searches
    said = f"Tests that ask for a capacity: {searches}."
    if not others:
        return said
    return (
        f"{said} Tests that measure numbers of agents of their own: {others}; these phases are "
        "not in the plan, unless a search asks for them too."
    )
