"""OpenAI-compatible streaming chat over httpx; the read loop stamps and keeps bytes, nothing else.

Each agent has a client of its own with one connection: no shared pool can make one agent wait for
another, and a balancer or router sees one peer per agent.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from pytest_agentperf.api_key import API_KEY_VARIABLE, auth_headers, check_transport, redact
from pytest_agentperf.errors import ConfigError, EndpointError
from pytest_agentperf.foreign import one_line
from pytest_agentperf.gauges import open_gauges
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.records import MOST_ANSWER_BYTES, RawAnswer
from pytest_agentperf.server_facts import ask_server
from pytest_agentperf.user_info import refuse_user_info
from pytest_agentperf.wire import Body, joined

__all__ = ["HttpConnection", "connect"]

_PROBE_S = 10.0
_UNAUTHORISED = (401, 403)
_OK = 200
_DEAD_WITHIN_NS = 1_000_000_000
"""A reused connection that was closed while idle shows at once; later, the server did it."""


def connect(url: str, *, models: Sequence[str]) -> EndpointInfo:
    """Check that something answers at the URL, and ask which models it serves.

    Raises:
        ConfigError: the URL cannot be one.
        EndpointError: nothing answers, or it refuses us.
    """
    del models
    base = _base_url(url)
    check_transport(base)
    try:
        answer = httpx.get(
            f"{base}/models",
            headers=auth_headers(),
            timeout=_PROBE_S,
            trust_env=False,
            verify=ssl.create_default_context(),  # as the load does: with SSL_CERT_FILE
        )
    except httpx.HTTPError as failed:
        raise EndpointError(
            f"endpoint {base} does not answer: {redact(str(failed)) or type(failed).__name__}; "
            "is the server up, and are host and port right?"
        ) from None
    if answer.status_code in _UNAUTHORISED:
        raise EndpointError(
            f"endpoint {base} refuses us with HTTP {answer.status_code}; "
            f"set {API_KEY_VARIABLE} in the environment, or give --agentperf-api-key-file"
        )
    gauges = open_gauges(base, auth_headers())
    told = ask_server(base, auth_headers())
    return EndpointInfo(
        url=base,
        models=_model_ids(answer),
        server=redact(one_line(answer.headers.get("server", ""))),
        gauges=gauges,
        facts=told.facts,
        settings=told.settings,
        ask_settings=lambda: ask_server(base, auth_headers(), again=told.settings).settings,
        close=gauges.close if gauges else lambda: None,
    )


def _base_url(url: str) -> str:
    refuse_user_info(url, "--endpoint", f"a key belongs into the environment: {API_KEY_VARIABLE}")
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigError("--endpoint has no host; write http://HOST:PORT/v1")
    if parts.query or parts.fragment:
        raise ConfigError(
            f"--endpoint for {parts.hostname} has a query; write http://HOST:PORT/v1, and a key "
            f"into the environment: {API_KEY_VARIABLE}"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _model_ids(answer: httpx.Response) -> tuple[str, ...]:
    """Return the served names; none when the server has no such list."""
    if answer.status_code != _OK:
        return ()
    try:
        body: Any = answer.json()
        return tuple(redact(one_line(str(entry["id"]))) for entry in body["data"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


class HttpConnection:
    """One agent's connection over httpx."""

    def __init__(
        self,
        info: EndpointInfo,
        *,
        timeout_s: float,
        tls: ssl.SSLContext,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = f"{info.url}/chat/completions"
        self._osl_header = info.osl_header
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(  # nosec B113 # chat() has the limit
            verify=tls,
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # the whole request has one limit, in chat()
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            headers={
                "content-type": "application/json",
                "accept": "text/event-stream",
                "accept-encoding": "identity",
                **info.headers,
                **auth_headers(),
                **(headers or {}),
            },
        )

    async def chat(self, body: Body, into: RawAnswer, *, osl_tokens: int | None) -> None:
        """Send one request; see `pytest_agentperf.protocols.Connection`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(joined(body), into, osl_tokens)
        except TimeoutError:
            into.error = f"timeout after {self._timeout_s:g} s"
        except httpx.HTTPError as failed:
            into.error = redact(f"connection: {type(failed).__name__}: {failed}")
        into.end_ns = time.perf_counter_ns()
        into.sent_ns = into.sent_ns or into.end_ns

    async def _send(self, body: bytes, into: RawAnswer, osl_tokens: int | None) -> None:
        stamps = _Stamps(into)
        try:
            await self._once(body, into, stamps, osl_tokens)
        except httpx.TransportError:
            # A reused connection that died unseen is not the server's failure to answer: some
            # servers close after every streamed answer. It is opened anew once, and counted; the
            # request counts from its first send, and a connection that was cut later has failed.
            late = time.perf_counter_ns() - into.sent_ns > _DEAD_WITHIN_NS
            if stamps.connected or late or into.status or into.reads:
                raise
            into.reconnected = True
            await self._once(body, into, stamps, osl_tokens)

    async def _once(
        self, body: bytes, into: RawAnswer, stamps: "_Stamps", osl_tokens: int | None
    ) -> None:
        headers: dict[str, str] = {}
        if self._osl_header and osl_tokens:
            headers[self._osl_header] = str(osl_tokens)
        request = self._client.build_request(
            "POST",
            self._url,
            content=body,
            headers=headers,
            extensions={"trace": stamps},
        )
        stamp = time.perf_counter_ns
        response = await self._client.send(request, stream=True)
        try:
            into.status = response.status_code
            keep, left = into.reads.append, MOST_ANSWER_BYTES
            async for data in response.aiter_raw():
                keep((stamp(), data))
                left -= len(data)
                if left < 0:
                    said = f"an answer of more than {MOST_ANSWER_BYTES >> 20} MB, given up"
                    raise httpx.RemoteProtocolError(said)
        finally:
            await response.aclose()
            # It and its stream hold each other, and both the body and the answer; nothing would
            # free them before the end of the phase, since garbage is not collected under load.
            response.stream = httpx.ByteStream(b"")

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


class _Stamps:
    """httpcore's trace hook: stamps the connect and the instant before the first byte is sent."""

    def __init__(self, into: RawAnswer) -> None:
        self._into = into
        self._connect_from = 0

    @property
    def connected(self) -> bool:
        """Tell whether a connection was opened, or tried, for this request."""
        return self._connect_from > 0

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        del info
        if event == "connection.connect_tcp.started":
            self._connect_from = time.perf_counter_ns()
        elif event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._into.connect_ns = time.perf_counter_ns() - self._connect_from
        elif event.endswith("send_request_headers.started"):
            self._into.sent_ns = self._into.sent_ns or time.perf_counter_ns()
