"""NVIDIA accelerators of any machine through dcgm-exporter's page.

Its collection interval (30 s unless it was told otherwise) is how often values move, however often
the page is read; `power` takes a counter at the readings at which it had moved. DCGM writes
*blank* values, huge numbers, for what a device does not tell.
https://docs.nvidia.com/datacenter/dcgm/latest/reference/dcgm-exporter-metrics.html
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.meters.http import HttpSource, Page, bearer_auth
from pytest_agentperf.meters.pages import PageSample, read_families
from pytest_agentperf.meters.quantities import finite
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import ClockOffset, Role, Sample

__all__ = ["DcgmMeter", "connect"]

TOKEN_VARIABLE = "AGENTPERF_DCGM_TOKEN"
_ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
_POWER = ("DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_POWER_USAGE_INSTANT")
_FAMILIES = (_ENERGY, *_POWER)
_BLANK_FROM = {_ENERGY: 2.0**63 - 2**16, _POWER[0]: 2.0**46, _POWER[1]: 2.0**46}
"""DCGM_INT64_BLANK and DCGM_FP64_BLANK and what lies above them: not told, and why."""
_PERIOD_S = 1.0
_TIMEOUT_S = 5.0
_TICKS = 12
"""Pages that have stamps are asked for so often at first: until a Date moves on."""
_TICK_S = 0.1


def connect(text: str) -> Meter:
    """Read a page once and take its devices: ``dcgm:http://HOST:9400/metrics[?gpus=0,2]``.

    Raises:
        ConfigError: nothing answers, or the page has no power in it.
    """
    address = read_address(text, ("gpus", "verify"))
    url = address.url("dcgm:http://HOST:9400/metrics")
    gpus = [g for g in address.options.get("gpus", "").split(",") if g]
    source = HttpSource(
        address, headers=bearer_auth(TOKEN_VARIABLE), timeout_s=address.timeout_s(_TIMEOUT_S)
    )
    meter = DcgmMeter(address, url, source)
    try:
        meter.find_devices(gpus)
    except ReadingError as failed:
        source.close()
        raise address.refused(f"{failed}; is this dcgm-exporter's page?") from failed
    except ConfigError:
        source.close()
        raise
    return meter


class DcgmMeter:
    """Reads every device's energy counter, or its power where it has none."""

    kind = "dcgm"
    role: Role = "accelerator"

    def __init__(self, address: MeterAddress, url: str, source: HttpSource) -> None:
        """Ask ``url``; `find_devices` sets out what is read."""
        self.name = address.text
        self.period_s = address.period_s(_PERIOD_S)
        self.devices: Sequence[Mapping[str, Any]] = ()
        self._address = address
        self._url = url
        self._source = source
        self._units: dict[str, str] = {}
        """What is read of each series."""
        self._has_stamps = False

    def find_devices(self, gpus: Sequence[str]) -> None:
        """Take the devices of the page, or those named by index or UUID.

        Raises:
            ReadingError: the page cannot be had or read.
            ConfigError: it has no power, or not of these.
        """
        rows = _rows(read_families(self._source.get(self._url).text, _FAMILIES))
        if not rows:
            raise self._address.refused(
                f"{self._url} has neither {_ENERGY} nor {_POWER[0]}; add them to the exporter's "
                "list of counters"
            )
        known = {name: uuid for uuid, row in rows.items() for name in (uuid, _index(row))}
        for name in gpus:
            if name not in known:
                raise self._address.refused(
                    f"the page has no gpu {name!r}; it has {', '.join(sorted(known))}"
                )
        wanted = {known[name] for name in gpus} or set(rows)
        chosen = {uuid: row for uuid, row in rows.items() if uuid in wanted}
        self._units = {u: "J" if row.name == _ENERGY else "W" for u, row in chosen.items()}
        self.devices = [
            {
                "series": uuid,
                "name": row.labels.get("modelName", "?"),
                "uuid": uuid,
                "host": row.labels.get("Hostname", "?"),
                "gpu": _index(row),
                "source": "energy counter" if row.name == _ENERGY else "power samples",
            }
            for uuid, row in chosen.items()
        ]
        self._has_stamps = any(row.at_s is not None for row in chosen.values())
        for _ in range(_TICKS if self._has_stamps else 0):
            time.sleep(_TICK_S)
            self._source.get(self._url)

    def sample(self) -> Sequence[Sample]:
        """Read the page once, in joules or watts.

        Raises:
            ReadingError: it does not come, is broken, or lacks a device.
        """
        page = self._source.get(self._url)
        rows = _rows(read_families(page.text, _FAMILIES), self._units)
        out = [self._sample(uuid, row, page) for uuid, row in rows.items()]
        missing = sorted(self._units.keys() - rows.keys())
        if missing:
            raise ReadingError(f"{self._url} has no value for {', '.join(missing)}", out)
        return out

    def clock(self) -> ClockOffset | None:
        """Return the exporter's clock; where its page has no stamps, ours are used."""
        told = self._source.clock.offset()
        return told if self._has_stamps else replace(told, by=f"{told.by}; stamps are our own")

    def close(self) -> None:
        """Close the connection."""
        self._source.close()

    def _sample(self, uuid: str, row: PageSample, page: Page) -> Sample:
        clock = self._source.clock
        known = row.at_s is not None and clock.is_known
        return Sample(
            at_ns=clock.at_ns(row.at_s) if known and row.at_s is not None else page.at_ns,
            series=uuid,
            unit=self._units[uuid],
            value=row.value / 1e3 if row.name == _ENERGY else row.value,
        )


def _rows(
    samples: Sequence[PageSample], units: Mapping[str, str] | None = None
) -> Mapping[str, PageSample]:
    """Return one sample a device by UUID: its counter where it has one; MIG's parent once.

    With ``units``, of the devices and of what was read of them before alone.
    """
    found: dict[str, PageSample] = {}
    for name in reversed(_FAMILIES):
        unit = "J" if name == _ENERGY else "W"
        for sample in samples:
            uuid = sample.labels.get("UUID") or f"gpu{_index(sample)}"
            told = finite(sample.value) is not None and sample.value < _BLANK_FROM[name]
            if sample.name == name and told and (units is None or units.get(uuid) == unit):
                found[uuid] = sample
    return found


def _index(row: PageSample) -> str:
    return row.labels.get("gpu", "?")
