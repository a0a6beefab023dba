"""A server's page of metrics over HTTP."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.gauges import Page, ServerGauges, open_gauges, open_named_gauges
from tests.test_series import VLLM


class _Server(http.server.ThreadingHTTPServer):
    page = VLLM
    path = "/metrics"
    status = 200
    seen: str | None = None


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.seen = self.headers.get("authorization")
        found = self.path == server.path
        self.send_response(server.status if found else 404)
        self.end_headers()
        if found:
            self.wfile.write(server.page.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base's name
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    made = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def base(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_a_server_is_asked_beside_its_base_url_with_our_key(server: _Server) -> None:
    gauges = open_gauges(base(server), {"authorization": "Bearer k"})
    assert gauges is not None
    samples = gauges.sample()
    gauges.close()
    assert {(s.series, s.unit, s.value) for s in samples} == {
        ("running", "1", 7.0),
        ("waiting", "1", 2.0),
        ("kv_use_ratio", "1", 0.75),
        ("drafted", "n", 300.0),
        ("accepted", "n", 120.0),
    }
    assert len({s.at_ns for s in samples}) == 1
    assert server.seen == "Bearer k"


def test_a_page_that_fails_later_gives_no_sample(server: _Server) -> None:
    gauges = open_gauges(base(server), {})
    assert gauges is not None
    server.status = 500
    assert list(gauges.sample()) == []
    server.status, server.page = 200, "up 1\n"
    assert list(gauges.sample()) == []
    gauges.close()


def test_a_server_without_such_a_page_is_not_asked(server: _Server) -> None:
    server.page = "up 1\n"
    assert open_gauges(base(server), {}) is None
    assert open_gauges("http://127.0.0.1:9/v1", {}) is None


def test_trtllm_serve_has_its_page_elsewhere(server: _Server) -> None:
    server.path = "/prometheus/metrics"
    gauges = open_gauges(base(server), {})
    assert gauges is not None
    gauges.close()


def test_where_one_page_of_several_fails_nothing_is_told(server: _Server) -> None:
    good, bad = (Page(url=f"{base(server).removesuffix('/v1')}{p}") for p in ("/metrics", "/gone"))
    gauges = ServerGauges([good, bad])
    assert list(gauges.sample()) == []
    gauges.close()
    gauges = ServerGauges([good, good])
    assert next(s.value for s in gauges.sample() if s.series == "running") == 14.0
    gauges.close()


def told(server: _Server, *, urls: tuple[str, ...] = (), series: tuple[str, ...] = ()) -> set[str]:
    gauges = open_named_gauges(
        base(server), {"authorization": "Bearer k"}, urls=urls, series=series
    )
    samples = gauges.sample()
    gauges.close()
    return {s.series for s in samples}


def test_a_series_by_name_is_read_beside_the_others(server: _Server) -> None:
    assert {"running", "queued"} <= told(server, series=("queued=vllm:num_requests_waiting",))


def test_a_page_by_name_is_asked_in_the_place_of_the_usual_one(server: _Server) -> None:
    server.path = "/worker"
    url = f"http://127.0.0.1:{server.server_port}/worker"
    assert "running" in told(server, urls=(url,))
    assert server.seen == "Bearer k"


def test_our_key_is_shown_to_no_other_server(server: _Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    key = {"authorization": "Bearer k"}
    open_named_gauges("http://127.0.0.1:9/v1", key, urls=[url], series=[]).close()
    assert server.seen is None


@pytest.mark.parametrize(
    ("urls", "series", "message"),
    [
        ((), ("vllm:num_request_waiting",), "; did you mean 'vllm:num_requests_waiting'?"),
        (("worker:8081/metrics",), (), "is no URL; write http://HOST:PORT/metrics"),
        (("http://127.0.0.1:9/metrics",), (), "no page of metrics at http://127.0.0.1:9/metrics; "),
    ],
    ids=["a series that is not there", "no URL", "nothing answers"],
)
def test_named_metrics_are_refused_for(
    server: _Server, urls: tuple[str, ...], series: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        told(server, urls=urls, series=series)
    assert message in str(refused.value)


def test_a_server_without_a_page_is_told_so(server: _Server) -> None:
    server.status = 404
    with pytest.raises(ConfigError) as refused:
        told(server, series=("up",))
    assert str(refused.value).endswith(
        "/prometheus/metrics; start the server with its metrics on, or name the page with "
        "--agentperf-metrics-url"
    )
