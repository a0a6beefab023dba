"""Streaming chat completions over the engine; see `pytest_agentperf.protocols.Connection`."""

import asyncio
import re
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from pytest_agentperf.api_key import auth_headers, redact
from pytest_agentperf.engine.channel import Channel, host_header
from pytest_agentperf.engine.exchange import BrokenError
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.wire import Body

__all__ = ["EngineConnection"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class EngineConnection:
    """One agent's connection over the engine."""

    def __init__(
        self,
        info: EndpointInfo,
        *,
        timeout_s: float,
        tls: ssl.SSLContext,
        headers: Mapping[str, str] | None = None,
        lags: ReadLags | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            info: where to.
            timeout_s: limit of one whole request, connecting included.
            tls: for ``https`` alone; making one takes tens of milliseconds, so it is shared.
            headers: of every request.
            lags: gets what the reads of this connection tell of our own lateness.

        Raises:
            ConfigError: a header that cannot be sent.
        """
        url = urlsplit(f"{info.url}/chat/completions")
        self._timeout_s = timeout_s
        self._osl_header = info.osl_header
        self._channel = Channel(url, tls=tls, lags=lags)
        self._head = _head(
            f"POST {url.path} HTTP/1.1",
            {
                "host": host_header(url),
                "user-agent": "pytest-agentperf",
                "content-type": "application/json",
                "accept": "text/event-stream",
                "accept-encoding": "identity",
                **_lower(info.headers),
                **auth_headers(),
                **_lower(headers or {}),
            },
        )

    @property
    def is_open(self) -> bool:
        """Tell whether a connection is open that nobody has closed yet."""
        return self._channel.is_open

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        """Send one request; see `pytest_agentperf.protocols.Connection`."""
        pieces = [body] if isinstance(body, bytes) else body
        last = b"content-length: %d\r\n\r\n" % sum(map(len, pieces))
        if self._osl_header and osl_tokens:
            last = f"{self._osl_header}: {osl_tokens}\r\n".encode() + last
        if cookies := self._channel.cookies:
            kept = b"; ".join(b"%b=%b" % pair for pair in cookies.items())
            last = b"cookie: %b\r\n" % kept + last
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._channel.request((self._head, last, *pieces), into)
        except TimeoutError:
            into.error = f"timeout after {self._timeout_s:g} s"
        except BrokenError as failed:
            into.error = redact(f"connection: {failed}")
        into.end_ns = into.end_ns or time.perf_counter_ns()
        into.sent_ns = into.sent_ns or into.end_ns

    async def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _head(line: str, headers: Mapping[str, str]) -> bytes:
    for name, value in headers.items():
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ConfigError(
                f"header {name!r} cannot be sent: it holds characters that no header can"
            )
    lines = [line, *(f"{name}: {value}" for name, value in headers.items()), ""]
    return "\r\n".join(lines).encode("latin-1")
