"""Token counts by the model's own tokenizer; never touches the network unless it is allowed to.

``FOLDER`` or a name in the local cache is read by transformers; ``harmony`` is gpt-oss' encoding,
``tekken:FILE`` a tokenizer of Mistral's, ``tiktoken:FILE?split=NAME`` a table of ranks.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_agentperf.answer import Answer
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.vocabularies.harmony import Harmony
from pytest_agentperf.vocabularies.hugging_face import HuggingFace
from pytest_agentperf.vocabularies.tekken import Tekken
from pytest_agentperf.vocabularies.tiktoken_file import SPLITS, TiktokenFile
from pytest_agentperf.vocabularies.written import Spoken, Vocabulary

__all__ = ["LocalTokenizer", "missing_file"]

_CUT = "length"


class LocalTokenizer:
    """A model's tokenizer, by its name."""

    def __init__(self, name: str, *, download: bool = False) -> None:
        """Load it.

        Args:
            name: see the module.
            download: fetch what is not on this machine.

        Raises:
            ConfigError: it cannot be had.
        """
        kind, _, target = name.partition(":")
        opened: Mapping[str, Callable[[], Vocabulary]] = {
            "harmony": lambda: Harmony(target, download=download),
            "tekken": lambda: Tekken(target),
            "tiktoken": lambda: _tiktoken(target),
        }
        if kind in opened and not Path(name).exists():
            self._vocabulary = opened[kind]()
        elif Path(name, "tekken.json").is_file() and not Path(name, "tokenizer.json").is_file():
            self._vocabulary = Tekken(str(Path(name, "tekken.json")))
        else:
            self._vocabulary = _hugging_face(name, download=download)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without any that mark begin or end."""
        return self._vocabulary.count(_sound(text))

    def answer_tokens(self, answer: Answer) -> tuple[int, bool]:
        """Return the tokens of an answer, and whether a template told how all of it was written.

        Without one, they are the tokens of its text alone.
        """
        spoken = Spoken(
            reasoning=_sound(answer.reasoning),
            content=_sound(answer.content),
            calls=tuple((_sound(name), _sound(arguments)) for name, arguments in answer.calls),
            ended=answer.finish_reason != _CUT,
        )
        whole = self._vocabulary.answer_tokens(spoken) if spoken.parts else None
        if whole is None:
            return self.count(answer.reasoning) + self.count(answer.text), False
        return whole, True

    def prompt_tokens(self, request: Mapping[str, Any]) -> int | None:
        """Return the tokens of a request's prompt; ``None`` where no template tells."""
        return self._vocabulary.prompt_tokens(request)


def _sound(text: str) -> str:
    """Return a text without half characters, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def missing_file(name: str | None) -> str | None:
    """Return the path in a tokenizer's name that is not there; ``None``: none is missing."""
    if name is None:
        return None
    target = name.partition(":")[2].partition("?")[0] if not name.startswith("/") else name
    is_path = target.startswith(("/", "."))
    return target if is_path and not Path(target).exists() else None


def _hugging_face(name: str, *, download: bool) -> HuggingFace:
    looks_like_path = name.startswith(("/", ".", "~")) or name.count("/") != 1
    if not Path(name).is_dir() and looks_like_path:
        raise ConfigError(
            f"--agentperf-tokenizer {name!r} is no folder; give the one that holds the "
            "model's tokenizer.json, or a name as on the hub (OWNER/NAME)"
        )
    return HuggingFace(name, download=download)


def _tiktoken(target: str) -> TiktokenFile:
    file, _, option = target.partition("?")
    key, _, split = option.partition("=")
    if key != "split":
        raise ConfigError(
            f"--agentperf-tokenizer tiktoken:{file}: such a file does not tell how text is parted; "
            f"add ?split=NAME, which is one of {', '.join(SPLITS)}"
        )
    return TiktokenFile(file, split=split)
