"""Which client carries the load: our own engine, or httpx where the engine cannot go."""

import ssl
from collections.abc import Callable, Mapping

from pytest_agentperf.endpoint import HttpConnection
from pytest_agentperf.engine.connection import EngineConnection
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.orders import Setup
from pytest_agentperf.protocols import Connection, EndpointInfo

__all__ = ["connections_of", "degraded_by", "open_connection"]

_HTTPX = "httpx"


def open_connection(
    client: str,
    info: EndpointInfo,
    *,
    timeout_s: float,
    tls: ssl.SSLContext,
    lags: ReadLags,
    headers: Mapping[str, str] | None = None,
) -> Connection:
    """Return one agent's connection.

    Args:
        client: ``engine`` or ``httpx``.
        info: where to.
        timeout_s: limit of one whole request.
        tls: for ``https``.
        lags: gets the lags of the engine's reads.
        headers: of every request, besides the endpoint's own.
    """
    if client == _HTTPX:
        return HttpConnection(info, timeout_s=timeout_s, tls=tls, headers=headers)
    return EngineConnection(info, timeout_s=timeout_s, tls=tls, headers=headers, lags=lags)


def connections_of(setup: Setup, lags: ReadLags) -> Callable[[int], Connection]:
    """Return what makes the connection of an agent, by its number.

    Args:
        setup: where to, and how.
        lags: gets the lags of the engine's reads.
    """
    info = EndpointInfo(url=setup.url, headers=setup.headers, osl_header=setup.osl_header)
    # Shared by all connections: making one takes tens of milliseconds.
    tls = ssl.create_default_context()

    def connect(agent: int) -> Connection:
        header = setup.affinity_header
        return open_connection(
            setup.client,
            info,
            timeout_s=setup.timeout_s,
            tls=tls,
            lags=lags,
            headers=None if header is None else {header: f"{setup.run}-{agent}"},
        )

    return connect


def degraded_by(client: str) -> str | None:
    """Return what a client makes of the times, where that is not the best that there is."""
    return "degraded (httpx client)" if client == _HTTPX else None
