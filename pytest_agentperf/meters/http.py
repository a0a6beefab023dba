"""Pages of another machine for meters: time limits, size limit, its clock, no redirects."""

import base64
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

from pytest_agentperf.meters.address import MeterAddress
from pytest_agentperf.meters.clocks import RemoteClock
from pytest_agentperf.protocols import ReadingError

__all__ = ["HttpSource", "Page", "basic_auth", "bearer_auth"]

_OK = 200
_MOST_BYTES = 16_000_000
_SHOWN = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer."""

    url: str
    text: str
    sent_ns: int
    received_ns: int

    @property
    def at_ns(self) -> int:
        """Stamp of what has none of its own: the middle between asking and hearing."""
        return (self.sent_ns + self.received_ns) // 2

    def json(self) -> Any:
        """Decode the body.

        Raises:
            ReadingError: it is no JSON.
        """
        try:
            return msgspec.json.decode(self.text)
        except msgspec.DecodeError as broken:
            raise ReadingError(f"{self.url} answers no JSON: {broken}") from broken


class HttpSource:
    """Asks one machine, on one connection, and learns its clock on the way."""

    def __init__(self, address: MeterAddress, *, headers: Mapping[str, str], timeout_s: float):
        """Ask with these headers; each answer must be whole after ``timeout_s`` seconds."""
        self.clock = RemoteClock()
        self._timeout_s = timeout_s
        verify = address.one_of("verify", ("yes", "no"), "yes") == "yes"
        self._client = httpx.Client(
            headers=dict(headers),
            timeout=timeout_s,
            trust_env=False,
            verify=verify,
            follow_redirects=False,
        )

    def get(self, url: str, params: Mapping[str, str] | None = None) -> Page:
        """Ask for one page.

        Raises:
            ReadingError: no answer in time, another status than 200, or too long an answer.
        """
        sent_ns = time.perf_counter_ns()
        try:
            with self._client.stream("GET", url, params=params) as answer:
                received_ns = time.perf_counter_ns()
                body = self._read(answer, sent_ns)
        except httpx.TimeoutException as late:
            raise ReadingError(f"{url} did not answer within {self._timeout_s:g} s") from late
        except httpx.HTTPError as failed:
            said = str(failed) or type(failed).__name__
            raise ReadingError(f"{url} does not answer: {said}") from failed
        if answer.status_code != _OK:
            shown = body[:_SHOWN].decode(errors="replace").strip()
            raise ReadingError(f"{url} answers HTTP {answer.status_code}: {shown}")
        self._hear_date(answer.headers.get("date"), sent_ns, received_ns)
        return Page(
            url=url,
            text=body.decode(errors="replace"),
            sent_ns=sent_ns,
            received_ns=received_ns,
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _read(self, answer: httpx.Response, sent_ns: int) -> bytes:
        # httpx limits the wait for each piece; a server that trickles would never be late.
        parts: list[bytes] = []
        length = 0
        for part in answer.iter_bytes():
            parts.append(part)
            length += len(part)
            if length > _MOST_BYTES:
                raise ReadingError(f"{answer.url} answers more than {_MOST_BYTES} bytes")
            if (time.perf_counter_ns() - sent_ns) / 1e9 > self._timeout_s:
                raise ReadingError(f"{answer.url} took more than {self._timeout_s:g} s")
        return b"".join(parts)

    def _hear_date(self, date: str | None, sent_ns: int, received_ns: int) -> None:
        if date is None or (self.clock.is_known and self.clock.uncertainty_s < 0.01):  # noqa: PLR2004 it knows better already
            return
        try:
            told_s = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        self.clock.hear(sent_ns, received_ns, told_s, resolution_s=1.0, by="HTTP Date")


def bearer_auth(variable: str) -> Mapping[str, str]:
    """Return the header for a token from the environment; none where it is not set."""
    token = os.environ.get(variable, "").strip()
    return {"authorization": f"Bearer {token}"} if token else {}


def basic_auth(user_variable: str, password_variable: str) -> Mapping[str, str]:
    """Return the header for a user and password from the environment; none where none is set."""
    user, password = os.environ.get(user_variable, ""), os.environ.get(password_variable, "")
    if not user:
        return {}
    code = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"authorization": f"Basic {code}"}
