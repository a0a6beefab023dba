"""Two endpoints in turns, on the simulator in virtual time."""

import json
from pathlib import Path

import pytest

from pytest_agentperf import pairs
from pytest_agentperf.compare import compare_pairs
from tests.gated import run
from tests.test_noise import baseline

SLOWER = "sim+virtual:?max_sequences=8&step_overhead_s=0.02"


def test_a_slower_endpoint_is_found_in_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline(tmp_path)
    assert pairs.main([str(tmp_path), f"--endpoint-b={SLOWER}"]) == 1
    said = capsys.readouterr().out
    turns = [line[-1] for line in said.splitlines() if line.startswith("pair ")]
    assert "".join(turns) == "ABBAABBA"
    assert said.splitlines()[-1].startswith("SERVER REGRESSED: P25 speed at 3 agents ")
    bundles = [json.loads(p.read_bytes()) for p in (tmp_path / "repeats").glob("*/bundle.json")]
    assert sorted(b["settings"]["seed"] for b in bundles) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_endpoint_beside_itself_has_not_regressed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = baseline(tmp_path).settings.endpoint
    assert pairs.main([str(tmp_path), f"--endpoint-b={same}"]) == 0
    assert "PASSED: nothing regressed" in capsys.readouterr().out


def test_a_dead_endpoint_has_a_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline(tmp_path)
    assert pairs.main([str(tmp_path), "--endpoint-b=http://127.0.0.1:9/v1"]) == 11
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("ENDPOINT DOWN: endpoint http://127.0.0.1:9/v1 does not answer")


def test_too_few_pairs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline(tmp_path)
    assert pairs.main([str(tmp_path), f"--endpoint-b={SLOWER}", "--pairs=3"]) == 4
    assert "at least 4 tell how far pairs lie apart" in capsys.readouterr().err


def test_a_pair_without_a_figure_has_not_passed() -> None:
    whole = (run().phases[0], run().phases[0])
    broken = (run().phases[0], run(speed=None).phases[0])
    found = compare_pairs([whole, whole, whole, broken], before="a", now="b", tiers={})
    assert found.verdict == "not comparable"
    (row,) = found.of("not comparable")
    assert row.reason == "1 of 4 pairs have no P25 speed at 35 agents"
