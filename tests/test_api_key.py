"""Where the key comes from, where it may go, and who must not have it."""

from pathlib import Path

import pytest

from pytest_agentperf.api_key import (
    API_KEY_FILE_VARIABLE,
    API_KEY_VARIABLE,
    api_key,
    check_transport,
    keyless_environment,
    redact,
    use_key,
)
from pytest_agentperf.errors import ConfigError

KEY = "sk-planted-9f3b"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (API_KEY_VARIABLE, API_KEY_FILE_VARIABLE, "AGENTPERF_INSECURE_KEY"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n", "utf-8")
    return path


def test_a_key_from_a_file_is_used_and_taken_out_of_texts(file: Path) -> None:
    use_key(str(file), insecure=False)
    assert (api_key(), redact(f"no {KEY}!")) == (KEY, "no [key]!")


def test_the_environment_comes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_key(str(file), insecure=False)
    monkeypatch.setenv(API_KEY_VARIABLE, "another-key")
    assert api_key() == "another-key"


def test_a_file_that_is_missing_empty_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "binary").write_bytes(b"\x00" + KEY.encode())
    wrong = {"nowhere": "cannot be read", "empty": "is empty", "binary": "no header can carry"}
    for name, said in wrong.items():
        use_key(str(tmp_path / name), insecure=False)
        with pytest.raises(ConfigError, match=said) as refused:
            api_key()
        assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["https://h/v1", "http://127.0.0.1:1/v1", "http://[::1]/v1", "http://localhost/v1"],
)
def test_a_key_may_go(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    check_transport(url)


@pytest.mark.parametrize("host", ["inference.example", "10.0.0.7", "127.0.0.1.example"])
def test_a_key_goes_to_another_machine_over_https_or_where_it_is_said(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_transport(f"http://{host}/v1")  # there is none
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    with pytest.raises(ConfigError, match="clear text"):
        check_transport(f"http://{host}/v1")
    use_key(None, insecure=True)
    check_transport(f"http://{host}/v1")


def test_programs_do_not_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    assert KEY not in keyless_environment().values()
    assert "PATH" in keyless_environment()
