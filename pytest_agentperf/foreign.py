"""Somebody else's text in a line of ours: no terminal obeys it, and no line of it is endless."""

__all__ = ["one_line", "plain"]

_MOST_CHARS = 300


def one_line(text: str, most_chars: int = _MOST_CHARS) -> str:
    """Return the beginning of a text with everything escaped that does not print."""
    return "".join(map(_shown, text[:most_chars]))


def plain(text: str) -> str:
    """Return a text of several lines, with everything escaped that neither prints nor ends one."""
    return "".join(c if c in "\n\t" else _shown(c) for c in text)


def _shown(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]
