"""Token counts by the model's own tokenizer, through transformers; never touches the network."""

from pathlib import Path
from typing import Any

from pytest_agentperf.errors import ConfigError

__all__ = ["LocalTokenizer"]


class LocalTokenizer:
    """A tokenizer from a local folder."""

    def __init__(self, folder: str) -> None:
        """Load it.

        Raises:
            ConfigError: the folder is missing or holds no tokenizer.
        """
        if not Path(folder).is_dir():
            raise ConfigError(
                f"--agentperf-tokenizer {folder!r} is no folder; give the one that holds the "
                "model's tokenizer.json"
            )
        from transformers import (  # noqa: PLC0415 seconds to import, needed only here
            AutoTokenizer,
        )

        auto: Any = AutoTokenizer
        try:
            self._tokenizer = auto.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as failed:
            raise ConfigError(
                f"--agentperf-tokenizer {folder!r}: no tokenizer could be read: {failed}"
            ) from failed

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without any that mark begin or end."""
        return len(self._tokenizer.encode(text, add_special_tokens=False)) if text else 0
