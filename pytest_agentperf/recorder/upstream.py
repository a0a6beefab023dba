"""The server that is recorded: where it is, how it is reached, and what goes on to it."""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.recorder.http1 import Headers, RequestHead, request_head

__all__ = ["Upstream", "passed_on", "read_upstream"]

_CONNECT_S = 15.0
_STAYS_BEHIND = (b"accept-encoding", b"content-length", b"expect", b"host")
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
"""These speak of one connection, not of what is asked (RFC 9110, section 7.6.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The server that is recorded."""

    scheme: str
    host: str
    port: int
    netloc: str
    prefix: str
    """Path of its base URL, without a slash at the end; often ``/v1``."""

    tls: ssl.SSLContext | None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{self.scheme}://{self.netloc}{self.prefix}"

    def target(self, target: str) -> str:
        """Return where a request goes: below the base URL, whether it names that path or not."""
        path = target.partition("?")[0]
        is_below = path == self.prefix or path.startswith(f"{self.prefix}/")
        return target if is_below else self.prefix + target

    def head(self, head: RequestHead, length_bytes: int) -> bytes:
        """Return the head of a request as it goes on to the server.

        Args:
            head: as it came.
            length_bytes: of the body.
        """
        headers = [
            (b"Host", self.netloc.encode()),
            *passed_on(head.headers, without=_STAYS_BEHIND),
            # What cannot be read cannot be recorded.
            (b"Accept-Encoding", b"identity"),
        ]
        if length_bytes or head.method not in {b"GET", b"HEAD"}:
            headers.append((b"Content-Length", b"%d" % length_bytes))
        target = self.target(head.target.decode("latin-1")).encode("latin-1")
        return request_head(head.method, target, headers)

    async def connect(self, peer: Callable[[], asyncio.Protocol]) -> None:
        """Open a connection, and hand it to the peer that is made for it.

        Raises:
            OSError: it cannot be opened; a limit of 15 s is one of the reasons.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_S):
            await loop.create_connection(peer, self.host, self.port, ssl=self.tls)


def read_upstream(url: str) -> Upstream:
    """Return the server that a base URL names.

    Raises:
        ConfigError: it names none, or holds what does not belong there.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigError(f"--upstream: {error}; write http://HOST:PORT/v1") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"--upstream {url!r} is no URL of a server; write http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not shown: what is there may be a key.
        raise ConfigError(
            f"--upstream for {parts.hostname} holds user info, a query or a fragment; leave them "
            "out: the agent sends its key with every request"
        )
    return Upstream(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        netloc=parts.netloc,
        prefix=parts.path.rstrip("/"),
        tls=ssl.create_default_context() if parts.scheme == "https" else None,
    )


def passed_on(headers: Headers, *, without: Iterable[bytes] = ()) -> Headers:
    """Return the headers that go on to the other side, spelt as they came.

    Args:
        headers: as they came.
        without: further names in lower case that stay behind.
    """
    named = b",".join([value for name, value in headers if name.lower() == b"connection"])
    behind = {*_HOP_BY_HOP, *without, *(word.strip().lower() for word in named.split(b","))}
    return [(name, value) for name, value in headers if name.lower() not in behind]
