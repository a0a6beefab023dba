"""What is read of a run's folder, and what a damaged one still gives."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_agentperf.bundle import Bundle
from pytest_agentperf.profile import profile
from pytest_agentperf.run_records import RunRecords, raw_files
from pytest_agentperf.timeline import timeline
from tests.bundles import example_bundle
from tests.run_folders import LABELS, measurement_of, write_run


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    bundle = example_bundle()
    return replace(bundle, phases=bundle.phases[:3])


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("results"), bundle, requests=120, seconds=30)


def test_what_was_written_is_what_is_read(bundle: Bundle, folder: Path):
    records = RunRecords(folder)
    for phase in bundle.phases:
        seen = measurement_of(phase, requests=120, seconds=30)
        assert records.profile(phase) == profile(seen, LABELS)
        told = records.timeline(phase)
        assert told is not None
        assert told.in_flight == timeline(seen).in_flight
        assert told.power_w == timeline(seen).power_w


def test_a_phase_that_was_taken_over_is_read_where_it_was_measured(bundle: Bundle, folder: Path):
    taken = replace(bundle.phases[0], measured_in=folder.name)
    later = RunRecords(folder.parent / "20261122-000000-ffffff")
    assert later.profile(taken) == RunRecords(folder).profile(bundle.phases[0])
    assert later.profile(bundle.phases[0]) is None
    outside = replace(taken, measured_in=f"../../{folder.parent.name}/{folder.name}")
    assert later.profile(outside) == later.profile(taken)  # only beside the run's own folder


def test_half_a_line_and_a_strange_one_are_not_there(bundle: Bundle, folder: Path, tmp_path: Path):
    whole = (folder / "profiles.jsonl").read_bytes().splitlines(keepends=True)
    damaged = (
        whole[0],
        b'{"phase": 2, "ttft_s": "none"}\n',
        b"\xff\n",
        whole[2][: len(whole[2]) // 2],
    )
    (tmp_path / "profiles.jsonl").write_bytes(b"".join(damaged))
    records = RunRecords(tmp_path)
    assert records.profile(bundle.phases[0]) is not None
    assert records.profile(bundle.phases[1]) is None
    assert records.profile(bundle.phases[2]) is None
    assert records.timeline(bundle.phases[0]) is None


def test_files_are_named_with_their_sizes(folder: Path):
    found = {file.name: file.size_bytes for file in raw_files(folder)}
    assert set(found) == {"bundle.json", "requests.jsonl", "timeline.jsonl", "profiles.jsonl"}
    assert found["profiles.jsonl"] == (folder / "profiles.jsonl").stat().st_size
    assert raw_files(None) == ()
