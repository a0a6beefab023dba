"""Asks servers for their pages of metrics: requests, KV cache, prefix hits, drafts, preemptions.

A page without series that we know, or none at all, is no fault: then nobody can say what the server
saw.
"""

import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from pytest_agentperf.errors import ConfigError, did_you_mean
from pytest_agentperf.records import Sample
from pytest_agentperf.series import Named, is_on, names_on, parse_named, read_pages

__all__ = ["Page", "ServerGauges", "open_gauges", "open_named_gauges"]

_PATHS = ("/metrics", "/prometheus/metrics")
"""The second is where ``trtllm-serve`` has it."""
_OK = 200
_ASK_S = 2.0
_MOST_BYTES = 8_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Where a page of metrics lies, and what authorises us there."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class ServerGauges:
    """Asks the servers of one deployment; on connections of its own, never the agents'."""

    def __init__(self, pages: Sequence[Page], named: Sequence[Named] = ()) -> None:
        self.pages = tuple(pages)
        self._named = tuple(named)
        self._client = httpx.Client(
            timeout=_ASK_S, trust_env=False, verify=ssl.create_default_context()
        )

    def sample(self) -> Sequence[Sample]:
        """Read all pages once; where one does not come, the others alone would tell too little."""
        began_ns = time.perf_counter_ns()
        texts = [self.text(page) for page in self.pages]
        at_ns = (began_ns + time.perf_counter_ns()) // 2
        if not all(texts):
            return ()
        told = read_pages([t for t in texts if t], self._named)
        return [
            Sample(at_ns=at_ns, series=name, unit=unit, value=value)
            for name, (unit, value) in told.items()
        ]

    def text(self, page: Page) -> str | None:
        """Return a page; ``None`` where it does not come, or is none."""
        try:
            answer = self._client.get(page.url, headers=dict(page.headers))
        except httpx.HTTPError:
            return None
        if answer.status_code != _OK or len(answer.content) > _MOST_BYTES:
            return None
        return answer.text

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def open_gauges(base: str, headers: Mapping[str, str]) -> ServerGauges | None:
    """Return what asks the server behind a base URL, or ``None`` where it tells nothing.

    Args:
        base: URL up to and including ``/v1``; the page lies beside that.
        headers: what authorises us.
    """
    for path in _PATHS:
        gauges = ServerGauges([Page(url=base.removesuffix("/v1") + path, headers=headers)])
        if gauges.sample():
            return gauges
        gauges.close()
    return None


def open_named_gauges(
    base: str, headers: Mapping[str, str], *, urls: Sequence[str], series: Sequence[str]
) -> ServerGauges:
    """Return what asks the pages and the series that a user named.

    Args:
        base: URL of the endpoint, up to and including ``/v1``.
        headers: what authorises us at the endpoint; no other server is shown it.
        urls: pages; without any, the page beside the endpoint is asked.
        series: in the form of `series.parse_named`.

    Raises:
        ConfigError: a page does not come, or a series is on none of them.
    """
    named = [parse_named(text, "--agentperf-metrics-series") for text in series]
    beside = [base.removesuffix("/v1") + path for path in _PATHS]
    for url in urls:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise ConfigError(
                f"--agentperf-metrics-url {url!r} is no URL; write http://HOST:PORT/metrics"
            )
    for candidates in [urls] if urls else [[url] for url in beside]:
        own = [Page(url=u, headers=headers if _same_origin(u, base) else {}) for u in candidates]
        gauges = ServerGauges(own, named)
        texts = [gauges.text(page) for page in own]
        if all(texts):
            _check_named(named, [text for text in texts if text])
            return gauges
        gauges.close()
    silent = urls or beside
    raise ConfigError(
        f"no page of metrics at {' or '.join(silent)}; start the server with its metrics on, or "
        "name the page with --agentperf-metrics-url"
    )


def _check_named(named: Sequence[Named], texts: Sequence[str]) -> None:
    for each in named:
        if not is_on(each, texts):
            raise ConfigError(
                f"--agentperf-metrics-series {each.series!r}: the server's page has no such series"
                f"{did_you_mean(each.series, names_on(texts))}"
            )


def _same_origin(one: str, other: str) -> bool:
    return urlsplit(one)[:2] == urlsplit(other)[:2]
