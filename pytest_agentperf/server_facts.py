"""Asks a server what it says of itself, before any load."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from pytest_agentperf.api_key import redact
from pytest_agentperf.detected import (
    Fact,
    facts_of_metrics,
    facts_of_models,
    facts_of_props,
    facts_of_sglang,
    facts_of_version,
)
from pytest_agentperf.server_settings import settings_of_json, settings_of_metrics

__all__ = ["Told", "ask_server"]

from pytest_agentperf.foreign import one_line

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a server says of itself."""

    facts: tuple[Fact, ...]
    """What belongs into system.yaml."""
    settings: Mapping[str, str]
    """Its own settings, by where they were told and its own name for each."""


def ask_server(
    base: str, headers: Mapping[str, str], *, again: Mapping[str, str] | None = None
) -> Told:
    """Return what the server behind a base URL says; a path that it has not says nothing.

    Args:
        base: URL up to and including ``/v1``.
        headers: what authorises us.
        again: settings that it told before; pages that told none of them are not asked.
    """
    pages = None if again is None else {name.partition(" ")[0] for name in again}
    root = base.removesuffix("/v1")
    facts: list[Fact] = []
    settings: dict[str, str] = {}
    trust = ssl.create_default_context()
    with httpx.Client(
        headers=dict(headers), timeout=_ASK_S, trust_env=False, verify=trust
    ) as client:
        for path, read in _JSON:
            wanted = pages is None or path in pages
            if wanted and (answer := _ask(client, root + path)) is not None:
                body = _parsed(answer)
                facts += read(body, f"GET {path}")
                settings |= settings_of_json(path, body)
        wanted = pages is None or any(not page.startswith("/") for page in pages)
        if wanted and (answer := _ask(client, f"{root}/metrics")) is not None:
            facts += facts_of_metrics(answer.text, "GET /metrics")
            settings |= settings_of_metrics(answer.text)
    ours = tuple(replace(fact, value=_ours(fact.value)) for fact in facts)
    return Told(facts=ours, settings={k: redact(one_line(v)) for k, v in settings.items()})


def _ours(value: str | float | bool) -> str | int | float | bool:  # noqa: FBT001 a value
    return redact(one_line(value)) if isinstance(value, str) else value


def _ask(client: httpx.Client, url: str) -> httpx.Response | None:
    try:
        answer = client.get(url)
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == _OK and len(answer.content) <= _MOST_BYTES else None


def _parsed(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError):
        return None
