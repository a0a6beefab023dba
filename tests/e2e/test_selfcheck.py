"""The client's self-check as a user runs it: two processes and real sockets."""

import shutil

import msgspec
import pytest

from pytest_agentperf.calibrate import main
from pytest_agentperf.errors import LoadError
from pytest_agentperf.selfcheck.ladder import Carries, measure, null_server
from pytest_agentperf.selfcheck.nullclient import Point

pytestmark = pytest.mark.e2e


class _Told(msgspec.Struct):
    points: list[Point]
    carries: Carries


def test_every_token_is_counted_and_every_time_held_against_the_truth(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert main(["client", "--start=4", "--most=4", "--seconds=1.5", "--json"]) == 0
    told = msgspec.json.decode(capfdbinary.readouterr().out, type=_Told)
    (point,) = told.points
    assert (point.streams, point.failed) == (4, 0)
    # Answers of 50 tokens take a second; of two or three for each stream the first counts not.
    assert point.tokens >= 4 * 2 * 50
    assert point.requests == point.tokens // 50 - 4
    assert all(0 <= error_s < 10 for error_s in point.ttft_error_s)
    assert all(0 <= error_s < 10 for error_s in point.last_token_error_s)
    assert 0 < told.carries.cpu_us_per_token < 1e6


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["client", "--start=2", "--most=2", "--seconds=1", "--tls", "--json"]) == 0
    told = msgspec.json.decode(capfdbinary.readouterr().out, type=_Told)
    assert (told.points[0].streams, told.points[0].failed) == (2, 0)
    assert told.points[0].requests > 0


def test_without_openssl_tls_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["client", "--tls"]) == 1
    assert "install it, or leave --tls out" in " ".join(capsys.readouterr().err.split())


def test_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", "--start=2", "--most=2", "--seconds=1"]) == 0
    said = capsys.readouterr().out
    assert "One load process, against a server that computes nothing" in said
    assert "a token costs" in said


def test_a_client_that_cannot_connect_is_told() -> None:
    with null_server() as port:
        pass
    with pytest.raises(LoadError, match="self-check"):
        measure(port, streams=1, seconds=0.1, client="engine")
