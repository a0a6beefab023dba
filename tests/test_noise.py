"""The command that measures noise, on the simulator in virtual time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf import calibrate
from pytest_agentperf.api_key import API_KEY_FILE_VARIABLE, API_KEY_VARIABLE
from pytest_agentperf.bundle import Bundle, encode_bundle
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.settings import make_settings
from pytest_agentperf.spread import parse_noise
from tests.gated import run
from tests.meter_pages import serving

DATASET = "synthetic:trajectories=8,turns=3,isl=1500,osl=20,tool_s=0.1,seed=1"


def baseline(tmp_path: Path, *, key_file: str | None = None, **changes: Any) -> Bundle:
    settings = make_settings(
        {
            "endpoint": "sim+virtual:?max_sequences=8",
            "dataset": DATASET,
            "mode": "smoke",
            "results": str(tmp_path / "repeats"),
        }
    )
    settings = replace(settings, api_key_file=key_file)
    made = run(capacity=(3, 3, 3))
    facts = replace(made.models[0].dataset, sha256=load_dataset(DATASET, None).sha256)
    model = replace(made.models[0], dataset=replace(facts, **changes))
    bundle = replace(made, settings=settings, models=(model,), system=None)
    (tmp_path / "bundle.json").write_bytes(encode_bundle(bundle))
    return bundle


def test_repeats_with_other_seeds_are_written_beside_thebaseline(tmp_path: Path) -> None:
    baseline(tmp_path)
    assert calibrate.main(["noise", str(tmp_path), "--repeats", "5"]) == 0
    found = parse_noise((tmp_path / "noise.json").read_bytes(), "n")
    (spread,) = found.spreads
    assert (spread.agents, len(found.runs)) == (3, 5)
    assert set(spread.figures) >= {"output_speed_tok_per_s.p25", "ttft_s.p95", "reused_ratio"}
    assert {len(values) for values in spread.figures.values()} == {5}
    assert len(set(spread.figures["ttft_s.p95"])) > 1
    assert len(list((tmp_path / "repeats").iterdir())) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--repeats", "2"], "error: --repeats 2: at least 5 tell of a spread\n"),
        (
            ["--dataset", DATASET.replace("seed=1", "seed=2")],
            "; name the one that the baseline replayed\n",
        ),
    ],
    ids=["too few", "another dataset"],
)
def test_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    baseline(tmp_path)
    assert calibrate.main(["noise", str(tmp_path), *arguments]) == 4
    assert capsys.readouterr().err.endswith(said)
    assert not (tmp_path / "noise.json").exists()


def test_the_endpoint_is_asked_with_the_key_of_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (API_KEY_VARIABLE, API_KEY_FILE_VARIABLE):
        monkeypatch.setenv(name, "")
    (tmp_path / "key").write_text("sk-planted-9f3b", "utf-8")
    baseline(tmp_path, key_file=str(tmp_path / "key"))
    with serving(lambda _path, _query: '{"data": [{"id": "another"}]}') as server:
        asked = ["noise", str(tmp_path), f"--endpoint={server.url}/v1"]
        assert calibrate.main(asked) == 4
        seen = {name.lower(): value for name, value in server.seen.items()}
    assert seen["authorization"] == "Bearer sk-planted-9f3b"
    assert "does not serve model" in capsys.readouterr().err
