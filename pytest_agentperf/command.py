"""What our commands share: how wrong use of them ends."""

from argparse import ArgumentParser
from typing import NoReturn

__all__ = ["WRONG_USE", "Parser"]

WRONG_USE = 4
"""Exit code, as pytest's own for wrong use."""


class Parser(ArgumentParser):
    """Ends with the same code and on one line, whether an option or a file is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with one line."""
        self.exit(WRONG_USE, f"error: {message}; see {self.prog} --help\n")
