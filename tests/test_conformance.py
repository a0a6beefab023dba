from dataclasses import replace
from typing import Any

import pytest

from pytest_agentperf.conformance import (
    PhaseFacts,
    Rule,
    conformance,
    is_conformant,
)
from pytest_agentperf.plan import Plan
from pytest_agentperf.power import Power
from pytest_agentperf.settings import Settings, make_settings
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.validity import Check

TIER = SLOTier(model="m", name="t", limits=(Limit(metric="ttft_s", statistic="p95", value=5.0),))
SPEC = ModelSpec(model="m", tiers=(TIER,), request={"temperature": 1.0})
SETTINGS = Settings(dataset="traces/", tokenizer="folder")
PLAN = Plan(trajectories=(), prompts=9, cut_turns=0, dropped=0, estimated_isl=0, sampled_tools=0)
METERED = Power(mean_w=1.0, energy_j=1.0, devices=1, samples=9, coverage=1.0, reason=None)
UNMETERED = replace(METERED, mean_w=None, energy_j=None, reason="no meter")
CACHED = Check(
    name="first-turn cached share", value=0.0, limit=0.1, ok=True, invalidates=False, text=""
)
PHASE = PhaseFacts(checks=(CACHED,), power=METERED, token_ratio=1.0)
SAMPLING = "sampling and reasoning effort as the model's creator recommends"
LATE = Check(name="client cpu", value=1.0, limit=0.8, ok=False, invalidates=True, text="")


def rules(
    *,
    spec: ModelSpec = SPEC,
    published: ModelSpec | None = SPEC,
    plan: Plan = PLAN,
    phases: tuple[PhaseFacts, ...] = (PHASE,),
    simulated: bool = False,
    **settings: Any,
) -> tuple[Rule, ...]:
    return conformance(
        replace(SETTINGS, **settings), spec, published, plan, phases, simulated=simulated
    )


def but_met(found: tuple[Rule, ...]) -> dict[str, str]:
    """Leave out what is met, and the private test set, which nobody can check."""
    private = "real coding-agent trajectories"
    return {r.name: r.status for r in found if r.status != "met" and r.name != private}


def test_a_run_by_the_book_breaks_no_rule():
    assert but_met(rules()) == {}
    assert is_conformant(rules())


def test_every_rule_has_a_name_of_its_own_and_a_detail():
    names = [r.name for r in rules()]
    assert len(set(names)) == len(names)
    assert all(r.detail for r in rules())


@pytest.mark.parametrize(
    ("dataset", "status"),
    [("traces/", "not checkable"), ("synthetic:turns=3", "not met")],
    ids=["recorded", "made up"],
)
def test_trajectories_that_are(dataset: str, status: str):
    first = rules(dataset=dataset)[0]
    assert (first.name, first.status) == ("real coding-agent trajectories", status)
    assert "results are not comparable with the published leaderboard" in first.detail


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"gate": "verify"}, "exponential ramp, then binary search"),
        ({"gate": "ab"}, "exponential ramp, then binary search"),
        ({"tool_delay": "none"}, "tool delays"),
        ({"max_tool_s": 1.0}, "tool delays"),
        ({"output": "exact"}, "answers end by themselves, at most 16,384 tokens"),
        ({"max_tokens": 100}, "answers end by themselves, at most 16,384 tokens"),
        ({"salt": "none"}, "salt before every trajectory"),
        ({"salt": "two-level"}, "salt before every trajectory"),
        ({"start_agents": 4}, "exponential ramp, then binary search"),
        ({"resolution": 0.1}, "exponential ramp, then binary search"),
        ({"min_trajectories": 29}, "30 trajectories, 3 per agent, 10 minutes steady"),
        ({"min_trajectories_per_agent": 2}, "30 trajectories, 3 per agent, 10 minutes steady"),
        ({"min_steady_s": 599.0}, "30 trajectories, 3 per agent, 10 minutes steady"),
        ({"mode": "smoke"}, "30 trajectories, 3 per agent, 10 minutes steady"),
        ({"settle_s": 29.0}, "all agents active for 30 s before the window"),
        ({"speed": "first-chunk"}, "speed by usage, requests time out after 300 s"),
        ({"request_timeout_s": 301.0}, "speed by usage, requests time out after 300 s"),
    ],
    ids=[
        "one number instead of a search",
        "an endpoint against another",
        "no tool delays",
        "shorter tool delays",
        "answers of a forced length",
        "shorter answers",
        "no salt",
        "two salts",
        "another start",
        "coarser steps",
        "fewer trajectories",
        "fewer trajectories per agent",
        "a shorter window",
        "smoke",
        "a shorter settling",
        "another speed",
        "a longer timeout",
    ],
)
def test_a_setting_breaks_its_rule(settings: dict[str, Any], rule: str):
    found = rules(**settings)
    assert but_met(found) == {rule: "not met"}
    assert not is_conformant(found)


@pytest.mark.parametrize(
    "settings",
    [
        {"tool_delay": "sampled"},
        {"resolution": 0.01},
        {"min_steady_s": 1200.0},
        {"settle_s": 60.0},
    ],
    ids=["sampled delays", "finer steps", "a longer window", "a longer settling"],
)
def test_stricter_is_conformant(settings: dict[str, Any]):
    assert but_met(rules(**settings)) == {}


@pytest.mark.parametrize("mark", ["max_loop_lag_p95_s", "max_loop_lag_p99_s", "max_cpu_ratio"])
def test_a_softer_client_mark_is_not_conformant(mark: str):
    softer = getattr(SETTINGS, mark) * 1.1
    assert list(but_met(rules(**{mark: softer})).values()) == ["not met"]


def test_a_simulation_is_a_plan_and_not_conformant():
    found = rules(simulated=True)
    assert but_met(found) == {"measured on a real system": "not met"}
    assert found[-1].detail == "simulated: a plan, not a measurement"
    assert not is_conformant(found)


def test_smoke_is_never_conformant():
    smoke = make_settings({"mode": "smoke", "dataset": "traces/"})
    assert not is_conformant(conformance(smoke, SPEC, SPEC, PLAN, (PHASE,), simulated=False))


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (replace(SPEC, request={}), SAMPLING),
        (replace(SPEC, context_tokens=9), "cut to the model's context"),
        (replace(SPEC, max_tokens=9), "answers end by themselves, at most 16,384 tokens"),
        (replace(SPEC, tiers=(replace(TIER, max_error_ratio=0.5),)), "tiers as published"),
        (replace(SPEC, tiers=(TIER, replace(TIER, name="mine"))), "tiers as published"),
    ],
    ids=["sampling", "context", "answer length", "allowed errors", "a tier of one's own"],
)  # fmt: skip
def test_a_tier_file_breaks_its_rule_by(spec: ModelSpec, rule: str):
    assert but_met(rules(spec=spec)) == {rule: "not met"}


def test_how_many_agents_a_test_asks_for_is_no_limit():
    asked = replace(SPEC, tiers=(replace(TIER, min_agents=48),))
    assert but_met(rules(spec=asked)) == {}


def test_one_published_tier_is_enough():
    two = replace(SPEC, tiers=(TIER, replace(TIER, name="u")))
    assert but_met(rules(published=two)) == {}


def test_a_model_that_nobody_published_cannot_be_checked():
    assert but_met(rules(published=None)) == {
        "cut to the model's context": "not checkable",
        SAMPLING: "not checkable",
        "tiers as published": "not checkable",
    }


def test_an_estimated_length_cannot_be_checked():
    found = rules(plan=replace(PLAN, estimated_isl=1))
    assert but_met(found) == {"cut to the model's context": "not checkable"}


@pytest.mark.parametrize(
    ("phase", "rule", "status"),
    [
        (replace(PHASE, checks=(CACHED, LATE)), "every phase can be trusted", "not met"),
        (replace(PHASE, checks=(replace(CACHED, value=0.5, ok=False),)),
         "no cache survives between phases", "not met"),
        (replace(PHASE, checks=(replace(CACHED, value=None),)),
         "no cache survives between phases", "not checkable"),
        (replace(PHASE, token_ratio=1.03),
         "token counts verified with the model's tokenizer", "not met"),
        (replace(PHASE, power=UNMETERED), "power measured at the accelerators", "not met"),
    ],
    ids=[
        "is invalid",
        "found its first prompts cached",
        "does not tell what was cached",
        "counts other tokens",
        "was not metered",
    ],
)  # fmt: skip
def test_one_phase_of_two_that(phase: PhaseFacts, rule: str, status: str):
    assert but_met(rules(phases=(PHASE, phase))) == {rule: status}


def test_without_tokenizer_and_meter_neither_can_be_checked():
    bare = replace(PHASE, power=UNMETERED, token_ratio=None)
    assert but_met(rules(phases=(bare,))) == {
        "token counts verified with the model's tokenizer": "not checkable",
        "power measured at the accelerators": "not checkable",
    }


def test_a_run_without_a_phase_is_not_conformant():
    assert but_met(rules(phases=()))["every phase can be trusted"] == "not met"
    assert not is_conformant(rules(phases=()))
