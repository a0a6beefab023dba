"""A run that is killed at any moment is gone on with, and nothing that was written is lost."""

import random
from pathlib import Path

import pytest

from benchmarks.flaky import Found, Trouble, search
from benchmarks.kills import SMALL, kill_and_resume


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Path]:
    """A run, and the log of its requests."""
    results = tmp_path_factory.mktemp("truth")
    found = search(SMALL, results)
    return found, results / found.bundle.provenance.run / "requests.jsonl"


# An undisturbed run takes about a second; on a slower machine less of it is done by then.
@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.7])
def test_a_killed_run_ends_as_if_it_had_not_been(
    undisturbed: tuple[Found, Path], tmp_path: Path, after_s: float
) -> None:
    truth, log = undisturbed
    assert kill_and_resume(after_s, tmp_path, truth, log).wrong == []


@pytest.mark.parametrize(("seed", "allowed"), [(1, 0.2), (3, 0.01)])
def test_a_search_that_is_failed_at_random_is_right_or_has_no_answer(
    undisturbed: tuple[Found, Path], tmp_path: Path, seed: int, allowed: float
) -> None:
    truth, _ = undisturbed
    since_s = random.Random(seed).uniform(0.1, 0.9) * truth.bundle.system_s
    trouble = Trouble(
        small=True, seed=seed, failing=0.01, allowed=allowed, down_s=(since_s, since_s + 8)
    )
    found = search(trouble, tmp_path)
    if found.capacity.status == "invalid":
        assert found.reasons
        assert "invalid phase" in found.capacity.explanation
    else:
        assert found.is_right(truth.capacity)
