"""The screen of a terminal emulator."""

from typing import Any

import pyte

__all__ = ["Screen"]


class Screen:
    """What stands on a terminal after everything that was written to it."""

    def __init__(self, columns: int, rows: int) -> None:
        self._screen: Any = pyte.Screen(columns, rows)
        self._stream: Any = pyte.ByteStream(self._screen)
        self.written = b""

    def write(self, data: bytes) -> None:
        """Take what a program wrote."""
        self.written += data
        self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        """All lines that are not empty."""
        return [line.rstrip() for line in self._screen.display if line.strip()]
