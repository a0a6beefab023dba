"""What is left of a run: written whole, read back as it was."""

import json
import math
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.bundle import Bundle, encode_bundle, read_bundle
from pytest_agentperf.errors import ConfigError, StorageError
from pytest_agentperf.records import TokenCount
from pytest_agentperf.run_folder import RunFolder, request_logs
from tests.bundles import example_bundle
from tests.phases import request


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [t for v in value.values() for t in _texts(v)]  # pyright: ignore[reportUnknownVariableType] plain JSON
    if isinstance(value, list):
        return [t for v in value for t in _texts(v)]  # pyright: ignore[reportUnknownVariableType] plain JSON
    return [value] if isinstance(value, str) else []


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@pytest.fixture
def bundle() -> Bundle:
    return example_bundle()


def test_a_bundle_reads_back_as_it_was(bundle: Bundle) -> None:
    assert read_bundle(encode_bundle(bundle), "b") == bundle


def test_infinity_is_a_text_and_no_other_number_is(bundle: Bundle) -> None:
    phases = json.loads(encode_bundle(bundle))["phases"]
    metrics = [phase["metrics"] for phase in phases]
    assert "inf" in _texts(metrics)
    assert not [text for text in _texts(metrics) if _is_number(text)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "b: not a bundle"),
        (b"[]", "b: not a bundle"),
        (b'{"schema": "agentperf-bundle/9"}', "b: schema is 'agentperf-bundle/9', this version"),
        (b'{"schema": "agentperf-bundle/1"}', "b: not a bundle: Object missing required field"),
    ],
    ids=["broken JSON", "a list", "a newer schema", "an empty bundle"],
)
def test_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_bundle(data, "b")
    assert str(refused.value).startswith(said)


def test_a_folder_holds_requests_as_they_end(tmp_path: Path, bundle: Bundle) -> None:
    folder = RunFolder(tmp_path, bundle)
    folder.turns(3, [request(trajectory="a"), request(trajectory="b", error="HTTP 500")])
    # Not closed: what has ended is on disk.
    rows = [json.loads(x) for x in (folder.path / "requests.jsonl").read_bytes().splitlines()]
    assert [(r["phase"], r["trajectory"], r["error"]) for r in rows] == [
        (3, "a", None),
        (3, "b", "HTTP 500"),
    ]
    folder.close()


def test_a_folder_holds_token_counts_of_their_own(tmp_path: Path, bundle: Bundle) -> None:
    folder = RunFolder(tmp_path, bundle)
    count = TokenCount(
        agent=0, ordinal=1, turn=4, osl_tokens=99, is_whole=True, first_chunk_tokens=3, isl_tokens=9
    )
    folder.token_counts(2, [count])
    (row,) = (folder.path / "token_counts.jsonl").read_text("utf-8").splitlines()
    assert json.loads(row) == {
        "phase": 2, "agent": 0, "ordinal": 1, "turn": 4, "osl_tokens": 99, "is_whole": True,
        "first_chunk_tokens": 3, "isl_tokens": 9,
    }  # fmt: skip
    folder.close()


def test_closing_writes_the_end_and_may_be_done_twice(tmp_path: Path, bundle: Bundle) -> None:
    folder = RunFolder(tmp_path, bundle)
    folder.close()
    folder.close()
    kept = read_bundle((folder.path / "bundle.json").read_bytes(), "b")
    assert kept.provenance.ended_at is not None
    assert sorted(p.name for p in folder.path.iterdir()) == ["bundle.json", "requests.jsonl"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match=r"--agentperf-results .*file: cannot write there"):
        RunFolder(tmp_path / "file", bundle)


@contextmanager
def few_bytes(most: int) -> Generator[None]:
    """Let no file of this process grow beyond some bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_leaves_the_bundle_before(tmp_path: Path, bundle: Bundle) -> None:
    folder = RunFolder(tmp_path, bundle)
    folder.turns(1, [request()])
    size = (folder.path / "bundle.json").stat().st_size
    said = f"results cannot be written to .*; make room, .*--agentperf-resume={folder.path.name}$"
    with few_bytes(2000):
        with pytest.raises(StorageError, match=said):
            folder.turns(1, [request()] * 10)
        with pytest.raises(StorageError, match=said):
            folder.update(idle=())
        with pytest.raises(StorageError):
            folder.close()
    assert (folder.path / "bundle.json").stat().st_size == size
    first, *_ = (folder.path / "requests.jsonl").read_bytes().splitlines()
    assert json.loads(first)["phase"] == 1


def test_the_log_is_read_while_it_is_written(tmp_path: Path, bundle: Bundle) -> None:
    folder = RunFolder(tmp_path, bundle)
    for number in range(3):
        folder.turns(1, [request(), request()])
        lines = (folder.path / "requests.jsonl").read_bytes().splitlines(keepends=True)
        assert len(lines) == 2 * number + 2
        assert all(line.endswith(b"}\n") and json.loads(line) for line in lines)
    folder.close()


def test_a_log_goes_on_in_another_file_and_loses_nothing(tmp_path: Path, bundle: Bundle) -> None:
    folder = RunFolder(tmp_path, bundle, most_log_bytes=1500)
    for number in range(24):
        folder.turns(1, [request(trajectory=str(number))])
    folder.close()
    logs = request_logs(folder.path)
    # Two lines of some 700 bytes each: the names have one digit and two, in order of numbers.
    assert [log.name for log in logs] == [
        "requests.jsonl", *(f"requests-{number}.jsonl" for number in range(2, len(logs) + 1))
    ]  # fmt: skip
    assert len(logs) == 12
    lines = [json.loads(line) for log in logs for line in log.read_bytes().splitlines()]
    assert [line["trajectory"] for line in lines] == [str(number) for number in range(24)]


@pytest.mark.parametrize("name", ["requests-x.jsonl", "requests-.jsonl", "other-2.jsonl"])
def test_other_files_are_no_log(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert request_logs(tmp_path) == (tmp_path / "requests.jsonl",)
