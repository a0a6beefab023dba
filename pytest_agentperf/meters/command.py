"""Any source of power: a command that prints watts, run for every reading."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.meters.programs import printed
from pytest_agentperf.meters.quantities import UNITS, number_in
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import Role, Sample

__all__ = ["CommandMeter", "connect"]

_PERIOD_S = 1.0
_TIMEOUT_S = 5.0
_SHOWN = 80


def connect(text: str) -> Meter:
    """Run the command once and take the series it prints.

    ``command:LINE[?role=chassis&unit=W&devices=8]``; ``LINE`` goes through the shell and prints a
    number, or lines of a name and a number. ``devices``: how many they stand for together.

    Raises:
        ConfigError: it fails, or prints something else.
    """
    address = read_address(text, ("unit", "devices"), free_text=True)
    if not address.target.strip():
        raise address.refused("there is no command; write command:LINE")
    meter = CommandMeter(address)
    try:
        meter.find_series()
    except ReadingError as failed:
        raise address.refused(f"{failed}; it has to print watts") from failed
    return meter


class CommandMeter:
    """Runs the command for every reading."""

    kind = "command"

    def __init__(self, address: MeterAddress) -> None:
        """Take the command; `find_series` runs it first."""
        self.name = address.text
        self.role: Role = address.role("accelerator")
        self.period_s = address.period_s(_PERIOD_S)
        self.devices: Sequence[Mapping[str, Any]] = ()
        self._line = address.target
        self._timeout_s = address.timeout_s(_TIMEOUT_S)
        self._unit, self._factor = UNITS[address.one_of("unit", tuple(UNITS), "W")]
        self._shares = address.shares
        address.shares(1)  # refused before anything is run

    def find_series(self) -> None:
        """Run it once, and take what it prints as what there is.

        Raises:
            ReadingError: it fails, or prints no numbers.
        """
        names = [sample.series for sample in self.sample()]
        self.devices = [
            {"series": name, "source": "command", **share}
            for name, share in zip(names, self._shares(len(names)), strict=True)
        ]

    def sample(self) -> Sequence[Sample]:
        """Run it once; watts, or joules of a counter.

        Raises:
            ReadingError: it fails, takes too long, or prints no numbers.
        """
        began_ns = time.perf_counter_ns()
        text = printed(self._line, timeout_s=self._timeout_s)
        at_ns = (began_ns + time.perf_counter_ns()) // 2
        out: list[Sample] = []
        for line in filter(None, map(str.strip, text.splitlines())):
            name, _, number = line.rpartition(" ")
            value = number_in(number)
            if value is None:
                raise ReadingError(f"{self._line!r} prints {line[:_SHOWN]!r}, no number", out)
            out.append(
                Sample(
                    at_ns=at_ns,
                    series=name.strip() or "command",
                    unit=self._unit,
                    value=value * self._factor,
                )
            )
        if not out:
            raise ReadingError(f"{self._line!r} prints nothing")
        return out

    def clock(self) -> None:
        """Return nothing: stamps are our own."""

    def close(self) -> None:
        """Do nothing: no run is left."""
