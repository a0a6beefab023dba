"""Short option names for these suites, wherever they lie."""

import pytest

from pytest_agentperf.aliases import add_aliases


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --endpoint, --model, --tier, --dataset and --system."""
    add_aliases(parser)
