"""Pictures of one phase hold its numbers."""

from dataclasses import replace

from pytest_agentperf.phase_charts import phase_charts
from pytest_agentperf.plots import Plot
from pytest_agentperf.profile import Histogram, PhaseProfile
from pytest_agentperf.slo import Limit, SLOTier
from pytest_agentperf.timeline import Timeline
from tests.bundles import GPT, example_bundle

PHASE = example_bundle().phases[0]
SEEN = Timeline(
    window_s=(1.0, 3.0),
    started=(1, 2, 2, 2),
    in_flight=(0.5, 1.0, 2.0, 2.0),
    waiting=(0.0, 0.0, 1.0, 0.0),
    output_tokens=(0.0, 10.0, 30.0, 99.0),
)


def drawn(seen: Timeline | None = None, profile: PhaseProfile | None = None) -> dict[str, Plot]:
    return {plot.name: plot for plot in phase_charts(PHASE, GPT.tiers, seen, profile)}


def test_without_records_there_is_nothing_to_draw():
    assert drawn() == {}


def test_the_steady_window_is_shaded_and_summed_up():
    plots = drawn(SEEN)
    assert set(plots) == {"load", "tokens"}
    assert plots["load"].band == ("25.00", "50.00")
    assert [(line.name, line.told) for line in plots["load"].lines] == [
        ("agents started", "mean 2, most 2 (n = 2 s)"),
        ("requests in flight", "mean 1.50, most 2 (n = 2 s)"),
        ("waiting for a first token", "mean 0.5, most 1 (n = 2 s)"),
    ]
    assert plots["tokens"].lines[0].told == "mean 20 tok/s, most 30 tok/s (n = 2 s)"


def test_a_long_phase_is_drawn_by_means():
    # 1,500 s, 150 points: a point is 10 s. Every second one draws 10 W, so that all draw 5 W.
    seen = replace(
        SEEN,
        window_s=(0.0, 1500.0),
        started=(2,) * 1500,
        in_flight=(1.0,) * 1500,
        waiting=(0.0,) * 1500,
        output_tokens=(1.0,) * 1500,
        power_w={"nvml": (0.0, 10.0) * 750},
    )
    power = drawn(seen)["power"]
    assert power.lines[0].path.count("L") == 149
    assert power.note == "a point is the mean of 10 s"
    heights = {point.split()[1] for point in power.lines[0].path[1:].split("L")}
    assert heights == {"74"}  # 5 of 5 * 1.08: 1000 * (1 - 1 / 1.08)
    assert power.x_title == "min"


def test_ratios_of_counters_are_percent_of_each_second():
    told = {
        "prefix_hits": (None, 30.0, 0.0, 5.0),
        "prefix_queries": (None, 40.0, 0.0, 5.0),
        "kv_use_ratio": (0.1, 0.5, 0.7, 0.9),
        "running": (1.0, 1.0, 2.0, 3.0),
        "deep queue": (1.0, 2.0, 3.0, 4.0),
        "preemptions": (0.0, 0.0, 0.0, 0.0),
    }
    plots = drawn(replace(SEEN, server=told))
    caches = {line.name: line.told for line in plots["caches"].lines}
    assert caches == {
        "KV cache in use": "mean 60 %, most 70 % (n = 2 s)",
        "prefix-cache hits": "mean 75 %, most 75 % (n = 1 s)",
    }
    assert "server.deep queue" in plots
    assert "preemptions" not in plots  # never one


def test_a_share_over_a_span_is_of_the_counts_and_not_a_mean_of_shares():
    # 90 of 100 and 0 of 10 in the window: 82 %, and not the mean of 90 % and 0 %.
    told = {
        "prefix_hits": (None, 90.0, 0.0, 5.0),
        "prefix_queries": (None, 100.0, 10.0, 5.0),
        "drafted": (None, 10.0, 90.0, None),
        "accepted": (None, 10.0, 0.0, None),
        "prefix_hit_ratio": (0.5, 0.5, 0.5, 0.5),
    }
    caches = drawn(replace(SEEN, server=told))["caches"]
    assert [(line.name, line.told) for line in caches.lines] == [
        ("prefix-cache hits", "mean 81.8 %, most 90 % (n = 2 s)"),
        ("drafts accepted", "mean 10 %, most 100 % (n = 2 s)"),
    ]


def test_points_of_a_long_phase_are_shares_of_the_counts_too():
    # 300 s, 150 points of 2 s: 90 of 100 and 0 of 300 make 22.5 %; the axis ends at 1.08 times.
    seen = replace(
        SEEN,
        window_s=(0.0, 300.0),
        started=(2,) * 300,
        in_flight=(1.0,) * 300,
        waiting=(0.0,) * 300,
        output_tokens=(1.0,) * 300,
        server={"prefix_hits": (90.0, 0.0) * 150, "prefix_queries": (100.0, 300.0) * 150},
    )
    caches = drawn(seen)["caches"]
    assert {point.split()[1] for point in caches.lines[0].path[1:].split("L")} == {"74"}
    assert [t.value for t in caches.y_ticks][-1] <= 22.5 * 1.08


def test_a_share_without_its_counts_has_no_mean():
    told = {"prefix_hit_ratio": (0.1, 0.5, 0.7, 0.9)}
    caches = drawn(replace(SEEN, server=told))["caches"]
    assert caches.lines[0].told == "most 70 % (n = 2 s)"


def test_what_is_not_drawn_is_counted():
    eight = {f"gauge {i}": (1.0, 1.0, 1.0, 1.0) for i in range(8)}
    plots = drawn(replace(SEEN, server=eight, power_w={f"meter {k}": v for k, v in eight.items()}))
    assert len(plots["power"].lines) == 6
    assert plots["power"].note == "2 more not drawn"
    named = [plot for name, plot in plots.items() if name.startswith("server.")]
    assert [plot.note for plot in named] == [*[""] * 5, "2 more not drawn"]


def test_limits_near_the_values_are_drawn_and_far_ones_named():
    histogram = Histogram(low=0.5, high=4.0, counts=(3, 0, 1), apart=2)
    plot = drawn(profile=PhaseProfile(ttft_s=histogram, output_speed_tok_per_s=None, by={}))[
        "histogram.ttft_s"
    ]
    assert [line.value for line in plot.verticals] == [1.0, 2.0, 3.0, 5.0]
    assert plot.note == ("n = 6; 2 failed requests count as ∞, which has no place in the picture")
    narrow = replace(histogram, low=0.1, high=0.2, apart=0)
    plot = drawn(profile=PhaseProfile(ttft_s=narrow, output_speed_tok_per_s=None, by={}))[
        "histogram.ttft_s"
    ]
    assert plot.verticals == ()
    assert (
        plot.note
        == "n = 4; limits outside it: slo-1 P95 ≤ 5, slo-2 P95 ≤ 3, slo-3 P95 ≤ 2, slo-4 P95 ≤ 1 s"
    )


def test_a_limit_on_any_percentile_is_drawn():
    # As rescored: MLPerf's P90 beside the published P95, both at 2 s.
    mlperf = SLOTier(
        model="m", name="mlperf", limits=(Limit(metric="ttft_s", statistic="p90", value=2.0),)
    )
    speed = Limit(metric="output_speed_tok_per_s", statistic="p10", value=30.0)
    strict = replace(mlperf, name="strict", limits=(*mlperf.limits, speed))
    histogram = Histogram(low=0.5, high=40.0, counts=(3, 0, 1), apart=0)
    profile = PhaseProfile(ttft_s=histogram, output_speed_tok_per_s=histogram, by={})
    tiers = (GPT.tiers[2], mlperf, strict)
    plots = {plot.name: plot for plot in phase_charts(PHASE, tiers, None, profile)}
    drawn = [line.text for line in plots["histogram.ttft_s"].verticals]
    assert drawn == ["slo-3: P95 ≤ 2", "mlperf, strict: P90 ≤ 2"]
    (line,) = plots["histogram.output_speed_tok_per_s"].verticals
    assert (line.text, line.value) == ("strict: P10 ≥ 30", 30.0)
