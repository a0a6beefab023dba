"""NVIDIA accelerators through NVML: the energy counter where there is one, else power samples.

Units of NVML: energy in millijoules since the driver was loaded, power in milliwatts (of the whole
module). https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pynvml as _pynvml  # pyright: ignore[reportMissingTypeStubs] it has none

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.protocols import Meter
from pytest_agentperf.records import Sample

__all__ = ["NvmlMeter", "connect"]

pynvml: Any = _pynvml
"""Untyped."""


def connect() -> Meter:
    """Open NVML with every device it lists.

    Raises:
        ConfigError: no driver answers, or it lists no device.
    """
    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as failed:
        raise ConfigError(f"meter 'nvml': NVML does not answer: {failed}") from failed
    if not count:
        pynvml.nvmlShutdown()
        raise ConfigError("meter 'nvml': NVML lists no device")
    return NvmlMeter([pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)])


class NvmlMeter:
    """Reads every device's energy counter, or its power where it has none."""

    name = "nvml"

    def __init__(self, handles: Sequence[Any]) -> None:
        """Take handles of an initialised NVML; `close` shuts it down."""
        self._handles = {f"gpu{i}": handle for i, handle in enumerate(handles)}
        self._counters = {
            s: _reads(pynvml.nvmlDeviceGetTotalEnergyConsumption, h) is not None
            for s, h in self._handles.items()
        }
        self.devices: Sequence[Mapping[str, Any]] = [
            {
                "series": series,
                "name": str(_reads(pynvml.nvmlDeviceGetName, handle)),
                "uuid": str(_reads(pynvml.nvmlDeviceGetUUID, handle)),
                "source": "energy counter" if self._counters[series] else "power samples",
            }
            for series, handle in self._handles.items()
        ]

    def sample(self) -> Sequence[Sample]:
        """Read every device once; one that does not answer is left out."""
        out: list[Sample] = []
        for series, handle in self._handles.items():
            counted = self._counters[series]
            read = (
                pynvml.nvmlDeviceGetTotalEnergyConsumption
                if counted
                else pynvml.nvmlDeviceGetPowerUsage
            )
            value = _reads(read, handle)
            if value is not None:
                out.append(
                    Sample(
                        at_ns=time.perf_counter_ns(),
                        series=series,
                        unit="J" if counted else "W",
                        value=float(value) / 1e3,
                    )
                )
        return out

    def close(self) -> None:
        """Shut NVML down."""
        pynvml.nvmlShutdown()


def _reads(query: Any, handle: Any) -> Any:
    try:
        return query(handle)
    except pynvml.NVMLError:
        return None
