"""User info in an address, ``http://USER:PASSWORD@HOST``: refused wherever one is given.

Addresses stand in bundles, reports and logs; keys come from the environment or a file.
"""

import re

from pytest_agentperf.errors import ConfigError

__all__ = ["refuse_user_info"]

_PARTS = re.compile(r"(?:[^/?#]*://)?([^/?#]*)([^?#]*)(.*)", re.DOTALL)
"""Authority, path, and query with fragment."""
_HOST = re.compile(r"\[[^\]]*\]|[^:/?#]*")
_AUTHORITY = re.compile(r"(\[.*\]|[^:]*)(:\d*)?")
"""A host, and its port where it has one."""


def refuse_user_info(address: str, option: str, instead: str) -> None:
    """Check that an address holds nothing before its host.

    Args:
        address: as it was given; may lack its scheme, or be none at all.
        option: which gave it.
        instead: what to do.

    Raises:
        ConfigError: it does; of the address its host alone is shown.
    """
    parts = _PARTS.match(address)
    assert parts is not None  # it matches any text
    authority, path, rest = parts.groups()
    # A password may hold what ends a host: a slash, or a mark after which no port stands before.
    is_cut = "#" in rest or not _AUTHORITY.fullmatch(authority)
    before, at, after = f"{authority}{path}{rest if is_cut else ''}".rpartition("@")
    if at and before:
        host = _HOST.match(after)
        unless = "" if "@" in authority else "; an @ of its path is written %40"
        raise ConfigError(
            f"{option} holds user info for {host[0] if host else ''}; {instead}{unless}"
        )
