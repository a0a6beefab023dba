"""Which runs may be compared with: found on disk, and held against what would be measured now."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf import __version__
from pytest_agentperf.baseline import (
    accept,
    check_answers,
    differences,
    read_baseline,
    read_noise,
    verified_agents,
)
from pytest_agentperf.bundle import Bundle, Rescored, encode_bundle
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.spread import encode_noise
from pytest_agentperf.synthesis import synthesize
from tests.bundles import SYSTEM
from tests.gated import noise, run
from tests.test_resume import DATASET, INPUTS, models


def baseline(name: str = "baseline", started_at: str = "2026-11-21T07:00:00+00:00") -> Bundle:
    """A run by this version that kept every rule."""
    made = run(name)
    rules = tuple(replace(r, status="met") for r in made.models[0].conformance)
    spec = replace(made.models[0].spec, tiers=made.models[0].spec.tiers[:1])
    facts = replace(made.models[0].dataset, sha256=DATASET.sha256)
    versions = {**made.provenance.versions, "pytest-agentperf": __version__}
    return replace(
        made,
        provenance=replace(made.provenance, versions=versions, started_at=started_at),
        models=(replace(made.models[0], conformance=rules, spec=spec, dataset=facts),),
    )


def _write(folder: Path, bundle: Bundle, *, verdict: str | None = None) -> Path:
    at = folder / bundle.provenance.run
    at.mkdir(parents=True)
    (at / "bundle.json").write_bytes(encode_bundle(bundle))
    if verdict is not None:
        (at / "comparison.json").write_text(json.dumps({"verdict": verdict}), "utf-8")
    return at


def test_a_bundle_and_its_folder_name_the_same_run(tmp_path: Path) -> None:
    at = _write(tmp_path, baseline())
    by_folder, path = read_baseline(str(at))
    by_file, same = read_baseline(str(at / "bundle.json"))
    assert by_folder.provenance.run == by_file.provenance.run == "baseline"
    assert path == same == at / "bundle.json"


def test_of_a_history_the_last_conformant_run_counts_that_had_not_regressed(
    tmp_path: Path,
) -> None:
    _write(tmp_path, baseline("a", "2026-11-01"), verdict="unchanged")
    _write(tmp_path, baseline("c", "2026-11-02"))
    _write(tmp_path, baseline("b", "2026-11-03"), verdict="regressed")
    _write(tmp_path, replace(run("d"), capacities=()))
    found, _ = read_baseline(str(tmp_path))
    assert found.provenance.run == "c"


def test_what_a_gate_said_of_a_run_holds_for_its_copies(tmp_path: Path) -> None:
    at = _write(tmp_path, baseline("slow"), verdict="regressed")
    (tmp_path / "zzz-copy").mkdir()
    shutil.copy(at / "bundle.json", tmp_path / "zzz-copy")
    with pytest.raises(ConfigError, match="the last, slow, had itself regressed"):
        read_baseline(str(tmp_path))
    # Of two that are good, the run's own folder has what lies beside its bundle.
    (at / "comparison.json").unlink()
    assert read_baseline(str(tmp_path))[1] == at / "bundle.json"


def test_a_history_without_a_conformant_run_is_refused(tmp_path: Path) -> None:
    bad = baseline("a")
    rules = (replace(bad.models[0].conformance[0], status="not met"),)
    _write(tmp_path, replace(bad, models=(replace(bad.models[0], conformance=rules),)))
    said = r"none of its 1 runs is conformant; the last, a, does not meet: real coding-agent"
    with pytest.raises(ConfigError, match=said):
        read_baseline(str(tmp_path))


def test_a_missing_baseline_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no bundle\.json and no folder of runs"):
        read_baseline(str(tmp_path / "nowhere"))


def test_a_baseline_without_the_answer_is_an_error() -> None:
    lacking = replace(baseline(), capacities=())
    with pytest.raises(ConfigError, match="run baseline has no answer for gpt-oss-120b slo-1"):
        check_answers(lacking, models(baseline()))


def _differences(now: Bundle, **inputs: Any) -> list[str]:
    return differences(baseline(), now.settings, models(now), replace(INPUTS, **inputs))


def test_equal_runs_do_not_differ() -> None:
    now = baseline()
    settings = replace(
        now.settings,
        endpoint="http://new/v1",
        seed=9,
        gate="verify",
        start_agents=3,
        mode="fast",
        tokenizer_download=True,
    )
    assert _differences(replace(now, settings=settings)) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_steady_s": 60.0}, "--agentperf-min-steady-s was 600.0 and is 60.0"),
        ({"output": "exact"}, "--agentperf-output was 'natural' and is 'exact'"),
        ({"salt": "none"}, "--agentperf-salt was 'trajectory' and is 'none'"),
    ],
    ids=["floors", "answers", "salt"],
)
def test_settings_that_change_what_is_measured_differ(settings: dict[str, Any], said: str) -> None:
    now = baseline()
    assert _differences(replace(now, settings=replace(now.settings, **settings))) == [said]


def test_another_system_differs() -> None:
    other = replace(SYSTEM, accelerator="B300", accelerators=4)
    was = "--agentperf-system was '1 systems of 8 x NVIDIA H200 SXM in all' and is "
    assert _differences(baseline(), system=other) == [f"{was}'1 systems of 4 x B300 in all'"]
    assert _differences(baseline(), system=None) == [f"{was}'not declared'"]


def test_another_dataset_differs() -> None:
    other = synthesize(trajectories=2, turns=2, isl_tokens=5000, seed=2)
    (said,) = _differences(baseline(), dataset=other)
    assert said == f"dataset sha256 was {DATASET.sha256!r} and is {other.sha256!r}"


def test_another_client_version_differs() -> None:
    then = baseline()
    old = replace(then.provenance, versions={"pytest-agentperf": "0.0.1"})
    found = differences(replace(then, provenance=old), then.settings, models(then), INPUTS)
    assert found == [f"client version was '0.0.1' and is {__version__!r}"]


def test_another_model_and_other_limits_differ() -> None:
    now = baseline()
    spec = now.models[0].spec
    limits = (replace(spec.tiers[0].limits[0], value=99.0), *spec.tiers[0].limits[1:])
    stricter = replace(spec, tiers=(replace(spec.tiers[0], limits=limits),))
    run_now = replace(now, models=(replace(now.models[0], spec=stricter),))
    (said,) = _differences(run_now)
    assert said.startswith("gpt-oss-120b: tiers was 'slo-1 (output_speed_tok_per_s.p25 >= 100, ")
    other = replace(now, models=(replace(now.models[0], spec=replace(spec, model="m")),))
    assert _differences(other) == ["--agentperf-model was 'gpt-oss-120b' and is 'm'"]


def test_differences_refuse_or_are_marked(tmp_path: Path) -> None:
    at = _write(tmp_path, baseline())
    now = baseline()
    settings = replace(now.settings, baseline=str(at), salt="none")
    with pytest.raises(ConfigError) as refused:
        accept(settings, models(now), INPUTS)
    assert str(refused.value) == (
        "--agentperf-baseline: run baseline cannot be compared with: --agentperf-salt was "
        "'trajectory' and is 'none'. Make them equal, measure a new baseline, or pass "
        "--agentperf-compare-anyway, which marks the comparison"
    )
    gate, _ = accept(replace(settings, compare_anyway=True), models(now), INPUTS)
    assert gate.differences == ("--agentperf-salt was 'trajectory' and is 'none'",)


def test_verify_asks_about_the_capacities_that_there_are(tmp_path: Path) -> None:
    at = _write(tmp_path, baseline())
    now = baseline()
    settings = replace(now.settings, baseline=str(at), gate="verify")
    _, asked = accept(settings, models(now), INPUTS)
    assert asked.verify == {"gpt-oss-120b": {"slo-1": 35}}
    none = replace(now, capacities=(replace(now.capacities[0], agents=0),))
    assert verified_agents(none) == {}


def test_noise_lies_beside_the_baseline_or_where_it_is_named(tmp_path: Path) -> None:
    then = run()
    at = _write(tmp_path, then) / "bundle.json"
    assert read_noise(None, then, at) is None
    measured = noise(speed=(1.0, 1.1, 1.0, 0.9, 1.0))
    (at.parent / "noise.json").write_bytes(encode_noise(measured))
    assert read_noise(None, then, at) == measured
    assert read_noise(str(at.parent / "noise.json"), then, tmp_path / "b.json") == measured
    with pytest.raises(ConfigError, match=r"--agentperf-noise .*nowhere cannot be read"):
        read_noise(str(tmp_path / "nowhere"), then, at)
    with pytest.raises(ConfigError, match="measured with dataset 9f86d081884c, the baseline with"):
        read_noise(None, baseline(), at)


def test_a_rescored_run_is_no_baseline() -> None:
    mark = Rescored(run="r", bundle_sha256="0", client="0.1.0", changed=("requests of a part",))
    now = baseline()
    assert differences(replace(now, rescored=mark), now.settings, models(now), INPUTS) == [
        "the baseline judges run r again: requests of a part"
    ]


_OTHER_DATASET = synthesize(trajectories=2, turns=2, isl_tokens=5000, seed=2)


@pytest.mark.parametrize(
    ("inputs", "settings", "version", "said"),
    [
        ({"system": replace(SYSTEM, accelerators=4)}, {}, None, ["--agentperf-system was"]),
        ({"dataset": _OTHER_DATASET}, {}, None, ["dataset sha256 was"]),
        ({}, {"max_tokens": 99}, None, ["--agentperf-max-tokens was 16384 and is 99"]),
        ({}, {}, "0.0.1", ["client version was '0.0.1' and is"]),
        (
            {"system": None, "dataset": _OTHER_DATASET},
            {"tool_delay": "none"},
            "0.0.1",
            [
                "client version was",
                "--agentperf-system was",
                "--agentperf-tool-delay was",
                "dataset sha256 was",
            ],
        ),
    ],
    ids=["system", "dataset", "settings", "client", "all of them"],
)
def test_every_difference_is_refused_and_listed(
    tmp_path: Path,
    inputs: dict[str, Any],
    settings: dict[str, Any],
    version: str | None,
    said: list[str],
) -> None:
    then = baseline()
    if version is not None:
        versions = {"pytest-agentperf": version}
        then = replace(then, provenance=replace(then.provenance, versions=versions))
    asked = replace(then.settings, baseline=str(_write(tmp_path, then)), **settings)
    now = replace(INPUTS, **inputs)
    with pytest.raises(ConfigError) as refused:
        accept(asked, models(then), now)
    listed = str(refused.value).partition("cannot be compared with: ")[2].split("; ")
    assert len(listed) == len(said)
    assert all(line.startswith(start) for line, start in zip(listed, said, strict=True))
    gate, _ = accept(replace(asked, compare_anyway=True), models(then), now)
    assert len(gate.differences) == len(said)


def test_another_model_has_no_answer_in_the_baseline(tmp_path: Path) -> None:
    then = baseline()
    asked = replace(then.settings, baseline=str(_write(tmp_path, then)), compare_anyway=True)
    tier = replace(then.models[0].spec.tiers[0], model="m")
    spec = replace(then.models[0].spec, model="m", tiers=(tier,))
    other = replace(then, models=(replace(then.models[0], spec=spec),))
    with pytest.raises(ConfigError, match="run baseline has no answer for m slo-1; leave these"):
        accept(asked, models(other), INPUTS)


def test_turns_need_a_capacity_that_the_baseline_carries(tmp_path: Path) -> None:
    then = baseline()
    none = replace(then, capacities=(replace(then.capacities[0], agents=0),))
    asked = replace(none.settings, baseline=str(_write(tmp_path, none)), gate="ab")
    said = "--agentperf-gate ab: run baseline carries no agent of gpt-oss-120b slo-1; leave these"
    with pytest.raises(ConfigError, match=said):
        accept(asked, models(none), INPUTS)
