"""Which runs may be gone on with: read from disk, and held against what would be measured now."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.bench import Inputs, Models
from pytest_agentperf.bundle import Bundle, encode_bundle, read_bundle
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.resume import check_same, read_run
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.synthesis import synthesize
from tests.bundles import SYSTEM, example_bundle

DATASET = synthesize(trajectories=2, turns=2, isl_tokens=5000, seed=1)


def example() -> Bundle:
    """A run of two models, as it comes back from disk."""
    made = example_bundle(models=2)
    models = tuple(
        replace(m, dataset=replace(m.dataset, sha256=DATASET.sha256)) for m in made.models
    )
    return read_bundle(encode_bundle(replace(made, models=models)), "b")


def models(run: Bundle) -> Models:
    return Models(specs={m.spec.model: m.spec for m in run.models}, published={})


ENDPOINT = EndpointInfo(url="http://inference.example:8000/v1", server="vLLM 0.19.1")
INPUTS = Inputs(endpoint=ENDPOINT, dataset=DATASET, meters=(), system=SYSTEM)


def refused(run: Bundle, **now: Any) -> str:
    """Return what is said of the differences alone."""
    known: dict[str, Any] = {
        "settings": run.settings, "models": models(run), "inputs": INPUTS
    }  # fmt: skip
    with pytest.raises(ConfigError) as wrong:
        check_same(run, **(known | now))
    head = "--agentperf-resume: run 20261121-070000-a1b2c3 measured something else: "
    tail = ". Make them equal, or start a run without --agentperf-resume"
    said = str(wrong.value)
    assert said.startswith(head)
    assert said.endswith(tail)
    return said.removeprefix(head).removesuffix(tail)


def test_the_same_measurement_may_be_gone_on_with() -> None:
    run = example()
    check_same(run, run.settings, models(run), INPUTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "http://inference.example:8001/v1"},
        {"max_hours": 2.0, "resume": "before", "results": "elsewhere"},
        {"start_agents": 4, "max_agents": 9, "resolution": 0.1},
        {"workers": 3, "meter": "none", "progress_s": 1.0, "dataset": "a/copy"},
        {"tokenizer_download": True, "pairs": 9},
    ],
    ids=["address", "hours", "search", "surroundings", "fetching, and a gate's pairs"],
)
def test_what_changes_no_phase_may_differ(changes: dict[str, Any]) -> None:
    run = example()
    check_same(run, replace(run.settings, **changes), models(run), INPUTS)


def test_a_model_more_and_other_floors_of_agents_may_be_asked_for() -> None:
    run = example()
    specs = dict(models(run).specs)
    one = specs["gpt-oss-120b"]
    specs["gpt-oss-120b"] = replace(
        one, tiers=tuple(replace(t, min_agents=99) for t in one.tiers), aliases=("x",)
    )
    specs["another"] = replace(one, model="another")
    check_same(run, run.settings, Models(specs=specs, published={}), INPUTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 3}, "--agentperf-seed was 0 and is 3"),
        ({"min_steady_s": 60.0}, "--agentperf-min-steady-s was 600.0 and is 60.0"),
        ({"salt": "none"}, "--agentperf-salt was 'trajectory' and is 'none'"),
        (
            {"seed": 1, "mode": "smoke"},
            "--agentperf-mode was 'exact' and is 'smoke'; --agentperf-seed was 0 and is 1",
        ),
    ],
    ids=["seed", "floor", "salt", "two"],
)
def test_a_setting_that_changes_a_phase_is_named_with_both_values(
    changes: dict[str, Any], said: str
) -> None:
    run = example()
    assert refused(run, settings=replace(run.settings, **changes)) == said


def test_another_server_is_refused() -> None:
    other = replace(ENDPOINT, server="vLLM 0.20.0")
    assert refused(example(), inputs=replace(INPUTS, endpoint=other)) == (
        "server was 'vLLM 0.19.1' and is 'vLLM 0.20.0'"
    )


def test_a_server_with_another_setting_is_refused() -> None:
    run = example()
    told = {"/version version": "0.19.1", "/server_info tp_size": "8"}
    run = replace(run, provenance=replace(run.provenance, server_settings=told))
    same = replace(INPUTS, endpoint=replace(ENDPOINT, settings=told))
    check_same(run, run.settings, models(run), same)
    other = replace(ENDPOINT, settings=told | {"/server_info tp_size": "4"})
    assert refused(run, inputs=replace(INPUTS, endpoint=other)) == (
        "/server_info tp_size was '8' and is '4'"
    )


def test_the_address_of_a_simulated_system_is_the_system() -> None:
    run = example()
    run = replace(run, provenance=replace(run.provenance, simulated=True))
    simulated = EndpointInfo(url="sim:", server="vLLM 0.19.1", simulated=True)
    settings = replace(run.settings, endpoint="sim:h200x8/other")
    assert refused(run, settings=settings, inputs=replace(INPUTS, endpoint=simulated)) == (
        "--agentperf-endpoint was 'http://inference.example:8000/v1' and is 'sim:h200x8/other'"
    )


def test_another_system_is_refused_and_a_missing_one_is_not() -> None:
    run = example()
    check_same(run, run.settings, models(run), replace(INPUTS, system=None))
    twice = replace(SYSTEM, accelerators=16, systems=2)
    assert refused(run, inputs=replace(INPUTS, system=twice)) == (
        "--agentperf-system was '1 systems of 8 x NVIDIA H200 SXM in all' and is "
        "'2 systems of 16 x NVIDIA H200 SXM in all'"
    )


def test_another_dataset_is_refused() -> None:
    other = synthesize(trajectories=3, turns=2, isl_tokens=5000, seed=1)
    run = example()
    one = f"dataset sha256 was {DATASET.sha256!r} and is {other.sha256!r}"
    assert refused(run, inputs=replace(INPUTS, dataset=other)) == f"{one}; {one}"


def test_another_model_is_refused() -> None:
    run = example()
    only = {name: spec for name, spec in models(run).specs.items() if name == "gpt-oss-120b"}
    assert refused(run, models=Models(specs=only, published={})) == (
        "--agentperf-model was 'deepseek-v3.2' and is 'gpt-oss-120b'"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"request": {"top_p": 1.0}},
            "deepseek-v3.2: request was {'temperature': 1.0, 'top_p': 0.95} and is {'top_p': 1.0}",
        ),
        ({"context_tokens": 9}, "deepseek-v3.2: context_tokens was 131072 and is 9"),
    ],
    ids=["request fields", "context"],
)
def test_other_fields_of_a_model_are_refused(changes: dict[str, Any], said: str) -> None:
    run = example()
    specs = dict(models(run).specs)
    specs["deepseek-v3.2"] = replace(specs["deepseek-v3.2"], **changes)
    assert refused(run, models=Models(specs=specs, published={})) == said


def test_another_tier_is_refused_with_its_limits() -> None:
    run = example()
    specs = dict(models(run).specs)
    spec = specs["deepseek-v3.2"]
    loose = replace(spec.tiers[1], max_error_ratio=0.5)
    specs["deepseek-v3.2"] = replace(spec, tiers=(spec.tiers[0], loose, spec.tiers[2]))
    limits = "output_speed_tok_per_s.p25 >= 100, ttft_s.p95 <= 15"
    assert refused(run, models=Models(specs=specs, published={})) == (
        f"deepseek-v3.2: tiers was 'slo-2 ({limits}, error_ratio <= 0.01)' and is "
        f"'slo-2 ({limits}, error_ratio <= 0.5)'"
    )
    specs["deepseek-v3.2"] = replace(spec, tiers=spec.tiers[:1] + spec.tiers[2:])
    assert refused(run, models=Models(specs=specs, published={})) == (
        f"deepseek-v3.2: tiers was 'slo-2 ({limits}, error_ratio <= 0.01)' and is 'none other'"
    )


def test_a_run_is_found_by_name_and_by_folder(tmp_path: Path) -> None:
    run = example()
    folder = RunFolder(tmp_path, run)
    (folder.path / "bundle.json.part").write_text("{", "utf-8")  # killed while it was written
    before = sorted((p.name, p.read_bytes()) for p in folder.path.iterdir())
    assert read_run(run.provenance.run, str(tmp_path)) == run
    assert read_run(str(folder.path), "elsewhere") == run
    assert sorted((p.name, p.read_bytes()) for p in folder.path.iterdir()) == before
    folder.close()


def test_an_unknown_run_is_told_its_neighbour(tmp_path: Path) -> None:
    said = f"--agentperf-resume '20261121-070000': no such run in {tmp_path}; "
    with pytest.raises(ConfigError) as none:
        read_run("20261121-070000", str(tmp_path))
    assert str(none.value) == f"{said}there are none"
    folder = RunFolder(tmp_path, example())
    with pytest.raises(ConfigError) as other:
        read_run("20261121-070000", str(tmp_path))
    assert str(other.value) == f"{said}did you mean '20261121-070000-a1b2c3'?"
    folder.close()


@pytest.mark.parametrize(
    ("bundle", "said"),
    [
        (None, "cannot be read: "),
        (b'{"schema": "agentperf-bundle/1", "prov', "not a bundle: "),
        (b"\xff\xfe\x00", "not a bundle: "),
        (b'{"schema": "agentperf-bundle/7"}', "schema is 'agentperf-bundle/7', this version reads"),
    ],
    ids=["none", "half of one", "no text", "a newer schema"],
)
def test_a_run_that_cannot_be_read_is_refused(
    tmp_path: Path, bundle: bytes | None, said: str
) -> None:
    (tmp_path / "bundle.json.part").write_bytes(b"{")
    if bundle is not None:
        (tmp_path / "bundle.json").write_bytes(bundle)
    with pytest.raises(ConfigError, match=r"--agentperf-resume .*bundle\.json") as wrong:
        read_run(str(tmp_path), "results")
    assert said in str(wrong.value)
