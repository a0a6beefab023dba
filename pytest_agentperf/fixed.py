"""A run of phases with given numbers of agents, without a search: what repeats and turns are of."""

from collections.abc import Callable, Mapping, Sequence

from pytest_agentperf.bench import Bench, Inputs, Models
from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.events import Event
from pytest_agentperf.preflight import open_folder
from pytest_agentperf.settings import Settings

__all__ = ["measure_fixed", "valid_phases"]


async def measure_fixed(
    settings: Settings,
    models: Models,
    inputs: Inputs,
    asked: Mapping[str, Sequence[int]],
    *,
    on_event: Callable[[Event], None],
    numbered_after: int = 0,
) -> Bundle:
    """Measure every number of agents of every model once; return the run, which has its own folder.

    A phase in which the endpoint went away and came back stands in it beside its repeat.

    Args:
        settings: with the seed of this run.
        models: what to send and how to judge it.
        inputs: the endpoint, checked, and what is replayed on it.
        asked: by model, how many agents.
        on_event: is told of progress.
        numbered_after: the number before that of the first phase.

    Raises:
        InvalidPhaseError: a phase cannot be trusted.
    """
    folder = open_folder(settings, inputs, resumable=False)
    bench = Bench(
        settings=settings,
        models=models,
        inputs=inputs,
        folder=folder,
        on_event=on_event,
        numbered_after=numbered_after,
    )
    try:
        for model, numbers in asked.items():
            for agents in numbers:
                await bench.measure(agents, model=model)
    finally:
        await bench.close()
    return folder.bundle


def valid_phases(run: Bundle) -> tuple[PhaseResult, ...]:
    """Return what can be compared: one phase of each number of agents that was asked for."""
    return tuple(phase for phase in run.phases if not phase.invalid)
