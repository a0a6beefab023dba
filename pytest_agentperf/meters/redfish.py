"""A chassis at the wall through its BMC's Redfish service.

``EnvironmentMetrics`` (``PowerWatts.Reading``) where the chassis has it, else the older ``Power``
(``PowerControl[].PowerConsumedWatts``). https://redfish.dmtf.org/schemas/DSP2046_2024.1.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.meters.http import HttpSource, basic_auth
from pytest_agentperf.meters.quantities import finite
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import ClockOffset, Role, Sample

__all__ = ["RedfishMeter", "connect"]

USER_VARIABLE = "AGENTPERF_REDFISH_USER"
PASSWORD_VARIABLE = "AGENTPERF_REDFISH_PASSWORD"
_PERIOD_S = 1.0
_TIMEOUT_S = 10.0
_MOST_CHASSIS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One number on one page."""

    series: str
    url: str
    control: int | None
    """Which entry of ``PowerControl``; ``None``: ``PowerWatts``."""


def connect(text: str) -> Meter:
    """Find what tells the chassis' power: ``redfish:https://BMC/redfish/v1/[Chassis/ID]``.

    ``devices``: how many nodes it is the power of; without it, as many as it tells powers.

    Raises:
        ConfigError: nothing answers, no chassis tells its power, or several do.
    """
    address = read_address(text, ("verify", "devices"))
    url = address.url("redfish:https://BMC/redfish/v1/Chassis/1")
    source = HttpSource(
        address,
        headers={"accept": "application/json", **basic_auth(USER_VARIABLE, PASSWORD_VARIABLE)},
        timeout_s=address.timeout_s(_TIMEOUT_S),
    )
    try:
        return RedfishMeter(address, source, _find(address, source, url))
    except ReadingError as failed:
        source.close()
        raise address.refused(
            f"{failed}; user and password are read from {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        ) from failed
    except ConfigError:
        source.close()
        raise


class RedfishMeter:
    """Reads the power of one chassis."""

    kind = "redfish"

    def __init__(self, address: MeterAddress, source: HttpSource, read: Sequence[_Source]) -> None:
        """Ask for each of these."""
        self.name = address.text
        self.role: Role = address.role("chassis")
        self.period_s = address.period_s(_PERIOD_S)
        self._source = source
        self._read = read
        self.devices: Sequence[Mapping[str, Any]] = [
            {"series": each.series, "url": each.url, "source": "power samples", **share}
            for each, share in zip(read, address.shares(len(read)), strict=True)
        ]

    def sample(self) -> Sequence[Sample]:
        """Read the chassis once, watts.

        Raises:
            ReadingError: no answer, or its power is no number.
        """
        out: list[Sample] = []
        for each in self._read:
            page = self._source.get(each.url)
            told = _watts(page.json(), each.control)
            value = finite(told)
            if value is None:
                raise ReadingError(f"{each.url}: power is {told!r}, no number of watts", out)
            out.append(Sample(at_ns=page.at_ns, series=each.series, unit="W", value=value))
        return out

    def clock(self) -> ClockOffset | None:
        """Return the BMC's clock as its Date tells it; stamps are our own."""
        told = self._source.clock.offset()
        return replace(told, by=f"{told.by}; stamps are our own")

    def close(self) -> None:
        """Close the connection."""
        self._source.close()


def _find(address: MeterAddress, source: HttpSource, url: str) -> Sequence[_Source]:
    """Return what to read of the resource that the URL names."""
    body = _object(source.get(url).json(), url)
    own = _readable(url, body)
    if own:
        return own
    found = (_chassis if "Chassis" in body else _of_chassis)(source, url, body)
    if not found:
        raise address.refused(
            f"{url} tells no power; name a chassis, .../redfish/v1/Chassis/ID, whose "
            "EnvironmentMetrics or Power has it"
        )
    if len({each.series for each in found}) > 1 and "Chassis" in body:
        # One chassis may stand in another: added up, its power would count twice.
        raise address.refused(
            f"several chassis tell their power: {', '.join(e.url for e in found)}; name one, or "
            "give --agentperf-meter once for each that stands by itself"
        )
    return found


def _chassis(source: HttpSource, url: str, root: Mapping[str, Any]) -> Sequence[_Source]:
    listing = _linked(url, root, "Chassis")
    members: Any = (
        _object(source.get(listing).json(), listing).get("Members", []) if listing else []
    )
    out: list[_Source] = []
    for member in members[:_MOST_CHASSIS]:
        at = _linked(url, {"it": member}, "it")
        if at:
            out += _of_chassis(source, at, _object(source.get(at).json(), at))
    return out


def _of_chassis(source: HttpSource, url: str, body: Mapping[str, Any]) -> Sequence[_Source]:
    for name in ("EnvironmentMetrics", "Power"):
        at = _linked(url, body, name)
        if not at:
            continue
        try:
            found = _readable(at, _object(source.get(at).json(), at))
        except ReadingError:
            found = ()
        if found:
            return found
    return ()


def _readable(url: str, body: Mapping[str, Any]) -> Sequence[_Source]:
    """Return what of a page's own content is a power."""
    series = urlsplit(url).path.rstrip("/").removeprefix("/redfish/v1/")
    if finite(_watts(body, None)) is not None:
        return [_Source(series=series, url=url, control=None)]
    controls = body.get("PowerControl")
    if isinstance(controls, list) and controls:  # the first is the chassis, others are parts of it
        return [_Source(series=series, url=url, control=0)]
    return ()


def _watts(body: Any, control: int | None) -> Any:
    try:
        if control is None:
            return body["PowerWatts"]["Reading"]
        return body["PowerControl"][control]["PowerConsumedWatts"]
    except (KeyError, TypeError, IndexError):
        return None


def _linked(url: str, body: Mapping[str, Any], name: str) -> str | None:
    """Return where a link leads; ``None`` for none, and for one to a server that nobody named."""
    link: Any = body.get(name)
    path: Any = cast("dict[str, Any]", link).get("@odata.id") if isinstance(link, dict) else None
    if not isinstance(path, str):
        return None
    at = urljoin(url, path)
    # The BMC's credentials go with every question.
    return at if urlsplit(at)[:2] == urlsplit(url)[:2] else None


def _object(body: Any, url: str) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise ReadingError(f"{url} answers no Redfish resource")
    return cast("dict[str, Any]", body)
