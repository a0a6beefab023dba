"""What is settled before any load: the endpoint answers, serves the model, streams; the meter."""

import re
import ssl
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from pytest_agentperf.answer import AnswerReader
from pytest_agentperf.api_key import auth_headers, redact
from pytest_agentperf.bench import Inputs
from pytest_agentperf.bundle import SCHEMA, Bundle, ClientCheck, RunFolder, provenance
from pytest_agentperf.clients import open_connection
from pytest_agentperf.detected import complete, facts_of_devices
from pytest_agentperf.engine.stamps import ReadLags
from pytest_agentperf.errors import ConfigError, EndpointError, did_you_mean
from pytest_agentperf.gauges import open_named_gauges
from pytest_agentperf.ledger import shown
from pytest_agentperf.places import parse_places
from pytest_agentperf.protocols import Connection, EndpointInfo, Meter, find
from pytest_agentperf.ray_cluster import RayCluster
from pytest_agentperf.records import RawAnswer
from pytest_agentperf.room import check_room, cores, room, worker_count
from pytest_agentperf.selfcheck.ladder import measure, null_server
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.tokens import LocalTokenizer
from pytest_agentperf.trajectory import Message
from pytest_agentperf.wire import ChatEncoder, encode_message

__all__ = [
    "check_chat",
    "check_client",
    "check_models",
    "check_place",
    "close_meters",
    "connect",
    "connect_checked",
    "named_gauges",
    "open_cluster",
    "open_folder",
    "open_meters",
    "with_facts",
]

_PROBE_S = 60.0
_CLOSE_S = 5.0
_PROBE_TOKENS = 16
_CHECK_STREAMS = 64
_LOCAL = {"localhost", "127.0.0.1", "::1"}


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


async def check_chat(info: EndpointInfo, spec: ModelSpec, settings: Settings) -> None:
    """Send one small request with the model's own fields, and see that it can be measured.

    Raises:
        EndpointError: it failed, or its tokens cannot be counted.
        ConfigError: the tokenizer that was named cannot be read.
    """
    if settings.tokenizer is not None:
        LocalTokenizer(settings.tokenizer)
    encoder = ChatEncoder(
        model=spec.model,
        request=spec.request,
        max_tokens=_PROBE_TOKENS,
        output="natural",
    )
    hello = encode_message(Message(role="user", content="Say hello."), spec.reasoning_field)
    raw = await _asked(info, settings.client, encoder.body([hello], b"", None))
    reader = AnswerReader()
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
    answer = reader.finish(raw)
    if answer.error is not None:
        raise EndpointError(
            f"endpoint {info.url}: a first small request to {spec.model!r} failed: "
            f"{redact(answer.error)}; "
            f"its fields were {dict(spec.request)}"
        )
    if answer.osl_tokens is None and settings.tokenizer is None:
        raise EndpointError(
            f"endpoint {info.url} reports no usage when stream_options.include_usage is set: "
            "tokens cannot be counted; make it report usage, or give --agentperf-tokenizer FOLDER"
        )
    first_chunk_judged = settings.speed == "first-chunk" or spec.limits_first_chunk
    if first_chunk_judged and answer.first_chunk_tokens is None and settings.tokenizer is None:
        raise EndpointError(
            f"endpoint {info.url} does not tell how many tokens its first chunk holds, and a tier "
            "is judged by first-chunk speed; give --agentperf-tokenizer FOLDER, or make it report "
            "usage on every chunk"
        )


async def _asked(info: EndpointInfo, client: str, body: bytes) -> RawAnswer:
    async def ask(connection: Connection) -> RawAnswer:
        raw = RawAnswer()
        try:
            await connection.chat(body, raw, osl_tokens=_PROBE_TOKENS)
        finally:
            await connection.close()
        return raw

    place = info.in_process
    if place is not None:
        return await place.run(lambda: ask(place.connect(timeout_s=_PROBE_S)))
    tls = ssl.create_default_context()
    return await ask(open_connection(client, info, timeout_s=_PROBE_S, tls=tls, lags=ReadLags()))


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


def open_meters(
    settings: Settings, info: EndpointInfo
) -> tuple[tuple[Meter, ...], tuple[Meter, ...]]:
    """Open the meters that were asked for; return them, and those of them that are ours to close.

    For ``auto``, and where none was named, the endpoint's own is taken, or the page on which a
    simulator tells its power; else NVML where it answers and the endpoint is on this machine: the
    accelerators of another machine are not the ones under load.

    Raises:
        ConfigError: a meter that was named cannot be had, or power is required and none is there.
    """
    named = tuple(dict.fromkeys(settings.meter)) or ("auto",)
    others = tuple(name for name in named if name != "auto")
    if others == named == ("none",):
        others = ()
    if others and info.in_process is not None:
        raise ConfigError(
            f"--agentperf-meter {others[0]!r}: the endpoint {info.url} has a time of its own, "
            "which no other meter can follow; leave the option away, its own meter is read"
        )
    own = (info.meter,) if "auto" in named and info.meter is not None else ()
    opened = _named_meters(others)
    if "auto" in named and not own:
        opened = (*_usual_meter(info), *opened)
    meters = (*own, *opened)
    if settings.require_power and not any(m.role == "accelerator" for m in meters):
        close_meters(opened)
        raise ConfigError(
            "--agentperf-require-power: there is no meter of the accelerators; name one by "
            "--agentperf-meter, as in --agentperf-meter=dcgm:http://HOST:9400/metrics"
        )
    return meters, opened


def close_meters(meters: Sequence[Meter]) -> None:
    """Close meters; one that hangs is left to itself."""
    for meter in meters:
        closing = threading.Thread(target=meter.close, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _named_meters(names: Sequence[str]) -> tuple[Meter, ...]:
    if "none" in names:
        raise ConfigError(
            f"--agentperf-meter: 'none' stands beside {', '.join(set(names) - {'none'})}; "
            "give either"
        )
    opened: list[Meter] = []
    try:
        for name in names:
            kind = re.split("[:?]", name, maxsplit=1)[0]
            opened.append(find("meters", kind)(name))
        _check_distinct(opened)
    except ConfigError:
        close_meters(opened)
        raise
    return tuple(opened)


def _check_distinct(meters: Sequence[Meter]) -> None:
    """Refuse two meters that would be added up and read one device."""
    seen: dict[tuple[str, str, str], str] = {}
    for meter in meters:
        for device in meter.devices:
            uuid = device.get("uuid")
            if not uuid:
                continue
            first = seen.setdefault((meter.role, meter.kind, uuid), meter.name)
            if first != meter.name:
                raise ConfigError(
                    f"--agentperf-meter {meter.name!r}: {uuid} is read by {first!r} already, and "
                    "both are added up; name it once"
                )


def _usual_meter(info: EndpointInfo) -> tuple[Meter, ...]:
    if info.simulated:  # a machine's own accelerators are idle while it simulates some
        kind, name = "dcgm", f"dcgm:{info.url.removesuffix('/v1')}/metrics"
    elif urlsplit(info.url).hostname in _LOCAL:
        kind = name = "nvml"
    else:
        return ()
    try:
        return (find("meters", kind)(name),)
    except ConfigError:
        return ()


@contextmanager
def named_gauges(info: EndpointInfo, settings: Settings) -> Generator[EndpointInfo]:
    """Give the endpoint with the pages and series of metrics that were named, while it is used.

    Raises:
        ConfigError: a page does not come, or has no such series.
    """
    urls, series = settings.metrics_url, settings.metrics_series
    if not (urls or series):
        yield info
        return
    if info.in_process is not None:
        raise ConfigError(
            f"endpoint {info.url} has no page of metrics; leave --agentperf-metrics-url and "
            "--agentperf-metrics-series out, its own counts are read anyhow"
        )
    gauges = open_named_gauges(info.url, auth_headers(), urls=urls, series=series)
    try:
        yield replace(info, gauges=gauges)
    finally:
        gauges.close()


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
) -> RunFolder:
    """Make the run's folder with a first bundle in it.

    Args:
        settings: what the run was asked to do.
        inputs: what is measured.
        client: what was seen of our own load processes.
        resumed_from: the earlier run that this one goes on with.

    Raises:
        ConfigError: it cannot be written.
    """
    info, meters = inputs.endpoint, inputs.meters
    bundle = Bundle(
        schema=SCHEMA,
        provenance=provenance(
            endpoint=info.url,
            server=info.server,
            served_models=info.models,
            meter=", ".join(meter.name for meter in meters) or "no meter",
            devices=[{"meter": m.name, "role": m.role, **d} for m in meters for d in m.devices],
            simulated=info.simulated,
            resumed_from=resumed_from,
        ),
        settings=shown(settings, inputs.dataset),
        system=inputs.system,
        client=client,
        detected=inputs.detected,
        contradictions=inputs.contradictions,
    )
    return RunFolder(Path(settings.results), bundle)
