"""Short option names, so that `pytest suites/ --endpoint=URL` works from a checkout."""

import pytest

from pytest_agentperf.aliases import add_aliases


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --endpoint, --model, --tier, --dataset and --system."""
    add_aliases(parser)
