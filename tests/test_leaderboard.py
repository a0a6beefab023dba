"""Several runs side by side: who may be ranked with whom."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.bundle import Bundle, Rescored, encode_bundle
from pytest_agentperf.detected import Fact, complete
from pytest_agentperf.leaderboard import leaderboard_page, main, read_runs
from pytest_agentperf.ranking import Standing, standings
from tests.bundles import SYSTEM, example_bundle

AGAIN = Rescored(run="b", bundle_sha256="0" * 64, client="0.1.0", changed=("a floor",))
NODE = replace(SYSTEM, engine={"version": "0.19"})
DEVICES = (
    Fact(key="engine.version", value="0.20", source="the server"),
    Fact(key="accelerators.count", value=4, source="NVML"),
)
_, (ENGINE, COUNT) = complete(NODE, DEVICES)


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


def without_system(made: Bundle) -> Bundle:
    per = replace(made.capacities[0].per, per_accelerator=None)
    return replace(made, system=None, capacities=(replace(made.capacities[0], per=per),))


def allowed(made: Bundle, low: int, high: int | None) -> Bundle:
    """The same answer with another interval."""
    answer = replace(made.capacities[0], agents_low=low, agents_high=high)
    return replace(made, capacities=(answer,))


def test_a_run_that_declares_no_accelerators_has_no_rank_beside_those_that_do():
    (only,) = standings([run("a", 40), without_system(run("c", 400)), run("b", 48)])
    assert only.by == "per_accelerator"
    assert ranks(only) == [("b", 1), ("a", 2), ("c", None)]
    assert only.entries[2].reason == "accelerators not declared"


def test_where_no_run_declares_accelerators_agents_decide():
    (only,) = standings([without_system(run("a", 40)), without_system(run("b", 48))])
    assert only.by == "agents"
    assert ranks(only) == [("b", 1), ("a", 2)]


def test_a_declared_system_without_a_rank_does_not_decide_the_order():
    (only,) = standings([without_system(run("a", 40)), run("b", 48, status="invalid")])
    assert only.by == "agents"
    assert ranks(only) == [("a", 1), ("b", None)]


def test_a_rank_counts_who_is_better_for_certain():
    # 48 ± 1 and 46 ± 1 meet, 46 and 44 meet; only 48 is better than 44 for certain.
    (only,) = standings([run("a", 44), run("b", 46), run("c", 48)])
    assert ranks(only) == [("c", 1), ("b", 1), ("a", 2)]


def test_a_wide_interval_lends_nobody_its_rank_and_loses_to_nobody_it_may_beat():
    # 30-60 meets everybody; 41 ± 1 and 40 ± 1 lie below 48 ± 1 alone.
    wide = allowed(run("w", 44), 30, 60)
    (only,) = standings([run("a", 40), wide, run("b", 41), run("c", 48)])
    assert ranks(only) == [("c", 1), ("w", 1), ("b", 2), ("a", 2)]


def test_equal_ratios_of_different_systems_are_equal():
    # 20 / 3 is 100 / 15, which products with 1 / 3 and 1 / 15 are not.
    one = allowed(run("a", 19, accelerators=3), 18, 20)
    other = allowed(run("b", 105, accelerators=15), 100, 110)
    (only,) = standings([one, other])
    assert ranks(only) == [("b", 1), ("a", 1)]


def test_an_unknown_upper_end_may_be_as_good_as_the_best():
    (only,) = standings([allowed(run("a", 93), 93, None), run("b", 200), run("c", 150)])
    assert ranks(only) == [("b", 1), ("a", 1), ("c", 2)]


def test_an_answer_without_an_upper_end_may_be_as_good_as_the_best():
    # The one between the two has an upper end, and is worse than the best for certain.
    (only,) = standings([run("a", 64, status="at-limit"), run("b", 200), run("c", 100)])
    assert ranks(only) == [("b", 1), ("a", 1), ("c", 2)]


def of_spec(made: Bundle, **changes: Any) -> Bundle:
    model = made.models[0]
    return replace(made, models=(replace(model, spec=replace(model.spec, **changes)),))


def of_data(made: Bundle, **changes: Any) -> Bundle:
    model = made.models[0]
    return replace(made, models=(replace(model, dataset=replace(model.dataset, **changes)),))


def of_settings(made: Bundle, **changes: Any) -> Bundle:
    return replace(made, settings=replace(made.settings, **changes))


def looser(made: Bundle) -> Bundle:
    tier, *others = made.models[0].spec.tiers
    limits = (replace(tier.limits[0], value=50.0), *tier.limits[1:])
    return of_spec(made, tiers=(replace(tier, limits=limits), *others))


def by_client(made: Bundle, version: str) -> Bundle:
    versions = {**made.provenance.versions, "pytest-agentperf": version}
    return replace(made, provenance=replace(made.provenance, versions=versions))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (of_data(run("b", 90), sha256="0" * 64), "<code>000000000000</code>"),
        (of_data(run("b", 90), prompts=17_000), "; prompts 17,000;"),
        (looser(run("b", 90)), "P25 output speed ≥ 50 tok/s"),
        (of_spec(run("b", 90), context_tokens=65_536), "; context 65,536 tokens;"),
        (of_spec(run("b", 90), max_tokens=2048), "; answers up to 2,048 tokens;"),
        (of_settings(run("b", 90), max_tokens=2048), "; answers up to 2,048 tokens;"),
        (of_spec(run("b", 90), reasoning_field="reasoning"), "; reasoning in reasoning;"),
        (of_spec(run("b", 90), request={"effort": "low"}), "effort = &#34;low&#34;;"),
        (of_settings(run("b", 90), mode="fast"), "; --agentperf-mode fast;"),
        (of_settings(run("b", 90), salt="none"), "; --agentperf-salt none;"),
        (of_settings(run("b", 90), max_cpu_ratio=1.0), "; --agentperf-max-cpu-ratio 1.0;"),
        (of_settings(run("b", 90), warmup_s=0.0), "; --agentperf-warmup-s 0.0;"),
        (of_settings(run("b", 90), affinity_header="X-S"), "; --agentperf-affinity-header X-S;"),
        (by_client(run("b", 90), "9.9"), "; pytest-agentperf 9.9."),
    ],
    ids=lambda value: value.strip("; .") if isinstance(value, str) else "",
)
def test_what_means_something_else_stands_in_a_list_of_its_own_that_says_so(
    other: Bundle, said: str
):
    found = standings([run("a", 40), other])
    assert sorted(map(ranks, found)) == [[("a", 1)], [("b", 1)]]
    assert said in leaderboard_page([other])
    assert said not in leaderboard_page([run("a", 40)])


def test_the_same_cap_and_the_same_fields_written_otherwise_mean_the_same():
    usual = of_spec(run("a", 40), max_tokens=2048, request={"top_p": 1.0, "top_k": 20})
    other = of_settings(run("b", 90), max_tokens=2048)
    other = of_spec(other, request={"top_k": 20, "top_p": 1})
    assert [ranks(s) for s in standings([usual, other])] == [[("b", 1), ("a", 2)]]


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
        ("unsupported", "not even one agent"),
        ("rescored", "judged again: no measurement"),
        ("verify", "verified only"),
        ("ab", "verified only"),
        ("contradicted", COUNT),
    ],
)
def test_what_is_no_measurement_has_no_rank(name: str, reason: str):
    made = {
        "simulated": lambda: run("b", 90, simulated=True),
        "smoke": lambda: run("b", 90, mode="smoke"),
        "invalid": lambda: run("b", 90, status="invalid"),
        "open": lambda: run("b", 90, status="open"),
        "unsupported": lambda: run("b", 0, status="unsupported"),
        "rescored": lambda: replace(run("b", 90), rescored=AGAIN),
        "verify": lambda: of_settings(run("b", 90, status="at-limit"), gate="verify"),
        "ab": lambda: of_settings(run("b", 90), gate="ab"),
        "contradicted": lambda: replace(run("b", 90), contradictions=(ENGINE, COUNT)),
    }[name]()
    entries = [e for s in standings([run("a", 40), made]) for e in s.entries]
    assert {e.bundle.provenance.run: (e.rank, e.reason) for e in entries} == {
        "a": (1, ""),
        "b": (None, reason),
    }


def test_another_contradiction_leaves_the_rank():
    (only,) = standings([replace(run("a", 40), contradictions=(ENGINE,))])
    assert ranks(only) == [("a", 1)]


def test_the_page_says_what_has_no_upper_end():
    page = leaderboard_page([allowed(run("a", 95), 93, None)])
    assert 'data-agentperf-low="93" data-agentperf-high="">93 or more<' in page


def test_the_ratios_of_a_lower_bound_are_lower_bounds():
    page = leaderboard_page([run("a", 40, status="at-limit")])
    assert 'data-agentperf-per="per_accelerator" data-agentperf-value="5.0">≥ 5</td>' in page
    assert "≥ 5<" not in leaderboard_page([run("a", 40)])
    assert 'data-agentperf-per="per_rack" data-agentperf-value="">—</td>' in page


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
