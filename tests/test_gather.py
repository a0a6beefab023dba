"""What importers of recordings share: nothing in a file may end one but a told mistake."""

import tempfile
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers import load_dataset, mini_swe_agent, opencode, sessions
from pytest_agentperf.importers.gather import stem
from pytest_agentperf.trajectory import Message, prompts
from tests import test_mini_swe_agent
from tests.recorded import imported, of_json
from tests.sessions_in import SOURCES, encoded

STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["role", "content", "id", "type", "parts"]), inner)
    ),
    max_leaves=4,
)


# The others have rules of their own for a folder or for what is malformed.
FORMATS = [name for name in SOURCES if name not in {"native", "recording", "agentperf-local"}]
EVERY_FORMAT = pytest.mark.parametrize("name", FORMATS)


def loader(importer: str) -> Any:
    module = import_module(f"pytest_agentperf.importers.{importer.replace('-', '_')}")
    return module.load


def known(name: str) -> tuple[Any, str, list[Any]]:
    """Return how a format is read, what its file is called, and what stands in it."""
    source = SOURCES[name]
    ((file, records),) = source.files.items()
    return loader(source.importer), file, list(records)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything inside a JSON value."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    elif isinstance(value, list):
        children = enumerate(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return [path, *(spot for key, inner in children for spot in spots(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@EVERY_FORMAT
def test_the_whole_one_is_read(tmp_path: Path, name: str):
    load, file, records = known(name)
    (tmp_path / file).write_bytes(encoded(records))
    for trajectory in imported(load, tmp_path / file).trajectories:
        assert all(prompts(trajectory))


@EVERY_FORMAT
@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_a_strange_value_anywhere_is_a_told_mistake_or_none(name: str, data: st.DataObject):
    load, file, records = known(name)
    path = data.draw(st.sampled_from(spots(records)))
    changed = replaced(records, path, data.draw(STRANGE))
    with tempfile.TemporaryDirectory() as folder:
        content = cast("list[Any]", changed if isinstance(changed, list) else [changed])
        Path(folder, file).write_bytes(encoded(content))
        try:
            dataset = load(str(Path(folder, file)))
        except ConfigError:
            return
        for trajectory in dataset.trajectories if dataset else ():
            assert all(prompts(trajectory))


@EVERY_FORMAT
@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.data())
def test_a_file_that_is_cut_short_is_a_told_mistake_or_none(name: str, data: st.DataObject):
    load, file, records = known(name)
    whole = encoded(records)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, file).write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        try:
            dataset = load(folder)
        except ConfigError:
            return
    for trajectory in dataset.trajectories if dataset else ():
        assert all(prompts(trajectory))


@EVERY_FORMAT
@example(depth=100_000, opener="[")
@example(depth=100_000, opener='{"messages":')
@settings(derandomize=True, deadline=None, max_examples=3)
@given(depth=st.integers(500, 5_000), opener=st.sampled_from(["[", '{"a":', '{"trajectory":[']))
def test_deep_nesting_is_a_told_mistake_or_none(name: str, depth: int, opener: str):
    load, file, records = known(name)
    start = encoded(records[:1])[:-1] + b',"extra":'
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, file).write_bytes(start + opener.encode() * depth)
        try:
            dataset = load(folder)
        except ConfigError:
            return
    for trajectory in dataset.trajectories if dataset else ():
        assert all(prompts(trajectory))


@EVERY_FORMAT
def test_formats_are_told_apart(tmp_path: Path, name: str):
    _, file, records = known(name)
    (tmp_path / file).write_bytes(encoded(records))
    others = {one.importer for one in SOURCES.values()} - {SOURCES[name].importer}
    assert {other: loader(other)(str(tmp_path)) for other in others} == dict.fromkeys(others)


def test_an_archive_is_read_like_a_folder(tmp_path: Path):
    load, _, (record,) = known("mini-swe-agent")
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as archive:
        archive.writestr("a/x.traj.json", msgspec.json.encode(record))
        archive.writestr("README.md", "words")
    dataset = imported(load, tmp_path / "runs.zip")
    assert (dataset.name, len(dataset.trajectories)) == ("runs", 1)
    assert "1 files of other formats were left out" in dataset.losses


@pytest.mark.parametrize(
    ("name", "short"),
    [("a/b.traj.json.xz", "b"), ("runs.tar.zst", "runs"), ("a/b/", "b"), ("v1.2.jsonl", "v1.2")],
)
def test_a_dataset_is_called_by_its_file_without_endings(name: str, short: str):
    assert stem(name) == short


@EVERY_FORMAT
@pytest.mark.parametrize("ending", ["", ".xz"], ids=["cut short", "not unpacked"])
def test_a_damaged_file_is_told_with_its_name(tmp_path: Path, name: str, ending: str):
    _, file, records = known(name)
    path = tmp_path / f"{file}{ending}"
    path.write_bytes(b"no such thing" if ending else encoded(records)[:-9])
    told = refusal_or_losses(str(path))
    assert file in told
    assert "in no format" not in told


def refusal_or_losses(source: str) -> str:
    try:
        return " ".join(load_dataset(source).losses)
    except ConfigError as error:
        return str(error)


def mixed(folder: Path) -> None:
    of_json(opencode.load, folder / "a.json", exported())
    of_json(mini_swe_agent.load, folder / "b.traj.json", test_mini_swe_agent.WHOLE)
    (folder / "c.json.xz").write_bytes(b"no such thing")
    (folder / "notes.md").write_text("notes")


def exported() -> Any:
    return SOURCES["opencode"].files["a.json"][0]


def test_a_folder_of_several_formats_is_read_in_part_and_told(tmp_path: Path):
    mixed(tmp_path)
    for load, name in ((opencode.load, "ses_1"), (mini_swe_agent.load, "clock-1")):
        dataset = imported(load, tmp_path, strict=False)
        assert [one.id for one in dataset.trajectories] == [name]
        assert "2 files of other formats were left out" in dataset.losses
        assert any("1 malformed" in loss and "c.json.xz: cannot" in loss for loss in dataset.losses)


def test_a_damaged_file_among_others_ends_a_strict_import(tmp_path: Path):
    mixed(tmp_path)
    with pytest.raises(ConfigError, match=r"c.json.xz: cannot be unpacked"):
        opencode.load(str(tmp_path), strict=True)


def test_a_damaged_file_is_nobody_s_where_nothing_else_fits(tmp_path: Path):
    (tmp_path / "a.json.xz").write_bytes(b"no such thing")
    assert opencode.load(str(tmp_path)) is None


def run(*answers: Any, name: str = "clock-1") -> Any:
    return test_mini_swe_agent.session(*answers, name=name)


ONE, TWO = test_mini_swe_agent.answer(tokens=50), test_mini_swe_agent.answer(tokens=90)


@pytest.mark.parametrize(
    ("runs", "turns"),
    [
        ([run(ONE), run(ONE, TWO)], [2]),
        ([run(ONE), run(TWO, ONE)], [1, 2]),
        ([run(ONE), run(ONE, name="clock-2")], [1]),
    ],
    ids=["an early copy", "the same id only", "the same content only"],
)
def test_a_session_is_taken_once(tmp_path: Path, runs: list[Any], turns: list[int]):
    for number, one in enumerate(runs):
        of_json(mini_swe_agent.load, tmp_path / f"{number}.traj.json", one)
    dataset = imported(mini_swe_agent.load, tmp_path)
    assert sorted(len(one.turns) for one in dataset.trajectories) == turns
    told = "1 sessions were recorded twice and taken once" in dataset.losses
    assert told == (len(turns) == 1)


def test_a_session_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "MAX_MESSAGES", 5)
    session = sessions.Session()
    for length in (2, 3):
        session.ask([Message(role="user", content="go")] * length)
    with pytest.raises(ConfigError, match="come to more than 5 messages; give shorter sessions"):
        session.ask([Message(role="user", content="go")])
