"""What a page of metrics says: the series of each inference server, and any other by name.

Names are those of vLLM, SGLang, TensorRT-LLM (``trtllm-serve``; Dynamo writes a colon after its
prefix), llama.cpp and Dynamo, today's and older ones. All series of one name are added up, except
the use of a KV cache: there the fullest replica counts.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.serving import COUNTS, LEVELS

__all__ = ["Named", "Reading", "is_on", "names_on", "parse_named", "read_pages"]

_ENGINES: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "kv_use_ratio": ("vllm:kv_cache_usage_perc",),
        "prefix_hits": ("vllm:prefix_cache_hits_total",),
        "prefix_queries": ("vllm:prefix_cache_queries_total",),
        "drafted": ("vllm:spec_decode_num_draft_tokens_total",),
        "accepted": ("vllm:spec_decode_num_accepted_tokens_total",),
        "preemptions": ("vllm:num_preemptions_total",),
    },
    {  # vLLM before 0.11
        "kv_use_ratio": ("vllm:gpu_cache_usage_perc",),
        "prefix_hits": ("vllm:gpu_prefix_cache_hits_total",),
        "prefix_queries": ("vllm:gpu_prefix_cache_queries_total",),
    },
    {
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "kv_use_ratio": ("sglang:token_usage",),
        "prefix_hits": ("sglang:cached_tokens_total",),
        "prefix_queries": ("sglang:prompt_tokens_total",),
        "prefix_hit_ratio": ("sglang:cache_hit_rate",),
        "accepted_ratio": ("sglang:spec_accept_rate",),
        "preemptions": ("sglang:num_retracted_requests_total",),
    },
    {
        "running": ("trtllm_num_requests_running",),
        "waiting": ("trtllm_num_requests_waiting",),
        "kv_use_ratio": ("trtllm_kv_cache_utilization",),
        "prefix_hits": ("trtllm_kv_cache_reused_blocks_total",),
        "prefix_queries": (
            "trtllm_kv_cache_reused_blocks_total",
            "trtllm_kv_cache_missed_blocks_total",
        ),
        "prefix_hit_ratio": ("trtllm_kv_cache_hit_rate",),
        "drafted": ("trtllm_spec_decode_num_draft_tokens_total",),
        "accepted": ("trtllm_spec_decode_num_accepted_tokens_total",),
    },
    {
        "running": ("llamacpp:requests_processing",),
        "waiting": ("llamacpp:requests_deferred",),
        "kv_use_ratio": ("llamacpp:kv_cache_usage_ratio",),  # until it had one cache for all slots
        "prefix_hits": ("llamacpp:prompt_tokens_cached_total",),
        # It counts what it computed and what it reused apart.
        "prefix_queries": (
            "llamacpp:prompt_tokens_total",
            "llamacpp:prompt_tokens_cached_total",
        ),
        "drafted": ("llamacpp:spec_decode_num_draft_tokens_total",),
        "accepted": ("llamacpp:spec_decode_num_accepted_tokens_total",),
    },
    {
        # A request is queued until its first token, and in flight until its last: the one is part
        # of the other (deploy/metrics/README.md, "Request Processing Flow").
        "running": ("dynamo_frontend_inflight_requests", "-dynamo_frontend_queued_requests"),
        "waiting": ("dynamo_frontend_queued_requests",),
        "kv_use_ratio": ("dynamo_component_gpu_cache_usage_percent",),
        "prefix_hits": ("dynamo_frontend_cached_tokens_sum",),
        "prefix_queries": ("dynamo_frontend_input_sequence_tokens_sum",),
        "prefix_hit_ratio": ("dynamo_component_kv_cache_hit_rate",),
    },
)
_TOGETHER = (
    ("running", "waiting"),
    ("prefix_hits", "prefix_queries"),
    ("drafted", "accepted"),
    ("kv_use_ratio",),
    ("prefix_hit_ratio",),
    ("accepted_ratio",),
    ("preemptions",),
)
"""Of one engine or none: what is counted apart must not be added up."""
_FULLEST = frozenset({"kv_use_ratio", "prefix_hit_ratio", "accepted_ratio"})
"""Ratios, which are not added up."""
_NAMED = re.compile(r"(?:([\w:]+)=)?([a-zA-Z_:][\w:]*)(?:\{(.*)\})?")
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)="([^"]*)"\s*')

Reading = tuple[str, float]
"""Unit (``1``: of this moment, ``n``: counted since the start) and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A series that was asked for by name."""

    name: str
    """What it is called in results, or the quantity that it stands for."""
    series: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """What its labels must be; others may be anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    labels: Mapping[str, str]
    value: float
    counts: bool


def parse_named(text: str, option: str) -> Named:
    """Parse ``[NAME=]SERIES[{label="value",…}]``.

    Raises:
        ConfigError: it is not of that form.
    """
    found = _NAMED.fullmatch(text.strip())
    pairs = (
        [_LABEL.fullmatch(p) for p in found[3].split(",") if p.strip()]
        if found and found[3]
        else []
    )
    if found is None or not all(pairs):
        raise ConfigError(
            f'{option} {text!r} is no series; write [NAME=]SERIES or SERIES{{label="value"}}, '
            "as it stands on the server's page of metrics"
        )
    return Named(
        name=found[1] or found[2],
        series=found[2],
        labels={p[1]: p[2] for p in pairs if p is not None},
    )


def read_pages(pages: Iterable[str], named: Sequence[Named] = ()) -> Mapping[str, Reading]:
    """Return what pages in Prometheus' text format tell together; empty: nothing we know.

    Args:
        pages: of the servers of one deployment.
        named: series to be read besides, or in the place of a quantity.
    """
    rows: dict[str, list[_Row]] = {}
    for page in pages:
        for name, found in _rows(page).items():
            rows.setdefault(name, []).extend(found)
    told: dict[str, Reading] = {}
    for engine in _ENGINES:
        for group in _TOGETHER:
            if not told.keys() & set(group) and all(_is_told(q, engine, rows) for q in group):
                told |= {q: _known(q, engine[q], rows) for q in group}
    for each in named:
        if matching := _matching(each, rows):
            told[each.name] = _own(each.name, matching)
    return told


def is_on(named: Named, pages: Iterable[str]) -> bool:
    """Tell whether a series is on any of these pages."""
    return any(_matching(named, _rows(page)) for page in pages)


def _matching(named: Named, rows: Mapping[str, Sequence[_Row]]) -> Sequence[_Row]:
    return [r for r in rows.get(named.series, ()) if named.labels.items() <= r.labels.items()]


def names_on(pages: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all series on some pages."""
    return tuple(sorted({name for page in pages for name in _rows(page)}))


def _rows(page: str) -> dict[str, list[_Row]]:
    found: dict[str, list[_Row]] = {}
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    counts = family.type == "counter" or sample.name.endswith(("_sum", "_count"))
                    row = _Row(labels=sample.labels, value=sample.value, counts=counts)
                    name = sample.name.replace("trtllm:", "trtllm_")
                    found.setdefault(name, []).append(row)
    except ValueError:
        return {}
    return found


def _is_told(
    quantity: str, engine: Mapping[str, tuple[str, ...]], rows: Mapping[str, object]
) -> bool:
    terms = engine.get(quantity, ())
    return bool(terms) and all(term.removeprefix("-") in rows for term in terms)


def _known(quantity: str, terms: Sequence[str], rows: Mapping[str, Sequence[_Row]]) -> Reading:
    total = 0.0
    for term in terms:
        values = [row.value for row in rows[term.removeprefix("-")]]
        value = max(values) if quantity in _FULLEST else sum(values)
        total += -value if term.startswith("-") else value
    return ("n" if quantity in COUNTS else "1", total)


def _own(name: str, rows: Sequence[_Row]) -> Reading:
    values = [row.value for row in rows]
    counts = name in COUNTS or (name not in LEVELS and rows[0].counts)
    return ("n" if counts else "1", max(values) if name in _FULLEST else sum(values))
