"""Measured noise: written, read back, refused."""

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.spread import encode_noise, parse_noise
from tests.gated import noise

FIVE = (1.0, 1.1, 1.0, 0.9, 1.0)


def test_noise_reads_back_as_it_was() -> None:
    measured = noise(speed=FIVE, ttft=FIVE)
    assert parse_noise(encode_noise(measured), "n") == measured


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "n: not a measured noise"),
        (b"[]", "n: not a measured noise"),
        (b'{"schema": "agentperf-noise/9"}', "n: schema is 'agentperf-noise/9', this version"),
        (encode_noise(noise(speed=(1.0, 2.0))), "n: 2 repeats say too little of a spread"),
    ],
    ids=["broken JSON", "a list", "a newer schema", "two repeats"],
)
def test_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_noise(data, "n")
    assert str(refused.value).startswith(said)
