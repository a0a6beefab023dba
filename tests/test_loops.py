"""Answers that end in one short piece, over and over."""

import json

import pytest

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.sim.address import read_address
from pytest_agentperf.sim.answer import Speaker
from pytest_agentperf.sim.chat import PrefixHasher, read_chat


def answered(text: str, channel: str = "content") -> Answer:
    reader = AnswerReader()
    event = {"choices": [{"delta": {channel: text}, "finish_reason": "length"}]}
    reader.feed(1, f"data: {json.dumps(event)}\n\n".encode())
    return reader.finish(RawAnswer(status=200))


THOUGHT = "I read the file, saw what fails and where, and will now say what I think about it. "


@pytest.mark.parametrize("channel", ["content", "reasoning"])
@pytest.mark.parametrize("piece", ["0", "\n", "the ", "- [ ] todo\n", "x" * 79 + "\n"], ids=len)
def test_one_piece_without_end_is_a_loop(piece: str, channel: str):
    assert answered(THOUGHT + piece * (1200 // len(piece)), channel).loops


def test_what_closes_a_string_behind_it_changes_nothing():
    assert answered("ha " * 400 + '"}').loops


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ha " * 300,
        " ".join(map(str, range(1000))),
        "a piece of eighty-one characters, which is longer than any that counts as short..\n" * 30,
        "ha " * 400 + " ".join(map(str, range(1000))),
    ],
    ids=["nothing", "900 characters", "numbers", "a longer piece", "one that came out of it"],
)
def test_is_no_loop(text: str):
    assert not answered(text).loops


def test_the_simulator_does_not_loop():
    asked = {"role": "user", "content": "Go on."}
    body = json.dumps({"model": "m", "stream": True, "messages": [asked], "max_tokens": 4000})
    address = read_address("", "")
    request = read_chat(
        body.encode(),
        osl_header="4000",
        models=("m",),
        context_limit_tokens=10_000,
        hasher=PrefixHasher(64),
    )
    reader = AnswerReader()
    reader.feed(1, Speaker(address.traits).answer(request).take(4000, 0, 0.0))
    answer = reader.finish(RawAnswer(status=200))
    assert (answer.error, answer.loops) == (None, False)
    assert len(answer.reasoning) > 5000
