import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any, Literal

import pytest

from pytest_agentperf.bundle import Bundle
from pytest_agentperf.conformance import Rule
from pytest_agentperf.detected import Fact
from pytest_agentperf.report import render, render_page
from pytest_agentperf.serving import Level, ServerMetrics
from pytest_agentperf.slo import judge
from tests.bundles import SYSTEM, example_bundle

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

    def figures(self) -> list[Any]:
        return [json.loads(s) for s in self.scripts if s.startswith('{"data"')]


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
    speed = page.figures()[0]["data"]
    measured = next(t for t in speed if t["name"] == "measured")
    own = [p for p in bundle.phases if p.model == bundle.models[0].spec.model and not p.invalid]
    own.sort(key=lambda p: p.agents)
    assert measured["x"] == [p.agents for p in own]
    assert measured["y"] == [
        p.metrics.output_speed_tok_per_s and p.metrics.output_speed_tok_per_s.p25 for p in own
    ]
    assert [t["y"][0] for t in speed if t["name"].startswith("limit")] == [100, 250, 500, 2000]


def test_tiers_with_one_limit_share_its_line(page: _Page) -> None:
    lines = [t for t in page.figures()[3]["data"] if t["name"].startswith("limit")]
    assert [t["text"][0] for t in lines] == ["slo-1, slo-2, slo-3: 15 s"]


def test_an_infinite_ttft_is_a_mark_at_the_edge_of_its_chart(page: _Page) -> None:
    figure = page.figures()[1]
    measured = next(t for t in figure["data"] if t["name"] == "measured")
    assert [n for n, y in zip(measured["x"], measured["y"], strict=True) if y is None] == [55]
    (mark,) = figure["layout"]["annotations"]
    assert (mark["text"], mark["x"]) == ("∞", math.log10(55))


def test_marks_tell_outcomes_apart_by_symbol(page: _Page) -> None:
    data = page.figures()[0]["data"]
    symbols = {s for t in data if "customdata" in t for s in t["marker"]["symbol"]}
    assert symbols == {"diamond", "x", "triangle-up-open"}


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
    assert page.text.count("no --system file") == 2  # the footnote, and the section on the system


def test_warnings_failures_and_invalid_reasons_are_in_the_details(page: _Page) -> None:
    assert "127 × HTTP 503" in page.text  # 190 failed, a third of them (63) by timeout
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
    assert page.figures()[0]["data"][0]["text"][-1].startswith("&lt;script&gt;")


def test_styles_stay_inside_the_section(page: _Page) -> None:
    (style,) = page.styles
    plain = re.sub(r"@media[^{]*\{|/\*.*?\*/", "", style)
    selectors = [s.strip() for block in re.findall(r"([^{}]+)\{", plain) for s in block.split(",")]
    assert selectors
    assert all(".agentperf" in s.split() for s in selectors)


def test_the_fragment_loads_nothing_and_has_plotly_once(page: _Page) -> None:
    assert not [a for _, a in page.elements if "src" in a or "href" in a]
    assert sum(len(s) > 1_000_000 for s in page.scripts) == 1


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


def test_importing_the_report_loads_neither_jinja2_nor_plotly() -> None:
    code = "import sys, pytest_agentperf.report; print({'jinja2', 'plotly'} & sys.modules.keys())"
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
