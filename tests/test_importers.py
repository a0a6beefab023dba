"""Which importer reads a source, and what is said when none does."""

import sys
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers import (
    GENERAL,
    SPECIFIC,
    in_order,
    load_dataset,
    mini_swe_agent,
    opencode,
)
from pytest_agentperf.importers.lines import read_lines
from pytest_agentperf.importers.native import dump
from pytest_agentperf.synthesis import synthesize
from tests import test_mini_swe_agent
from tests.recorded import REAL, needs_real, of_json
from tests.sessions_in import SOURCES, encoded

REPLAY = Path(__file__).parent / "data" / "agentperf_local"
OURS = {
    name: f"pytest_agentperf.importers.{name.replace('-', '_')}:load"
    for name in (*SPECIFIC, *GENERAL)
}
PLUGIN = """
from pytest_agentperf.trajectory import Dataset, Message, Trajectory, Turn

TURN = Turn(kept=0, appended=(Message(role="user", content="hello"),))
ONE = (Trajectory(id="a", turns=(TURN,)),)

def old(source):
    return Dataset(name="old", trajectories=ONE) if source.endswith(".mine") else None

def new(source, *, strict=False):
    return Dataset(name=f"strict={strict}", trajectories=ONE) if source.endswith(".mine") else None

def greedy(source):
    return Dataset(name="greedy", trajectories=ONE)

def failing(source):
    return {}["no such key"]

def wrong(source):
    return 7
"""

Install = Callable[[Mapping[str, str]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make entry points known as an installed package would, beside the module they lead to."""

    def install(entries: Mapping[str, str]) -> None:
        site = tmp_path / "site"
        metadata = site / "test_importers-1.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Name: test-importers\nVersion: 1\n")
        listed = "\n".join(f"{name} = {value}" for name, value in entries.items())
        (metadata / "entry_points.txt").write_text(f"[pytest_agentperf.importers]\n{listed}\n")
        (site / "somebodys_importers.py").write_text(PLUGIN)
        monkeypatch.setattr(sys, "path", [*sys.path, str(site)])

    return install


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "sessions.mine"
    path.write_text("only a third party reads this")
    return str(path)


def test_synthetic_sources_are_made_up():
    dataset = load_dataset("synthetic:turns=2,trajectories=3,isl=2000")
    assert dataset.name.startswith("synthetic:")


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
    assert "agentperf-local, " in str(caught.value)
    assert "'synthetic:'" in str(caught.value)


def test_a_file_in_no_known_format_is_refused_with_the_known_ones(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("nothing to replay")
    with pytest.raises(ConfigError, match=r"notes.txt' is in no format .*: agentperf-local, .*nat"):
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


class TestSeveralFormats:
    def test_are_refused_with_a_file_of_each_and_what_to_do(self, tmp_path: Path):
        of_json(opencode.load, tmp_path / "b.json", SOURCES["opencode"].files["a.json"][0])
        of_json(mini_swe_agent.load, tmp_path / "a.traj.json", test_mini_swe_agent.WHOLE)
        (tmp_path / "notes.md").write_text("notes")
        (tmp_path / "c.json.xz").write_bytes(b"damaged")
        with pytest.raises(ConfigError) as caught:
            load_dataset(str(tmp_path))
        assert str(caught.value) == (
            f"dataset {str(tmp_path)!r} holds files of several formats: "
            "mini-swe-agent (a.traj.json), opencode (b.json); move those of each into a folder of "
            "its own, or name the importer whose files are to be read"
        )
        (one,) = load_dataset(str(tmp_path), "mini-swe-agent").trajectories
        assert one.id == "clock-1"

    def test_a_recording_counts_as_one(self, tmp_path: Path):
        of_json(mini_swe_agent.load, tmp_path / "a.traj.json", test_mini_swe_agent.WHOLE)
        for name, records in SOURCES["recording"].files.items():
            (tmp_path / name).write_bytes(encoded(records))
        with pytest.raises(
            ConfigError, match=r"several formats: recording \(.*, mini-swe-agent \("
        ):
            load_dataset(str(tmp_path))

    def test_files_of_no_format_do_not_matter(self, tmp_path: Path):
        of_json(mini_swe_agent.load, tmp_path / "a.traj.json", test_mini_swe_agent.WHOLE)
        (tmp_path / "notes.md").write_text("notes")
        (tmp_path / "result.json").write_text('{"resolved": true}')
        assert "2 files of other formats were left out" in load_dataset(str(tmp_path)).losses

    def test_importers_of_others_that_cannot_be_asked_are_passed_over(
        self, install: Install, tmp_path: Path
    ):
        install({"broken": "somebodys_importers:nothing", "old": "somebodys_importers:old"})
        of_json(mini_swe_agent.load, tmp_path / "a.traj.json", test_mini_swe_agent.WHOLE)
        assert len(load_dataset(str(tmp_path)).trajectories) == 1


def test_general_formats_are_asked_after_those_of_others_which_come_after_ours():
    names = ["openai-messages", "zebra", "native", "ant", "azure", "native"]
    assert in_order(names) == ("native", "azure", "ant", "zebra", "openai-messages")


def test_every_importer_of_the_package_has_its_place():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    entries = project["project"]["entry-points"]["pytest_agentperf.importers"]
    assert entries.items() <= OURS.items()


def test_an_importer_without_the_word_strict_is_asked_without_it(install: Install, mine: str):
    install({"theirs": "somebodys_importers:old"})
    assert load_dataset(mine, strict=True).name == "old"


def test_an_importer_that_knows_the_word_strict_is_told(install: Install, mine: str):
    install({"theirs": "somebodys_importers:new"})
    assert load_dataset(mine).name == "strict=False"
    assert load_dataset(mine, strict=True).name == "strict=True"


def test_ours_comes_before_a_third_party_that_takes_all(install: Install, mine: str):
    install({"aaa": "somebodys_importers:greedy"})
    assert load_dataset(str(REPLAY)).name == "Small works"
    assert load_dataset(mine).name == "greedy"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("failing", r"importer 'theirs' failed on '.*sessions.mine' \(KeyError: 'no such key'\); "),
        ("missing", r"importer 'theirs' failed on '.*' \(AttributeError: .*\); .* tell its"),
        ("wrong", r"importer 'theirs' returned int for '.*', not a Dataset or None; tell"),
    ],
    ids=["it raises", "it cannot be loaded", "it returns something else"],
)
def test_a_failing_importer_is_named(install: Install, mine: str, function: str, told: str):
    install({"theirs": f"somebodys_importers:{function}"})
    with pytest.raises(ConfigError, match=told):
        load_dataset(mine)


def test_the_order_of_members_does_not_change_the_digest(install: Install, tmp_path: Path):
    install(OURS)
    ask, answer = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"}
    digests: set[str] = set()
    for order in ("ab", "ba"):
        path = tmp_path / f"{order}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in order:
                ask["content"] = f"hello {name}"
                text = str({"messages": [ask, answer]}).replace("'", '"')
                archive.writestr(f"{name}.jsonl", text)
        dataset = load_dataset(str(path))
        assert len(dataset.trajectories) == 2
        digests.add(dataset.sha256)
    assert len(digests) == 1


@needs_real
@pytest.mark.parametrize(
    ("file", "format_"),
    [
        ("opencode", "opencode"),
        ("codex", "codex"),
        ("gemini-cli", "gemini-cli"),
        ("claude-code", "claude-code"),
        ("mini-swe-agent", "mini-swe-agent"),
        ("swe-agent", "swe-agent"),
        ("mlperf-agentic", "mlcommons"),
        ("kv-cache-traces", "kv-cache-tester"),
        ("agentperf-local-mini", "agentperf-local"),
    ],
)
def test_a_real_file_is_claimed_by_one_specific_importer_only(
    install: Install, file: str, format_: str
):
    install(OURS)
    folder = REAL / file
    smallest = min(folder.glob("*.xz"), key=lambda path: path.stat().st_size, default=folder)
    assert _claiming(smallest) - set(GENERAL) == {format_}


def _claiming(path: Path) -> set[str]:
    found: set[str] = set()
    for name in OURS:
        try:
            load_dataset(str(path), name)
        except ConfigError as error:
            found |= set() if "in no format that is understood" in str(error) else {f"{error}"}
        else:
            found.add(name)
    return found
