"""Asks servers for their pages of metrics: requests, KV cache, prefix hits, drafts, preemptions.

A page without series that we know, or none at all, is no fault: then nobody can say what the server
saw.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from pytest_agentperf.records import Sample
from pytest_agentperf.series import Named, read_pages

__all__ = ["Page", "ServerGauges", "open_gauges"]

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
        self._client = httpx.Client(timeout=_ASK_S, trust_env=False)

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
