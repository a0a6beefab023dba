"""AMD accelerators of this machine by ``amd-smi``: the energy counter, else the socket's power.

https://rocm.docs.amd.com/projects/amdsmi/en/latest/how-to/amdsmi-cli-tool.html
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.meters.programs import printed
from pytest_agentperf.meters.quantities import UNITS, finite
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import Role, Sample

__all__ = ["AmdSmiMeter", "connect"]

_COMMAND = ("amd-smi", "metric", "--power", "--energy", "--json")
_PERIOD_S = 1.0
"""A run of it takes half a second."""
_TIMEOUT_S = 10.0
_POWERS = ("socket_power", "current_socket_power", "average_socket_power")
"""By release."""

_NOTHING: Mapping[str, float] = {}
_Told = Mapping[int, tuple[str, float]]
"""Of each GPU a unit and a value."""


def connect(text: str = "amd-smi") -> Meter:
    """Ask once: ``amd-smi[:INDEX,…]``.

    Raises:
        ConfigError: there is no amd-smi, or it lists no such device with power.
    """
    address = read_address(text, ())
    timeout_s = address.timeout_s(_TIMEOUT_S)
    try:
        told = _ask(timeout_s)
    except ReadingError as failed:
        raise address.refused(
            f"{failed}; is this the accelerators' machine, with ROCm?"
        ) from failed
    wanted = [w.strip() for w in address.target.split(",")] if address.target else map(str, told)
    chosen: dict[int, str] = {}
    for name in wanted:
        index = int(name) if name.isascii() and name.isdigit() else -1
        if index not in told:
            listed = ", ".join(map(str, told)) or "none"
            raise address.refused(f"no GPU {name!r} tells its power; amd-smi lists {listed}")
        chosen[index] = told[index][0]
    if not chosen:
        raise address.refused("amd-smi lists no GPU that tells its power")
    return AmdSmiMeter(address, chosen, timeout_s)


class AmdSmiMeter:
    """Runs ``amd-smi`` for every reading."""

    kind = "amd-smi"
    role: Role = "accelerator"

    def __init__(self, address: MeterAddress, units: Mapping[int, str], timeout_s: float) -> None:
        """Read these GPUs, by index, in these units."""
        self.name = address.text
        self.period_s = address.period_s(_PERIOD_S)
        self._units = units
        self._timeout_s = timeout_s
        self.devices: Sequence[Mapping[str, Any]] = [
            {
                "series": f"gpu{index}",
                "source": "energy counter" if unit == "J" else "power samples",
            }
            for index, unit in units.items()
        ]

    def sample(self) -> Sequence[Sample]:
        """Read every device once, in joules or watts.

        Raises:
            ReadingError: amd-smi fails, or a device tells nothing.
        """
        began_ns = time.perf_counter_ns()
        told = _ask(self._timeout_s, self._units)
        at_ns = (began_ns + time.perf_counter_ns()) // 2
        out = [
            Sample(at_ns=at_ns, series=f"gpu{index}", unit=unit, value=value)
            for index, (unit, value) in told.items()
        ]
        missing = sorted(self._units.keys() - told.keys())
        if missing:
            raise ReadingError(f"amd-smi tells nothing of GPU {', '.join(map(str, missing))}", out)
        return out

    def clock(self) -> None:
        """Return nothing: stamps are our own."""

    def close(self) -> None:
        """Do nothing: no run is left."""


def _ask(timeout_s: float, units: Mapping[int, str] | None = None) -> _Told:
    """Run it; with ``units``, return of those GPUs alone what was read of them before."""
    text = printed(_COMMAND, timeout_s=timeout_s)
    try:
        body: Any = msgspec.json.decode(text)
    except msgspec.DecodeError as broken:
        raise ReadingError(f"amd-smi prints no JSON: {text.strip()[:80]!r}") from broken
    listed: Any = body.get("gpu_data") if isinstance(body, dict) else body  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] plain JSON
    if not isinstance(listed, list):
        raise ReadingError("amd-smi prints no list of GPUs")
    out: dict[int, tuple[str, float]] = {}
    for entry in cast("list[Any]", listed):
        index = entry.get("gpu") if isinstance(entry, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] plain JSON
        told = _told(cast("Mapping[str, Any]", entry)) if isinstance(index, int) else _NOTHING
        wanted = ("J", "W") if units is None else (units.get(cast("int", index), ""),)
        unit = next((u for u in wanted if u in told), None)
        if unit is not None:
            out[cast("int", index)] = (unit, told[unit])
    return out


def _told(entry: Mapping[str, Any]) -> Mapping[str, float]:
    """Return what one GPU tells, by unit."""
    out: dict[str, float] = {}
    rows = (
        (entry.get("energy"), ("total_energy_consumption",), "J"),
        (entry.get("power"), _POWERS, "W"),
    )
    for block, names, unit in rows:
        for name in names if isinstance(block, dict) else ():
            value = _quantity(cast("Mapping[str, Any]", block).get(name), unit)
            if value is not None:
                out.setdefault(unit, value)
    return out


def _quantity(told: Any, unit: str) -> float | None:
    """Return ``{"value": 12, "unit": "W"}`` or a bare number; ``N/A`` is none."""
    if not isinstance(told, dict):
        return finite(told)
    pair = cast("Mapping[str, Any]", told)
    kind, factor = UNITS.get(str(pair.get("unit", unit)), ("", 1.0))
    value = finite(pair.get("value"))
    return value * factor if value is not None and kind == unit else None
