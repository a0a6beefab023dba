"""Which importer reads a source, and what is said when none does."""

from pathlib import Path

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.importers.lines import read_lines
from pytest_agentperf.importers.native import dump
from pytest_agentperf.synthesis import synthesize

REPLAY = Path(__file__).parent / "data" / "agentperf_local"


def test_synthetic_sources_are_made_up():
    assert load_dataset("synthetic:turns=2,trajectories=3,isl=2000").name.startswith("synthetic:")


def test_a_replay_folder_is_found_without_naming_the_importer():
    assert load_dataset(str(REPLAY)).name == "Small works"


def test_a_native_file_is_found_without_naming_the_importer(tmp_path: Path):
    dataset = synthesize(trajectories=2, turns=2, isl_tokens=1000, osl_tokens=20)
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"".join(dump(dataset)))
    assert load_dataset(str(path)) == dataset


def test_a_named_importer_is_the_only_one_asked():
    assert load_dataset(str(REPLAY), "agentperf-local").name == "Small works"
    with pytest.raises(ConfigError, match=r"in no format that is understood here; .*: native"):
        load_dataset(str(REPLAY), "native")


def test_an_unknown_importer_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"no importer is called 'nativ'; did you mean 'native'\?"
    ):
        load_dataset(str(REPLAY), "nativ")


def test_a_missing_path_is_told_with_what_can_be_given_instead():
    with pytest.raises(ConfigError, match=r"'nowhere.jsonl' does not exist; give") as caught:
        load_dataset("nowhere.jsonl")
    assert "agentperf-local, native" in str(caught.value)
    assert "'synthetic:'" in str(caught.value)


def test_a_file_in_no_known_format_is_refused_with_the_known_ones(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("nothing to replay")
    with pytest.raises(
        ConfigError, match=r"notes.txt' is in no format .*: agentperf-local, native"
    ):
        load_dataset(str(path))


@pytest.mark.parametrize("ending", [".xz", ".gz"])
def test_damaged_compression_is_told(tmp_path: Path, ending: str):
    path = tmp_path / f"broken.jsonl{ending}"
    path.write_bytes(b"not compressed at all")
    with (
        path.open("rb") as file,
        pytest.raises(ConfigError, match=r"here: cannot be unpacked \(.*\); fetch the file again"),
    ):
        list(read_lines(file, path.name, "here"))
