"""User info in an address, ``http://USER:PASSWORD@HOST``: refused wherever one is given.

Addresses stand in bundles, reports and logs; keys come from the environment or a file.
"""

import re

from pytest_agentperf.errors import ConfigError

__all__ = ["refuse_user_info"]


def refuse_user_info(address: str, option: str, instead: str) -> None:
    """Check that an address holds nothing before its host.

    Args:
        address: as it was given; may lack its scheme, or be none at all.
        option: which gave it.
        instead: what to do.

    Raises:
        ConfigError: it does; of the address its host alone is shown.
    """
    # Also in the path, up to the query: a password with a slash in it ends the host too early.
    before, at, after = re.split("[?#]", address, maxsplit=1)[0].rpartition("@")
    if at and before:
        host = re.split("[/:]", after, maxsplit=1)[0]
        raise ConfigError(f"{option} holds user info for {host}; {instead}")
