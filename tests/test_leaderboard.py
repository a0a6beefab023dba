"""Several runs side by side: who may be ranked with whom."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.bundle import Bundle, encode_bundle
from pytest_agentperf.leaderboard import leaderboard_page, main, read_runs
from pytest_agentperf.ranking import Standing, standings
from tests.bundles import SYSTEM, example_bundle


def run(
    name: str, agents: int, *, accelerators: int = 8, status: str = "found", **more: Any
) -> Bundle:
    """An example run whose only answer is that of slo-1, ± 1 agent."""
    bundle = example_bundle(mode=more.pop("mode", "exact"))
    answer = replace(
        bundle.capacities[0],
        agents=agents,
        status=status,
        agents_low=agents - 1,
        agents_high=agents + 1,
        per=replace(bundle.capacities[0].per, per_accelerator=agents / accelerators),
    )
    return replace(
        bundle,
        provenance=replace(bundle.provenance, run=name, **more),
        system=replace(SYSTEM, name=name, accelerators=accelerators),
        capacities=(answer,),
    )


def ranks(standing: Standing) -> list[tuple[str, int | None]]:
    return [(e.bundle.provenance.run, e.rank) for e in standing.entries]


def test_the_most_agents_per_accelerator_come_first():
    (only,) = standings([run("a", 40), run("b", 48), run("c", 44, accelerators=4)])
    assert only.by == "per_accelerator"
    assert ranks(only) == [("c", 1), ("b", 2), ("a", 3)]


def test_where_one_run_declares_no_system_agents_decide():
    bare = run("c", 44)
    per = replace(bare.capacities[0].per, per_accelerator=None)
    bare = replace(bare, system=None, capacities=(replace(bare.capacities[0], per=per),))
    (only,) = standings([run("a", 40), run("b", 48), bare])
    assert only.by == "agents"
    assert ranks(only) == [("b", 1), ("c", 2), ("a", 3)]


def test_who_may_be_as_good_shares_a_rank_but_ranks_are_no_chain():
    # 48 ± 1 and 46 ± 1 meet, 46 and 44 meet, 48 and 44 do not.
    (only,) = standings([run("a", 44), run("b", 46), run("c", 48)])
    assert ranks(only) == [("c", 1), ("b", 1), ("a", 3)]


def test_an_answer_without_an_upper_end_may_be_as_good_as_the_best():
    (only,) = standings([run("a", 64, status="at-limit"), run("b", 200)])
    assert ranks(only) == [("b", 1), ("a", 1)]


@pytest.mark.parametrize("change", ["dataset", "limits", "mode", "settings", "cut", "request"])
def test_what_means_something_else_stands_in_a_list_of_its_own(change: str):
    usual, other = run("a", 40), run("b", 90)
    model, tier = other.models[0], other.models[0].spec.tiers[0]
    if change == "dataset":
        model = replace(model, dataset=replace(model.dataset, sha256="0" * 64))
    if change == "cut":
        model = replace(model, dataset=replace(model.dataset, prompts=17_000))
    if change == "limits":
        looser = replace(tier, limits=(replace(tier.limits[0], value=50.0), *tier.limits[1:]))
        model = replace(model, spec=replace(model.spec, tiers=(looser, *model.spec.tiers[1:])))
    if change == "request":
        model = replace(model, spec=replace(model.spec, request={"reasoning_effort": "low"}))
    other = replace(other, models=(model,))
    if change in {"mode", "settings"}:
        altered: dict[str, Any] = {"mode": "fast"} if change == "mode" else {"salt": "none"}
        other = replace(other, settings=replace(other.settings, **altered))
    found = standings([usual, other])
    assert sorted(map(ranks, found)) == [[("a", 1)], [("b", 1)]]


def test_another_seed_and_more_load_processes_mean_the_same():
    other = run("b", 90)
    other = replace(other, settings=replace(other.settings, seed=7, workers=4, max_agents=512))
    assert [ranks(s) for s in standings([run("a", 40), other])] == [[("b", 1), ("a", 2)]]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("simulated", "simulated: no measurement"),
        ("smoke", "smoke run: no measurement"),
        ("invalid", "invalid: the search has no answer"),
        ("open", "not finished"),
    ],
)
def test_what_is_no_measurement_has_no_rank(name: str, reason: str):
    made = {
        "simulated": lambda: run("b", 90, simulated=True),
        "smoke": lambda: run("b", 90, mode="smoke"),
        "invalid": lambda: run("b", 90, status="invalid"),
        "open": lambda: run("b", 90, status="open"),
    }[name]()
    entries = [e for s in standings([run("a", 40), made]) for e in s.entries]
    assert {e.bundle.provenance.run: (e.rank, e.reason) for e in entries} == {
        "a": (1, ""),
        "b": (None, reason),
    }


def test_the_page_shows_every_answer_with_its_interval_and_ratios():
    page = leaderboard_page([run("a", 40), run("b", 48)])
    rows = re.findall(r'data-agentperf-entry="(\w+)" data-agentperf-rank="(\d*)"', page)
    assert rows == [("b", "1"), ("a", "2")]
    assert 'data-agentperf-low="47" data-agentperf-high="49">47-49<' in page
    assert 'data-agentperf-per="per_accelerator" data-agentperf-value="6.0">6</td>' in page
    assert "13 phases, 1 invalid" in page


def test_names_in_a_bundle_are_never_markup():
    evil = run("a", 40)
    evil = replace(evil, system=replace(SYSTEM, name="<script>alert(1)</script>"))
    page = leaderboard_page([evil], {"a": "javascript-is-not&quot;<b>"})
    assert "<script" not in page
    assert "<b>" not in page


def test_the_command_reads_folders_and_links_to_their_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("a #1", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        bundle = encode_bundle(run(name, 40))
        (tmp_path / "runs" / name / "bundle.json").write_bytes(bundle)
    (tmp_path / "runs" / "a #1" / "report.html").touch()
    out = tmp_path / "board.html"
    assert main([str(tmp_path / "runs"), str(tmp_path / "runs" / "a #1"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"2 runs: {out}\n"
    page = out.read_text("utf-8")
    assert 'href="runs/a%20%231/report.html"' in page
    assert "run b</small>" in page


def test_what_is_no_run_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "board.html"
    assert main([str(tmp_path), "--out", str(out)]) == 4
    assert "no bundle.json and no folder of runs" in capsys.readouterr().err
    assert not out.exists()
    (tmp_path / "bundle.json").write_text("{}")
    assert main([str(tmp_path), "--out", str(out)]) == 4
    assert len(read_runs([])) == 0
