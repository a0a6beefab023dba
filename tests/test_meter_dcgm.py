"""dcgm-exporter's page, written in its shape: counters, blank values, MIG, stamps, wrong types."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.dcgm import connect
from pytest_agentperf.protocols import ReadingError
from tests.meter_pages import PageServer, serving

PAGE = (Path(__file__).parent / "data" / "dcgm.prom").read_text("utf-8")
ENERGY = 'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-0a"} 84512340000'


@pytest.fixture
def server() -> Iterator[PageServer]:
    with serving(lambda path, _: PAGE if path == "/metrics" else None) as made:
        yield made


def says(server: PageServer, text: str) -> None:
    server.page = lambda *_: text


def test_a_counter_is_read_where_there_is_one_and_power_where_it_is_blank(
    server: PageServer,
) -> None:
    meter = connect(f"dcgm:{server.url}/metrics")
    assert [(d["uuid"], d["gpu"], d["source"], d["host"]) for d in meter.devices] == [
        ("GPU-0a", "0", "energy counter", "node-a"),
        ("GPU-1b", "1", "power samples", "node-a"),
    ]
    samples = {s.series: (s.unit, s.value) for s in meter.sample()}
    meter.close()
    assert samples == {"GPU-0a": ("J", 84512340.0), "GPU-1b": ("W", 230.5)}
    assert (meter.role, meter.kind) == ("accelerator", "dcgm")


@pytest.mark.parametrize("name", ["0", "GPU-0a"])
def test_devices_are_chosen_by_index_or_uuid(server: PageServer, name: str) -> None:
    meter = connect(f"dcgm:{server.url}/metrics?gpus={name}")
    assert [s.series for s in meter.sample()] == ["GPU-0a"]
    meter.close()


def test_the_hosts_clock_stands_in_the_result(server: PageServer) -> None:
    server.date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    meter = connect(f"dcgm:{server.url}/metrics")
    told = meter.clock()
    meter.close()
    assert told is not None
    assert told.offset_s == pytest.approx(3600, abs=1.5)
    assert told.by == "HTTP Date; stamps are our own"


def test_stamps_of_the_page_are_put_on_our_clock(server: PageServer) -> None:
    ahead = timedelta(seconds=500)

    def page(*_: object) -> str:
        server.date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
        stamp_ms = round((datetime.now(UTC) + ahead).timestamp() * 1000) - 2000
        return f"{ENERGY} {stamp_ms}\n"

    server.page = page
    meter = connect(f"dcgm:{server.url}/metrics")
    (sample,) = meter.sample()
    told, now_ns = meter.clock(), time.perf_counter_ns()
    meter.close()
    assert told is not None
    assert told.uncertainty_s is not None
    assert told.offset_s == pytest.approx(500, abs=0.6)
    # It was written 2 s ago, as far as its clock is known.
    assert (now_ns - sample.at_ns) / 1e9 == pytest.approx(2.0, abs=told.uncertainty_s + 0.3)


def test_a_device_that_is_gone_is_told_and_the_other_read(server: PageServer) -> None:
    meter = connect(f"dcgm:{server.url}/metrics")
    says(server, ENERGY)
    with pytest.raises(ReadingError, match="has no value for GPU-1b") as lost:
        meter.sample()
    assert [s.series for s in lost.value.samples] == ["GPU-0a"]
    meter.close()


def test_what_was_a_counter_is_not_read_as_power_later(server: PageServer) -> None:
    meter = connect(f"dcgm:{server.url}/metrics?gpus=0")
    says(server, 'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-0a"} 612.4\n')
    with pytest.raises(ReadingError, match="has no value for GPU-0a"):
        meter.sample()
    meter.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-0a"} lots', "a line is no sample: 'DCGM_FI"),
        ('DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-0a"', "a line is no sample: 'DCGM_FI"),
        ('DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-0a"} NaN', "no value for GPU-0a"),
        ('DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-0a"} -4', "no value for GPU-0a"),
        ("<html>moved</html>", "no value for GPU-0a"),
    ],
    ids=["a word", "a half line", "not a number", "negative", "html"],
)
def test_a_page_with_wrong_types_is_told(server: PageServer, text: str, said: str) -> None:
    meter = connect(f"dcgm:{server.url}/metrics?gpus=0")
    says(server, text)
    with pytest.raises(ReadingError, match=said):
        meter.sample()
    meter.close()


def test_a_page_that_does_not_come_is_told_in_time(server: PageServer) -> None:
    meter = connect(f"dcgm:{server.url}/metrics?timeout=0.1")
    server.hangs.set()
    with pytest.raises(ReadingError, match=r"did not answer within 0.1 s"):
        meter.sample()
    server.hangs.clear()
    server.status = 503
    with pytest.raises(ReadingError, match="answers HTTP 503"):
        meter.sample()
    meter.close()


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("/other", "answers HTTP 404: ; is this dcgm-exporter's page"),
        ("/metrics?gpus=7", "has no gpu '7'; it has 0, 1, GPU-0a, GPU-1b"),
        ("/metrics?gpu=7", "unknown option 'gpu'; did you mean 'gpus'?"),
    ],
)
def test_a_meter_that_cannot_be_had_is_refused(server: PageServer, rest: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        connect(f"dcgm:{server.url}{rest}")
    assert said in str(refused.value)


def test_a_page_without_power_is_refused(server: PageServer) -> None:
    says(server, "up 1\n")
    with pytest.raises(ConfigError, match="has neither DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION nor"):
        connect(f"dcgm:{server.url}/metrics")


def test_nobody_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not answer"):
        connect("dcgm:http://127.0.0.1:9/metrics")
