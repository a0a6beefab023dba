"""Tables of ranks, ``*.tiktoken`` or ``tiktoken.model``: package ``tiktoken``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.vocabularies.optional import needed
from pytest_agentperf.vocabularies.written import Spoken

__all__ = ["SPLITS", "TiktokenFile"]

SPLITS = {
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "qwen": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""How a text is parted before it is ranked, which no such file tells."""


class TiktokenFile:
    """A table of ranks."""

    def __init__(self, file: str, *, split: str) -> None:
        """Load it.

        Args:
            file: path of the table.
            split: one of `SPLITS`.

        Raises:
            ConfigError: package or file is missing, or the split is not known.
        """
        named = f"--agentperf-tokenizer tiktoken:{file}"
        if split not in SPLITS:
            raise ConfigError(f"{named}: split={split!r} is not one of {', '.join(SPLITS)}")
        if not Path(file).is_file():
            raise ConfigError(f"{named}: there is no such file")
        name = f"tiktoken:{file}"
        tiktoken = needed("tiktoken", package="tiktoken", tokenizer=name)
        load = needed("tiktoken.load", package="tiktoken", tokenizer=name).load_tiktoken_bpe
        try:
            self._encoding: Any = tiktoken.Encoding(
                Path(file).name,
                pat_str=SPLITS[split],
                mergeable_ranks=load(file),
                special_tokens={},
            )
        except (ValueError, OSError) as failed:
            raise ConfigError(f"{named}: no table of ranks: {failed}") from failed

    def count(self, text: str) -> int:
        """See `Vocabulary`."""
        return len(self._encoding.encode_ordinary(text))

    def answer_tokens(self, spoken: Spoken) -> int | None:
        """See `Vocabulary`: a table knows no marks, so only plain answers can be compared."""
        return self.count(spoken.content) + spoken.ended if spoken.is_plain else None

    def prompt_tokens(self, request: Mapping[str, Any]) -> int | None:
        """See `Vocabulary`: a table has no template."""
        del request
