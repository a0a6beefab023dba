"""A warm-up on the simulator, in virtual time, and all that precedes a phase on one over HTTP."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_agentperf.dialect import Dialect
from pytest_agentperf.errors import StorageError
from pytest_agentperf.observed import Observed
from pytest_agentperf.orders import Setup
from pytest_agentperf.prelude import WarmUp
from pytest_agentperf.protocols import Connection, EndpointInfo
from pytest_agentperf.sim.launch import connect, connect_virtual
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.warmup import outside, warm_up
from tests.workloads import small_setup

DATASET = synthesize(trajectories=2, turns=2, isl_tokens=900, osl_tokens=20, tool_s=0.1, seed=1)


def warmed(folder: Path, *, agents: int, for_s: float) -> WarmUp:
    """Warm a simulator up in its own time."""
    info = connect_virtual("sim+virtual:", models=["m"])
    place = info.in_process
    assert place is not None
    setup = outside(
        small_setup(DATASET, url="sim+virtual:", model="m", folder=folder),
        folder,
        isl_tokens=2000,
        reasoning_field="reasoning",
    )

    def connections(_: Setup) -> Callable[[int], Connection]:
        return lambda _agent: place.connect(timeout_s=60.0)

    async def work() -> WarmUp:
        return await place.run(
            lambda: warm_up(setup, connections, agents=agents, for_s=for_s, clock=place.clock)
        )

    found = asyncio.run(work())
    info.close()
    return found


def test_it_takes_as_long_as_it_is_told_and_measures_nothing(tmp_path: Path) -> None:
    found = warmed(tmp_path, agents=4, for_s=20.0)
    assert (found.model, found.agents, found.seconds) == ("m", 4, 20.0)
    assert found.requests > 4
    assert found.failed == 0
    assert found.first_ttft_s is not None


def test_its_trajectories_and_its_salts_are_in_no_phase(tmp_path: Path) -> None:
    setup = small_setup(DATASET, url="u", model="m", folder=tmp_path)
    other = outside(setup, tmp_path, isl_tokens=900, reasoning_field="reasoning")
    assert other.run != setup.run
    assert Path(other.trajectories).read_bytes() != Path(setup.trajectories).read_bytes()
    assert other.tokenizer is None


def test_reasoning_goes_back_as_the_server_was_seen_to_take_it() -> None:
    spec = ModelSpec(model="m", tiers=(), reasoning_field="reasoning_content")
    info = EndpointInfo(url="http://h/v1")
    assert info.history_field(spec) == "reasoning_content"
    seen = Observed(model="m", lines=(), dialect=Dialect(history_field="reasoning"), requests=4)
    assert replace(info, observed=(seen,)).history_field(spec) == "reasoning"


def test_what_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    setup = small_setup(DATASET, url="u", model="m", folder=tmp_path)
    with pytest.raises(StorageError, match=r"what is to be sent cannot be written to .*nowhere"):
        outside(setup, tmp_path / "nowhere", isl_tokens=900, reasoning_field="reasoning")


ASKED = (
    "--model=m",
    "--tier=t:ttft<=60",
    "--agentperf-mode=smoke",
    "--agentperf-min-steady-s=1",
    "--agentperf-settle-s=0.2",
    "--agentperf-start-spread-s=0.2",
    "--agentperf-max-agents=2",
    "--agentperf-results=results",
    "--agentperf-affinity-header=X-Session-ID",
    "--agentperf-meter=none",
    "--dataset=synthetic:trajectories=4,turns=2,isl=1500,osl=20,tool_s=0.1,seed=1",
)


@pytest.mark.e2e
def test_what_precedes_a_phase_stands_in_the_bundle(pytester: pytest.Pytester) -> None:
    """The simulator as a server of somebody else: nothing tells that it is one."""
    root = Path(__file__).parents[1]
    pytester.makeconftest((root / "conftest.py").read_text("utf-8"))
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile("async def test_it(agentperf):\n    await agentperf.measure(agents=2)\n")
    info = connect("sim:?max_tokens=refused&history=reasoning", models=["m"])
    try:
        result = pytester.runpytest_subprocess(f"--endpoint={info.url}", *ASKED)
    finally:
        info.close()
    result.stdout.fnmatch_lines(
        ["*ok      usage: comes in its own event*", "*warmed up for 1 s: *"]
    )
    (path,) = Path(pytester.path / "results").glob("*/bundle.json")
    bundle = json.loads(path.read_text("utf-8"))
    (observed,) = bundle["provenance"]["observed"]
    assert observed["dialect"]["max_tokens_field"] == "max_completion_tokens"
    assert observed["took_s"] < 60
    settings = bundle["provenance"]["server_settings"]
    assert settings["/v1/models owned_by"] == "agentperf-sim"
    assert settings["/v1/models max_model_len"] == "131072"
    (warm,) = bundle["warm_ups"]
    assert warm["requests"] > 0
    assert warm["failed"] == 0  # it too has learnt the name of the cap
    rest = bundle["phases"][0]["rest"]
    assert (rest["idle"], rest["evidence"]) == (True, "metrics")
    assert bundle["phases"][0]["metrics"]["error_ratio"] == 0
    assert bundle["settings"]["affinity_header"] == "X-Session-ID"
