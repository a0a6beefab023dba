"""The system under test: what its owner declares, checked against a JSON Schema that is published.

The schema says what is allowed; this module says in words of ours what is wrong, and checks what no
schema can: numbers that contradict one another.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, cast

import yaml

from pytest_agentperf.errors import ConfigError, did_you_mean

__all__ = ["SECTIONS", "System", "parse_system", "system_schema"]

SECTIONS = (
    "interconnect", "host", "engine", "parallelism", "disaggregation", "quantization", "kv_cache",
    "speculative", "model",
)  # fmt: skip
"""Keys that hold keys of their own, as they stand in `System`."""
_MOVED = {
    "tensor_parallel": "parallelism.tp",
    "tensor_parallel_size": "parallelism.tp",
    "tp": "parallelism.tp",
    "pp": "parallelism.pp",
    "dp": "parallelism.dp",
    "ep": "parallelism.ep",
    "args": "engine.launch_command",
    "flags": "engine.launch_command",
    "command": "engine.launch_command",
    "revision": "model.revision",
    "gpus": "accelerators",
    "price": "price_usd_per_hour",
    "count": "accelerators.count",
    "tdp_w": "accelerators.tdp_w",
}
"""Where what people call otherwise has its place."""
_MOST_USD_PER_ACCELERATOR_HOUR = 1000
_KINDS = {
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "object": "keys and values",
    "boolean": "true or false",
}

Section = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What was measured, as its owner declares it."""

    name: str
    accelerator: str
    accelerators: int
    """All accelerators of all systems."""
    tdp_w: float | None = None
    """Thermal design power of one accelerator, watts."""
    memory_gib: float | None = None
    """Memory of one accelerator, GiB."""
    systems: int = 1
    nodes: int | None = None
    racks: float | None = None
    price_usd_per_hour: float | None = None
    """Price of everything that was measured, US dollars an hour."""
    provider: str | None = None
    interconnect: Section = field(default_factory=dict[str, Any])
    host: Section = field(default_factory=dict[str, Any])
    engine: Section = field(default_factory=dict[str, Any])
    parallelism: Section = field(default_factory=dict[str, Any])
    disaggregation: Section = field(default_factory=dict[str, Any])
    """Accelerators that prefill, and accelerators that decode."""
    quantization: Section = field(default_factory=dict[str, Any])
    kv_cache: Section = field(default_factory=dict[str, Any])
    speculative: Section = field(default_factory=dict[str, Any])
    model: Section = field(default_factory=dict[str, Any])
    notes: str | None = None
    detected: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was not declared and was read from the machine or the server: key and source."""


@cache
def system_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of a system.yaml."""
    found = resources.files("pytest_agentperf") / "data" / "system.schema.json"
    return json.loads(found.read_text("utf-8"))


def parse_system(text: str, where: str) -> System:
    """Parse a system.yaml.

    Raises:
        ConfigError: it is wrong; names every key, the value seen and what to do, a line each.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as broken:
        raise ConfigError(f"{where}: not YAML: {broken}") from broken
    root = _plain(document)
    wrong = [*_violations(root)] or [*_contradictions(root)]
    if wrong:
        raise ConfigError("\n".join(f"{where}: {line}" for line in wrong))
    gpus = root["accelerators"]
    return System(
        name=root["name"],
        accelerator=gpus["name"],
        accelerators=int(gpus["count"]),
        tdp_w=_float(gpus.get("tdp_w")),
        memory_gib=_float(gpus.get("memory_gib")),
        systems=root.get("systems", 1),
        nodes=root.get("nodes"),
        racks=_float(root.get("racks")),
        price_usd_per_hour=_float(root.get("price_usd_per_hour")),
        provider=root.get("provider"),
        notes=root.get("notes"),
        **{name: root.get(name, {}) for name in SECTIONS},
    )


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _violations(document: Any) -> Iterator[str]:
    """Yield a line for every place that the schema refuses, in the order of the file."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 only where there is a system file

    validator: Any = Draft202012Validator(system_schema())
    seen: set[str] = set()
    for error in validator.iter_errors(document):
        place = f"{error.json_path} {error.validator if error.validator == 'required' else ''}"
        if place not in seen or error.validator == "required":  # one thing is said once
            yield from _said(error)
        seen.add(place)


def _plain(value: object) -> Any:
    """Return a document as JSON has it: no key that was left empty, no number that is none."""
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {str(key): _plain(item) for key, item in items if item is not None}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _said(error: Any) -> Iterator[str]:
    path = ".".join(map(str, error.absolute_path))
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            yield from (_unknown(key, path, known) for key in error.instance if key not in known)
        case "required":
            # One error a missing key: jsonschema names it in its message alone.
            key = next(k for k in error.validator_value if f"'{k}' is a required" in error.message)
            yield _missing(f"{path}.{key}" if path else key)
        case _:
            yield _refused(path, error)


def _unknown(key: str, path: str, known: Mapping[str, object]) -> str:
    place = f"{path}: " if path else ""
    moved = _MOVED.get(key)
    if moved is not None:
        return f"{place}unknown key {key!r}; write it as '{moved}'"
    hint = did_you_mean(key, known)
    return f"{place}unknown key {key!r}{hint}{'' if hint.endswith('?') else '; or use notes'}"


def _missing(path: str) -> str:
    examples = {
        "version": "'version: 1'",
        "name": "'name: 8x H200, vLLM'",
        "accelerators": "'accelerators: {name: H200 SXM, count: 8, tdp_w: 700}'",
        "accelerators.count": "'count: 8' for all accelerators that are under load",
        "accelerators.name": "'name: H200 SXM'",
    }
    return f"{path} is missing; write {examples.get(path, 'it, or leave the section out')}"


def _refused(path: str, error: Any) -> str:
    seen, bound = error.instance, error.validator_value
    if path.endswith("tdp_w") and error.validator in {"minimum", "maximum"}:
        return _implausible_tdp(path, seen)
    if error.validator in {"type", "pattern"}:
        kind = _KINDS[bound] if error.validator == "type" else "a text"
        quotes = "; put it in quotes" if kind == "a text" and isinstance(seen, int | float) else ""
        return f"{path or 'the file'}: expected {kind}, got {seen!r}{quotes}"
    return {
        "const": f"{path} is {seen!r}; write '{path}: {bound}'",
        "minimum": f"{path} is {seen}; it is at least {bound}",
        "exclusiveMinimum": f"{path} is {seen}; it is more than {bound}, or left out",
        "maximum": f"{path} is {seen}, more than any that we know of ({bound}); is its unit right?",
    }[error.validator]


def _implausible_tdp(path: str, seen: float) -> str:
    unit = "it is in watts of one accelerator"
    if 0 < seen < 20:  # noqa: PLR2004 the schema's own bound
        return f"{path} is {seen:g}; {unit}: is {seen:g} in kilowatts? write {seen * 1000:g}"
    if seen <= 0:
        return f"{path} is {seen:g}; {unit}; leave it out when it is not known"
    return f"{path} is {seen:g}; {unit}: is that the whole system, or milliwatts?"


def _contradictions(root: Mapping[str, Any]) -> Iterator[str]:
    """Yield what cannot be true together."""
    count: int = root["accelerators"]["count"]
    for key in ("systems", "nodes"):
        if root.get(key, 1) > count:
            yield (
                f"{key} is {root[key]}, but accelerators.count, of all {key} together, is {count}; "
                "correct one of them"
            )
    ranks: Mapping[str, int] = root.get("parallelism", {})
    shards = ranks.get("tp", 1) * ranks.get("pp", 1)
    if shards > count:
        yield (
            f"parallelism.tp × parallelism.pp is {shards}, but accelerators.count is {count}; "
            "correct one of them"
        )
    roles: Mapping[str, int] = root.get("disaggregation", {})
    if sum(roles.values()) > count:
        yield (
            f"disaggregation is {roles['prefill']} : {roles['decode']} accelerators, but "
            f"accelerators.count is {count}; correct one of them"
        )
    each_usd: float = root.get("price_usd_per_hour", 0) / count
    if each_usd > _MOST_USD_PER_ACCELERATOR_HOUR:
        yield (
            f"price_usd_per_hour is {root['price_usd_per_hour']}, {each_usd:,.0f} $ for one "
            "accelerator; is it in cents, or for a month?"
        )
