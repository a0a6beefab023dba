"""Short names of the options that every run needs, for a conftest to add.

The plugin itself registers ``--agentperf-*`` only: it is loaded in every pytest run of its
environment, where bare names may be somebody else's.
"""

import pytest

__all__ = ["add_aliases"]

_ALIASES = ("endpoint", "model", "tier", "dataset", "system")
_MANY = ("model", "tier")


def add_aliases(parser: pytest.Parser) -> None:
    """Add ``--endpoint``, ``--model``, ``--tier``, ``--dataset`` and ``--system``.

    May be called by several conftests of one run.
    """
    group = parser.getgroup("agentperf")
    taken = {name for option in group.options for name in option.names()}
    for name in _ALIASES:
        if f"--{name}" not in taken:
            group.addoption(
                f"--{name}",
                dest=f"agentperf_{name}",
                action="append" if name in _MANY else "store",
                default=None,
                help=f"same as --agentperf-{name}",
            )
