"""Which client carries the load: our own engine, or httpx where the engine cannot go."""

import ssl

from pytest_agentperf.endpoint import HttpConnection
from pytest_agentperf.engine.connection import EngineConnection
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.protocols import Connection, EndpointInfo

__all__ = ["degraded_by", "open_connection"]

_HTTPX = "httpx"


def open_connection(
    client: str, info: EndpointInfo, *, timeout_s: float, tls: ssl.SSLContext, lags: ReadLags
) -> Connection:
    """Return one agent's connection.

    Args:
        client: ``engine`` or ``httpx``.
        info: where to.
        timeout_s: limit of one whole request.
        tls: for ``https``.
        lags: gets the lags of the engine's reads.
    """
    if client == _HTTPX:
        return HttpConnection(info, timeout_s=timeout_s, tls=tls)
    return EngineConnection(info, timeout_s=timeout_s, tls=tls, lags=lags)


def degraded_by(client: str) -> str | None:
    """Return what a client makes of the times, where that is not the best that there is."""
    return "degraded (httpx client)" if client == _HTTPX else None
