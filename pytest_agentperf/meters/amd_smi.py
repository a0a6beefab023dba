"""AMD accelerators of this machine by ``amd-smi``: the energy counter, else the socket's power.

The power is read beside the counter, as a witness: some releases count wrongly
(https://github.com/ROCm/amdsmi/issues/38), and `pytest_agentperf.power` compares the two. What is
printed: https://rocm.docs.amd.com/projects/amdsmi/en/latest/how-to/amdsmi-cli-tool.html
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
_UNITS: Mapping[str, Sequence[str]] = {"energy": ("J", "W"), "power": ("W",)}
"""What is read, the first of it to be counted."""

_NOTHING: Mapping[str, float] = {}
_Told = Mapping[int, Mapping[str, float]]
"""Of each GPU what it tells, by unit."""


def connect(text: str = "amd-smi") -> Meter:
    """Ask once: ``amd-smi[:INDEX,…][?source=power]``.

    Raises:
        ConfigError: there is no amd-smi, or it lists no such device with power.
    """
    address = read_address(text, ("source",))
    units = _UNITS[address.one_of("source", tuple(_UNITS), "energy")]
    timeout_s = address.timeout_s(_TIMEOUT_S)
    try:
        told = _ask(timeout_s, units)
    except ReadingError as failed:
        raise address.refused(
            f"{failed}; is this the accelerators' machine, with ROCm?"
        ) from failed
    wanted = [w.strip() for w in address.target.split(",")] if address.target else map(str, told)
    chosen: dict[int, Sequence[str]] = {}
    for name in wanted:
        index = int(name) if name.isascii() and name.isdigit() else -1
        if index not in told:
            listed = ", ".join(map(str, told)) or "none"
            raise address.refused(f"no GPU {name!r} tells its power; amd-smi lists {listed}")
        chosen[index] = tuple(told[index])
    if not chosen:
        raise address.refused("amd-smi lists no GPU that tells its power")
    return AmdSmiMeter(address, chosen, timeout_s)


class AmdSmiMeter:
    """Runs ``amd-smi`` for every reading."""

    kind = "amd-smi"
    role: Role = "accelerator"

    def __init__(
        self, address: MeterAddress, units: Mapping[int, Sequence[str]], timeout_s: float
    ) -> None:
        """Read these GPUs, by index, in these units; the first is what counts."""
        self.name = address.text
        self.period_s = address.period_s(_PERIOD_S)
        self._units = units
        self._timeout_s = timeout_s
        self.devices: Sequence[Mapping[str, Any]] = [
            {
                "series": f"gpu{index}",
                "source": "energy counter" if told[0] == "J" else "power samples",
            }
            for index, told in units.items()
        ]

    def sample(self) -> Sequence[Sample]:
        """Read every device once, in joules or watts.

        Raises:
            ReadingError: amd-smi fails, or a device tells nothing.
        """
        began_ns = time.perf_counter_ns()
        told = _ask(self._timeout_s, tuple(_UNITS["energy"]))
        at_ns = (began_ns + time.perf_counter_ns()) // 2
        out: list[Sample] = []
        missing: list[int] = []
        for index, units in self._units.items():
            values = told.get(index, _NOTHING)
            out += [
                Sample(at_ns=at_ns, series=f"gpu{index}", unit=unit, value=values[unit])
                for unit in units
                if unit in values and units[0] in values
            ]
            if units[0] not in values:
                missing.append(index)
        if missing:
            lost = ", ".join(map(str, sorted(missing)))
            raise ReadingError(f"amd-smi tells nothing of GPU {lost}", out)
        return out

    def clock(self) -> None:
        """Return nothing: stamps are our own."""

    def close(self) -> None:
        """Do nothing: no run is left."""


def _ask(timeout_s: float, units: Sequence[str]) -> _Told:
    """Run it; return what every GPU tells in these units."""
    text = printed(_COMMAND, timeout_s=timeout_s)
    try:
        body: Any = msgspec.json.decode(text)
    except msgspec.DecodeError as broken:
        raise ReadingError(f"amd-smi prints no JSON: {text.strip()[:80]!r}") from broken
    listed: Any = body.get("gpu_data") if isinstance(body, dict) else body  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] plain JSON
    if not isinstance(listed, list):
        raise ReadingError("amd-smi prints no list of GPUs")
    out: dict[int, Mapping[str, float]] = {}
    for entry in cast("list[Any]", listed):
        index = entry.get("gpu") if isinstance(entry, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] plain JSON
        told = _told(cast("Mapping[str, Any]", entry)) if isinstance(index, int) else _NOTHING
        known = {unit: told[unit] for unit in units if unit in told}
        if known:
            out[cast("int", index)] = known
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
