"""What --agentperf-meter may say, and how a mistake in it is told."""

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.meters.address import read_address
from pytest_agentperf.protocols import find


@pytest.mark.parametrize(
    ("text", "kind", "target", "options"),
    [
        ("nvml", "nvml", "", {}),
        ("nvml:0,2", "nvml", "0,2", {}),
        ("nvml:scope=gpu", "nvml", "", {"scope": "gpu"}),
        ("nvml?scope=gpu&every=0.5", "nvml", "", {"scope": "gpu", "every": "0.5"}),
        ("nvml:0?scope=memory", "nvml", "0", {"scope": "memory"}),
        ("x:http://h:9400/metrics", "x", "http://h:9400/metrics", {}),
        ("x:http://h:9090?query=a{b%3D%22c%26d%22}+b", "x", "http://h:9090",
         {"query": 'a{b="c&d"}+b'}),
    ],
)  # fmt: skip
def test_a_meter_is_named(text: str, kind: str, target: str, options: dict[str, str]) -> None:
    found = read_address(text, ("scope", "query"))
    assert (found.kind, found.target, found.options) == (kind, target, options)


@pytest.mark.parametrize(
    ("text", "target", "options"),
    [
        ("command:cat /a?b", "cat /a?b", {}),
        ("command:cat /a?b?role=chassis", "cat /a?b", {"role": "chassis"}),
        ("command:curl 'http://h/x?a=1&b=2'", "curl 'http://h/x?a=1&b=2'", {}),
    ],
)
def test_a_command_keeps_its_question_marks(
    text: str, target: str, options: dict[str, str]
) -> None:
    found = read_address(text, ("unit",), free_text=True)
    assert (found.target, found.options) == (target, options)


def test_what_is_asked_of_every_meter_is_read() -> None:
    found = read_address("x:?role=chassis&every=2&timeout=3.5", ("devices",))
    assert (found.role("cpu"), found.period_s(1), found.timeout_s(1)) == ("chassis", 2.0, 3.5)
    assert read_address("x", ()).role("cpu") == "cpu"
    assert read_address("x?devices=8", ("devices",)).count("devices", 1) == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x?scoop=gpu", "'x': unknown option 'scoop'; did you mean 'scope'?"),
        ("x?scope", "scope has no value; write scope=VALUE"),
        ("x?role=rack", "role is 'rack'; it is one of accelerator, chassis, cpu"),
        ("x?every=often", "every is 'often'; give a number"),
        ("x?every=0", "every is '0'; give a number from 0.01 on"),
        ("x?timeout=nan", "timeout is 'nan'; give a number from 0.01 on"),
        ("x?scope=0", "scope is '0'; give a whole number from 1 on"),
        ("x:ftp://h", "'ftp://h' is no URL; write x:http://HOST"),
        ("x:http://[bad", "is no URL; write x:http://HOST"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _read(text)
    assert said in str(refused.value)


def _read(text: str) -> None:
    found = read_address(text, ("scope",))
    found.role("cpu")
    found.period_s(1)
    found.timeout_s(1)
    if found.target:
        found.url("x:http://HOST")
    found.count("scope", 1)


@pytest.mark.parametrize(
    "text",
    [
        "prometheus:http://me:s3cret@host:9090?query=up&unit=W",
        "prometheus:http://me:s3c?ret@host:9090?query=up&unit=W",
        "dcgm:http://s3cret@host:9400/metrics",
        "dcgm:me:s3cret@host:9400/metrics",
        "redfish:https://me:s3c/ret@host/redfish/v1/",
        "ipmi:me:s3cret@host",
        "command:test -e a? && curl http://me:s3cret@host/watts",
    ],
    ids=["Prometheus", "a question mark", "DCGM", "no URL", "Redfish", "IPMI", "command"],
)
def test_user_info_in_an_address_is_refused_and_not_shown(text: str) -> None:
    kind = text.partition(":")[0]
    with pytest.raises(ConfigError, match="holds user info for host; cred") as refused:
        find("meters", kind)(text)
    assert "s3c" not in str(refused.value)


def test_an_at_sign_elsewhere_is_no_user_info() -> None:
    assert read_address("csv:me@home.csv", ()).target == "me@home.csv"
    assert read_address("command:ssh me@host nvidia", (), free_text=True).target
    query = read_address("prometheus:http://h:1?query=up @ 160", ("query",))
    assert query.options == {"query": "up @ 160"}
