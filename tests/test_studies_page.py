"""docs/studies.md shows what the studies have written; `python -m benchmarks.tables` writes it."""

import json

from benchmarks.tables import page
from tests.test_options_page import PAGE as OPTIONS


def test_the_tables_are_those_of_the_data() -> None:
    text = (OPTIONS.parent / "studies.md").read_text("utf-8")
    assert "| `smooth` (40 / 12 / 1) |" in text
    assert page(text) == text


def test_the_gate_cries_wolf_in_less_than_one_of_sixteen_and_finds_what_it_says() -> None:
    path = OPTIONS.parents[1] / "tests" / "data" / "study" / "gate.json"
    found = json.loads(path.read_text("utf-8"))
    for row in found["same"]:
        assert row["repeats"]["regressed"] <= 0.06 * row["comparisons"]
    counts = {(r["case"], r["shape"], r["agents"]): r["repeats"] for r in found["changed"]}
    for agents in (12, 40):
        decode = counts["decode", "smooth", agents]
        assert decode["by_figure"]["output_speed_tok_per_s.p25"]["regressed"] == 10
        assert "regressed" not in decode["by_figure"]["ttft_s.p95"]
        prefill = counts["prefill", "smooth", agents]
        assert prefill["by_figure"]["ttft_s.p95"]["regressed"] == 10
    slower = [row for row in found["pairs"] if row["case"] == "decode-3"]
    assert [row["4 pairs"]["regressed"] for row in slower] == [4, 4]
