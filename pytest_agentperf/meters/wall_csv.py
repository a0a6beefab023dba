"""A wall meter's log: a CSV file of timestamps and watts, read while it grows.

Its timestamps are of the logger's clock. Their zone has to be known: in the text (``Z``,
``+02:00``), as seconds since 1970, or by ``tz=``. How far that clock is off nobody can measure
here; what is known of it is stated by ``offset=``.
"""

import csv
import math
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.meters.clocks import wall_s
from pytest_agentperf.meters.quantities import UNITS, number_in
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import ClockOffset, Role, Sample

__all__ = ["CsvMeter", "connect"]

_PERIOD_S = 1.0
_EARLIEST_S = 9e8
"""Numbers from here on are seconds since 1970; milliseconds lie a thousand times above."""
_LATEST_S = 1e11
_NUMBER = re.compile(r"\d+(\.\d*)?")


def connect(text: str) -> Meter:
    """Open the log: ``csv:FILE[?time=COLUMN&power=COLUMN,…&unit=W&tz=ZONE&offset=SECONDS&role=…]``.

    Without names the first column is the time and the second the power. ``offset``: by how many
    seconds the logger's clock is ahead of this machine's.

    Raises:
        ConfigError: it cannot be read, a column is missing, or the time zone is not known.
    """
    address = read_address(text, ("time", "power", "unit", "tz", "offset", "devices"))
    if not address.target:
        raise address.refused("there is no file; write csv:FILE")
    meter = CsvMeter(address)
    try:
        meter.check()
    except ReadingError as failed:
        raise address.refused(str(failed)) from failed
    except OSError as failed:
        raise address.refused(f"{address.target} cannot be read: {failed.strerror}") from failed
    return meter


class CsvMeter:
    """Reads what the log has grown by."""

    kind = "csv"

    def __init__(self, address: MeterAddress) -> None:
        """Take the file's place and the meaning of its columns.

        Raises:
            ConfigError: an unknown zone, unit, role or offset.
        """
        self.name = address.text
        self.role: Role = address.role("chassis")
        self.period_s = address.period_s(_PERIOD_S)
        self.devices: Sequence[Mapping[str, Any]] = ()
        self._address = address
        self._path = Path(address.target)
        self._zone = _zone(address)
        self._offset_s = address.number("offset", 0.0, least=-math.inf)
        self._unit, self._factor = UNITS[address.one_of("unit", tuple(UNITS), "W")]
        self._read_bytes = 0
        self._delimiter = ","
        self._columns: Mapping[str, int] = {}
        self._time = 0

    def check(self) -> None:
        """Read the head of the file and its first row.

        Raises:
            ReadingError: it has no head, or its rows cannot be read.
            ConfigError: a column that was named is missing.
        """
        with self._path.open("rb") as file:
            head = file.readline()
            self._read_bytes = file.tell()
            first = file.readline()
        line = head.decode("utf-8-sig", errors="replace").strip()
        self._delimiter = max(",;\t", key=line.count)
        names = [n.strip() for row in csv.reader([line], delimiter=self._delimiter) for n in row]
        if len(names) < 2:  # noqa: PLR2004 a time and a power
            raise ReadingError(f"{self._path} has no line of column names: {line!r}")
        self._time = self._column(names, self._address.options.get("time", names[0]))
        powers = self._address.options.get("power", names[1]).split(",")
        self._columns = {name: self._column(names, name) for name in powers}
        self.devices = [
            {"series": name, "source": "log of a wall meter", **share}
            for name, share in zip(powers, self._address.shares(len(powers)), strict=True)
        ]
        if first.endswith(b"\n"):
            self._rows(first.decode(errors="replace"))

    def sample(self) -> Sequence[Sample]:
        """Return the rows that are new, in watts or joules.

        Raises:
            ReadingError: the file is gone, was cut, or has a row that cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                length = file.seek(0, 2)
                if length < self._read_bytes:
                    raise ReadingError(f"{self._path} was cut to {length} bytes")
                file.seek(self._read_bytes)
                new = file.read()
        except OSError as failed:
            raise ReadingError(f"{self._path} cannot be read: {failed.strerror}") from failed
        whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
        self._read_bytes += len(whole)
        return self._rows(whole.decode(errors="replace"))

    def clock(self) -> ClockOffset | None:
        """Return the offset as it was stated."""
        return ClockOffset(offset_s=self._offset_s, uncertainty_s=None, by="as stated")

    def close(self) -> None:
        """Do nothing: the file is not held open."""

    def _column(self, names: Sequence[str], name: str) -> int:
        if name not in names:
            raise self._address.refused(f"no column is {name!r}; there are {', '.join(names)}")
        return names.index(name)

    def _rows(self, text: str) -> Sequence[Sample]:
        ours_s = wall_s() - time.perf_counter_ns() / 1e9 + self._offset_s
        out: list[Sample] = []
        wrong: list[str] = []
        for row in csv.reader(text.splitlines(), delimiter=self._delimiter):
            if not any(row):
                continue
            try:
                at_s = _seconds(row[self._time].strip(), self._zone)
                values = {name: self._number(row[i]) for name, i in self._columns.items()}
            except (ValueError, IndexError) as broken:
                wrong.append(f"row {self._delimiter.join(row)[:80]!r}: {broken}")
                continue
            out += [
                Sample(
                    at_ns=round((at_s - ours_s) * 1e9), series=name, unit=self._unit, value=value
                )
                for name, value in values.items()
            ]
        if wrong:
            raise ReadingError(f"{self._path}: {len(wrong)} rows are broken: {wrong[0]}", out)
        return out

    def _number(self, text: str) -> float:
        # Where fields are not told apart by commas, a comma is a decimal point.
        value = number_in(text.strip() if self._delimiter == "," else text.replace(",", "."))
        if value is None:
            raise ValueError(f"{text.strip()!r} is no power")
        return value * self._factor


def _zone(address: MeterAddress) -> tzinfo | None:
    name = address.options.get("tz")
    if name is None:
        return None
    try:
        return UTC if name.upper() in {"UTC", "Z"} else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as unknown:
        raise address.refused(f"no time zone is {name!r}; write tz=Europe/Berlin") from unknown


def _seconds(text: str, zone: tzinfo | None) -> float:
    """Return a timestamp in seconds since 1970."""
    if _NUMBER.fullmatch(text):
        value = float(text) if float(text) < _LATEST_S else float(text) / 1e3
        if value < _EARLIEST_S:
            raise ValueError(f"{text!r} is no time since 1970")
        return value
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no ISO 8601 time and no seconds since 1970") from None
    if told.tzinfo is None:
        if zone is None:
            raise ValueError(f"{text!r} has no time zone; state it: tz=Europe/Berlin")
        told = told.replace(tzinfo=zone)
    return told.timestamp()
