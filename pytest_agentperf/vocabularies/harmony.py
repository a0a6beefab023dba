"""gpt-oss through its harmony encoding: package ``openai-harmony``, which brings no vocabulary."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.vocabularies.optional import needed
from pytest_agentperf.vocabularies.written import Spoken

__all__ = ["Harmony"]

_VARIABLES = ("TIKTOKEN_ENCODINGS_BASE", "TIKTOKEN_RS_CACHE_DIR")
_CACHED = "fb374d419588a4632f3f557e76b4b70aebbca790"
"""o200k_base as caches of tiktoken name it: the SHA-1 of its address."""
_FILE = "o200k_base.tiktoken"
_START = "<|start|>assistant"


class Harmony:
    """The encoding of gpt-oss."""

    def __init__(self, folder: str, *, download: bool = False) -> None:
        """Load it.

        Args:
            folder: holds the vocabulary o200k_base, as ``o200k_base.tiktoken`` or as a cache of
                tiktoken names it; empty for one that the environment names.
            download: let the package fetch the vocabulary.

        Raises:
            ConfigError: package or vocabulary is missing.
        """
        if folder:
            _point_to(Path(folder))
        elif not (download or any(map(os.environ.get, _VARIABLES))):
            raise ConfigError(
                "--agentperf-tokenizer harmony: the package holds no vocabulary; give "
                f"harmony:FOLDER with {_FILE} in it, or --agentperf-tokenizer-download"
            )
        self._harmony = needed("openai_harmony", package="openai-harmony", tokenizer="harmony")
        try:
            name = self._harmony.HarmonyEncodingName.HARMONY_GPT_OSS
            self._encoding = self._harmony.load_harmony_encoding(name)
        except self._harmony.HarmonyError as failed:
            raise ConfigError(
                f"--agentperf-tokenizer harmony: the vocabulary could not be read: {failed}"
            ) from failed

    def count(self, text: str) -> int:
        """See `Vocabulary`."""
        return len(self._encoding.encode(text, disallowed_special=()))

    def answer_tokens(self, spoken: Spoken) -> int | None:
        """See `Vocabulary`: one message each for reasoning, content and every call."""
        messages: list[Any] = []
        if spoken.reasoning:
            messages.append(self._said(spoken.reasoning, "analysis"))
        if spoken.content:
            messages.append(self._said(spoken.content, "commentary" if spoken.calls else "final"))
        messages += [self._called(*call) for call in spoken.calls]
        tokens = sum(len(self._encoding.render(message)) for message in messages)
        begun = len(self._encoding.encode(_START, allowed_special="all"))
        # The prompt holds the start of the first; the last has no end where it was cut.
        return tokens - begun - (not spoken.ended) if messages else None

    def prompt_tokens(self, request: Mapping[str, Any]) -> int | None:
        """See `Vocabulary`: servers write system and developer messages each in their own way."""
        del request

    def _said(self, text: str, channel: str) -> Any:
        message = self._harmony.Message.from_role_and_content(self._harmony.Role.ASSISTANT, text)
        return message.with_channel(channel)

    def _called(self, name: str, arguments: str) -> Any:
        message = self._said(arguments, "commentary").with_recipient(f"functions.{name}")
        return message.with_content_type("<|constrain|>json")


def _point_to(folder: Path) -> None:
    """Let the package find its vocabulary, without a network."""
    found = {"TIKTOKEN_ENCODINGS_BASE": _FILE, "TIKTOKEN_RS_CACHE_DIR": _CACHED}
    for variable, name in found.items():
        if (folder / name).is_file():
            os.environ[variable] = str(folder)
            return
    raise ConfigError(
        f"--agentperf-tokenizer harmony: there is no {_FILE} in {folder}, nor {_CACHED}, as caches "
        "of tiktoken name it; put the vocabulary of o200k_base there"
    )
