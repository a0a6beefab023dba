"""Packages that not everybody needs."""

import importlib
from typing import Any

from pytest_agentperf.errors import ConfigError

__all__ = ["needed"]


def needed(module: str, *, package: str, tokenizer: str) -> Any:
    """Import a module of an optional package.

    Raises:
        ConfigError: the package is not installed; says which tokenizer needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise ConfigError(
            f"--agentperf-tokenizer {tokenizer}: needs the package {package} ({missing}); "
            "pip install 'pytest-agentperf[tokenizers]'"
        ) from missing
