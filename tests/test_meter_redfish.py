"""Redfish: a BMC's pages in their shape, and a static Redfish service from a package."""

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.redfish import connect
from pytest_agentperf.protocols import ReadingError
from tests.meter_pages import PageServer, serving

ROOT = "/redfish/v1"


def link(path: str) -> dict[str, str]:
    return {"@odata.id": f"{ROOT}{path}"}


def bmc() -> dict[str, Any]:
    """A server whose chassis tells its power by both ways, with a GPU tray that tells none."""
    pages: dict[str, Any] = {
        "": {"@odata.type": "#ServiceRoot.v1_15_0.ServiceRoot", "RedfishVersion": "1.15.0",
             "Chassis": link("/Chassis"), "Systems": link("/Systems")},
        "/Chassis": {"@odata.type": "#ChassisCollection.ChassisCollection",
                     "Members@odata.count": 2,
                     "Members": [link("/Chassis/1U"), link("/Chassis/Tray")]},
        "/Chassis/1U": {"@odata.type": "#Chassis.v1_21_0.Chassis", "Id": "1U",
                        "Power": link("/Chassis/1U/Power"),
                        "EnvironmentMetrics": link("/Chassis/1U/EnvironmentMetrics")},
        "/Chassis/1U/Power": {"@odata.type": "#Power.v1_7_1.Power", "PowerControl": [
            {"MemberId": "0", "Name": "System Power Control", "PowerConsumedWatts": 6012,
             "PowerCapacityWatts": 12000},
            {"MemberId": "1", "Name": "CPU Sub-system Power", "PowerConsumedWatts": 500}]},
        "/Chassis/1U/EnvironmentMetrics": {
            "@odata.type": "#EnvironmentMetrics.v1_3_0.EnvironmentMetrics",
            "PowerWatts": {"DataSourceUri": f"{ROOT}/Chassis/1U/Sensors/Power", "Reading": 6020.5}},
        "/Chassis/Tray": {"@odata.type": "#Chassis.v1_21_0.Chassis", "Id": "Tray"},
    }  # fmt: skip
    return {f"{ROOT}{path}": page for path, page in pages.items()}


class Service:
    """Answers as a BMC, with or without a slash at the end."""

    def __init__(self) -> None:
        self.pages = bmc()

    def __call__(self, path: str, query: dict[str, list[str]]) -> str | None:
        del query
        page = self.pages.get(path.rstrip("/"))
        return None if page is None else json.dumps(page)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def server(service: Service) -> Iterator[PageServer]:
    with serving(service) as made:
        yield made


@pytest.mark.parametrize(
    "path",
    ["/", "/Chassis/1U", "/Chassis/1U/EnvironmentMetrics"],
    ids=["the service's root", "a chassis", "what has the reading"],
)
def test_the_power_of_the_chassis_is_found_from(server: PageServer, path: str) -> None:
    meter = connect(f"redfish:{server.url}{ROOT}{path}")
    (sample,) = meter.sample()
    told = meter.clock()
    meter.close()
    assert (sample.series, sample.unit) == ("Chassis/1U/EnvironmentMetrics", "W")
    assert sample.value == 6020.5
    assert (meter.role, meter.kind) == ("chassis", "redfish")
    assert told is not None
    assert told.offset_s == pytest.approx(0, abs=1.5)


def test_the_older_power_page_is_read_where_there_is_no_newer(
    server: PageServer, service: Service
) -> None:
    del service.pages[f"{ROOT}/Chassis/1U/EnvironmentMetrics"]
    meter = connect(f"redfish:{server.url}{ROOT}/?devices=2")
    assert [d.get("count", 1) for d in meter.devices] == [2]
    # The first control is the whole chassis; its processors are a part of it.
    assert [(s.series, s.value) for s in meter.sample()] == [("Chassis/1U/Power", 6012.0)]
    meter.close()


def test_credentials_come_from_the_environment(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTPERF_REDFISH_USER", "me")
    monkeypatch.setenv("AGENTPERF_REDFISH_PASSWORD", "s3cret")
    meter = connect(f"redfish:{server.url}{ROOT}/")
    meter.close()
    assert server.seen["authorization"] == "Basic bWU6czNjcmV0"
    assert "s3cret" not in f"{meter.name}{meter.devices}"


@pytest.mark.parametrize("value", ["6020 W", None, True], ids=["text", "null", "a truth"])
def test_a_reading_of_a_wrong_type_is_told(
    server: PageServer, service: Service, value: object
) -> None:
    meter = connect(f"redfish:{server.url}{ROOT}/Chassis/1U")
    service.pages[f"{ROOT}/Chassis/1U/EnvironmentMetrics"]["PowerWatts"]["Reading"] = value
    with pytest.raises(ReadingError, match=r"power is .*, no number of watts"):
        meter.sample()
    server.page = lambda *_: "<html>"
    with pytest.raises(ReadingError, match="answers no JSON"):
        meter.sample()
    meter.close()


def test_several_chassis_are_not_added_up(server: PageServer, service: Service) -> None:
    service.pages[f"{ROOT}/Chassis/Tray"]["Power"] = link("/Chassis/1U/Power")
    with pytest.raises(ConfigError, match=r"several chassis tell their power: .*name one"):
        connect(f"redfish:{server.url}{ROOT}/")


def test_a_service_without_power_is_refused(server: PageServer, service: Service) -> None:
    with pytest.raises(ConfigError, match="tells no power; name a chassis"):
        connect(f"redfish:{server.url}{ROOT}/Chassis/Tray")
    with pytest.raises(ConfigError, match=r"HTTP 404.*AGENTPERF_REDFISH_USER"):
        connect(f"redfish:{server.url}{ROOT}/Chassis/7")
    service.pages[ROOT] = ["not a resource"]
    with pytest.raises(ConfigError, match="answers no Redfish resource"):
        connect(f"redfish:{server.url}{ROOT}/")


# A service from a package

WITHOUT = importlib.util.find_spec("sushy_tools") is None


@pytest.fixture(scope="module")
def static_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """OpenStack's sushy-static on a mockup of the BMC above, as DMTF's mockups are laid out."""
    folder = tmp_path_factory.mktemp("mockup")
    for path, page in bmc().items():
        place = folder / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        (place / "index.json").write_text(json.dumps(page), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sushy_tools.static.main", "-i", "127.0.0.1", "-p", str(port),
             "-m", str(folder / ROOT.lstrip("/"))],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _until_up(f"http://127.0.0.1:{port}{ROOT}/", folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _until_up(url: str, log: Path) -> None:
    for _ in range(200):
        time.sleep(0.1)
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            continue
    pytest.fail(f"sushy-static is not up after 20 s: {log.read_text('utf-8')[-1000:]}")


@pytest.mark.e2e
@pytest.mark.skipif(WITHOUT, reason="sushy-tools is not installed: pip install sushy-tools")
def test_a_redfish_service_of_others_is_read(static_service: str) -> None:
    meter = connect(f"redfish:{static_service}{ROOT}/")
    assert [s.value for s in meter.sample()] == [6020.5]
    meter.close()


def test_a_link_to_another_server_gets_no_credentials(
    server: PageServer, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTPERF_REDFISH_USER", "me")
    monkeypatch.setenv("AGENTPERF_REDFISH_PASSWORD", "s3cret")
    with serving(Service()) as elsewhere:
        metrics = f"{elsewhere.url}{ROOT}/Chassis/1U/EnvironmentMetrics"
        service.pages[f"{ROOT}/Chassis/1U"]["EnvironmentMetrics"] = {"@odata.id": metrics}
        meter = connect(f"redfish:{server.url}{ROOT}/Chassis/1U")
        assert [s.series for s in meter.sample()] == ["Chassis/1U/Power"]
        meter.close()
        assert not elsewhere.seen
