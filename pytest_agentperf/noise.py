"""``python -m pytest_agentperf.calibrate noise BASELINE``: how far repeats of a phase lie apart.

It measures the baseline's capacities again and again, each time with another seed, under the
baseline's own settings, and writes what the gate takes as its tolerance.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pytest_agentperf import __version__
from pytest_agentperf.api_key import use_key
from pytest_agentperf.asking import observe_models
from pytest_agentperf.baseline import carried_agents, read_baseline
from pytest_agentperf.bench import Inputs, Models
from pytest_agentperf.bundle import Bundle, PhaseResult
from pytest_agentperf.change import ENERGY, REUSE, SPEED, THROUGHPUT, TTFT
from pytest_agentperf.compare import reading
from pytest_agentperf.detected import declared
from pytest_agentperf.errors import AgentPerfError, ConfigError
from pytest_agentperf.events import Event
from pytest_agentperf.fixed import measure_fixed, valid_phases
from pytest_agentperf.importers import load_dataset
from pytest_agentperf.instruments import close_meters, named_gauges, open_meters
from pytest_agentperf.preflight import (
    check_models,
    connect,
    with_facts,
)
from pytest_agentperf.settings import Settings
from pytest_agentperf.spread import LEAST_REPEATS, SCHEMA, Noise, Spread, encode_noise

__all__ = ["add_arguments", "measure_noise", "run"]

_FIGURES = (SPEED, TTFT, THROUGHPUT, REUSE, ENERGY)
_REPEATS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("baseline", help="bundle.json, run folder, or folder of runs")
    parser.add_argument("--endpoint", help="where load goes; default: the baseline's endpoint")
    parser.add_argument("--dataset", help="default: the baseline's; a private one must be named")
    parser.add_argument("--repeats", type=int, default=_REPEATS, help=f"default: {_REPEATS}")
    parser.add_argument(
        "--agents", type=int, action="append", help="default: the capacity of every tier"
    )
    parser.add_argument("--out", type=Path, help="default: noise.json beside the baseline")


def run(asked: argparse.Namespace) -> int:
    """Do what the parsed command line says; return 0, or 4 where something is wrong."""
    try:
        baseline, path = read_baseline(asked.baseline)
        settings = replace(
            baseline.settings,
            endpoint=asked.endpoint or baseline.settings.endpoint,
            dataset=asked.dataset or baseline.settings.dataset,
        )
        agents = tuple(asked.agents or ())
        noise = measure_noise(baseline, settings, repeats=asked.repeats, agents=agents, tell=_say)
        out = asked.out or path.parent / "noise.json"
        out.write_bytes(encode_noise(noise))
    except (AgentPerfError, OSError) as wrong:
        sys.stderr.write(f"error: {wrong}\n")
        return 4
    _say(f"noise: {out}")
    return 0


def measure_noise(
    baseline: Bundle,
    settings: Settings,
    *,
    repeats: int,
    agents: tuple[int, ...] = (),
    tell: Callable[[str], None],
) -> Noise:
    """Measure repeats of one phase, a run and a seed for each.

    Args:
        baseline: what its models and their tiers are taken from.
        settings: the baseline's, with the endpoint and the dataset to measure with.
        repeats: how many, at least `LEAST_REPEATS`.
        agents: how many at once; the capacities of the baseline where there are none.
        tell: is told of progress.

    Raises:
        ConfigError: too few repeats, or a phase that cannot be trusted.
        EndpointError: the endpoint cannot be used.
    """
    if repeats < LEAST_REPEATS:
        raise ConfigError(f"--repeats {repeats}: at least {LEAST_REPEATS} tell of a spread")
    asked = {
        run.spec.model: agents or carried_agents(baseline, run.spec.model)
        for run in baseline.models
    }
    use_key(settings.api_key_file, insecure=settings.insecure_key)
    found: list[Bundle] = []
    for number in range(1, repeats + 1):
        seeded = replace(settings, seed=settings.seed + number, baseline=None, gate="search")
        found.append(asyncio.run(_measure_once(baseline, seeded, asked, tell)))
        tell(f"repeat {number} of {repeats}: run {found[-1].provenance.run}")
    phases = [phase for run in found for phase in valid_phases(run)]
    shas = {run.spec.model: run.dataset.sha256 for run in baseline.models}
    return Noise(
        schema=SCHEMA,
        client=__version__,
        endpoint=settings.endpoint or "",
        runs=tuple(run.provenance.run for run in found),
        spreads=tuple(
            Spread(
                model=model,
                agents=many,
                dataset_sha256=shas[model],
                figures=dict(_figures([p for p in phases if (p.model, p.agents) == (model, many)])),
            )
            for model, numbers in asked.items()
            for many in numbers
        ),
    )


def _figures(phases: Sequence[PhaseResult]) -> Iterator[tuple[str, tuple[float, ...]]]:
    for figure in _FIGURES:
        values = [found.value for p in phases if (found := reading(p, figure)) is not None]
        if len(values) == len(phases):
            yield figure.name, tuple(values)


async def _measure_once(
    baseline: Bundle,
    settings: Settings,
    asked: Mapping[str, Sequence[int]],
    tell: Callable[[str], None],
) -> Bundle:
    specs = {run.spec.model: run.spec for run in baseline.models}
    dataset = load_dataset(settings.dataset, settings.importer)
    for run in baseline.models:
        if run.dataset.sha256 != dataset.sha256:
            raise ConfigError(
                f"--dataset {settings.dataset}: sha256 {dataset.sha256[:12]}, the baseline's "
                f"{run.dataset.sha256[:12]}; name the one that the baseline replayed"
            )
    info = connect(settings.endpoint or "", tuple(specs))
    with ExitStack() as open_:
        open_.callback(info.close)
        check_models(info, tuple(specs))
        meters, ours = open_meters(settings, info)
        open_.callback(close_meters, ours)
        observed = await observe_models(info, specs, settings, dataset, tell=_unheard)
        endpoint = open_.enter_context(named_gauges(observed, settings))
        system = declared(baseline.system) if baseline.system else info.system
        inputs = Inputs(endpoint=endpoint, dataset=dataset, meters=meters, system=system)
        models = Models(specs=specs, published={})
        return await measure_fixed(
            settings, models, with_facts(inputs), asked, on_event=_notes(tell)
        )


def _notes(tell: Callable[[str], None]) -> Callable[[Event], None]:
    def heard(event: Event) -> None:
        if event.kind == "phase-end":
            tell(f"{event.model}, {event.agents} agents: {event.text}")

    return heard


def _unheard(_model: str, _line: object) -> None:
    pass


def _say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
