"""The endpoint's key: from the environment or a file into a header, and into no text of ours."""

import ipaddress
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from pytest_agentperf.errors import ConfigError

__all__ = [
    "API_KEY_FILE_VARIABLE",
    "API_KEY_VARIABLE",
    "api_key",
    "auth_headers",
    "check_transport",
    "keyless_environment",
    "redact",
    "use_key",
]

API_KEY_VARIABLE = "AGENTPERF_API_KEY"
API_KEY_FILE_VARIABLE = "AGENTPERF_API_KEY_FILE"
"""Load processes read the file themselves, so that the key stands in nobody's environment."""
_INSECURE_VARIABLE = "AGENTPERF_INSECURE_KEY"
_LEAST_KEY = 8
_MOST_BYTES = 65_536


def use_key(file: str | None, *, insecure: bool) -> None:
    """Take from now on, here and in load processes, what options say of the key.

    Args:
        file: what holds the key, if not the environment.
        insecure: it may be sent in clear text to another machine.
    """
    if file is not None:
        os.environ[API_KEY_FILE_VARIABLE] = file
    if insecure:
        os.environ[_INSECURE_VARIABLE] = "1"


def api_key() -> str:
    """Return the key, empty where there is none; the environment comes before the file.

    Raises:
        ConfigError: the file cannot be read, or holds none; or no header can carry the key, whose
            value is not shown.
    """
    key, source = os.environ.get(API_KEY_VARIABLE, "").strip(), API_KEY_VARIABLE
    file = os.environ.get(API_KEY_FILE_VARIABLE, "")
    if not key and file:
        key, source = _key_in(file), f"the key's file {file}"
        if not key:
            raise ConfigError(f"{source} is empty; write the key into it, and nothing else")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{source} holds characters that no header can carry")
    return key


@lru_cache(maxsize=4)
def _key_in(file: str) -> str:
    try:
        with Path(file).open("rb") as opened:
            return opened.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError as failed:
        raise ConfigError(f"the key's file {file} cannot be read: {failed.strerror}") from None


def auth_headers() -> dict[str, str]:
    """Return the authorization header; none where there is no key.

    Raises:
        ConfigError: see `api_key`.
    """
    key = api_key()
    return {"authorization": f"Bearer {key}"} if key else {}


def check_transport(url: str) -> None:
    """Check that the key does not go to another machine in clear text.

    Raises:
        ConfigError: it would.
    """
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or _is_loopback(parts.hostname or "")
    if is_safe or os.environ.get(_INSECURE_VARIABLE) or not api_key():
        return
    raise ConfigError(
        f"endpoint {url}: the key would be sent in clear text to {parts.hostname}; use https, or "
        "give --agentperf-insecure-key where the network is your own"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def keyless_environment() -> Mapping[str, str]:
    """Return this process's environment for a program that has no business with the key."""
    ours = {API_KEY_VARIABLE, API_KEY_FILE_VARIABLE}
    return {name: value for name, value in os.environ.items() if name not in ours}


def redact(text: str) -> str:
    """Return a text of somebody else's without our key in it."""
    try:
        key = api_key()
    except ConfigError:
        return text
    # A shorter one guards nothing, and would cut words of ours in pieces.
    return text.replace(key, "[key]") if len(key) >= _LEAST_KEY else text
