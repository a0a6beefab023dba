"""Prometheus' text format, where a meter's page uses it: samples of a few families by their names.

Only the families asked for are parsed, so that a broken line elsewhere on the page breaks nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from pytest_agentperf.protocols import ReadingError

__all__ = ["PageSample", "read_families"]

_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSample:
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float
    at_s: float | None
    """Its own timestamp, seconds since 1970 by the exporter's clock; most pages have none."""


def read_families(page: str, names: Sequence[str]) -> Sequence[PageSample]:
    """Return the samples of these names.

    Raises:
        ReadingError: one of their lines is not in the format, or its value is no number.
    """
    out: list[PageSample] = []
    for line in page.splitlines():
        if not line.startswith(tuple(names)):
            continue
        try:
            rows = [s for f in text_string_to_metric_families(line + "\n") for s in f.samples]
        except (ValueError, IndexError, KeyError) as broken:
            raise ReadingError(f"a line is no sample: {line[:_SHOWN]!r}") from broken
        for row in rows:
            if row.name in names:
                at_s = None if row.timestamp is None else float(row.timestamp)
                out.append(
                    PageSample(
                        name=row.name, labels=dict(row.labels), value=float(row.value), at_s=at_s
                    )
                )
    return out
