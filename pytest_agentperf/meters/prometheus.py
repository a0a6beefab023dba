"""Power or energy of any machine from a Prometheus server, by PromQL.

A plain selector (``DCGM_FI_DEV_POWER_USAGE{node="a"}``) is read as the raw samples that the server
has scraped, each with its own stamp, those of the last minutes too: nothing is lost while an answer
does not come. Any other expression has a value only at the time of asking, made of samples up to a
scrape interval old. Either way stamps are of the server's clock, which ``time()`` tells.
https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.meters.http import HttpSource, bearer_auth
from pytest_agentperf.meters.quantities import UNITS, number_in
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import ClockOffset, Role, Sample

__all__ = ["PrometheusMeter", "connect"]

TOKEN_VARIABLE = "AGENTPERF_PROMETHEUS_TOKEN"
_PERIOD_S = 5.0
_TIMEOUT_S = 10.0
_BACK_S = 300
"""How far back raw samples are asked for: a scrape interval, or a server that was away."""
_RESOLUTION_S = 0.001
_IDENTITY = ("UUID", "uuid", "gpu_uuid")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    series: str
    labels: Mapping[str, str]
    points: Sequence[tuple[float, str]]
    """Seconds since 1970 by the server's clock, and the value as text."""


def connect(text: str) -> Meter:
    """Ask once, and take the series that answer.

    ``prometheus:http://HOST:9090?query=PROMQL&unit=W[&role=chassis][&devices=8]``; ``devices``:
    how many accelerators or machines all series together stand for.

    Raises:
        ConfigError: nothing answers, the query is none, or has no series.
    """
    address = read_address(text, ("query", "unit", "devices", "verify"))
    url = address.url("prometheus:http://HOST:9090?query=PROMQL&unit=W").rstrip("/")
    for name, example in (("query", "query=DCGM_FI_DEV_POWER_USAGE"), ("unit", "unit=W")):
        if name not in address.options:
            raise address.refused(f"{name} is missing; add {example}")
    address.one_of("unit", tuple(UNITS), "W")
    source = HttpSource(
        address, headers=bearer_auth(TOKEN_VARIABLE), timeout_s=address.timeout_s(_TIMEOUT_S)
    )
    meter = PrometheusMeter(address, url, source)
    try:
        meter.find_series()
    except ReadingError as failed:
        source.close()
        raise address.refused(f"{failed}; look at server and query") from failed
    return meter


class PrometheusMeter:
    """Reads the series of one query."""

    kind = "prometheus"

    def __init__(self, address: MeterAddress, url: str, source: HttpSource) -> None:
        """Ask the server at ``url``; `find_series` sets out what is read."""
        self.name = address.text
        self.role: Role = address.role("accelerator")
        self.period_s = address.period_s(_PERIOD_S)
        self.devices: Sequence[Mapping[str, Any]] = ()
        self._url = f"{url}/api/v1/query"
        self._query = address.options["query"]
        self._unit, self._factor = UNITS[address.options["unit"]]
        self._shares = address.shares
        address.shares(1)  # refused before anything is asked
        self._source = source
        self._is_selector = False
        self._last_s: dict[str, float] = {}
        """Stamp of the last sample of each series, by the server's clock."""

    def find_series(self) -> None:
        """Learn the server's clock, whether the query is a selector, and its series.

        Raises:
            ReadingError: it does not answer, or the query has no series.
        """
        for _ in range(3):
            self._hear_time()
        rows = self._ask(self._query)
        if not rows:
            raise ReadingError(f"the query {self._query!r} has no series now")
        try:
            self._is_selector = bool(self._ask(f"{self._query}[{_BACK_S}s]"))
        except ReadingError:
            self._is_selector = False
        shares = self._shares(len(rows))
        self.devices = [self._device(*each) for each in zip(rows, shares, strict=True)]

    def sample(self) -> Sequence[Sample]:
        """Return the samples that are new, in watts or joules.

        Raises:
            ReadingError: no answer, a value that is no number, or a series that is gone.
        """
        self._hear_time()
        query = f"{self._query}[{_BACK_S}s]" if self._is_selector else self._query
        rows = {row.series: row for row in self._ask(query)}
        out: list[Sample] = []
        wrong: list[str] = []
        for device in self.devices:
            series = device["series"]
            row = rows.get(series)
            if row is None:
                wrong.append(f"{series} is gone")
                continue
            for at_s, text in row.points:
                value = number_in(text)
                if at_s <= self._last_s.get(series, 0.0):
                    continue
                self._last_s[series] = at_s
                if value is None:
                    wrong.append(f"{series} is {text!r}")
                else:
                    out.append(self._sample(series, at_s, value))
        if wrong:
            raise ReadingError("; ".join(wrong), out)
        return out

    def clock(self) -> ClockOffset | None:
        """Return the server's clock."""
        return self._source.clock.offset()

    def close(self) -> None:
        """Close the connection."""
        self._source.close()

    def _sample(self, series: str, at_s: float, value: float) -> Sample:
        return Sample(
            at_ns=self._source.clock.at_ns(at_s),
            series=series,
            unit=self._unit,
            value=value * self._factor,
        )

    def _device(self, row: _Row, share: Mapping[str, int]) -> Mapping[str, Any]:
        uuid = next((row.labels[n] for n in _IDENTITY if n in row.labels), "")
        source = "scraped samples" if self._is_selector else "an expression, at the time of asking"
        return {
            "series": row.series,
            **({"uuid": uuid} if uuid else {}),
            "source": source,
            **share,
        }

    def _hear_time(self) -> None:
        page = self._source.get(self._url, {"query": "time()"})
        data = _data(page.json(), page.url)
        result: Any = data.get("result")
        if not isinstance(result, list) or not isinstance(result[0], int | float):  # pyright: ignore[reportUnknownMemberType] plain JSON
            raise ReadingError(f"{page.url}: time() is {result!r}, no time")
        self._source.clock.hear(
            page.sent_ns,
            page.received_ns,
            float(result[0]),
            resolution_s=_RESOLUTION_S,
            by="Prometheus time()",
        )

    def _ask(self, query: str) -> Sequence[_Row]:
        page = self._source.get(self._url, {"query": query})
        data = _data(page.json(), page.url)
        result: Any = data.get("result")
        try:
            if data.get("resultType") == "scalar":
                return [_Row(series=query, labels={}, points=[(float(result[0]), str(result[1]))])]
            return [_row(entry) for entry in result]
        except (KeyError, TypeError, ValueError, IndexError) as broken:
            raise ReadingError(f"{page.url}: the answer's result cannot be read") from broken


def _row(entry: Any) -> _Row:
    labels = {str(k): str(v) for k, v in entry["metric"].items()}
    points: list[Any] = entry["values"] if "values" in entry else [entry["value"]]
    shown = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()) if k != "__name__")
    return _Row(
        series=f"{labels.get('__name__', '')}{{{shown}}}",
        labels=labels,
        points=[(float(at_s), str(text)) for at_s, text in points],
    )


def _data(body: Any, url: str) -> dict[str, Any]:
    if isinstance(body, dict):
        answer = cast("dict[str, Any]", body)
        if answer.get("status") == "success" and isinstance(answer.get("data"), dict):
            return answer["data"]
        raise ReadingError(f"{url}: {answer.get('error', 'not an answer of the query API')}")
    raise ReadingError(f"{url}: not an answer of the query API")
