"""Counts the same texts and answers by our tokenizer and by a reference; run by test_tokenizers."""

import base64
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.token_check import check_tokens
from pytest_agentperf.tokens import LocalTokenizer
from pytest_agentperf.validity import check
from tests.phases import measurement, metrics, request
from tests.test_validity import MARKS

__all__ = ["ARGUMENTS", "THOUGHT", "count"]

Counter = Callable[[str], int]


THOUGHT, ARGUMENTS = "The user wants a fix; first I read the file.", '{"path": "src/main.py"}'


def count(name: str, reference: str, *written: str) -> dict[str, Any]:
    """Return what both count, and which checks miss a usage that is right or 3 % off.

    Args:
        name: our tokenizer.
        reference: file or name of the other one.
        written: a reasoned call of ``read_file`` as the model writes it, piece by piece; one that
            begins with ``<`` is a mark, and one token.
    """
    tokenizer, by_other = LocalTokenizer(name), _counter(reference)
    texts = [path.read_text("utf-8") for path in sorted(Path("pytest_agentperf").glob("*.py"))]
    texts += ["Grüße, 你好, Привет, 🙂👍🏽\n\t\r\n   x", "a  b\u00a0c", "1234567 3.14159 0xFF"]
    answers = [_answer(text[at : at + 900]) for text in texts for at in (0, 400)]
    counts = [tokenizer.answer_tokens(answer) for answer in answers]
    lengths = [tokens for tokens, is_whole in counts if is_whole]
    return {
        "texts": sum(map(len, texts)),
        "ours": list(map(tokenizer.count, texts)),
        "reference": list(map(by_other, texts)),
        "call": tokenizer.answer_tokens(_called()),
        "written": sum(1 if piece.startswith("<") else by_other(piece) for piece in written),
        "right": _missed(lengths, 1.0),
        "too much": _missed(lengths, 1.03),
        "too little": _missed(lengths, 0.97),
    }


def _answer(text: str) -> Answer:
    return _read({"content": text}, "stop")


def _called() -> Answer:
    call = {"index": 0, "id": "1", "function": {"name": "read_file", "arguments": ARGUMENTS}}
    return _read({"reasoning": THOUGHT, "tool_calls": [call]}, "tool_calls")


def _read(delta: dict[str, Any], finish: str) -> Answer:
    event = {"choices": [{"delta": delta, "finish_reason": finish}]}
    reader = AnswerReader()
    reader.feed(1, b"data: %b\n\n" % json.dumps(event).encode())
    return reader.finish(RawAnswer(status=200))


def _missed(lengths: list[int], factor: float) -> list[str]:
    turns = [request(osl_tokens=round(n * factor), local_osl_tokens=n) for n in lengths]
    found = replace(metrics(request()), tokens=check_tokens(turns))
    return [c.name for c in check(measurement([]), found, MARKS) if not c.ok]


def _counter(reference: str) -> Counter:
    if reference.endswith("tokenizer.json"):
        # Without marks: a later version has some that are text to ours, as "<think>" in a source.
        data = json.loads(Path(reference).read_text("utf-8"))
        read = Tokenizer.from_str(json.dumps(data | {"added_tokens": []}))
        return lambda text: len(read.encode(text, add_special_tokens=False).ids)
    tiktoken: Any = importlib.import_module("tiktoken")
    if reference == "o200k_harmony":
        named = tiktoken.get_encoding(reference)
        return lambda text: len(named.encode_ordinary(text))
    # Both kinds of file are tables of ranks, whose splits stand beside them or in our own module.
    if reference.endswith(".json"):
        data = json.loads(Path(reference).read_text("utf-8"))
        size = data["config"]["default_vocab_size"] - data["config"]["default_num_special_tokens"]
        table = {base64.b64decode(row["token_bytes"]): row["rank"] for row in data["vocab"][:size]}
        split = data["config"]["pattern"]
    else:
        lines = Path(reference).read_bytes().split(b"\n")[:-1]
        table = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
        split = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    made = tiktoken.Encoding("reference", pat_str=split, mergeable_ranks=table, special_tokens={})
    return lambda text: len(made.encode_ordinary(text))
