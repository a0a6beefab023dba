"""The file that a recording grows in: a line when a request has come, one when its answer ends.

Lines are written whole and at once, so what was written survives the end of the process, however it
ends. Nothing is rewritten. ``importers/recording.py`` reads it; ``docs/recorder.md`` describes it.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.recording import FORMAT, SESSION_HEADERS, VERSION
from pytest_agentperf.recorder.heard import Answer

__all__ = ["Asked", "Journal", "kind_of", "read_request"]

KEPT_HEADERS = (*SESSION_HEADERS, "user-agent")
"""All others stay off the disk, whatever they hold."""
KINDS = {"/chat/completions": "chat", "/messages": "messages"}

_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|signature", re.IGNORECASE)
_BETWEEN_SECRETS = re.compile(r"[\s;,=]+")
_LEAST_SECRET = 12
"""A shorter one guards little, and would cut words of a prompt in pieces."""
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as far as it is written down."""

    kind: str
    """``chat`` (OpenAI) or ``messages`` (Anthropic)."""
    path: str
    headers: dict[str, str]
    messages: list[msgspec.Raw]
    fields: dict[str, msgspec.Raw]
    """All else of the body, each as sent."""
    secrets: tuple[bytes, ...]
    """Parts of the request that must not reach the disk wherever they stand."""


def kind_of(method: str, target: str) -> str | None:
    """Return what a request asks, ``chat`` or ``messages``; ``None`` where it asks no model."""
    path = target.partition("?")[0].rstrip("/")
    kinds = (kind for end, kind in KINDS.items() if path.endswith(end))
    return next(kinds, None) if method == "POST" else None


def read_request(
    method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
) -> Asked | None:
    """Return what is to be written of a request; ``None`` where it asks no model.

    Args:
        method: of HTTP.
        target: path and query.
        headers: names in lower case, and values.
        body: not packed.
    """
    path, _, query = target.partition("?")
    kind = kind_of(method, target)
    if kind is None:
        return None
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        messages = msgspec.json.decode(fields.pop("messages"), type=list[msgspec.Raw])
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return None
    pairs = [*headers, *parse_qsl(query)]
    return Asked(
        kind=kind,
        path=path,
        headers={name: value for name, value in pairs if name in KEPT_HEADERS},
        messages=messages,
        fields=fields,
        secrets=tuple(_secrets(pairs)),
    )


def _secrets(pairs: Iterable[tuple[str, str]]) -> Iterable[bytes]:
    for name, value in pairs:
        if _SECRET_NAME.search(name):
            parts = {value, *_BETWEEN_SECRETS.split(value)}
            # The longest first: another may be a part of it.
            for part in sorted(parts, key=len, reverse=True):
                if len(part) >= _LEAST_SECRET:
                    yield part.encode()


class _Spelled:
    """What earlier requests spelt out, so that a later one need not."""

    def __init__(self) -> None:
        self._fronts: dict[bytes, tuple[int, int]] = {}
        """Digest of the messages at the front of a prompt → a request, and how many they are."""
        self._fields: dict[int, dict[str, bytes]] = {}

    def take(self, number: int, asked: Asked) -> tuple[int | None, int, list[str]]:
        """Return the request that this one is most like, its common front, and equal fields."""
        chain = list(accumulate(asked.messages, _link, initial=asked.kind.encode()))[1:]
        known = (self._fronts[link] for link in reversed(chain) if link in self._fronts)
        like, kept = next(known, (None, 0))
        for length, link in enumerate(chain[kept:], kept + 1):
            self._fronts[link] = number, length
        digests = {name: _digest(raw) for name, raw in asked.fields.items()}
        self._fields[number] = digests
        before = self._fields[like] if like is not None else {}
        return like, kept, [name for name, digest in digests.items() if before.get(name) == digest]


def _link(before: bytes, message: msgspec.Raw) -> bytes:
    return _digest(before + bytes(message))


def _digest(data: bytes | msgspec.Raw) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()


class Journal:
    """A recording under way."""

    def __init__(self, path: Path, header: Mapping[str, Any], *, began_ns: int) -> None:
        """Begin the file.

        Args:
            path: must not exist.
            header: what the first line tells beside format and version.
            began_ns: where all stamps count from.

        Raises:
            ConfigError: the file is there already, or cannot be made.
        """
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            self._file = os.open(path, flags, 0o600)
        except FileExistsError as error:
            raise ConfigError(
                f"--out {str(path)!r} exists; a recording overwrites nothing: "
                "give another name, or move the file away"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"--out {str(path)!r} cannot be written ({error.strerror}); give another path"
            ) from error
        self._path = path
        self._began_ns = began_ns
        self.lost: str | None = None
        """Why nothing is written any more; the agent is served all the same."""
        self._spelled = _Spelled()
        self._open: dict[int, tuple[bytes, ...]] = {}
        """Secrets of the requests that are not answered yet."""
        self.requests = 0
        self._write({"format": FORMAT, "version": VERSION, **header}, ())

    @property
    def open_requests(self) -> int:
        """Requests without an answer so far."""
        return len(self._open)

    def request(self, asked: Asked, at_ns: int) -> int:
        """Write a request down that came at this instant; return its number."""
        self.requests += 1
        number = self.requests
        like, kept, same = self._spelled.take(number, asked)
        line: dict[str, Any] = {
            "request": number,
            "at_ns": at_ns - self._began_ns,
            "kind": asked.kind,
            "path": asked.path,
            "headers": asked.headers,
            "like": like,
            "kept": kept,
            "messages": asked.messages[kept:],
            "same": same,
            "body": {name: raw for name, raw in asked.fields.items() if name not in same},
        }
        self._open[number] = asked.secrets
        self._write(line, asked.secrets)
        return number

    def answer(
        self, number: int, answer: Answer, *, status: int, first_byte_ns: int | None, end_ns: int
    ) -> None:
        """Write down how a request was answered."""
        line: dict[str, Any] = {
            "answer": number,
            "status": status,
            "first_byte_ns": self._since(first_byte_ns),
            "first_token_ns": self._since(answer.first_token_ns),
            "last_token_ns": self._since(answer.last_token_ns),
            "end_ns": self._since(end_ns),
            "message": answer.message,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
            "error": answer.error,
        }
        self._write(line, self._open.pop(number))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _since(self, at_ns: int | None) -> int | None:
        return None if at_ns is None else at_ns - self._began_ns

    def _write(self, line: dict[str, Any], secrets: tuple[bytes, ...]) -> None:
        # What was sent may hold line ends between its tokens; within text they are escaped.
        data = msgspec.json.encode(line).replace(b"\n", b" ").replace(b"\r", b" ")
        for secret in secrets:
            data = data.replace(secret, b"[redacted]")
        left = memoryview(b"" if self.lost else data + b"\n")
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as failed:
            self.lost = (
                f"{self._path} cannot be written any more ({failed.strerror}): what follows is "
                "passed on and not recorded; make room and record again"
            )
            sys.stderr.write(f"{self.lost}\n")
