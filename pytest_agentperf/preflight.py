"""What is settled before any load: the endpoint answers, serves the model, and lacks nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_agentperf.bench import Inputs, Models
from pytest_agentperf.bundle import SCHEMA, Bundle, ClientCheck, provenance
from pytest_agentperf.dataset_statistics import statistics
from pytest_agentperf.detected import complete, facts_of_devices
from pytest_agentperf.errors import ConfigError, EndpointError, did_you_mean
from pytest_agentperf.ledger import make_ledger, shown, taken_over
from pytest_agentperf.outlook import planned_phases
from pytest_agentperf.places import parse_places
from pytest_agentperf.protocols import EndpointInfo, find
from pytest_agentperf.ray_cluster import RayCluster
from pytest_agentperf.room import check_room, cores, room, worker_count
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.selfcheck.ladder import measure, null_server
from pytest_agentperf.settings import Settings
from pytest_agentperf.space import Need, Space, check_space, need, space

__all__ = [
    "check_client",
    "check_models",
    "check_place",
    "check_room_for_phases",
    "connect",
    "connect_checked",
    "open_cluster",
    "open_folder",
    "with_facts",
]

_CHECK_STREAMS = 64


def connect(url: str, models: Sequence[str]) -> EndpointInfo:
    """Find the endpoint's scheme among the installed ones and connect.

    Raises:
        ConfigError: an unknown scheme or an impossible URL.
        EndpointError: nothing answers there.
    """
    scheme, colon, _ = url.partition(":")
    if not colon:
        raise ConfigError(f"--endpoint {url!r} is no URL; write http://HOST:PORT/v1 or sim:")
    return find("endpoints", scheme)(url, models=models)


def check_models(info: EndpointInfo, models: Sequence[str]) -> None:
    """Check that every model is served, as far as the server tells what it serves.

    Raises:
        EndpointError: a model is not in the server's list.
    """
    for model in models:
        if info.models and model not in info.models:
            raise EndpointError(
                f"endpoint {info.url} does not serve model {model!r}"
                f"{did_you_mean(model, info.models)}"
            )


def connect_checked(url: str, models: Sequence[str]) -> EndpointInfo:
    """Connect to an endpoint that serves every model.

    Raises:
        ConfigError: an unknown scheme or an impossible URL.
        EndpointError: nothing answers there, or a model is not in the server's list.
    """
    info = connect(url, models)
    try:
        check_models(info, models)
    except EndpointError:
        info.close()
        raise
    return info


def check_place(info: EndpointInfo, settings: Settings) -> None:
    """Check that this machine has room for the largest phase that may be asked for.

    The nodes of a cluster look for themselves, by what is dealt to them.

    Raises:
        ConfigError: it has not.
    """
    places = parse_places(str(settings.workers))
    if info.in_process is not None or places.cluster is not None:
        return
    most = settings.max_agents
    workers = worker_count(places.workers, agents=most, cores=cores())
    check_room(room(), max_agents=most, workers=workers)


def check_room_for_phases(
    settings: Settings,
    models: Models,
    inputs: Inputs,
    *,
    earlier: Bundle | None = None,
    given: Space | None = None,
) -> tuple[str, ...]:
    """Check that memory and disk hold what the phases take that the tiers may ask for.

    Args:
        settings: what the run was asked to do.
        models: what is searched.
        inputs: what is measured.
        earlier: the run that is gone on with.
        given: what is free; looked for when left out.

    Returns:
        Warnings, where phases after the first may have no room.

    Raises:
        ConfigError: not even the first one has.
    """
    needs: list[Need] = []
    for spec in models.specs.values():
        ledger = make_ledger(
            spec,
            inputs.dataset,
            sha256="",
            settings=settings,
            system=inputs.system,
            verify=models.verify.get(spec.model, {}),
        )
        ledger.phases += taken_over(earlier, spec.model) if earlier is not None else ()
        *_, largest = ledger.cases()
        for phase in planned_phases(ledger, largest):
            agents, (_, requests) = phase.wanted.agents, phase.requests
            needs.append(
                need(
                    agents=agents,
                    processes=_processes(inputs.endpoint, settings, agents),
                    requests=requests,
                    osl_tokens=phase.output_tokens[1] / max(1.0, requests),
                )
            )
    times = 2 * settings.pairs if settings.gate == "ab" else 1
    given = given or space(Path(settings.results))
    return check_space(given, needs * times, results=settings.results)


def _processes(info: EndpointInfo, settings: Settings, agents: int) -> int:
    """Return how many load processes of this machine a phase has."""
    places = parse_places(str(settings.workers))
    if info.in_process is not None or places.cluster is not None:
        return 0
    return worker_count(places.workers, agents=agents, cores=cores())


def check_client(info: EndpointInfo, settings: Settings) -> ClientCheck | None:
    """See what a load process of this machine does; takes some seconds, and no endpoint.

    Returns:
        ``None`` where load runs in virtual time or on other machines, or no check is wanted.

    Raises:
        LoadError: the process does not work at all.
    """
    places = parse_places(str(settings.workers))
    if not settings.client_check_s or info.in_process is not None or places.cluster is not None:
        return None
    with null_server() as port:
        point = measure(
            port,
            streams=_CHECK_STREAMS,
            seconds=settings.client_check_s,
            client=settings.client,
        )
    return ClientCheck(
        streams=point.streams,
        tok_per_s=point.tokens / point.wall_s,
        cpu_us_per_token=point.cpu_s / point.tokens * 1e6,
        ttft_error_p95_s=point.ttft_error_s[1],
        processes=worker_count(places.workers, agents=settings.max_agents, cores=cores()),
    )


def open_cluster(settings: Settings) -> RayCluster | None:
    """Connect to the cluster that load is to run on; ``None``: it runs on this machine.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    address = parse_places(str(settings.workers)).cluster
    if address is None:
        return None
    if (settings.endpoint or "").startswith("sim+virtual:"):
        raise ConfigError(
            f"--agentperf-workers {settings.workers}: virtual time is time of this process alone; "
            "leave the option out, or take an endpoint that the nodes can reach"
        )
    return RayCluster(address)


def with_facts(inputs: Inputs) -> Inputs:
    """Complete the declared system by what the server and the meter say themselves."""
    info = inputs.endpoint
    if info.simulated:  # what it stands for is declared, and no machine
        return inputs
    said = (facts_of_devices(m.devices, m.name) for m in inputs.meters if m.role == "accelerator")
    facts = (*info.facts, *next(said, ()))
    if inputs.system is None:
        return replace(inputs, detected=facts)
    system, wrong = complete(inputs.system, facts)
    return replace(inputs, system=system, detected=facts, contradictions=wrong)


def open_folder(
    settings: Settings,
    inputs: Inputs,
    *,
    client: ClientCheck | None = None,
    resumed_from: str | None = None,
    resumable: bool = True,
) -> RunFolder:
    """Make the run's folder with a first bundle in it.

    Args:
        settings: what the run was asked to do.
        inputs: what is measured.
        client: what was seen of our own load processes.
        resumed_from: the earlier run that this one goes on with.
        resumable: another run can go on with this one.

    Raises:
        ConfigError: it cannot be written.
    """
    info, meters = inputs.endpoint, inputs.meters
    from_where = provenance(
        endpoint=info.url,
        server=info.server,
        served_models=info.models,
        meter=", ".join(meter.name for meter in meters) or "no meter",
        devices=[{"meter": m.name, "role": m.role, **d} for m in meters for d in m.devices],
        simulated=info.simulated,
        resumed_from=resumed_from,
    )
    bundle = Bundle(
        schema=SCHEMA,
        provenance=replace(from_where, observed=info.observed, server_settings=dict(info.settings)),
        settings=shown(settings, inputs.dataset),
        system=inputs.system,
        client=client,
        statistics=statistics(inputs.dataset),
        detected=inputs.detected,
        contradictions=inputs.contradictions,
    )
    return RunFolder(Path(settings.results), bundle, resumable=resumable)
