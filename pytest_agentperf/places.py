"""Where load runs: processes of this machine, or of the machines of a Ray cluster."""

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.user_info import refuse_user_info

__all__ = ["Places", "parse_places"]

_OPTION = "--agentperf-workers"
_EVERYWHERE = "ray:auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """How many load processes there are, and whose machines they run on."""

    workers: int
    """Load processes; 0 chooses by cores."""
    cluster: str | None = None
    """Address of a Ray cluster as ``ray.init`` takes it; ``None``: this machine alone."""


def parse_places(text: str) -> Places:
    """Parse a number, ``ray:auto`` or ``ray://HOST:PORT``, the last two with ``?workers=N``.

    Raises:
        ConfigError: it is none of them.
    """
    if text.isdecimal():
        return Places(workers=int(text))
    refuse_user_info(text, _OPTION, "Ray's own address has none: leave it out")
    place, _, query = text.partition("?")
    if place == _EVERYWHERE:
        return Places(workers=_workers(query, text), cluster="auto")
    if _is_head(urlsplit(place)):
        return Places(workers=_workers(query, text), cluster=place)
    raise ConfigError(
        f"{_OPTION} takes a number of load processes, {_EVERYWHERE} or ray://HOST:PORT, got "
        f"{text!r}"
    )


def _is_head(url: SplitResult) -> bool:
    try:
        return url.scheme == "ray" and bool(url.hostname and url.port) and not url.path
    except ValueError:  # a port that is no number
        return False


def _workers(query: str, text: str) -> int:
    if not query:
        return 0
    name, _, number = query.partition("=")
    if name != "workers" or not number.isdecimal() or not int(number):
        raise ConfigError(f"{_OPTION} {text!r}: behind the ? only workers=N may stand, N above 0")
    return int(number)
