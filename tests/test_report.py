import hashlib
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from pytest_agentperf.bundle import Bundle, Rescored
from pytest_agentperf.conformance import Rule
from pytest_agentperf.dataset_statistics import statistics
from pytest_agentperf.detected import Fact
from pytest_agentperf.evidence import Interval
from pytest_agentperf.power import MeterPower, Power
from pytest_agentperf.profile import profile
from pytest_agentperf.records import HostHealth
from pytest_agentperf.report import render, render_page
from pytest_agentperf.serving import Level, ServerMetrics
from pytest_agentperf.slo import judge
from pytest_agentperf.trajectory import Dataset, Message, Trajectory, Turn
from pytest_agentperf.words import number
from tests.bundles import SYSTEM, example_bundle
from tests.run_folders import LABELS, measurement_of, write_run

_VOID = {"meta", "link", "br", "hr", "img", "input"}


class _Page(HTMLParser):
    """Every element with its attributes and the text inside it; scripts and styles apart."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, f"not closed: {self._open}"
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside == "style":
            self.styles.append(data)
        else:
            self.text += " " + data

    def having(self, *names: str) -> list[dict[str, str | None]]:
        wanted = {f"data-agentperf-{name}" for name in names}
        return [attrs for _, attrs in self.elements if wanted <= attrs.keys()]

    def marks(self, metric: str) -> list[dict[str, str | None]]:
        """The marks of one chart of phases over agents, in every model's order."""
        return [mark for _, marks in self.charts(metric) for mark in marks]

    def charts(self, metric: str) -> list[tuple[list[str], list[dict[str, str | None]]]]:
        """For every chart of a metric: the limits that it draws, and its marks."""
        found: list[tuple[list[str], list[dict[str, str | None]]]] = []
        name = None
        for tag, attrs in self.elements:
            if "data-agentperf-chart" in attrs:
                name = attrs["data-agentperf-chart"]
                found += [([], [])] if name == metric else []
            if name == metric and tag == "g" and "data-agentperf-outcome" in attrs:
                found[-1][1].append(attrs)
            if name == metric and "data-agentperf-limit" in attrs:
                found[-1][0].append(attrs["data-agentperf-limit"] or "")
        return found


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return example_bundle(models=2)


@pytest.fixture(scope="module")
def page(bundle: Bundle) -> _Page:
    return _Page(render(bundle))


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def test_every_capacity_stands_in_the_page_exactly(bundle: Bundle, page: _Page) -> None:
    shown = [
        tuple(a[f"data-agentperf-{k}"] for k in ("model", "tier", "agents", "throughput-tok-per-s"))
        for a in page.having("capacity")
    ]
    assert shown == [
        (c.model, c.tier, str(c.agents), _exact(c.throughput_tok_per_s)) for c in bundle.capacities
    ]
    assert all(c.label in page.text for c in bundle.capacities)


@pytest.mark.parametrize(
    ("metric", "statistic"), [("output_speed_tok_per_s", "p25"), ("ttft_s", "p95")]
)
def test_every_phase_percentile_stands_in_the_page_exactly(
    bundle: Bundle, page: _Page, metric: str, statistic: str
) -> None:
    shown = {
        a["data-agentperf-phase"]: (a["data-agentperf-value"], a["data-agentperf-n"])
        for a in page.having("phase", "metric")
        if a["data-agentperf-metric"] == f"{metric}.{statistic}"
    }
    assert shown == {
        str(p.number): (repr(d.statistic(statistic)), str(d.n))
        for p in bundle.phases
        if (d := getattr(p.metrics, metric))
    }


def test_every_verdict_stands_in_the_page(bundle: Bundle, page: _Page) -> None:
    shown = [
        tuple(a[f"data-agentperf-{k}"] for k in ("phase", "tier", "outcome"))
        for a in page.having("phase", "tier", "outcome")
    ]
    assert shown == [(str(p.number), v.tier, v.outcome) for p in bundle.phases for v in p.verdicts]


def test_every_normalised_value_stands_in_the_page_exactly(bundle: Bundle) -> None:
    page = _Page(render(replace(bundle, models=bundle.models[:1])))
    shown = {
        (a["data-agentperf-tier"], a["data-agentperf-per"]): a["data-agentperf-value"]
        for a in page.having("per", "tier")
    }
    for capacity in (c for c in bundle.capacities if c.model == bundle.models[0].spec.model):
        value = capacity.per.per_accelerator
        assert shown[capacity.tier, "agents.per_accelerator"] == repr(value)
        known = capacity.per.per_megawatt is not None
        assert ((capacity.tier, "agents.per_megawatt") in shown) == known


def test_a_chart_carries_the_values_unrounded_and_by_agents(bundle: Bundle, page: _Page) -> None:
    limits, marks = page.charts("output_speed_tok_per_s.p25")[0]
    own = [p for p in bundle.phases if p.model == bundle.models[0].spec.model]
    own.sort(key=lambda p: (bool(p.invalid), p.agents, p.number))  # invalid ones lie on top
    assert [(m["data-agentperf-agents"], m["data-agentperf-value"]) for m in marks] == [
        (str(p.agents), repr(p.metrics.output_speed_tok_per_s.p25))
        for p in own
        if p.metrics.output_speed_tok_per_s
    ]
    assert sorted(map(float, limits)) == [100, 250, 500, 2000]


def test_tiers_with_one_limit_share_its_line(page: _Page) -> None:
    limits, _ = page.charts("ttft_s.p95")[1]
    assert limits == ["15.0"]
    assert "slo-1, slo-2, slo-3: 15 s" in page.text


def test_an_infinite_ttft_is_a_mark_at_the_edge_of_its_chart(bundle: Bundle) -> None:
    source = render(replace(bundle, models=bundle.models[:1]))
    # From 1 / 1.15 to 64 * 1.15 agents: ln(55 * 1.15) / ln(64 * 1.15 ** 2) = 4.1471 / 4.4384.
    assert source.count('<text x="93.44%" y="0%" dy="14">∞</text>') == 1


def test_marks_tell_outcomes_apart_by_symbol(page: _Page) -> None:
    _, marks = page.charts("output_speed_tok_per_s.p25")[0]
    assert {m["data-agentperf-outcome"] for m in marks} == {"some", "fail", "invalid"}
    used = {a.get("href") for tag, a in page.elements if tag == "use"}
    drawn = {f"#{a['id']}" for tag, a in page.elements if tag == "symbol"}
    assert {"#agentperf-some", "#agentperf-fail", "#agentperf-invalid"} <= used <= drawn


def test_intervals_stand_beside_the_percentiles(bundle: Bundle) -> None:
    likely = Interval(low=95.5, high=104.5, estimate=100.0, n=400, se=0.02)
    phases = tuple(replace(p, intervals={"ttft_s.p95": likely}) for p in bundle.phases)
    page = _Page(render(replace(bundle, phases=phases)))
    shown = [a for a in page.having("low", "high") if a["data-agentperf-low"] == "95.5"]
    assert len(shown) >= len(phases)
    assert "95 %: 95.5 to 104.5" in page.text


def test_limits_and_misses_read_as_words(page: _Page) -> None:
    assert "P25 output speed ≥ 100 tok/s" in page.text
    assert "P95 TTFT ≤ 5 s" in page.text
    assert "P95 TTFT ∞ > 5 s" in page.text


def test_a_miss_by_a_hair_does_not_look_like_the_limit(page: _Page) -> None:
    assert "P25 speed 99.9997 < 100 tok/s" in page.text


def test_a_pass_above_a_failure_is_flagged(page: _Page) -> None:
    assert "38 agents passed above the failure at 36" in page.text
    assert page.text.count("not counted: above a failure") == 1


def test_a_null_shows_its_reason(page: _Page) -> None:
    assert "not given: system.yaml: racks" in page.text
    assert "per MW, measured: readings cover 71% of the window, 95% are needed" in page.text
    assert "slo-2: the search has not finished" in page.text


def test_without_a_system_there_is_one_reason_for_all() -> None:
    page = _Page(render(example_bundle(system=None)))
    # In the footnote, in the section on the system, and in the cards of four tiers.
    assert page.text.count("no --system file") == 6


def test_warnings_failures_and_invalid_reasons_are_in_the_details(page: _Page) -> None:
    # With 55 agents 190 failed, a third of them (63) by timeout; with 32 agents 3, one so.
    assert "HTTP 503 127" in page.text
    assert "HTTP 503 129 3 , 8" in page.text
    assert "client loop lag p95: the load generator was late itself" in page.text
    assert "undefined speeds 0.061, at most 0.05" in page.text


@pytest.mark.parametrize(
    ("statuses", "badge"),
    [
        (("met", "not checkable"), "every checkable rule met"),
        (("met", "not met"), "not AA-AgentPerf conformant: 1 rule not met"),
        (("not met", "not met"), "not AA-AgentPerf conformant: 2 rules not met"),
        ((), "conformance not checked"),
    ],
)
def test_conformance_is_a_badge_beside_the_numbers(
    bundle: Bundle, statuses: tuple[Literal["met", "not met", "not checkable"], ...], badge: str
) -> None:
    rules = tuple(Rule(name=f"rule {i}", status=s, detail="") for i, s in enumerate(statuses))
    run = replace(bundle.models[0], conformance=rules)
    assert badge in _Page(render(replace(bundle, models=(run,)))).text


def test_every_rule_is_listed(bundle: Bundle, page: _Page) -> None:
    listed = [a["data-agentperf-rule"] for a in page.having("rule")]
    assert listed == [rule.name for model in bundle.models for rule in model.conformance]


def test_the_dataset_stands_beside_the_numbers(page: _Page) -> None:
    assert (
        "Dataset traces/tuning-500 : results on this dataset are not comparable with the "
        "published leaderboard." in page.text
    )


def test_a_required_number_of_agents_is_answered(page: _Page) -> None:
    assert "at least 48 agents: met" in page.text


@pytest.mark.parametrize(("mode", "marked"), [("smoke", True), ("exact", False)])
def test_a_smoke_run_is_marked(*, mode: str, marked: bool) -> None:
    text = _Page(render(example_bundle(mode=mode))).text
    assert ("Smoke run." in text) == marked
    assert (", smoke run" in text) == marked


def test_a_run_that_was_judged_again_says_so_at_its_head(bundle: Bundle) -> None:
    again = Rescored(
        run="20261101-1-a",
        bundle_sha256="0" * 64,
        client="9.8",
        changed=("slo-1: ttft_s.p95 <= 5 was 10", "max_error_ratio: 0.1 was 0.01"),
    )
    text = _Page(render(replace(bundle, rescored=again))).text
    assert text.startswith(
        "Judged again. Nothing was measured here: the requests of run 20261101-1-a were judged "
        "once more, by version 9.8. What differs from that run's own judgement: slo-1: ttft_s.p95 "
        "<= 5 was 10; max_error_ratio: 0.1 was 0.01."
    )
    assert "Judged again." not in _Page(render(bundle)).text


def test_a_phase_that_evidence_ended_early_is_marked_in_the_table(bundle: Bundle) -> None:
    said = bundle.phases[3].verdicts
    early = replace(bundle.phases[3], verdicts=(replace(said[0], evidence="certain"), *said[1:]))
    text = _Page(render(replace(bundle, phases=(bundle.phases[0], early)))).text
    assert "4 ended early 64" in text
    assert "hollow: a phase that evidence ended early" in text
    assert "ended early" not in _Page(render(bundle)).text


def test_settings_off_their_default_come_first(page: _Page) -> None:
    names = [a["data-agentperf-setting"] for a in page.having("setting")]
    assert names[:3] == ["endpoint", "dataset", "max_agents"]


def test_text_from_a_run_is_never_markup() -> None:
    evil = "<script>alert(1)</script><!--"
    tiers = tuple(replace(t, name=f"{evil}{t.name}") for t in example_bundle().models[0].spec.tiers)
    bundle = example_bundle(dataset=evil, error=evil, system=replace(SYSTEM, name=evil))
    run = bundle.models[0]
    renamed = tuple(
        replace(p, verdicts=tuple(replace(v, tier=f"{evil}{v.tier}") for v in p.verdicts))
        for p in bundle.phases
    )
    source = render(
        replace(
            bundle,
            models=(replace(run, spec=replace(run.spec, tiers=tiers)),),
            phases=renamed,
            capacities=tuple(replace(c, tier=f"{evil}{c.tier}") for c in bundle.capacities),
        )
    )
    assert "<script>alert" not in source
    page = _Page(source)
    assert "alert(1)" in page.text


def test_styles_stay_inside_the_section(page: _Page) -> None:
    (style,) = page.styles
    plain = re.sub(r"@media[^{]*\{|/\*.*?\*/", "", style)
    selectors = [s.strip() for block in re.findall(r"([^{}]+)\{", plain) for s in block.split(",")]
    assert selectors
    assert all(".agentperf" in s.split() for s in selectors)


def test_the_fragment_loads_nothing_and_runs_nothing(page: _Page) -> None:
    places = [a[k] or "" for _, a in page.elements for k in ("src", "href", "data") if k in a]
    assert all(place.startswith("#agentperf-") for place in places)
    assert page.scripts == []
    assert not [a for _, a in page.elements if any(k.startswith("on") or k == "style" for k in a)]


def test_every_place_that_is_pointed_at_is_there_once(page: _Page) -> None:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for _, a in page.elements if "href" in a} <= {f"#{name}" for name in ids}


def test_the_policy_of_a_page_knows_its_styles_and_allows_nothing_else(bundle: Bundle) -> None:
    source = render_page(bundle)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', source)
    styles = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    hashes = [b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in styles]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert unescape(policy) == (
        f"default-src 'none'; style-src {allowed}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_headings_start_at_h2_and_table_headers_have_a_scope(page: _Page) -> None:
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == min(headings) == 2
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")


def test_a_run_without_phases_is_a_page_without_charts() -> None:
    empty = replace(example_bundle(), models=(), phases=(), capacities=())
    page = _Page(render_page(empty))
    assert "No phase was measured." in page.text
    assert not page.scripts


def test_an_unfinished_run_says_so(bundle: Bundle) -> None:
    cut = replace(bundle, provenance=replace(bundle.provenance, ended_at=None), capacities=())
    text = _Page(render(cut)).text
    assert "The run had not ended when this was written" in text
    assert "not searched" in text


def test_a_phase_without_any_answer_is_shown(bundle: Bundle) -> None:
    first = bundle.phases[0]
    blank = replace(
        first.metrics, ttft_s=None, output_speed_tok_per_s=None, osl_tokens=None, slip_s=None
    )
    page = _Page(render(replace(bundle, phases=(replace(first, metrics=blank),), capacities=())))
    cells = page.having("phase", "metric")
    assert [a["data-agentperf-value"] for a in cells] == ["", ""]


def test_a_limit_without_a_value_makes_the_cell_say_so(bundle: Bundle) -> None:
    first, tier = bundle.phases[0], bundle.models[0].spec.tiers[0]
    blank = replace(first.metrics, ttft_s=None)
    verdict = judge(tier, blank)
    phase = replace(first, metrics=blank, verdicts=(verdict,))
    page = _Page(render(replace(bundle, phases=(phase,), capacities=())))
    assert "invalid P95 TTFT: no value" in page.text
    assert "slo-1: ttft_s.p95: no value" in page.text


def test_an_explanation_keeps_its_lines(bundle: Bundle) -> None:
    told = replace(bundle.capacities[0], explanation="limited by: x\n  ttft_s.p95  4.9 <= 5")
    source = render(replace(bundle, capacities=(told,)))
    assert "limited by: x\n  ttft_s.p95  4.9 &lt;= 5" in source


def test_importing_the_report_does_not_load_jinja2() -> None:
    code = "import sys, pytest_agentperf.report; print({'jinja2'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_contradiction_is_shown_with_what_was_detected(bundle: Bundle) -> None:
    line = "system.yaml declares engine.version: 0.31, but GET /version says 0.32.0"
    system = replace(SYSTEM, detected={"accelerators.tdp_w": "nvml"})
    page = _Page(render(replace(bundle, system=system, contradictions=(line,))))
    assert line in page.text
    assert len(page.having("contradiction")) == 1
    assert [a["data-agentperf-detected"] for a in page.having("detected")] == ["accelerators.tdp_w"]


def test_what_was_detected_is_shown_without_a_system() -> None:
    fact = Fact(key="engine.version", value="0.32.0", source="GET /version")
    page = _Page(render(replace(example_bundle(system=None), detected=(fact,))))
    assert "engine.version 0.32.0 detected: GET /version" in page.text


def test_energy_of_a_token_stands_beside_the_throughput(bundle: Bundle, page: _Page) -> None:
    shown = {a["data-agentperf-tier"]: a["data-agentperf-value"] for a in page.having("energy")}
    assert shown == {
        c.tier: repr(c.energy_j_per_output_token)
        for c in bundle.capacities
        if c.energy_j_per_output_token is not None
    }


def test_what_the_server_counted_is_in_the_details(bundle: Bundle) -> None:
    server = ServerMetrics(
        samples=600,
        kv_use_ratio=Level(mean=0.84, most=0.98),
        prefix_hit_ratio=0.62,
        preemptions=14.0,
        named={"queue<s>": Level(mean=2.5, most=9.0)},
    )
    phases = tuple(replace(p, server=server) for p in bundle.phases)
    text = _Page(render(replace(bundle, phases=phases))).text
    assert "KV cache in use 84 % most 98 %" in text
    assert "Prefix-cache hits 62 %" in text
    assert "Preemptions 14" in text
    assert "queue<s> 2.50 most 9" in text


@pytest.fixture(scope="module")
def recorded(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A run with the records of its phases beside it."""
    few = replace(bundle, models=bundle.models[:1], phases=bundle.phases[:4])
    return few, write_run(tmp_path_factory.mktemp("results"), few, requests=300, seconds=60)


def test_requests_are_shown_by_kind(recorded: tuple[Bundle, Path]) -> None:
    bundle, folder = recorded
    page = _Page(render(bundle, folder))
    seen = profile(measurement_of(bundle.phases[0], requests=300, seconds=60), LABELS)
    keys = [a["data-agentperf-group"] for a in page.having("group")]
    groups = [(key, g) for key in ("isl", "turn", "tool", "language") for g in seen.by[key]]
    assert keys[: len(groups)] == [key for key, _ in groups]
    for _, g in groups:
        assert g.ttft_s is not None
        assert f"{g.name} {g.requests} {g.failed} {number(g.ttft_s.p50)}" in page.text


def test_every_phase_has_its_pictures(recorded: tuple[Bundle, Path]) -> None:
    bundle, folder = recorded
    drawn = [a["data-agentperf-chart"] for a in _Page(render(bundle, folder)).having("chart")]
    own = ["histogram.ttft_s", "histogram.output_speed_tok_per_s", "load", "tokens", "power"]
    own += ["server", "caches", "server.queue<b>depth</b>"]
    assert drawn[2:] == own * len(bundle.phases)


def test_a_run_that_was_stopped_in_a_line_still_has_its_report(
    recorded: tuple[Bundle, Path], tmp_path: Path
) -> None:
    bundle, folder = recorded
    (tmp_path / "profiles.jsonl").write_bytes((folder / "profiles.jsonl").read_bytes()[:-50])
    page = _Page(render(bundle, tmp_path))
    assert len(page.having("page")) == len(bundle.phases)


def test_files_are_linked_to_only_from_beside_them(recorded: tuple[Bundle, Path]) -> None:
    bundle, folder = recorded
    links = [a["href"] for _, a in _Page(render_page(bundle, folder)).elements if "href" in a]
    outside = [link for link in links if link and not link.startswith(("#", "data:"))]
    assert outside == ["bundle.json", "requests.jsonl", "timeline.jsonl", "profiles.jsonl"]
    inside = [a["href"] or "" for _, a in _Page(render(bundle, folder)).elements if "href" in a]
    assert all(link.startswith("#") for link in inside)


def test_endless_reasons_of_failure_are_counted_not_listed(bundle: Bundle) -> None:
    reasons = {f"HTTP 500: request {i:05}": 2 for i in range(5000)}
    first = bundle.phases[0]
    phase = replace(first, metrics=replace(first.metrics, failed=10_000, errors=reasons))
    source = render(replace(bundle, phases=(phase,), capacities=()))
    assert source.count("HTTP 500: request") == 2 * 20  # of the phase, and of the model
    assert "4,980 other reasons" in source
    assert '<td class="n">9,960</td>' in source


def _meter(mean_w: float | None, coverage: float, reason: str | None = None) -> MeterPower:
    power = Power(
        mean_w=mean_w,
        energy_j=None,
        devices=8,
        samples=10,
        coverage=coverage,
        reason=reason,
        largest_gap_s=1 - coverage,
    )
    return MeterPower(
        meter="redfish:bmc", kind="redfish", role="chassis", counted=True, power=power
    )


def test_reasons_that_were_counted_without_a_name_are_among_the_others(bundle: Bundle) -> None:
    reasons = {f"HTTP 500: request {i:02}": 3 for i in range(50)} | {"other reasons": 900}
    first = bundle.phases[0]
    phase = replace(first, metrics=replace(first.metrics, failed=1050, errors=reasons))
    source = render(replace(bundle, phases=(phase,), capacities=()))
    # 30 of 50 are not listed, and of the 900 at least one is another: 30 × 3 + 900 requests.
    assert source.count("at least 31 other reasons") == 2
    assert source.count('<td class="n">990</td>') == 2
    assert ">other reasons<" not in source


def test_meters_are_shown_over_the_whole_run(bundle: Bundle) -> None:
    phases = tuple(
        replace(p, meters=(_meter(6000.0, 0.99 if p.number == 1 else 1.0),))
        for p in bundle.phases[:2]
    )
    page = _Page(render(replace(bundle, phases=phases, idle=(_meter(1234.5, 1.0),))))
    assert "redfish:bmc the wall 1,234 8 99 % 0.01 ours" in page.text
    shown = {a["data-agentperf-power"]: a["data-agentperf-watts"] for a in page.having("power")}
    assert shown == {"1": "2391.25", "2": "2987.5"}


def test_joules_of_a_token_follow_the_rule_of_capacities(bundle: Bundle) -> None:
    # 2,391.25 W over 8 × 587.31… × 0.4 tok/s; the system declares 8 devices, and phase 2 read 4.
    phases = (
        bundle.phases[0],
        replace(bundle.phases[1], power=replace(bundle.phases[1].power, devices=4)),
        replace(bundle.phases[2], short=True),
        bundle.phases[4],
    )
    page = _Page(render(replace(bundle, phases=phases, idle=(_meter(1234.5, 1.0),))))
    shown = {
        a["data-agentperf-power"]: a["data-agentperf-joules-per-token"]
        for a in page.having("power")
    }
    assert float(shown["1"] or 0) == pytest.approx(2391.25 / (8 * 587.3141592653589 * 0.4))
    assert shown["2"] == ""
    assert "the meter reads 4 devices, 8 are declared" in page.text
    assert "3 short gpt-oss-120b 32" in page.text
    assert "5 invalid gpt-oss-120b 48" in page.text


def test_nodes_of_a_cluster_are_shown(bundle: Bundle) -> None:
    host = HostHealth(
        name="node-<1>", workers=4, clock_offset_s=0.0125, clock_error_s=0.0004, endpoint_s=0.0003
    )
    phases = tuple(replace(p, hosts=(host,)) for p in bundle.phases[:1])
    page = _Page(render(replace(bundle, phases=phases)))
    assert [a["data-agentperf-host"] for a in page.having("host")] == ["node-<1>"]
    assert "node-<1> 4 12.5 0.4 0.3" in page.text


def test_the_dataset_is_shown_in_numbers_and_a_private_one_without_names(bundle: Bundle) -> None:
    turn = Turn(
        kept=0,
        appended=(Message(role="user", content="secret words"),),
        recorded_isl_tokens=1000,
        recorded_osl_tokens=50,
        tool_s=0.5,
    )
    one = Trajectory(id="a", turns=(turn,), language="Erlang", harness="agent-x")
    for private in (False, True):
        dataset = Dataset(name="mine", trajectories=(one,), private=private)
        page = _Page(render(replace(bundle, statistics=statistics(dataset))))
        assert "ISL tokens 1 1,000 1,000" in page.text
        assert ("Erlang 1" in page.text) != private
        assert ("withheld: a private dataset" in page.text) == private


def test_a_search_without_an_end_does_not_say_how_far_nothing_failed(bundle: Bundle) -> None:
    only = replace(bundle.capacities[0], status="invalid", first_failing=None, failing_phase=None)
    text = _Page(render(replace(bundle, capacities=(only,)))).text
    assert "First failing none so far" in text
    assert "none up to" not in text


@pytest.mark.parametrize(
    ("status", "agents", "failing", "said", "required"),
    [
        ("at-limit", 35, None, "not searched one number alone was measured", "not answered"),
        ("at-limit", 48, None, "not searched one number alone was measured", "met"),
        ("below", 0, 64, "64 agents", "not answered"),
        ("below", 0, 48, "48 agents", "missed"),
        ("unclear", 48, None, "not certain 48 agents missed a limit", "not answered"),
    ],
)
def test_one_number_of_agents_is_no_search(
    bundle: Bundle, status: str, agents: int, failing: int | None, said: str, required: str
) -> None:
    only = replace(
        bundle.capacities[0],
        status=status,
        agents=agents,
        first_failing=failing,
        failing_phase=None,
    )
    settings = replace(bundle.settings, gate="verify")
    text = _Page(render(replace(bundle, settings=settings, capacities=(only,)))).text
    assert f"First failing {said}" in text
    assert "none up to" not in text
    assert f"at least 48 agents: {required}" in text


def test_what_is_divided_of_a_lower_bound_is_one(bundle: Bundle) -> None:
    # 64 agents at the search limit on 8 accelerators at 22.4 $/hour.
    bound = next(c for c in bundle.capacities if c.status == "at-limit")
    text = _Page(render(replace(bundle, capacities=(bound,)))).text
    assert "Per accelerator ≥ 8 agents" in text
    assert "Per MW of accelerators —" in text
    assert "slo-1 agents ≥ 8 ≥ 64" in text
    assert "≥ 2.86" in text
    assert "≥ 8" not in _Page(render(replace(bundle, capacities=bundle.capacities[:1]))).text
