"""What the server notes about itself: when tokens were really sent, and whether it was late."""

from typing import BinaryIO

import msgspec

from pytest_agentperf.sim.pacer import Lateness

__all__ = ["LateWarner", "SendLog", "Sent"]

_MOST_LATE_RATIO = 0.05
_QUIET_S = 10.0


class Sent(msgspec.Struct):
    """One streamed answer. Stamps are ``perf_counter``, on Linux one clock for all processes."""

    id: str
    request_id: str | None
    """The request's ``x-request-id``."""
    received_s: float
    prompt_tokens: int
    osl_tokens: int = 0
    """Tokens that were sent."""
    cached_tokens: int = 0
    first_token_sent_s: float | None = None
    """Right before the write that carries the first token."""
    last_token_sent_s: float | None = None
    """The same for the last one; null when the answer was cut or the client left before it."""


class SendLog:
    """Keeps what was sent and writes it as JSON lines when asked, off the way of the tokens."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rows: list[Sent] = []

    def add(self, row: Sent) -> None:
        """Keep the row of an answer that has ended."""
        self._rows.append(row)

    def flush(self) -> None:
        """Write what was kept."""
        rows, self._rows = self._rows, []
        self._file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
        self._file.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        self._file.close()


class LateWarner:
    """Says, at most every 10 s, that the machine was too slow in the last second."""

    def __init__(self, lateness: Lateness) -> None:
        self._lateness = lateness
        self._steps = 0
        self._late_steps = 0
        self._quiet_until_s = 0.0

    def look(self, now_s: float) -> str | None:
        """Return the warning, if the steps since the last look deserve one."""
        steps = self._lateness.steps - self._steps
        late_steps = self._lateness.late_steps - self._late_steps
        self._steps, self._late_steps = self._lateness.steps, self._lateness.late_steps
        if late_steps <= _MOST_LATE_RATIO * steps or now_s < self._quiet_until_s:
            return None
        self._quiet_until_s = now_s + _QUIET_S
        return (
            f"agentperf-sim: in the last second {late_steps} of {steps} steps were handed out more "
            f"than 50 ms late (at worst {self._lateness.worst_s:.2f} s): numbers measured now are "
            "those of a busy CPU, not of the simulated system; use fewer agents, a larger "
            "stream_interval, or sim+virtual:"
        )
