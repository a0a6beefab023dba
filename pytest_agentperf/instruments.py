"""What is read beside the load: the meters of a run, and the pages of metrics that were named."""

import re
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

from pytest_agentperf.api_key import auth_headers
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.gauges import open_named_gauges
from pytest_agentperf.protocols import EndpointInfo, Meter, find
from pytest_agentperf.settings import Settings

__all__ = ["close_meters", "named_gauges", "open_meters"]

_CLOSE_S = 5.0
_LOCAL = {"localhost", "127.0.0.1", "::1"}


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
            f"--agentperf-require-power: there is no meter of the accelerators of {info.url}; "
            f"{_how_to_have_power(settings)}"
        )
    return meters, opened


def _how_to_have_power(settings: Settings) -> str:
    if settings.gate == "ab":  # which refuses a meter that is named
        return (
            "leave the option out: --agentperf-gate ab reads the power that each endpoint tells "
            "itself, and no other meter, of which nothing tells which of the two it reads"
        )
    return "name one by --agentperf-meter, as in --agentperf-meter=dcgm:http://HOST:9400/metrics"


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
