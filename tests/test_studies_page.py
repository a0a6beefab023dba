"""docs/studies.md shows what the studies have written; `python -m benchmarks.tables` writes it."""

import json

from benchmarks.saturated import count
from benchmarks.tables import page
from tests.test_options_page import PAGE as OPTIONS


def test_the_tables_are_those_of_the_data() -> None:
    text = (OPTIONS.parent / "studies.md").read_text("utf-8")
    assert "| `smooth` (40 / 12 / 1) |" in text
    assert page(text) == text


def test_a_search_finds_what_its_phases_can_tell() -> None:
    path = OPTIONS.parents[1] / "tests" / "data" / "study" / "exhaustive.json"
    shapes = json.loads(path.read_text("utf-8"))["shapes"]
    assert {"queue", "smooth"} <= set(shapes)
    assert all(len(row["answers"]) >= 20 and row["exact_equal"] >= 0.95 for row in shapes.values())


def test_the_gate_cries_wolf_in_less_than_one_of_sixteen_and_finds_what_it_says() -> None:
    path = OPTIONS.parents[1] / "tests" / "data" / "study" / "gate.json"
    found = json.loads(path.read_text("utf-8"))
    whole = [row for row in found["same"] if row["comparisons"] == 50]
    assert {(row["shape"], row["agents"]) for row in whole} == {
        ("small", 5),
        ("smooth", 12),
        ("smooth", 40),
    }
    assert all(row["repeats"]["regressed"] <= 3 for row in whole)
    assert sum(row["repeats"]["regressed"] for row in found["same"]) <= 0.06 * sum(
        row["comparisons"] for row in found["same"]
    )
    counts = {(r["case"], r["shape"], r["agents"]): r["repeats"] for r in found["changed"]}
    for agents in (12, 40):
        decode = counts["decode", "smooth", agents]
        assert decode["by_figure"]["output_speed_tok_per_s.p25"]["regressed"] == 10
        assert "regressed" not in decode["by_figure"]["ttft_s.p95"]
        prefill = counts["prefill", "smooth", agents]
        assert prefill["by_figure"]["ttft_s.p95"]["regressed"] == 10
    # The phases of a cache that is a tenth smaller: where reuse is lost steadily, and in bursts.
    smaller = [counts["kv", *at]["by_figure"] for at in (("partial", 44), ("cliff", 36))]
    assert smaller[0]["reused_ratio"]["regressed"] == 10
    assert smaller[0]["ttft_s.p95"].get("regressed", 0) == 0
    assert smaller[1]["reused_ratio"]["regressed"] >= 6
    slower = [row for row in found["pairs"] if row["case"] == "decode-3"]
    assert [row["4 pairs"]["regressed"] for row in slower] == [4, 4]


def test_a_client_whose_times_are_wrong_is_caught_and_one_that_is_only_late_is_not() -> None:
    path = OPTIONS.parents[1] / "tests" / "data" / "study" / "saturated.json"
    found = json.loads(path.read_text("utf-8"))
    assert count(found["each"]).items() <= found.items()
    assert found["wrong"] >= 12
    assert found["wrong_and_invalid"] >= 0.95 * found["wrong"]
    assert found["right"] >= 60
    assert found["right_and_invalid"] <= 0.05 * found["right"]
