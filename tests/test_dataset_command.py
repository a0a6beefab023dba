"""The command that looks at datasets, converts, divides and checks them."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.dataset import main
from pytest_agentperf.dataset_rules import problems
from pytest_agentperf.dataset_split import split
from pytest_agentperf.dataset_statistics import Statistics, statistics
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.importers.native import dump
from pytest_agentperf.trajectory import Dataset, Message, ToolCall, Trajectory, Turn

MADE_UP = "synthetic:trajectories=12,turns=3,isl=2000,osl=50"
SYSTEM = Message(role="system", content="s" * 400)
TASK = Message(role="user", content="t" * 800)
CALL = Message(role="assistant", tool_calls=(ToolCall(id="c", name="bash", arguments="a" * 396),))
RESULT = Message(role="tool", tool_call_id="c", content="r" * 1200)
REMINDER = Message(role="user", content="m" * 400)
FIRST = Turn(kept=0, appended=(SYSTEM, TASK))
SECOND = Turn(kept=2, appended=(CALL, RESULT))


def dataset(*turns: Turn, **fields: Any) -> Dataset:
    one = Trajectory(id="one", turns=turns, tools=fields.pop("tools", ()))
    return Dataset(name="small", trajectories=(one,), **fields)


def numbers(*turns: Turn, **fields: Any) -> Statistics:
    return statistics(dataset(*turns, **fields))


def write(path: Path, content: Dataset) -> str:
    path.write_bytes(b"".join(dump(content)))
    return str(path)


def output(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> str:
    assert main([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(word) for word in argv]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


class TestStatistics:
    def test_a_lasting_history_is_held_with_the_answer(self):
        # 100 + 200 tokens, then those and 100 of the answer and 300 of the result. The second
        # prompt's first 400 are held, of 300 + 700 in all.
        found = numbers(FIRST, SECOND)
        assert found.isl_tokens.mean == 500
        assert found.ideal_cache_hit_ratio == pytest.approx(0.4)
        assert (found.following, found.extending_ratio) == (1, 1.0)

    def test_behind_a_message_that_was_taken_away_nothing_is_held(self):
        # 100 + 200 + 100 for the reminder, then 700 of which the 300 before it are held.
        reminded = Turn(kept=0, appended=(SYSTEM, TASK, REMINDER))
        found = numbers(reminded, SECOND)
        assert found.extending_ratio == 0
        assert found.ideal_cache_hit_ratio == pytest.approx(300 / 1100)

    def test_schemas_are_held_until_they_change(self):
        schema: dict[str, Any] = {"x": "y" * (400 - len('[{"x":""}]'))}  # 100 tokens
        same = numbers(FIRST, SECOND, tools=(schema,))
        assert same.ideal_cache_hit_ratio == pytest.approx(500 / 1200)
        other = numbers(FIRST, replace(SECOND, tools=()), tools=(schema,))
        assert other.ideal_cache_hit_ratio == 0

    def test_recorded_lengths_weigh_the_held_shares(self):
        # 4/7 of the 1400 that the second prompt had, of 600 + 1400.
        found = numbers(
            replace(FIRST, recorded_isl_tokens=600), replace(SECOND, recorded_isl_tokens=1400)
        )
        assert found.ideal_cache_hit_ratio == pytest.approx(0.4)
        assert found.estimated_isl == 0

    def test_a_single_prompt_follows_none(self):
        found = numbers(FIRST)
        assert (found.following, found.extending_ratio) == (0, None)
        assert found.ideal_cache_hit_ratio == 0
        assert (found.osl_tokens, found.tool_s) == (None, None)

    def test_only_what_is_recorded_is_in_the_quantiles(self):
        turns = [replace(FIRST, tool_s=1.0), replace(SECOND, tool_s=3.0), Turn(kept=4, appended=())]
        found = numbers(*turns)
        assert found.tool_s is not None
        assert (found.tool_s.n, found.tool_s.mean, found.tool_s.p25) == (2, 2.0, 1.5)
        assert found.estimated_isl == 3

    def test_a_call_that_a_compaction_repeats_is_counted_once(self):
        twice = Turn(kept=0, appended=(SYSTEM, CALL, RESULT, CALL, RESULT))
        assert numbers(FIRST, SECOND, twice).tools == {"bash": 2}

    def test_what_is_counted_has_the_most_frequent_first(self):
        three = [replace(dataset(FIRST).trajectories[0], id=i, language=i[0]) for i in ("b", "a1")]
        three.append(replace(three[1], id="a2"))
        found = statistics(Dataset(name="small", trajectories=tuple(three)))
        assert list(found.languages.items()) == [("a", 2), ("b", 1)]
        assert found.languages_by_files == 0

    def test_nothing_to_count_is_refused(self):
        with pytest.raises(ConfigError, match=r"dataset 'small' holds no prompt; give another"):
            statistics(Dataset(name="small", trajectories=()))


class TestInspect:
    def test_shows_the_published_figures_beside(self, capsys: pytest.CaptureFixture[str]):
        lines = output(capsys, "inspect", MADE_UP).splitlines()
        assert "12 trajectories, 36 prompts (AA-AgentPerf's tuning set: 500, 18,997)" in lines[0]
        (mean,) = (line.split() for line in lines if line.startswith("mean"))
        assert mean == ["mean", "3", "38", "2,000", "27,000", "50", "-", mean[-2], "-"]

    def test_marks_what_is_estimated_and_missing(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ):
        turns = FIRST, replace(SECOND, recorded_isl_tokens=700, recorded_osl_tokens=9)
        source = write(tmp_path / "small.jsonl", dataset(*turns, losses=("2 images were lost",)))
        out = output(capsys, "inspect", source)
        assert "of 1 of 2 prompts it is not recorded, but estimated at 4 characters a token" in out
        assert "OSL: recorded for 1 of 2 answers\ntool delay: recorded for 0 of 2 answers" in out
        assert "extend their predecessor: 100 % of 1\nideal cache-hit ratio: 40 %" in out
        assert "tools (calls): bash 1\n" in out
        assert "languages (trajectories; of 1 by the files that calls name): unknown 1; AA" in out
        assert out.endswith("losses:\n  2 images were lost\n")

    def test_withholds_names_of_a_private_one(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ):
        secret = dataset(FIRST, SECOND, private=True, losses=("lost in hidden.json",))
        one = replace(secret.trajectories[0], language="COBOL", harness="inhouse")
        source = write(tmp_path / "x.jsonl", replace(secret, name="acme", trajectories=(one,)))
        for option in ([], ["--json"]):
            out = output(capsys, "inspect", source, *option)
            assert not any(w in out for w in ("acme", "COBOL", "inhouse", "bash", "hidden", "tttt"))
            assert replace(secret, trajectories=(one,)).sha256 in out

    def test_gives_programs_the_same(self, capsys: pytest.CaptureFixture[str]):
        out = output(capsys, "inspect", MADE_UP, "--json")
        told = msgspec.json.decode(out)
        assert msgspec.convert(told["dataset"], Statistics) == statistics(load_dataset(MADE_UP))
        assert told["agentperf_published"]["osl_tokens"] == {"p50": 150, "p95": 2000}

    def test_a_name_cannot_steer_the_terminal(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ):
        source = write(tmp_path / "x.jsonl", replace(dataset(FIRST), name="\x1b[2J[red]x"))
        assert output(capsys, "inspect", source).startswith("\N{REPLACEMENT CHARACTER}[2J[red]x: 1")

    def test_long_lists_of_tools_are_cut(self, capsys: pytest.CaptureFixture[str], tmp_path: Path):
        calls = tuple(ToolCall(id=f"{n}", name=f"t{n:02}", arguments="") for n in range(23))
        answer = Message(role="assistant", tool_calls=calls)
        turns = FIRST, Turn(kept=2, appended=(answer,))
        out = output(capsys, "inspect", write(tmp_path / "x.jsonl", dataset(*turns)))
        assert "t18 1, t19 1, and 3 more\n" in out

    def test_whoever_has_read_enough_may_go(self):
        command = [sys.executable, "-m", "pytest_agentperf.dataset", "inspect", MADE_UP]
        read, written = os.pipe()
        os.close(read)
        done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, check=False)
        os.close(written)
        assert (done.returncode, done.stderr) == (0, b"")

    def test_shows_progress_to_those_who_watch(self):
        told, shown = pty.openpty()
        command = [sys.executable, "-m", "pytest_agentperf.dataset", "inspect", MADE_UP]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=shown, check=True)
        os.close(shown)
        seen = os.read(told, 100_000)
        os.close(told)
        assert b"reading" in seen
        assert b"counting" in seen
        assert b"reading" not in done.stdout


class TestConvert:
    @pytest.mark.parametrize("ending", ["", ".xz", ".gz", ".zst"], ids=["plain", "xz", "gz", "zst"])
    def test_what_is_written_is_the_same_dataset(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str
    ):
        out = tmp_path / f"out.jsonl{ending}"
        told = output(capsys, "convert", MADE_UP, out)
        assert load_dataset(str(out)) == load_dataset(MADE_UP)
        assert load_dataset(MADE_UP).sha256 in told
        assert f"{out}: 12 trajectories, 36 prompts\n" in told
        assert [path.name for path in tmp_path.iterdir()] == [out.name]

    @pytest.mark.parametrize("ending", [".xz", ".gz", ".zst"])
    def test_the_same_dataset_gives_the_same_bytes(self, tmp_path: Path, ending: str):
        outs = [tmp_path / f"{name}.jsonl{ending}" for name in ("one", "two")]
        assert [main(["convert", MADE_UP, str(out)]) for out in outs] == [0, 0]
        assert outs[0].read_bytes() == outs[1].read_bytes()

    def test_can_make_it_private_under_another_name(self, tmp_path: Path):
        out = tmp_path / "out.jsonl"
        main(["convert", MADE_UP, str(out), "--private", "--name=mine"])
        made = load_dataset(MADE_UP)
        assert load_dataset(str(out)) == replace(made, name="mine", private=True)
        again = tmp_path / "again.jsonl"
        main(["convert", str(out), str(again)])
        assert load_dataset(str(again)).private

    def test_tells_what_was_lost(self, capsys: pytest.CaptureFixture[str], tmp_path: Path):
        source = write(tmp_path / "x.jsonl", dataset(FIRST, losses=("2 images were lost",)))
        told = output(capsys, "convert", source, tmp_path / "y.jsonl")
        assert told.endswith("\n  2 images were lost\n")

    def test_replaces_a_file_only_by_force(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ):
        out = tmp_path / "out.jsonl"
        out.write_text("precious")
        told = refusal(capsys, "convert", MADE_UP, out)
        assert "out.jsonl' exists; give another name, or --force to replace a file" in told
        assert out.read_text() == "precious"
        output(capsys, "convert", MADE_UP, out, "--force")
        assert load_dataset(str(out)) == load_dataset(MADE_UP)

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("out.json", "out.json' does not end in .jsonl, .jsonl.xz, .jsonl.gz, .jsonl.zst; "),
            ("nowhere/out.jsonl", "nowhere/out.jsonl' does not exist; make it first"),
            ("folder.jsonl", "folder.jsonl' exists; give another name"),
        ],
        ids=["wrong ending", "no folder", "a folder"],
    )
    def test_refuses_a_place_where_it_cannot_write(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, told: str
    ):
        (tmp_path / "folder.jsonl").mkdir()
        assert told in refusal(capsys, "convert", MADE_UP, tmp_path / name, "--force")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_full_disk_leaves_nothing_behind(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ):
        out = tmp_path / "out.jsonl"
        (tmp_path / "out.jsonl.part").symlink_to("/dev/full")
        assert "out.jsonl' cannot be written ([Errno 28]" in refusal(
            capsys, "convert", MADE_UP, out
        )
        assert list(tmp_path.iterdir()) == []


class TestSplit:
    SMALL = load_dataset(MADE_UP)
    MADE = load_dataset("synthetic:trajectories=200,turns=1,isl=800,osl=16")

    def test_the_parts_are_the_whole(self, capsys: pytest.CaptureFixture[str], tmp_path: Path):
        a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
        outs = f"--out-tuning={a}", f"--out-private={b}"
        output(capsys, "split", MADE_UP, "--private-ratio=0.4", "--salt=x", *outs)
        tuning, private = load_dataset(str(a)), load_dataset(str(b))
        both = {one.id for one in tuning.trajectories} | {one.id for one in private.trajectories}
        assert len(tuning.trajectories) + len(private.trajectories) == len(both) == 12
        assert (tuning.private, private.private) == (False, True)

    @given(order=st.permutations(range(12)), dropped=st.integers(0, 11))
    def test_neither_order_nor_others_decide(self, order: Sequence[int], dropped: int):
        whole = self.SMALL
        _, expected = split(whole, private_ratio=0.5, salt="")
        fewer = tuple(whole.trajectories[i] for i in order if i != dropped)
        _, private = split(replace(whole, trajectories=fewer), private_ratio=0.5, salt="")
        gone = whole.trajectories[dropped].id
        assert {t.id for t in private.trajectories} == {
            t.id for t in expected.trajectories if t.id != gone
        }

    def test_the_same_session_is_never_in_both_parts(self):
        again = tuple(
            replace(one, id=f"{one.id}-2", turns=tuple(replace(t, tool_s=9.0) for t in one.turns))
            for one in self.MADE.trajectories
        )
        doubled = replace(self.MADE, trajectories=self.MADE.trajectories + again)
        for part in split(doubled, private_ratio=0.5, salt=""):
            ids = {one.id for one in part.trajectories}
            assert {f"{name.removesuffix('-2')}-2" for name in ids} <= ids

    @pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
    def test_the_share_is_met_on_average(self, ratio: float):
        _, private = split(self.MADE, private_ratio=ratio, salt="")
        # 200 draws: four standard deviations are at most 0.14.
        assert len(private.trajectories) / 200 == pytest.approx(ratio, abs=0.14)

    def test_another_salt_divides_otherwise(self):
        one, other = (split(self.MADE, private_ratio=0.5, salt=salt)[0] for salt in ("", "x"))
        assert one.sha256 != other.sha256

    @pytest.mark.parametrize("ratio", ["0", "1", "nan", "-1"])
    def test_refuses_a_share_that_is_none(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, ratio: str
    ):
        outs = f"--out-tuning={tmp_path}/a.jsonl", f"--out-private={tmp_path}/b.jsonl"
        told = refusal(capsys, "split", MADE_UP, f"--private-ratio={ratio}", *outs)
        assert f"private ratio {ratio} leaves a part empty; give one above 0 and below 1" in told

    def test_refuses_to_leave_a_part_empty(self):
        with pytest.raises(ConfigError, match=r"none of the 1 traj.* the private part; give anoth"):
            split(dataset(FIRST), private_ratio=1e-9, salt="")

    def test_refuses_one_file_for_both_parts(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ):
        outs = f"--out-tuning={tmp_path}/a.jsonl", f"--out-private={tmp_path}/./a.jsonl"
        assert "a.jsonl'; give each its own file" in refusal(capsys, "split", MADE_UP, *outs)


class TestValidate:
    def test_finds_nothing_wrong_with_what_is_made_up(self, capsys: pytest.CaptureFixture[str]):
        assert output(capsys, "validate", MADE_UP) == "no problem found\n"

    def test_names_the_place_in_a_broken_file(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ):
        source = Path(write(tmp_path / "x.jsonl", dataset(FIRST)))
        source.write_bytes(source.read_bytes().replace(b'"kept":0', b'"kept":1'))
        told = output(capsys, "validate", source, code=1)
        assert "x.jsonl, line 2, field 'turns[0].kept': 1 of 0 earlier messages" in told
        assert told.endswith("\n1 problems\n")

    def test_a_missing_file_is_no_broken_one(self, capsys: pytest.CaptureFixture[str]):
        assert "'nowhere' does not exist" in refusal(capsys, "validate", "nowhere")

    @pytest.mark.parametrize(
        ("turns", "told"),
        [
            ((), "turns: it is empty"),
            ((FIRST, replace(SECOND, kept=3)), "turns[1].kept: 3 of 2 earlier messages; give"),
            ((Turn(kept=0, appended=()),), "turns[0].appended: the prompt has no message"),
            ((replace(FIRST, tool_s=-1.0),), "turns[0].tool_s: -1.0 is no duration; give"),
            (
                (Turn(kept=0, appended=(TASK, RESULT)),),
                "turns[0], message 1 of its prompt: it answers 'c', which no call before it",
            ),
            (
                (FIRST, Turn(kept=2, appended=(CALL, TASK)), Turn(kept=4, appended=())),
                "turns[1], message 2 of its prompt: its call 'c' has no result after it; add",
            ),
            (
                (FIRST, Turn(kept=2, appended=(CALL, RESULT, RESULT))),
                "turns[1], message 4 of its prompt: it answers 'c'",
            ),
            (
                (Turn(kept=0, appended=(replace(CALL, tool_calls=CALL.tool_calls * 2), RESULT)),),
                "turns[0], message 0 of its prompt: two of its calls have one id; give",
            ),
            (
                (replace(FIRST, recorded_isl_tokens=30),),
                "30 recorded, but the prompt's text comes to about 300 tokens; correct",
            ),
            (
                (replace(FIRST, recorded_isl_tokens=3000),),
                "turns[0].recorded_isl_tokens: 3000 recorded, but",
            ),
        ],
        ids=[
            "no turn",
            "more kept than there is",
            "an empty prompt",
            "a negative delay",
            "a result without its call",
            "a call without its result",
            "two results of one call",
            "two calls of one id",
            "a length far below the text",
            "a length far above the text",
        ],
    )
    def test_tells_each_rule_that_is_broken_once(self, turns: tuple[Turn, ...], told: str):
        (problem,) = problems(dataset(*turns))
        assert problem.startswith("trajectory 'one', ")
        assert told in problem

    def test_lengths_that_another_tokenizer_explains_are_right(self):
        turns = replace(FIRST, recorded_isl_tokens=40), replace(SECOND, recorded_isl_tokens=5000)
        assert list(problems(dataset(*turns))) == []

    def test_tells_ids_that_are_taken_twice_and_a_dataset_of_nothing(self):
        one = dataset(FIRST)
        twice = replace(one, trajectories=one.trajectories * 2)
        assert list(problems(twice)) == ["2 trajectories are called 'one'; give each its own id"]
        assert list(problems(replace(one, trajectories=()))) == ["there is no trajectory; add one"]


class TestUse:
    @pytest.mark.parametrize(
        ("argv", "told"),
        [
            ([], "the following arguments are required: inspect|convert|split|validate; see "),
            (["inspect"], "the following arguments are required: SOURCE; see python -m pytest_ag"),
            (["inspect", MADE_UP, "--colour"], "unrecognized arguments: --colour; see "),
            (["split", MADE_UP, "--private-ratio=half"], "invalid float value: 'half'; see"),
        ],
    )
    def test_a_wrong_option_is_told_on_one_line(
        self, capsys: pytest.CaptureFixture[str], argv: list[str], told: str
    ):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 4
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1

    def test_an_unknown_importer_is_told(self, capsys: pytest.CaptureFixture[str]):
        told = refusal(capsys, "inspect", "x.jsonl", "--importer=nativ")
        assert told.startswith("no importer is called 'nativ'; did you mean 'native'?")

    def test_strict_reaches_the_importer(
        self,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        metadata = tmp_path / "site" / "test_dataset_command-1.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Name: test-dataset-command\nVersion: 1\n")
        entry = "chats = pytest_agentperf.importers.openai_messages:load"
        (metadata / "entry_points.txt").write_text(f"[pytest_agentperf.importers]\n{entry}\n")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
        path = tmp_path / "log.jsonl"
        chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"}]
        path.write_bytes(msgspec.json.encode({"messages": chat}) + b'\n{"messages": 5}\n')
        asked = "inspect", path, "--importer=chats"
        assert "1 malformed records were left out" in output(capsys, *asked)
        assert "log.jsonl, line 2" in refusal(capsys, *asked, "--strict")
        told = output(capsys, "validate", path, "--importer=chats", code=1)
        assert "log.jsonl, line 2" in told
