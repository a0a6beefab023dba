"""Programs that are asked for a reading: one run each, with a time limit that holds."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from pytest_agentperf.api_key import keyless_environment
from pytest_agentperf.protocols import ReadingError

__all__ = ["printed"]

_SHOWN = 160


def printed(
    command: Sequence[str] | str, *, timeout_s: float, also: Mapping[str, str] | None = None
) -> str:
    """Run a program, or a text through the shell, and return what it prints.

    Args:
        command: words, or a line for the shell.
        timeout_s: after so many seconds it and its children are killed.
        also: environment variables beside ours.

    Raises:
        ReadingError: it is not there, fails, or takes too long.
    """
    shown = command if isinstance(command, str) else " ".join(command)
    try:
        process = subprocess.Popen(  # nosec B602 # the user's own words
            command,
            # A text is the user's own, for a shell.
            shell=isinstance(command, str),  # nosec B602
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**keyless_environment(), **(also or {})},
        )
    except OSError as failed:
        raise ReadingError(f"{shown!r} cannot be run: {failed.strerror}") from failed
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise ReadingError(f"{shown!r} did not end within {timeout_s:g} s") from None
    if process.returncode:
        said = (err.strip() or out.strip())[-_SHOWN:]
        raise ReadingError(f"{shown!r} failed with status {process.returncode}: {said}")
    return out
