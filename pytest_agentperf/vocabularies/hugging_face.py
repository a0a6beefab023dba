"""Tokenizers of ``transformers``: a folder, or a name in its local cache."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.vocabularies.written import Spoken, loaded_arguments, written

__all__ = ["HuggingFace"]


class HuggingFace:
    """A tokenizer, and its chat template where it has one."""

    def __init__(self, name: str, *, download: bool = False) -> None:
        """Load it.

        Args:
            name: a folder that holds a tokenizer, or the name of a repository on the hub.
            download: ask the hub for what is not in the local cache.

        Raises:
            ConfigError: there is no such tokenizer.
        """
        from transformers import (  # noqa: PLC0415 seconds to import, needed only here
            AutoTokenizer,
        )

        auto: Any = AutoTokenizer
        offline = Path(name).is_dir() or not download
        try:
            self._tokenizer = auto.from_pretrained(name, local_files_only=offline)
        except (OSError, ValueError, KeyError, ImportError) as failed:
            raise ConfigError(
                f"--agentperf-tokenizer {name!r}: no tokenizer could be read: {failed}"
            ) from failed

    def count(self, text: str) -> int:
        """See `Vocabulary`."""
        return len(self._tokenizer.encode(text, add_special_tokens=False)) if text else 0

    def answer_tokens(self, spoken: Spoken) -> int | None:
        """See `Vocabulary`."""
        text = written(self._render, spoken) if self._tokenizer.chat_template else None
        if text is not None:
            return self.count(text)
        return self.count(spoken.content) + spoken.ended if spoken.is_plain else None

    def prompt_tokens(self, request: Mapping[str, Any]) -> int | None:
        """See `Vocabulary`."""
        if not self._tokenizer.chat_template:
            return None
        options = {key: request[key] for key in ("reasoning_effort",) if key in request}
        options |= request.get("chat_template_kwargs", {})
        for load in (loaded_arguments, str):
            messages = [_loaded(message, load) for message in request["messages"]]
            try:
                text = self._render(messages, True, tools=request.get("tools"), **options)  # noqa: FBT003
            except Exception:  # noqa: BLE001, S112 templates refuse in their own ways
                continue
            return self.count(text)
        return None

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        begins_answer: bool,  # noqa: FBT001 as `Render`
        **options: Any,
    ) -> str:
        return self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=begins_answer, tokenize=False, **options
        )


def _loaded(message: Mapping[str, Any], load: Any) -> Mapping[str, Any]:
    """Return a message with the arguments of its calls as a template may want them."""
    thought = message.get("reasoning") or message.get("reasoning_content")
    names = ("reasoning", "reasoning_content", "thinking") if thought else ()
    calls = [
        {**call, "function": {**call["function"], "arguments": load(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    return {**message, **dict.fromkeys(names, thought), **({"tool_calls": calls} if calls else {})}
