"""The language of a session, by the files that its calls name."""

from collections import Counter
from typing import Any

import msgspec
import pytest

from pytest_agentperf.importers import load_dataset
from pytest_agentperf.languages import UNKNOWN, language
from pytest_agentperf.trajectory import Message, ToolCall, Trajectory, Turn
from tests.recorded import REAL, manifest, needs_real


def worked(*answers: Message, recorded: str | None = None) -> str:
    task = Turn(kept=0, appended=(Message(role="user", content="Mend clock.rs."),))
    turns = (Turn(kept=place + 1, appended=(one,)) for place, one in enumerate(answers))
    return language(Trajectory(id="t", turns=(task, *turns), language=recorded))


def calling(*arguments: dict[str, Any] | str) -> Message:
    calls = (
        one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in arguments
    )
    return Message(
        role="assistant",
        tool_calls=tuple(ToolCall(id=f"{n}", name="do", arguments=a) for n, a in enumerate(calls)),
    )


def writing(text: str) -> Message:
    return Message(role="assistant", content=text)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        pytest.param({"file_path": "/src/clock.go"}, "Go", id="path"),
        pytest.param({"path": "a.test.tsx", "limit": 5}, "TypeScript", id="two endings"),
        pytest.param({"pattern": "**/*.c"}, "C", id="pattern"),
        pytest.param({"include": "*.R"}, "R", id="pattern without a folder"),
        pytest.param({"command": "cd /x && sed -n '1,9p' lib/tick.rb | head"}, "Ruby", id="words"),
        pytest.param(
            {"input": "*** Begin Patch\n*** Add File: a.kt\n+ b.py"}, "Kotlin", id="patch"
        ),
        pytest.param({"patch": "diff\n--- a/x\n+++ b/tock.swift\n+c.py"}, "Swift", id="diff"),
        pytest.param('"clock.zig"', "Zig", id="no object"),
        pytest.param("cat clock.lua", "Lua", id="no JSON"),
        pytest.param(
            {"path": "tool", "content": "#!/usr/bin/env python3\nx"}, "Python", id="script"
        ),
        pytest.param(
            {"path": "tool", "content": "#!/usr/bin/perl -w\nx"}, "Perl", id="interpreter"
        ),
    ],
)
def test_a_call_tells_by_what_it_names(arguments: dict[str, Any] | str, found: str):
    assert worked(calling(arguments)) == found


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"path": "README.md"}, id="prose"),
        pytest.param({"command": "curl https://clock.org/a.js"}, id="address"),
        pytest.param({"old_string": "self.c = 1"}, id="member"),
        pytest.param({"content": "first line\nimport clock.py"}, id="body"),
        pytest.param({"path": "tool", "content": "#!/bin/bash\nx"}, id="shell script"),
        pytest.param({"todos": [{"content": "clock.py"}]}, id="list"),
        pytest.param({"command": "x" * 5_000 + " clock.py"}, id="endless line"),
        pytest.param({}, id="nothing"),
    ],
)
def test_what_names_no_program_tells_nothing(arguments: dict[str, Any]):
    assert worked(calling(arguments)) == UNKNOWN


def test_the_language_of_most_files_counts_each_once_a_call():
    twice = calling({"command": "diff a.py a.py && cat a.py"})
    # Python 1 and Go 2; then Python 2, Go 2, and the first by name.
    assert worked(twice, calling({"path": "a.go"}, {"path": "a.go"})) == "Go"
    assert worked(twice, twice, calling({"path": "a.go"}, {"path": "a.go"})) == "Go"
    assert worked(twice, twice, calling({"command": "vet a.go"})) == "Python"


def test_fenced_code_is_a_call_where_a_format_has_no_others():
    assert worked(writing("I look.\n```\nopen src/clock.java 7\n```\n")) == "Java"
    assert worked(writing("```bash\ncat x.php\n```")) == "PHP"
    assert worked(writing("So:\n```rust\nfn main() {}\n```")) == "Rust"
    assert worked(writing("```bash\nls\n```")) == UNKNOWN
    # Files weigh more than names of blocks.
    assert worked(writing("```rust\nfn\n```"), calling({"path": "a.cpp"})) == "C++"


def test_a_recorded_language_stands():
    assert worked(calling({"path": "a.go"}), recorded="COBOL") == "COBOL"


def test_a_history_that_is_sent_again_counts_once():
    go, python = calling({"path": "a.go"}), calling({"path": "a.py"})
    turns = (Turn(kept=0, appended=()), Turn(kept=0, appended=(go,)))
    again = (Turn(kept=0, appended=(go, python)), Turn(kept=2, appended=(python,)))
    assert language(Trajectory(id="t", turns=turns + again)) == "Python"


@needs_real
@pytest.mark.parametrize("folder", ["claude-code", "codex", "mini-swe-agent", "opencode"])
def test_real_sessions_work_in_the_language_of_their_repository(folder: str):
    told = Counter(row["language"] for row in manifest(folder))
    found = Counter(map(language, load_dataset(str(REAL / folder)).trajectories))
    # One session of claude-code is about hooks, which are shell scripts.
    assert (found - told).total() <= (folder == "claude-code")


@needs_real
def test_real_sessions_about_no_program_are_unknown():
    # They edit a README and a picture, whatever the repository is written in.
    sessions = load_dataset(str(REAL / "gemini-cli")).trajectories
    assert {language(one) for one in sessions} == {UNKNOWN}
