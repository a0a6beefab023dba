"""NVIDIA accelerators through NVML: the energy counter where there is one, else power samples.

Units of NVML: energy in millijoules since the driver was loaded, power in milliwatts. Both are of
the whole module; from Hopper on the GPU and its memory can be asked for alone (``scope``).
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml as _pynvml  # pyright: ignore[reportMissingTypeStubs] it has none

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import Role, Sample

__all__ = ["NvmlMeter", "connect"]

pynvml: Any = _pynvml
"""Untyped."""
_SCOPES: Mapping[str, int] = {
    "gpu": pynvml.NVML_POWER_SCOPE_GPU,
    "module": pynvml.NVML_POWER_SCOPE_MODULE,
    "memory": pynvml.NVML_POWER_SCOPE_MEMORY,
}
_FIELDS: Mapping[str, int] = {
    "instant": pynvml.NVML_FI_DEV_POWER_INSTANT,
    "average": pynvml.NVML_FI_DEV_POWER_AVERAGE,
}
_PERIOD_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    series: str
    name: str
    uuid: str
    unit: str
    source: str
    read_milli: Callable[[], float]
    """Reads it in thousandths of the unit; raises NVML's error."""


def connect(text: str = "nvml") -> Meter:
    """Open NVML: ``nvml[:INDEX|UUID,…][?scope=gpu|module|memory&field=instant|average]``.

    A MIG instance stands for its parent: power is not told apart below that.

    Raises:
        ConfigError: no driver answers, it lists no such device, or the device has no such scope.
    """
    address = read_address(text, ("scope", "field"))
    scope = address.one_of("scope", tuple(_SCOPES), "") if "scope" in address.options else ""
    field = address.one_of("field", tuple(_FIELDS), "average" if scope == "module" else "instant")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as failed:
        raise address.refused(
            f"NVML does not answer: {failed}; is this the accelerators' machine, with a driver? "
            "dcgm:, prometheus: and command: read those of another"
        ) from failed
    try:
        handles = _handles(address)
        devices = [_device(name, h, scope, field, address) for name, h in handles.items()]
    except pynvml.NVMLError as failed:
        pynvml.nvmlShutdown()
        raise address.refused(f"NVML does not answer: {failed}; look at nvidia-smi") from failed
    except ConfigError:
        pynvml.nvmlShutdown()
        raise
    return NvmlMeter(address, devices, kind=f"nvml {scope} power" if scope else "nvml")


class NvmlMeter:
    """Reads every device's energy counter, or its power where it has none or a scope is named."""

    role: Role = "accelerator"

    def __init__(self, address: MeterAddress, devices: Sequence[_Device], *, kind: str) -> None:
        """Take devices of an initialised NVML; `close` shuts it down."""
        self.name = address.text
        self.kind = kind
        self.period_s = address.period_s(_PERIOD_S)
        self._devices = devices
        self.devices: Sequence[Mapping[str, Any]] = [
            {"series": d.series, "name": d.name, "uuid": d.uuid, "source": d.source}
            for d in devices
        ]

    def sample(self) -> Sequence[Sample]:
        """Read every device once, in joules of its counter or watts.

        Raises:
            ReadingError: a device does not answer.
        """
        out: list[Sample] = []
        silent: list[str] = []
        for device in self._devices:
            try:
                value = device.read_milli() / 1e3
            except pynvml.NVMLError as failed:
                silent.append(f"{device.series} ({device.uuid}): {failed}")
                continue
            at_ns = time.perf_counter_ns()
            out.append(Sample(at_ns=at_ns, series=device.series, unit=device.unit, value=value))
        if silent:
            raise ReadingError("; ".join(silent), out)
        return out

    def clock(self) -> None:
        """Return nothing: stamps are our own."""

    def close(self) -> None:
        """Shut NVML down."""
        pynvml.nvmlShutdown()


def _handles(address: MeterAddress) -> Mapping[str, Any]:
    """Return the handles asked for by series: ``gpu`` and NVML's index."""
    count = int(pynvml.nvmlDeviceGetCount())
    listed = {str(i): pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)}
    uuids = {_text(pynvml.nvmlDeviceGetUUID, h): i for i, h in listed.items()}
    if not listed:
        raise address.refused("NVML lists no device; look at nvidia-smi")
    wanted = [w.strip() for w in address.target.split(",")] if address.target else list(listed)
    found: dict[str, Any] = {}
    for name in wanted:
        index = uuids.get(_parent(name) if name.startswith("MIG-") else name, name)
        if index not in listed:
            raise address.refused(
                f"no device is {name!r}; NVML lists {count}: "
                f"{', '.join(f'{i} ({uuid})' for uuid, i in uuids.items())}"
            )
        found[f"gpu{index}"] = listed[index]
    return found


def _parent(mig_uuid: str) -> str:
    """Return the UUID of the device that a MIG instance lies on; empty where there is none."""
    try:
        instance = pynvml.nvmlDeviceGetHandleByUUID(mig_uuid.encode())
        parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
    except pynvml.NVMLError:
        return ""
    return _text(pynvml.nvmlDeviceGetUUID, parent)


def _device(series: str, handle: Any, scope: str, field: str, address: MeterAddress) -> _Device:
    if scope:
        unit, source = "W", f"{field} power of the {scope}"

        def read_milli() -> float:
            return _field_mw(handle, _FIELDS[field], _SCOPES[scope])

        if not _answers(read_milli):
            raise address.refused(
                f"{series} does not tell the power of its {scope} alone, which came with Hopper; "
                "leave scope away"
            )
    elif _answers(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)):
        unit, source = "J", "energy counter"

        def read_milli() -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    else:
        unit, source = "W", "power samples"

        def read_milli() -> float:
            return float(pynvml.nvmlDeviceGetPowerUsage(handle))

    return _Device(
        series=series,
        name=_text(pynvml.nvmlDeviceGetName, handle),
        uuid=_text(pynvml.nvmlDeviceGetUUID, handle),
        unit=unit,
        source=source,
        read_milli=read_milli,
    )


def _field_mw(handle: Any, field: int, scope: int) -> float:
    (told,) = pynvml.nvmlDeviceGetFieldValues(handle, [(field, scope)])
    if told.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(told.nvmlReturn)
    return float(told.value.uiVal)


def _answers(read: Callable[[], float]) -> bool:
    try:
        read()
    except pynvml.NVMLError:
        return False
    return True


def _text(query: Any, handle: Any) -> str:
    told = query(handle)
    return told.decode() if isinstance(told, bytes) else str(told)
