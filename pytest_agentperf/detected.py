"""What servers and meters say of the system themselves, and where that contradicts its owner.

A fact belongs to a key of system.yaml. What was not declared is filled in by it and marked; what
was declared stays, and a difference is told.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from pytest_agentperf.system import SECTIONS, System

__all__ = [
    "Fact",
    "complete",
    "declared",
    "facts_of_devices",
    "facts_of_metrics",
    "facts_of_models",
    "facts_of_props",
    "facts_of_sglang",
    "facts_of_version",
]

_LONGEST = 200
_OWNERS = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "llamacpp": "llama.cpp",
    "tensorrt_llm": "TensorRT-LLM",
}
"""``owned_by`` in the list of models, and the engine that writes it."""
_SGLANG = {
    "version": "engine.version",
    "context_length": "engine.max_model_len",
    "tp_size": "parallelism.tp",
    "pp_size": "parallelism.pp",
    "dp_size": "parallelism.dp",
    "ep_size": "parallelism.ep",
    "quantization": "quantization.weights",
    "kv_cache_dtype": "kv_cache.dtype",
    "page_size": "kv_cache.block_tokens",
    "max_total_num_tokens": "kv_cache.size_tokens",
    "speculative_algorithm": "speculative.method",
    "speculative_draft_model_path": "speculative.draft_model",
    "speculative_num_draft_tokens": "speculative.draft_tokens",
    "model_path": "model.name",
    "revision": "model.revision",
}
"""Of its server info. Its other fields are left alone: one of them is the key to the server."""
_VLLM_CACHE = {
    "block_size": "kv_cache.block_tokens",
    "cache_dtype": "kv_cache.dtype",
    "kv_cache_size_tokens": "kv_cache.size_tokens",
    "enable_prefix_caching": "kv_cache.prefix_caching",
}
_TRTLLM_PARALLEL = {
    "tp_size": "parallelism.tp",
    "tensor_parallel_size": "parallelism.tp",
    "pp_size": "parallelism.pp",
    "pipeline_parallel_size": "parallelism.pp",
    "moe_expert_parallel_size": "parallelism.ep",
}
_INFO = {
    "vllm:cache_config_info": _VLLM_CACHE,
    "trtllm_parallel_config_info": _TRTLLM_PARALLEL,
    "trtllm_model_config_info": {"quantization": "quantization.weights"},
}
"""Series whose labels are the server's own settings."""
_CLOSE = 4.0
"""GiB; drivers keep some of the memory, and report what is left."""
_UNSAID = {"", "none", "null", "auto", "default"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that a server or a meter said."""

    key: str
    """Where it belongs in system.yaml: ``engine.version``."""
    value: str | int | float | bool
    source: str
    """Who said it: ``GET /version``, ``nvml``."""


def facts_of_models(body: Any, source: str) -> Iterator[Fact]:
    """Yield what a list of models tells: engine, what it serves, the longest context in tokens."""
    told = _mapping(_first(_mapping(body).get("data")))
    pairs = [
        ("engine.name", _OWNERS.get(str(told.get("owned_by")))),
        ("engine.max_model_len", told.get("max_model_len")),
        ("engine.max_model_len", told.get("context_window")),
        ("engine.max_model_len", _mapping(told.get("meta")).get("n_ctx")),
        ("model.name", told.get("root") or told.get("path")),
    ]
    yield from _facts(pairs, source)


def facts_of_version(body: Any, source: str) -> Iterator[Fact]:
    """Yield the version that vLLM and TensorRT-LLM tell."""
    yield from _facts([("engine.version", _mapping(body).get("version"))], source)


def facts_of_sglang(body: Any, source: str) -> Iterator[Fact]:
    """Yield what SGLang tells of its settings."""
    told = _mapping(body)
    if "tp_size" in told:
        told = {**_mapping(_first(told.get("internal_states"))), **told}
        yield from _facts([("engine.name", "SGLang")], source)
        yield from _facts([(key, told.get(name)) for name, key in _SGLANG.items()], source)


def facts_of_props(body: Any, source: str) -> Iterator[Fact]:
    """Yield what llama.cpp tells of its build and model."""
    told = _mapping(body)
    if "build_info" in told:
        slot = _mapping(told.get("default_generation_settings"))
        pairs = [
            ("engine.name", "llama.cpp"),
            ("engine.version", told["build_info"]),
            ("model.name", told.get("model_path")),
            ("engine.max_model_len", slot.get("n_ctx")),
        ]
        yield from _facts(pairs, source)


def facts_of_metrics(page: str, source: str) -> Iterator[Fact]:
    """Yield what vLLM and TensorRT-LLM write of their settings into their page of metrics."""
    try:
        for family in text_string_to_metric_families(page):
            keys = _INFO.get(family.name.replace("trtllm:", "trtllm_"))
            for sample in family.samples[:1] if keys else ():
                pairs = [(key, sample.labels.get(name)) for name, key in (keys or {}).items()]
                yield from _facts([(k, _read(v)) for k, v in pairs], source)
    except ValueError:
        return


def facts_of_devices(devices: Sequence[Mapping[str, Any]], source: str) -> Iterator[Fact]:
    """Yield what a meter of accelerators tells: how many, of what name, limit (W) and memory (GiB).

    Args:
        devices: as they stand in the provenance; what differs between them is left out.
        source: the meter's name.
    """
    if not devices:
        return
    yield Fact(key="accelerators.count", value=len(devices), source=source)
    for name, key in (("name", "name"), ("limit_w", "tdp_w"), ("memory_gib", "memory_gib")):
        values = {d.get(name) for d in devices}
        if len(values) == 1:
            yield from _facts([(f"accelerators.{key}", values.pop())], source)


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _first(value: Any) -> Any:
    return cast("list[Any]", value)[0] if isinstance(value, list) and value else None


def _read(text: str | None) -> Any:
    """Return a label's value as what it stands for."""
    if text in {"True", "False"}:
        return text == "True"
    return int(text) if text and text.isdecimal() else text


def _facts(pairs: Iterable[tuple[str, Any]], source: str) -> Iterator[Fact]:
    for key, value in pairs:
        if isinstance(value, str) and value.strip().lower() not in _UNSAID:
            yield Fact(key=key, value=value.strip()[:_LONGEST], source=source)
        elif isinstance(value, bool | int | float):
            yield Fact(key=key, value=value, source=source)


def complete(system: System, facts: Sequence[Fact]) -> tuple[System, tuple[str, ...]]:
    """Fill in what was not declared, and tell what was declared otherwise than detected.

    Returns:
        The system, ``detected`` saying what was filled in by whom; and a line per contradiction.
    """
    first: dict[str, Fact] = {}
    for fact in facts:
        first.setdefault(fact.key, fact)
    wrong: list[str] = []
    for key, fact in first.items():
        said = _declared(system, key)
        if said is None:
            system = _with(system, fact)
        elif not _agree(key, said, fact.value):
            wrong.append(
                f"system.yaml declares {key}: {said}, but {fact.source} says {fact.value}; "
                "correct the one that is wrong"
            )
    return system, tuple(wrong)


def declared(system: System) -> System:
    """Return a system without what was filled in, so that another endpoint can tell its own."""
    kept = {
        name: {
            k: v for k, v in getattr(system, name).items() if f"{name}.{k}" not in system.detected
        }
        for name in SECTIONS
    }
    unsaid = dict.fromkeys(_FIELDS[key] for key in system.detected if key in _FIELDS)
    return replace(system, detected={}, **kept, **unsaid)


_FIELDS = {
    "accelerators.name": "accelerator",
    "accelerators.count": "accelerators",
    "accelerators.tdp_w": "tdp_w",
    "accelerators.memory_gib": "memory_gib",
}


def _declared(system: System, key: str) -> Any:
    section, _, name = key.partition(".")
    if section in SECTIONS:
        return getattr(system, section).get(name)
    return getattr(system, _FIELDS[key])


def _with(system: System, fact: Fact) -> System:
    section, _, name = fact.key.partition(".")
    detected = {**system.detected, fact.key: fact.source}
    changes: dict[str, Any] = {_FIELDS.get(fact.key, section): fact.value}
    if section in SECTIONS:
        changes = {section: {**getattr(system, section), name: fact.value}}
    return replace(system, detected=detected, **changes)


def _agree(key: str, declared: Any, detected: Any) -> bool:
    if isinstance(declared, str) and isinstance(detected, str):
        if key == "accelerators.name":
            return _share_model(declared, detected)
        one, other = _bare(declared), _bare(detected)
        return one in other or other in one
    if isinstance(declared, bool) or isinstance(detected, bool):
        return declared == detected
    if isinstance(declared, str) or isinstance(detected, str):
        return str(declared) == str(detected)
    return abs(declared - detected) <= (_CLOSE if key.startswith("accelerators.mem") else 0)


def _bare(text: str) -> str:
    """Return letters and digits of the last part of a path: what names of one thing share."""
    return re.sub(r"[^a-z0-9]", "", text.rstrip("/").rpartition("/")[2].lower().removeprefix("v"))


def _share_model(one: str, other: str) -> bool:
    """Tell whether two names of accelerators have a model in common, such as H200."""
    parts = [
        {p for p in re.split(r"[^a-z0-9]+", text.lower()) if re.search(r"\d", p)}
        for text in (one, other)
    ]
    return not all(parts) or bool(parts[0] & parts[1])
