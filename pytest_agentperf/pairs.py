"""``python -m pytest_agentperf.pairs BASELINE``: two endpoints in turns, A B B A, at equal agents.

Each pair has one seed, so that its work is the same, and the turns keep what drifts with the time
of day out of the difference. What is compared is what each pair has apart.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_agentperf.baseline import read_baseline
from pytest_agentperf.bench import InvalidPhaseError
from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.compare import Comparison, compare_pairs
from pytest_agentperf.errors import AgentPerfError, ConfigError, EndpointError
from pytest_agentperf.gate_text import comparison_table
from pytest_agentperf.noise import capacities, measure_once, say
from pytest_agentperf.outcome import Facts, outcome
from pytest_agentperf.settings import Settings

__all__ = ["main", "measure_pairs"]

LEAST_PAIRS = 4
_USAGE = 4
_WIDTH = 100


def main(given: Sequence[str] | None = None) -> int:
    """Measure and compare; return an exit code of the gate: 0, 1, 4, 10 or 11."""
    asked = _parser().parse_args(given)
    try:
        baseline, _ = read_baseline(asked.baseline)
        settings = replace(
            baseline.settings,
            endpoint=asked.endpoint or baseline.settings.endpoint,
            dataset=asked.dataset or baseline.settings.dataset,
        )
        compared = measure_pairs(
            baseline,
            settings,
            endpoint_b=asked.endpoint_b,
            pairs=asked.pairs,
            agents=tuple(asked.agents or ()),
            tell=say,
        )
    except EndpointError as down:
        return _end(Facts(down=str(down)))
    except InvalidPhaseError as invalid:
        reason = str(invalid).partition(": ")[2]
        return _end(Facts(unmeasured=[str(invalid)], invalid=[reason]))
    except AgentPerfError as wrong:
        sys.stderr.write(f"error: {wrong}\n")
        return _USAGE
    say(comparison_table(compared, _WIDTH))
    return _end(Facts(comparison=compared))


def measure_pairs(
    baseline: Bundle,
    settings: Settings,
    *,
    endpoint_b: str,
    pairs: int,
    agents: tuple[int, ...] = (),
    tell: Callable[[str], None],
) -> Comparison:
    """Measure pairs of phases on two endpoints and compare them.

    Args:
        baseline: what models, tiers and agents are taken from; its figures are not.
        settings: the baseline's, with endpoint A.
        endpoint_b: the other one.
        pairs: how many, at least `LEAST_PAIRS`.
        agents: how many at once; the baseline's capacities where there are none.
        tell: is told of progress.

    Raises:
        ConfigError: too few pairs.
        EndpointError: an endpoint cannot be used.
        InvalidPhaseError: a phase cannot be trusted.
    """
    if pairs < LEAST_PAIRS:
        raise ConfigError(f"--pairs {pairs}: at least {LEAST_PAIRS} tell how far pairs lie apart")
    asked = {
        run.spec.model: agents or capacities(baseline, run.spec.model) for run in baseline.models
    }
    ends = {"A": settings.endpoint or "", "B": endpoint_b}
    found: list[tuple[PhaseResult, PhaseResult]] = []
    for number in range(pairs):
        measured: dict[str, Sequence[PhaseResult]] = {}
        for side in "AB" if number % 2 == 0 else "BA":
            tell(f"pair {number + 1} of {pairs}: {side}")
            own = replace(
                settings,
                endpoint=ends[side],
                seed=settings.seed + number,
                baseline=None,
                gate="search",
            )
            _, measured[side] = asyncio.run(measure_once(baseline, own, asked, tell))
        found += zip(measured["A"], measured["B"], strict=True)
    return compare_pairs(found, before=ends["A"], now=ends["B"], tiers={})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_agentperf.pairs", description=__doc__)
    parser.add_argument("baseline", help="a run of the same model, dataset and settings")
    parser.add_argument("--endpoint", help="A; default: the baseline's endpoint")
    parser.add_argument("--endpoint-b", required=True, help="B, which is compared with A")
    parser.add_argument("--dataset", help="default: the baseline's; a private one must be named")
    parser.add_argument("--pairs", type=int, default=LEAST_PAIRS, help=f"default: {LEAST_PAIRS}")
    parser.add_argument("--agents", type=int, action="append", help="default: every capacity")
    return parser


def _end(facts: Facts) -> int:
    found = outcome(facts)
    say(found.line)
    return found.code


if __name__ == "__main__":
    sys.exit(main())
