"""Prometheus: what its API answers, in its shape, and a real server that scrapes a page of ours."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.clocks import wall_s
from pytest_agentperf.meters.prometheus import connect
from pytest_agentperf.power import measure_power
from pytest_agentperf.protocols import ReadingError
from pytest_agentperf.records import Sample, Window
from tests.meter_pages import PageServer, serving

LABELS = {"__name__": "watts", "gpu": "0", "UUID": "GPU-0a"}
AHEAD_S = 1000.0


class Answers:
    """Answers as Prometheus does, a thousand seconds ahead."""

    def __init__(self) -> None:
        self.values = ["700", "701"]
        self.selector = True
        self.instant = "700"

    def __call__(self, path: str, query: dict[str, list[str]]) -> str | None:
        if path != "/api/v1/query":
            return None
        asked, now_s = query["query"][0], wall_s() + AHEAD_S
        if asked == "time()":
            return answer("scalar", [now_s, str(now_s)])
        if asked.endswith("[300s]"):
            if not self.selector:
                return json.dumps({"status": "error", "error": "ranges only allowed for vectors"})
            rows = [[now_s - 10 + 5 * i, text] for i, text in enumerate(self.values)]
            return answer("matrix", [{"metric": LABELS, "values": rows}] if rows else [])
        return answer("vector", [{"metric": LABELS, "value": [now_s, self.instant]}])


def answer(kind: str, result: object) -> str:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def server(answers: Answers) -> Iterator[PageServer]:
    with serving(answers) as made:
        yield made


def test_raw_samples_are_read_once_each_and_put_on_our_clock(server: PageServer) -> None:
    meter = connect(f"prometheus:{server.url}?query=watts&unit=W")
    samples, now_ns = meter.sample(), time.perf_counter_ns()
    assert [(s.series, s.value) for s in samples] == [
        ('watts{UUID="GPU-0a",gpu="0"}', 700.0),
        ('watts{UUID="GPU-0a",gpu="0"}', 701.0),
    ]
    ages_s = [(now_ns - s.at_ns) / 1e9 for s in samples]
    assert ages_s == pytest.approx([10, 5], abs=0.3)
    told = meter.clock()
    assert told is not None
    assert told.offset_s == pytest.approx(AHEAD_S, abs=0.3)
    assert told.by == "Prometheus time()"
    assert told.uncertainty_s is not None
    assert told.uncertainty_s < 0.3
    assert meter.devices[0]["uuid"] == "GPU-0a"
    meter.close()


def test_an_expression_is_read_at_the_time_of_asking(server: PageServer, answers: Answers) -> None:
    answers.selector, answers.instant = False, "6.1"
    meter = connect(f"prometheus:{server.url}?query=sum(a)%2Bb&unit=kW&role=chassis&devices=8")
    (sample,) = meter.sample()
    assert (sample.unit, sample.value, meter.role) == ("W", 6100.0, "chassis")
    assert (time.perf_counter_ns() - sample.at_ns) / 1e9 == pytest.approx(0, abs=0.3)
    assert sum(int(d.get("count", 1)) for d in meter.devices) == 8
    meter.close()


def test_a_token_comes_from_the_environment(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTPERF_PROMETHEUS_TOKEN", "t0ken")
    connect(f"prometheus:{server.url}?query=watts&unit=W").close()
    assert server.seen["authorization"] == "Bearer t0ken"


def test_a_series_that_is_gone_or_no_number_is_told(server: PageServer, answers: Answers) -> None:
    meter = connect(f"prometheus:{server.url}?query=watts&unit=W")
    answers.values = ["700", "NaN"]
    with pytest.raises(ReadingError, match="is 'NaN'") as wrong:
        meter.sample()
    assert [s.value for s in wrong.value.samples] == [700.0]
    answers.values = []
    with pytest.raises(ReadingError, match="is gone"):
        meter.sample()
    server.page = lambda *_: "[]"
    with pytest.raises(ReadingError, match="not an answer of the query API"):
        meter.sample()
    server.page = lambda *_: answer("vector", "soon")
    with pytest.raises(ReadingError, match="time\\(\\) is 'soon', no time"):
        meter.sample()
    meter.close()


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("?unit=W", "query is missing; add query="),
        ("?query=watts", "unit is missing; add unit=W"),
        ("?query=watts&unit=VA", "unit is 'VA'; it is one of W"),
        ("/x?query=watts&unit=W", "answers HTTP 404"),
    ],
)
def test_a_meter_that_cannot_be_had_is_refused(server: PageServer, rest: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        connect(f"prometheus:{server.url}{rest}")
    assert said in str(refused.value)


# A real server

JOULES = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["{target}"]}}]
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that scrapes two GPUs, 600 and 300 W, every second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus here; Debian: apt-get install prometheus")

    def page(*_: object) -> str:
        rows = [(gpu, watts) for gpu, watts in ((0, 600), (1, 300))]
        joules = "".join(
            f'{JOULES}{{gpu="{g}",UUID="GPU-{g}"}} {w * wall_s() * 1000:.0f}\n' for g, w in rows
        )
        return joules + "".join(
            f'DCGM_FI_DEV_POWER_USAGE{{gpu="{g}",UUID="GPU-{g}"}} {w}\n' for g, w in rows
        )

    folder = tmp_path_factory.mktemp("prometheus")
    with serving(page) as exporter, (folder / "log").open("wb") as log:
        port = _free_port()
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(target=exporter.url.removeprefix("http://")), "utf-8")
        process = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _until_scraped(f"http://127.0.0.1:{port}", folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _until_scraped(url: str, log: Path) -> None:
    for _ in range(300):
        time.sleep(0.1)
        try:
            got = httpx.get(
                f"{url}/api/v1/query", params={"query": f"count_over_time({JOULES}[1m])"}
            ).json()
        except (httpx.HTTPError, ValueError):
            continue
        rows = got.get("data", {}).get("result", [])
        if len(rows) == 2 and all(int(row["value"][1]) > 2 for row in rows):
            return
    pytest.fail(f"prometheus did not scrape within 30 s: {log.read_text('utf-8')[-2000:]}")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("query", "unit", "watts", "kind"),
    [
        (JOULES, "mJ", 900, "scraped samples"),
        (JOULES + "%7Bgpu%3D%220%22%7D", "mJ", 600, "scraped samples"),
        ("sum(DCGM_FI_DEV_POWER_USAGE)", "W", 900, "an expression, at the time of asking"),
    ],
    ids=["counters of two devices", "a selector with a label", "an expression"],
)
def test_a_real_server_tells_the_energy_of_a_window_between_its_scrapes(
    prometheus: str, query: str, unit: str, watts: float, kind: str
) -> None:
    meter = connect(f"prometheus:{prometheus}?query={query}&unit={unit}&every=0.5")
    assert {d["source"] for d in meter.devices} == {kind}
    samples: list[Sample] = list(meter.sample())
    start_ns = time.perf_counter_ns() + 300_000_000
    end_ns = start_ns + 4_350_000_000
    while time.perf_counter_ns() < end_ns + 1_500_000_000:
        time.sleep(0.5)
        samples += meter.sample()
    told = meter.clock()
    meter.close()
    window = Window(start_ns=start_ns, end_ns=end_ns)
    power = measure_power(samples, window, devices=len(meter.devices))
    assert power.reason is None
    assert power.mean_w == pytest.approx(watts, rel=0.01)
    # One machine, so one clock.
    assert told is not None
    assert told.offset_s == pytest.approx(0, abs=0.05)
    assert told.uncertainty_s is not None
    assert told.uncertainty_s < 0.05


@pytest.mark.e2e
def test_a_real_server_refuses_what_is_no_query(prometheus: str) -> None:
    with pytest.raises(ConfigError, match=r"HTTP 400.*parse error"):
        connect(f"prometheus:{prometheus}?query=sum(&unit=W")
    with pytest.raises(ConfigError, match="has no series now"):
        connect(f"prometheus:{prometheus}?query=nobody&unit=W")
