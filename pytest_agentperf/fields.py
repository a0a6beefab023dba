"""Checked reading of hand-written YAML: every function names the place and the value it refused."""

import math
from collections.abc import Sequence
from typing import Any, cast

from pytest_agentperf.errors import ConfigError, did_you_mean

__all__ = ["count_of", "list_of", "mapping_of", "number_of", "text_of"]


def mapping_of(value: object, where: str, known: Sequence[str] | None = None) -> dict[str, Any]:
    """Return a mapping with text keys; refuse keys that are not ``known``, if that is given."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys and values, got {value!r}")
    items = {str(key): item for key, item in cast("dict[object, Any]", value).items()}
    for key in items:
        if known is not None and key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")
    return items


def list_of(value: object, where: str, *, empty: bool = False) -> list[object]:
    """Return a list, which may be empty only when asked for."""
    if not isinstance(value, list) or not (value or empty):
        raise ConfigError(f"{where}: expected a list, got {value!r}")
    return cast("list[object]", value)


def text_of(value: object, where: str) -> str:
    """Return a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: expected a text, got {value!r}")
    return value


def number_of(value: object, where: str) -> float:
    """Return a finite number."""
    try:
        number = float(cast("Any", value))
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where}: expected a number, got {value!r}") from None
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f"{where}: expected a number, got {value!r}")
    return number


def count_of(value: object, where: str) -> int:
    """Return a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}: expected a whole number of at least 1, got {value!r}")
    return value
