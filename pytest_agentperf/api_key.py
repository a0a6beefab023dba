"""The endpoint's key: from the environment into a header, and into no text of ours."""

import os

from pytest_agentperf.errors import ConfigError

__all__ = ["API_KEY_VARIABLE", "auth_headers", "redact"]

API_KEY_VARIABLE = "AGENTPERF_API_KEY"
_LEAST_KEY = 8


def auth_headers() -> dict[str, str]:
    """Return the authorization header; the key comes from the environment and nowhere else.

    Raises:
        ConfigError: the key cannot stand in a header; its value is not shown.
    """
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{API_KEY_VARIABLE} holds characters that no header can carry")
    return {"authorization": f"Bearer {key}"} if key else {}


def redact(text: str) -> str:
    """Return a text of somebody else's without our key in it."""
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    # A shorter one guards nothing, and would cut words of ours in pieces.
    return text.replace(key, "[key]") if len(key) >= _LEAST_KEY else text
