"""pytest in pytest: a project with the suites' conftest, and the options of a very short run."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHORT = (
    "--agentperf-mode=smoke",
    "--agentperf-start-spread-s=0.2",
    "--agentperf-settle-s=0.2",
    "--agentperf-min-steady-s=1",
    "--agentperf-results=results",
    "--dataset=synthetic:trajectories=8,turns=3,isl=1500,osl=20,tool_s=0.1,seed=1",
)
"""Long enough to measure something, far too short to trust: what these tests are about is words."""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty project in which ``--endpoint`` and its friends are known."""
    pytester.makeconftest((ROOT / "conftest.py").read_text("utf-8"))
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    return pytester
