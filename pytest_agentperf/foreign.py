"""Somebody else's text in a line of ours: no terminal obeys it, and no line of it is endless."""

__all__ = ["one_line", "plain", "printable"]

_MOST_CHARS = 300


def printable(text: str) -> str:
    """Return one line with everything escaped that a terminal would obey or hide."""
    return text if text.isprintable() else "".join(map(_shown, text))


def one_line(text: str, most_chars: int = _MOST_CHARS) -> str:
    """Return the beginning of a text with everything escaped that does not print."""
    return printable(text[:most_chars])


def plain(text: str) -> str:
    """Return a text of several lines, with everything escaped that neither prints nor ends one."""
    return "".join(c if c in "\n\t" else _shown(c) for c in text)


def _shown(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]
