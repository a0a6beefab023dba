"""What a server tells of its own settings, by the name that it has for each: text in, pairs out.

Of pages that also hold keys and tokens, only what is named here is read.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["setting_changes", "settings_of_json", "settings_of_metrics"]

_LONGEST = 200
_NAMED: Mapping[str, tuple[str, ...]] = {
    "/v1/models": (
        "id", "owned_by", "root", "max_model_len", "context_window", "context_length",
        "meta.n_ctx", "meta.n_ctx_train", "meta.n_params", "meta.size",
    ),
    "/version": ("version",),
    "/server_info": (
        "version", "model_path", "served_model_name", "revision", "dtype", "quantization",
        "kv_cache_dtype", "context_length", "tp_size", "pp_size", "dp_size", "ep_size",
        "enable_dp_attention", "max_running_requests", "max_total_tokens", "max_total_num_tokens",
        "max_prefill_tokens", "chunked_prefill_size", "mem_fraction_static", "page_size",
        "schedule_policy", "schedule_conservativeness", "disable_radix_cache",
        "enable_hierarchical_cache", "enable_mixed_chunk", "attention_backend", "sampling_backend",
        "cuda_graph_max_bs", "disable_cuda_graph", "disable_overlap_schedule", "stream_interval",
        "speculative_algorithm", "speculative_num_steps", "speculative_eagle_topk",
        "speculative_num_draft_tokens", "disaggregation_mode", "load_balance_method",
        "reasoning_parser", "tool_call_parser", "enable_cache_report", "enable_metrics",
    ),
    "/props": (
        "build_info", "model_alias", "model_path", "total_slots",
        "default_generation_settings.n_ctx", "chat_template_caps.supports_tools",
        "chat_template_caps.supports_tool_calls", "chat_template_caps.supports_parallel_tool_calls",
    ),
}  # fmt: skip
_ALIASES = {"/get_server_info": "/server_info"}
"""SGLang before 0.5."""
_INFO = "config_info"
"""Families that vLLM and TensorRT-LLM name so hold their settings as labels."""
_LISTED_FIRST = "/v1/models id"
_MEASURED = frozenset({
    "num_gpu_blocks", "kv_cache_size_tokens", "kv_cache_max_concurrency", "num_pages",
    "max_total_num_tokens", "max_running_requests", "max_model_len", "context_length",
    "meta.n_ctx", "default_generation_settings.n_ctx",
})  # fmt: skip
"""A server finds them at its start, by the memory that is free then."""
_ALIKE = 0.02
_OF_A_PROCESS = frozenset({"engine", "worker_id", "instance", "hostname", "pid"})
"""Labels that tell which process of a deployment has answered."""


def settings_of_json(path: str, body: Any) -> Iterator[tuple[str, str]]:
    """Yield what the JSON of a path tells, as ``name``, ``value``.

    Args:
        path: such as ``/props``.
        body: what it answered, of whatever shape.
    """
    told = _mapping(body)
    if path == "/v1/models":
        told = _mapping(next(iter(_list(told.get("data"))), None))
    told = {**_mapping(next(iter(_list(told.get("internal_states"))), None)), **told}
    named = _NAMED.get(_ALIASES.get(path, path), ())
    yield from _told((f"{path} {name}", _at(told, name)) for name in named)


def settings_of_metrics(page: str) -> Iterator[tuple[str, str]]:
    """Yield the labels of the series in which a server writes its configuration."""
    try:
        for family in text_string_to_metric_families(page):
            if family.name.endswith(_INFO):
                for sample in family.samples[:1]:
                    pairs = sample.labels.items()
                    yield from _told((f"{family.name} {label}", value) for label, value in pairs)
    except ValueError:
        return


def _at(told: Mapping[str, Any], name: str) -> Any:
    outer, dot, inner = name.partition(".")
    return _mapping(told.get(outer)).get(inner) if dot else told.get(name)


def _told(pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, value in pairs:
        if isinstance(value, str | bool | int | float) and value != "":
            yield name, str(value)[:_LONGEST]


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def setting_changes(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield in what a server is another one, by what it told of itself both times.

    What was told only once says nothing: a page may not have answered in time, or have been empty
    before the first request.
    """
    listed_alike = then.get(_LISTED_FIRST) == now.get(_LISTED_FIRST)  # of several models any may be
    for name, before in then.items():
        page, _, setting = name.partition(" ")
        ours = listed_alike or page != "/v1/models"
        if ours and name in now and setting not in _OF_A_PROCESS:
            after = now[name]
            if before != after and not (setting in _MEASURED and _near(before, after)):
                yield f"{name} was {before!r} and is {after!r}"


def _near(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=_ALIKE)
    except ValueError:
        return False
