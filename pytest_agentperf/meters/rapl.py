"""Processors of this machine through Linux' powercap: packages and their DRAM, in microjoules.

The counters wrap at a range that the kernel tells, after minutes under load, so they are unrolled
here. https://docs.kernel.org/power/powercap/powercap.html
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import Role, Sample

__all__ = ["RaplMeter", "connect"]

_ROOT = "/sys/class/powercap"
_PERIOD_S = 0.5


@dataclass(slots=True, kw_only=True)
class _Zone:
    series: str
    file: Path
    range_uj: int | None
    """Where it wraps, microjoules; ``None``: the kernel does not tell, a wrap is a reset."""
    last_uj: int
    wrapped_uj: int = 0
    """What was counted before the last wrap."""

    def read_uj(self) -> int:
        now_uj = int(self.file.read_text("ascii"))
        if now_uj < self.last_uj and self.range_uj is not None:
            self.wrapped_uj += self.range_uj + 1
        self.last_uj = now_uj
        return self.wrapped_uj + now_uj


def connect(text: str = "rapl") -> Meter:
    """Open all packages and their DRAM: ``rapl[:FOLDER]``, by default of ``/sys/class/powercap``.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    address = read_address(text, ())
    root = Path(address.target or _ROOT)
    try:
        zones = [z for folder in sorted(root.glob("intel-rapl:*")) for z in _zone(folder)]
    except PermissionError as refused:
        raise address.refused(
            f"{refused.filename} may not be read; only root may: chmod o+r it, or run as root"
        ) from refused
    except (OSError, ValueError) as failed:
        raise address.refused(f"{root} cannot be read: {failed}") from failed
    if not zones:
        raise address.refused(
            f"{root} has no package; is this bare metal, with the intel_rapl modules?"
        )
    return RaplMeter(address, zones)


class RaplMeter:
    """Reads the energy counters of packages and DRAM."""

    kind = "rapl"
    role: Role = "cpu"

    def __init__(self, address: MeterAddress, zones: Sequence[_Zone]) -> None:
        """Take the zones that were found."""
        self.name = address.text
        self.period_s = address.period_s(_PERIOD_S)
        self._zones = zones
        self.devices: Sequence[Mapping[str, Any]] = [
            {"series": z.series, "source": "energy counter"} for z in zones
        ]

    def sample(self) -> Sequence[Sample]:
        """Read every counter once, joules since some time before.

        Raises:
            ReadingError: one cannot be read.
        """
        out: list[Sample] = []
        wrong: list[str] = []
        for zone in self._zones:
            try:
                energy_uj = zone.read_uj()
            except (OSError, ValueError) as failed:
                wrong.append(f"{zone.series}: {failed}")
                continue
            at_ns = time.perf_counter_ns()
            out.append(Sample(at_ns=at_ns, series=zone.series, unit="J", value=energy_uj / 1e6))
        if wrong:
            raise ReadingError("; ".join(wrong), out)
        return out

    def clock(self) -> None:
        """Return nothing: stamps are our own."""

    def close(self) -> None:
        """Do nothing: no file is left open."""


def _zone(folder: Path) -> Sequence[_Zone]:
    """Return a zone that is counted: core and uncore lie in the package, psys holds it all."""
    name = (folder / "name").read_text("ascii").strip()
    if not (name.startswith("package") or name == "dram"):
        return ()
    parent = ""
    if name == "dram":
        above = folder.parent / folder.name.rpartition(":")[0] / "name"
        parent = f"{above.read_text('ascii').strip()} " if above.exists() else ""
    file, limit = folder / "energy_uj", folder / "max_energy_range_uj"
    return [
        _Zone(
            series=f"{parent}{name}",
            file=file,
            range_uj=int(limit.read_text("ascii")) if limit.exists() else None,
            last_uj=int(file.read_text("ascii")),
        )
    ]
