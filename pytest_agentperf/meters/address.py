"""What ``--agentperf-meter`` says: ``KIND``, ``KIND:TARGET``, ``KIND:TARGET?OPTION=VALUE&…``.

Where there is no target the question mark may be a colon: ``nvml:scope=gpu``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args
from urllib.parse import unquote, urlsplit

from pytest_agentperf.errors import ConfigError, did_you_mean
from pytest_agentperf.records import Role
from pytest_agentperf.user_info import refuse_user_info

__all__ = ["MeterAddress", "read_address"]

_COMMON = ("role", "every", "timeout")
_ENVIRONMENT = "credentials are read from the environment alone, see docs/power.md"
_URL_WITH_USER = re.compile(r"://[^/?#\s]*@[^/?#\s]*")
_ROLES: Sequence[str] = get_args(Role)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterAddress:
    """One meter as it was asked for, taken apart."""

    text: str
    kind: str
    target: str
    """What stands between the kind and its options; may be empty."""
    options: Mapping[str, str]

    def refused(self, why: str) -> ConfigError:
        """Return the error that names this meter, what is wrong with it and what to do."""
        return ConfigError(f"--agentperf-meter {self.text!r}: {why}")

    def one_of(self, name: str, known: Sequence[str], default: str) -> str:
        """Return an option that is one of a few words."""
        value = self.options.get(name, default)
        if value not in known:
            raise self.refused(f"{name} is {value!r}; it is one of {', '.join(known)}")
        return value

    def role(self, default: Role) -> Role:
        """Return the role, which ``role=`` may name."""
        return cast("Role", self.one_of("role", _ROLES, default))

    def number(self, name: str, default: float, *, least: float = 0.01) -> float:
        """Return an option that is a number of at least so much, in the option's unit."""
        text = self.options.get(name, "")
        try:
            value = float(text) if text else default
        except ValueError:
            raise self.refused(f"{name} is {text!r}; give a number") from None
        if not least <= value < float("inf"):
            raise self.refused(f"{name} is {text!r}; give a number from {least:g} on")
        return value

    def count(self, name: str, default: int) -> int:
        """Return an option that is a whole number from 1 on."""
        text = self.options.get(name, str(default))
        if not (text.isascii() and text.isdigit() and int(text)):
            raise self.refused(f"{name} is {text!r}; give a whole number from 1 on")
        return int(text)

    def shares(self, series: int) -> Sequence[Mapping[str, int]]:
        """Return for each series the ``count`` of devices that it stands for, where it is not one.

        ``devices=`` tells how many they are together: of more than there are series the first has
        the rest, of fewer the last stand for none.
        """
        total = self.count("devices", series)
        counts = [max(1, total - series + 1), *[1] * (series - 1)]
        counts = [count if place < total else 0 for place, count in enumerate(counts[:series])]
        return [{} if count == 1 else {"count": count} for count in counts]

    def period_s(self, default: float) -> float:
        """Return how often to read it, seconds: ``every=``."""
        return self.number("every", default)

    def timeout_s(self, default: float) -> float:
        """Return how long to wait for one reading, seconds: ``timeout=``."""
        return self.number("timeout", default)

    def refuse_credentials(self) -> None:
        """Check that no user info stands in the target, which is an address.

        Raises:
            ConfigError: it does; it is not shown.
        """
        _refuse_credentials(self.kind, self.target)

    def url(self, example: str) -> str:
        """Return the target as an ``http(s)`` URL without credentials in it."""
        self.refuse_credentials()
        try:
            parts = urlsplit(self.target)
            found = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            found = False
        if not found:
            raise self.refused(f"{self.target!r} is no URL; write {example}")
        return self.target


def read_address(text: str, known: Sequence[str], *, free_text: bool = False) -> MeterAddress:
    """Take apart what was asked for.

    Args:
        text: the option's value.
        known: options of this kind, beside ``role``, ``every`` and ``timeout``.
        free_text: the target may hold question marks (a command); then only words that are all
            known options, at its end, are options.

    Raises:
        ConfigError: an unknown option, or one without a value.
    """
    end = min((i for i in (text.find(":"), text.find("?")) if i >= 0), default=len(text))
    kind, rest = text[:end], text[end + 1 :]
    names = (*known, *_COMMON)
    if text[end : end + 1] == "?" or rest.split("=")[0] in names:
        target, query = "", rest
    elif free_text:
        head, mark, query = rest.rpartition("?")
        is_query = mark and all(p.split("=")[0] in names and "=" in p for p in query.split("&"))
        target, query = (head, query) if is_query else (rest, "")
    else:
        target, _, query = rest.partition("?")
    if "://" in rest and not free_text:
        _refuse_credentials(kind, rest)
    if (url := _URL_WITH_USER.search(target)) is not None:  # in a command too
        _refuse_credentials(kind, url[0])
    found = MeterAddress(text=text, kind=kind, target=target, options=_options(query))
    for name, value in found.options.items():
        if name not in names:
            raise ConfigError(
                f"--agentperf-meter {kind!r}: unknown option {name!r}{did_you_mean(name, names)}"
            )
        if not value:
            raise found.refused(f"{name} has no value; write {name}=VALUE")
    return found


def _options(query: str) -> Mapping[str, str]:
    # Not parse_qsl: a plus is a plus in PromQL, and only what was escaped is unescaped.
    pairs = (part.partition("=") for part in query.split("&") if part)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _refuse_credentials(kind: str, target: str) -> None:
    refuse_user_info(target, f"--agentperf-meter {kind!r}", _ENVIRONMENT)
