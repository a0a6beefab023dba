"""Lines of a trace file, plain or compressed, and how the place of a mistake in one is told."""

import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from pytest_agentperf.errors import ConfigError

__all__ = ["COMPRESSIONS", "broken", "misfit", "numbered", "read_lines"]

COMPRESSIONS = (".xz", ".gz")
"""Name endings that are understood beside none."""


def read_lines(file: IO[bytes], name: str, where: str) -> Iterator[bytes]:
    """Yield the lines of an open file, unpacked as the ending of ``name`` says.

    Args:
        file: open for reading, in binary mode; the caller closes it.
        name: decides the compression by its ending.
        where: what an error calls the file.

    Raises:
        ConfigError: the compressed data is damaged or cut short.
    """
    try:
        if name.endswith(".xz"):
            with lzma.open(file) as unpacked:
                yield from unpacked
        elif name.endswith(".gz"):
            with gzip.open(file) as unpacked:
                yield from unpacked
        else:
            yield from file
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ConfigError(
            f"{where}: cannot be unpacked ({error}); fetch the file again, "
            "or correct its ending if it is not compressed"
        ) from error


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank with its number, counted from 1."""
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def broken(where: str, line: int, field: str, problem: str) -> ConfigError:
    """Return the error for one line of a file; ``field`` is empty when the line as a whole is bad.

    Args:
        where: the file, as the user named it.
        line: counted from 1.
        field: path inside the line, such as ``turns[3].kept``.
        problem: what is wrong, the value seen, and what to do.
    """
    place = f"{where}, line {line}" + (f", field {field!r}" if field else "")
    return ConfigError(f"{place}: {problem}")


def misfit(where: str, line: int, error: Exception, inside: str = "") -> ConfigError:
    """Return the error for a line that msgspec could not decode, with the field it names.

    Args:
        where: the file, as the user named it.
        line: counted from 1.
        error: what msgspec raised; its text ends in the place, as in "- at `$.turns[0]`".
        inside: path of the value that was decoded, when it was only a part of the line.
    """
    problem, _, path = str(error).partition(" - at `$")
    field = (inside + path.rstrip("`")).lstrip(".")
    return broken(where, line, field, f"{problem}; correct the line or remove it")
