"""The table of what a capacity is per unit."""

from dataclasses import replace

from pytest_agentperf.normalize import Capacity
from pytest_agentperf.tables import normalized_table, table
from tests.bundles import example_bundle


def capacities(**changes: object) -> list[Capacity]:
    bundle = example_bundle(**changes)  # pyright: ignore[reportArgumentType] its own arguments
    return list(bundle.capacities)


def row(text: str, head: str) -> list[str]:
    line = next(x for x in text.splitlines() if x.startswith(f"│ {head}"))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_agents_and_throughput_stand_side_by_side():
    found = [c for c in capacities() if c.status == "found"]
    text = normalized_table(found, 160)
    cells = row(text, "accelerator")
    first = found[0]
    assert cells[1].startswith(f"{first.per.per_accelerator:g}"[:4])
    assert " · " in cells[1]


def test_a_lower_bound_stays_one_per_unit():
    found = next(c for c in capacities(models=2) if c.status == "at-limit")
    cells = row(normalized_table([found], 160), "accelerator")
    # 64 agents, and the 64 × 33.5 × 0.4 tok/s that they had, on 8 accelerators.
    assert cells[1] == "≥ 8 · 107.2"


def test_a_unit_that_is_not_known_has_its_reason():
    text = normalized_table(capacities(), 200)
    assert row(text, "rack")[1] == "-"
    assert row(text, "rack")[-1] == "system.yaml: racks"
    assert row(text, "MW, at the wall")[-1] == "no meter of the whole chassis"


def test_energy_of_a_token_has_a_row():
    energy = next(e for c in capacities() if (e := c.energy_j_per_output_token) is not None)
    assert f"{energy:.2f}"[:3] in " ".join(row(normalized_table(capacities(), 200), "J per"))


def test_nothing_to_divide_by_is_no_table():
    bare = [
        replace(
            c,
            energy_j_per_output_token=None,
            per=replace(c.per, per_megawatt=None),
            throughput_per=replace(c.throughput_per, per_megawatt=None),
        )
        for c in capacities(system=None)
    ]
    assert normalized_table(bare, 120) == ""
    assert normalized_table([], 120) == ""
    unfinished = [replace(c, status="open") for c in capacities()]
    assert normalized_table(unfinished, 120) == ""


def test_a_table_is_at_least_eighty_wide():
    assert max(map(len, table("t", ["Tier", "n"], [["a", "1"]], 10).splitlines())) <= 80


def test_markup_and_escapes_in_a_name_are_text():
    text = table("[red]m[/]\x1b[2J", ("Tier", "n"), [("[bold]t", "1"), (":smile:[/x]", "2")], 80)
    assert text.startswith("[red]m[/]\\x1b[2J\n")
    assert "│ [bold]t     │ 1 │" in text
    assert "│ :smile:[/x] │ 2 │" in text
