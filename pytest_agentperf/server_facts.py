"""Asks a server what it says of itself, before any load."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from pytest_agentperf.detected import (
    Fact,
    facts_of_metrics,
    facts_of_models,
    facts_of_props,
    facts_of_sglang,
    facts_of_version,
)

__all__ = ["ask_facts"]

_OK = 200
_ASK_S = 3.0
_MOST_BYTES = 8_000_000

_JSON: tuple[tuple[str, Callable[[Any, str], Iterator[Fact]]], ...] = (
    ("/v1/models", facts_of_models),
    ("/version", facts_of_version),
    ("/server_info", facts_of_sglang),
    ("/get_server_info", facts_of_sglang),  # SGLang before 0.5
    ("/props", facts_of_props),
)


def ask_facts(base: str, headers: Mapping[str, str]) -> tuple[Fact, ...]:
    """Return what the server behind a base URL says; a path that it has not says nothing.

    Args:
        base: URL up to and including ``/v1``.
        headers: what authorises us.
    """
    root = base.removesuffix("/v1")
    found: list[Fact] = []
    with httpx.Client(headers=dict(headers), timeout=_ASK_S, trust_env=False) as client:
        for path, read in _JSON:
            if (answer := _ask(client, root + path)) is not None:
                found += read(_parsed(answer), f"GET {path}")
        if (answer := _ask(client, f"{root}/metrics")) is not None:
            found += facts_of_metrics(answer.text, "GET /metrics")
    return tuple(found)


def _ask(client: httpx.Client, url: str) -> httpx.Response | None:
    try:
        answer = client.get(url)
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == _OK and len(answer.content) <= _MOST_BYTES else None


def _parsed(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
