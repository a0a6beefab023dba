"""What servers do wrong, and what is made of it: a row each, for the tests and for docs/faults.md.

Every row is a server that does the same to each request. `*` stands for what differs from run to
run. Tokens of a good answer come 10 ms apart, so that it has an output speed of 100 tok/s.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.servers.sockets import Answers, Pause, Piece, Server

__all__ = ["FAULTS", "HEAVY", "TIMEOUT_S", "Fault"]

TIMEOUT_S = 1.0
"""Of one request, where the product's default is 300 s."""
GONE = "phase complete: the endpoint stopped answering: "
IN_A_ROW = GONE + "* requests in a row failed, the last with *{}"
CUT = GONE + "* cut off *, the last with *{}"
SILENT = GONE + "* requests in a row were cut off or met silence, the last with *{}"
UNCOUNTED = "tokens counted: answers came without usage"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_BLOCK = b"x" * 1_000_000


Certificate = Literal["none", "trusted", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to go wrong."""

    name: str
    does: Answers
    recorded: str | None = None
    """Each request's failure; ``None``: it is answered."""
    verdict: str = "invalid"
    """Of a phase in which every request meets it, by a tier of 20 tok/s at most 1 % failures."""
    reads: str = ""
    """Why, as the user reads it; empty: there is nothing to say."""
    closes: bool = False
    """The server hangs up after every answer."""
    agents: int = 3
    refuses: bool = False
    """Nobody listens."""
    host: str = "127.0.0.1"
    certificate: Certificate = "none"
    """TLS by a certificate of its own: one that ``SSL_CERT_FILE`` names, or none that is known."""


def event(**fields: object) -> bytes:
    """One event as most servers write it."""
    return b"data: %b\n\n" % json.dumps(fields).encode()


def delta(finish_reason: str | None = None, **fields: object) -> bytes:
    """An event with something of the answer."""
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}])


def counted(**usage: object) -> bytes:
    """The event with the counts."""
    return event(choices=[], usage=usage)


ROLE = delta(role="assistant", content="")
TOKEN = delta(content=" the")
END = delta("stop")
USAGE = counted(prompt_tokens=100, completion_tokens=3)
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"
GOOD = (ROLE, TOKEN, TOKEN, TOKEN, END, USAGE, DONE)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def paced(pieces: Iterable[bytes], pause_s: float = 0.01) -> Iterator[Piece]:
    """Send one piece after the other."""
    for piece in pieces:
        yield piece
        yield Pause(pause_s)


def streams(*events: bytes, pause_s: float = 0.01) -> Answers:
    """Answer with a chunked stream of these events."""
    return lambda _server, _request: paced([HEAD, *map(chunk, events), LAST], pause_s)


def sends(*pieces: Piece) -> Answers:
    """Answer with these writes."""
    return lambda _server, _request: pieces


def status(code: int, reason: str, message: str, *headers: str) -> Answers:
    """Answer with an error and its message."""
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    lines = [f"HTTP/1.1 {code} {reason}", f"content-length: {len(body)}", *headers, "", ""]
    return sends("\r\n".join(lines).encode() + body)


def in_lines(end: bytes) -> Answers:
    """Answer well, with other line ends."""
    return streams(*(data.replace(b"\n", end) for data in GOOD))


def bytewise(_server: Server, _request: bytes) -> Iterator[Piece]:
    """Answer well, with every byte in a write and a chunk of its own; tokens 10 ms apart."""
    yield HEAD
    for data in GOOD:
        for at in range(len(data)):
            yield chunk(data[at : at + 1])
        yield Pause(0.01)
    yield LAST


def endless(data: bytes, head: bytes = HEAD) -> Answers:
    """Answer with the same again and again, as fast as it is taken."""

    def answers(server: Server, _request: bytes) -> Iterator[Piece]:
        yield head
        while not server.ending.is_set():
            yield data

    return answers


def counted_as(**usage: object) -> Answers:
    """Answer well, but for the counts."""
    return streams(*GOOD[:-2], counted(**usage), DONE)


def _body(*events: bytes) -> bytes:
    return b"".join(events)


def _length_told(told: int, *more: Piece) -> Answers:
    body = _body(*GOOD)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(body) + told)
    return sends(head, body, *more)


_ERROR = event(error={"message": "out of memory", "code": 500})
_HTML = b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>"

FAULTS = (
    Fault(name="none: a good answer", does=streams(*GOOD), verdict="pass"),
    Fault(
        name="proxies named in the environment: they are not asked",
        does=streams(*GOOD),
        verdict="pass",
    ),
    Fault(name="none, over IPv6", does=streams(*GOOD), host="::1", verdict="pass"),
    Fault(
        name="TLS by a private CA that SSL_CERT_FILE names",
        does=streams(*GOOD),
        certificate="trusted",
        verdict="pass",
    ),
    Fault(
        name="TLS by a CA that nobody knows",
        does=streams(*GOOD),
        certificate="unknown",
        recorded="connection: ConnectError: [[]SSL: CERTIFICATE_VERIFY_FAILED] *",
        reads=CUT.format("connection: ConnectError: *"),
    ),
    Fault(
        name="refuses connections",
        does=sends(),
        refuses=True,
        recorded="connection: ConnectError: [[]Errno 111] *",
        reads=CUT.format("connection: ConnectError: *"),
    ),
    Fault(
        name="accepts and hangs",
        does=sends(Pause(60)),
        recorded="timeout after 1 s",
        reads=SILENT.format("timeout after 1 s"),
    ),
    Fault(
        name="sends its head and hangs",
        does=sends(HEAD, Pause(60)),
        recorded="timeout after 1 s",
        reads=SILENT.format("timeout after 1 s"),
    ),
    Fault(
        name="hangs up without a word",
        does=sends("hang up"),
        recorded="connection: RemoteProtocolError: Server disconnected without sending a response.",
        reads=CUT.format(
            "connection: RemoteProtocolError: Server disconnected without sending a response."
        ),
    ),
    Fault(
        name="reset before an answer",
        does=sends("reset"),
        recorded="connection: ReadError: [[]Errno 104] Connection reset by peer",
        reads=CUT.format("connection: ReadError: *"),
    ),
    Fault(
        name="reset in the middle of the head",
        does=sends(HEAD[:30], Pause(0.01), "reset"),
        recorded="connection: ReadError: [[]Errno 104] Connection reset by peer",
        reads=CUT.format("connection: ReadError: *"),
    ),
    Fault(
        name="reset in the middle of a chunk",
        does=sends(HEAD, chunk(ROLE) + chunk(TOKEN)[:30], Pause(0.01), "reset"),
        recorded="connection: ReadError: [[]Errno 104] Connection reset by peer",
        reads=CUT.format("connection: ReadError: *"),
    ),
    Fault(
        name="reset in the middle of an event",
        does=sends(HEAD, chunk(ROLE + TOKEN[:30]), Pause(0.01), "reset"),
        recorded="connection: ReadError: [[]Errno 104] Connection reset by peer",
        reads=CUT.format("connection: ReadError: *"),
    ),
    Fault(
        name="hangs up in the middle of the stream",
        does=sends(HEAD, chunk(ROLE + TOKEN), Pause(0.01), "hang up"),
        recorded="connection: RemoteProtocolError: peer closed connection without sending complete "
        "message body (incomplete chunked read)",
        reads=CUT.format("connection: RemoteProtocolError: *"),
    ),
    Fault(
        name="bytes that are no HTTP",
        does=sends(b"\x16\x03\x01 no such protocol\r\n", "hang up"),
        recorded="connection: RemoteProtocolError: no HTTP/1.1 answer: *",
        reads=CUT.format("connection: RemoteProtocolError: *"),
    ),
    *(
        Fault(
            name=f"HTTP {code} {reason}",
            does=status(code, reason, said, *headers),
            recorded=f"HTTP {code}: {said}",
            reads=IN_A_ROW.format(f"HTTP {code}: {said}"),
        )
        for code, reason, said, *headers in (
            (400, "Bad Request", "max_tokens is too large"),
            (401, "Unauthorized", "wrong key"),
            (404, "Not Found", "no such model"),
            (413, "Content Too Large", "the prompt is too long"),
            (429, "Too Many Requests", "slow down", "retry-after: 7"),
            (500, "Internal Server Error", "the engine died"),
            (503, "Service Unavailable", "overloaded"),
        )
    ),
    Fault(
        name="HTTP 502 of a gateway that has lost its server",
        does=status(502, "Bad Gateway", "no upstream"),
        recorded="HTTP 502: no upstream",
        reads=CUT.format("HTTP 502: no upstream"),
    ),
    Fault(
        name="a redirect",
        does=sends(
            b"HTTP/1.1 307 Moved\r\nlocation: http://192.0.2.1/v1\r\ncontent-length: 0\r\n\r\n"
        ),
        recorded="HTTP 307: a redirect, which is not followed: (no body)",
        reads=IN_A_ROW.format("HTTP 307: *"),
    ),
    Fault(
        name="an HTML page instead of a stream",
        does=sends(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(_HTML) + _HTML),
        recorded="no event stream: it begins with '<!DOCTYPE html><html><body>Welcome to ng'",
        reads=IN_A_ROW.format("no event stream: *"),
    ),
    Fault(
        name="a whole JSON answer instead of a stream",
        does=sends(b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"choices": []}'),
        recorded="no event stream: it begins with '{\"choices\": []}'",
        reads=IN_A_ROW.format("no event stream: *"),
    ),
    Fault(
        name="gzip, though identity was asked for",
        does=sends(
            HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"),
            chunk(b"\x1f\x8b"),
            LAST,
        ),
        recorded="connection: RemoteProtocolError: content-encoding 'gzip', though identity was "
        "asked for",
        reads=CUT.format("connection: RemoteProtocolError: content-encoding *"),
    ),
    Fault(
        name="a JSON error inside a stream of status 200",
        does=streams(ROLE, TOKEN, _ERROR, DONE),
        recorded="error in stream: out of memory",
        reads=IN_A_ROW.format("error in stream: out of memory"),
    ),
    Fault(
        name="an error after finish_reason",
        does=streams(*GOOD[:5], _ERROR, DONE),
        recorded="error in stream: out of memory",
        reads=IN_A_ROW.format("error in stream: out of memory"),
    ),
    Fault(
        name="finish_reason abort",
        does=streams(ROLE, TOKEN, delta("abort"), USAGE, DONE),
        recorded="server gave up: finish_reason 'abort'",
        reads=IN_A_ROW.format("server gave up: *"),
    ),
    Fault(
        name="truncated JSON in an event",
        does=streams(ROLE, TOKEN, TOKEN[:40] + b"\n\n", END, USAGE, DONE),
        recorded="malformed event: Input data was truncated",
        reads=IN_A_ROW.format("malformed event: Input data was truncated"),
    ),
    Fault(
        name="JSON nested 200,000 deep",
        does=streams(ROLE, TOKEN, b'data: {"x":' + b"[" * 200_000 + b"\n\n"),
        recorded="malformed event: nested too deep",
        reads=IN_A_ROW.format("malformed event: nested too deep"),
    ),
    Fault(
        name="bytes that are no UTF-8",
        does=streams(ROLE, TOKEN.replace(b" the", b"\xff"), END, USAGE, DONE),
        recorded="malformed event: 'utf-8' codec can't decode *",
        reads=IN_A_ROW.format("malformed event: *"),
    ),
    Fault(
        name="a stream without a token",
        does=streams(ROLE, END, USAGE, DONE),
        recorded="empty answer",
        reads=IN_A_ROW.format("empty answer"),
    ),
    Fault(
        name="no finish_reason",
        does=streams(ROLE, TOKEN, TOKEN, USAGE, DONE),
        recorded="stream ended without finish_reason",
        reads=IN_A_ROW.format("stream ended without finish_reason"),
    ),
    Fault(name="no [DONE]", does=streams(*GOOD[:-1]), verdict="pass"),
    Fault(name="events split at every byte", does=bytewise, verdict="pass"),
    Fault(name="line ends CR", does=in_lines(b"\r"), verdict="pass"),
    Fault(name="line ends CRLF", does=in_lines(b"\r\n"), verdict="pass"),
    Fault(
        name="comments, pings and unknown fields between events",
        does=streams(
            b": ping\n\n",
            *GOOD[:2],
            b"event: ping\nid: 7\nretry: 5\n\n",
            *GOOD[2:4],
            b":\n\n\n\n",
            *GOOD[4:],
        ),
        verdict="pass",
    ),
    Fault(name="no usage", does=streams(*GOOD[:-2], DONE), reads=UNCOUNTED + "*"),
    Fault(
        name="usage is negative",
        does=counted_as(prompt_tokens=100, completion_tokens=-3),
        reads=UNCOUNTED + "*",
    ),
    Fault(
        name="usage is a whole number written as a float",
        does=counted_as(prompt_tokens=100.0, completion_tokens=3.0),
        verdict="pass",
    ),
    Fault(
        name="usage is a fraction",
        does=counted_as(prompt_tokens=100, completion_tokens=3.5),
        recorded="malformed event: Expected `int | null`, got `float` *",
        reads=IN_A_ROW.format("malformed event: Expected `int | null`, got `float` *"),
    ),
    Fault(
        name="usage counts more tokens than there are bytes",
        does=counted_as(prompt_tokens=100, completion_tokens=3000),
        recorded="usage cannot be: 3000 tokens in 12 bytes of text",
        reads=IN_A_ROW.format("usage cannot be: 3000 tokens in 12 bytes of text"),
    ),
    Fault(
        name="usage is beyond 64 bits",
        does=counted_as(prompt_tokens=10**30, completion_tokens=10**30),
        recorded="usage cannot be: 1e+30 tokens in 12 bytes of text",
        reads=IN_A_ROW.format("usage cannot be: 1e+30 tokens in 12 bytes of text"),
    ),
    Fault(
        name="usage comes twice; the last one counts",
        does=streams(*GOOD[:-2], counted(prompt_tokens=9, completion_tokens=9), USAGE, DONE),
        verdict="pass",
    ),
    Fault(
        name="content-length too long",
        does=_length_told(9, "hang up"),
        recorded="connection: RemoteProtocolError: peer closed connection without sending complete "
        "message body (too short)",
        reads=CUT.format("connection: RemoteProtocolError: *"),
    ),
    Fault(
        name="content-length too short",
        does=_length_told(-len(USAGE + DONE) - 20),
        recorded="malformed event: Input data was truncated",
        reads=IN_A_ROW.format("malformed event: Input data was truncated"),
    ),
    Fault(
        name="a token every 0.12 s, where 0.1 s are allowed",
        does=streams(*GOOD[1:], pause_s=0.12),
        verdict="fail",
        reads="output_speed_tok_per_s.p25 * >= 10 * missed *",
    ),
    Fault(
        name="a stream slower than the timeout of a request",
        does=streams(ROLE, *[TOKEN] * 100, pause_s=0.1),
        recorded="timeout after 1 s",
        verdict="fail",
        agents=24,
        reads="error_ratio * <= 0.01 * missed *",
    ),
    Fault(name="hangs up between answers", does=streams(*GOOD), closes=True, verdict="pass"),
    Fault(
        name="ANSI escapes in an error",
        does=status(500, "Error", "\x1b[2J\x1b]0;owned\x07\r\n"),
        recorded="HTTP 500: \\x1b[[]2J\\x1b]0;owned\\x07\\r\\n",
        reads=IN_A_ROW.format("HTTP 500: *"),
    ),
)
"""All but those that send as much as they can."""

_UNICODE = "é☃漢😀\u202e" * 700_000

HEAVY = (
    Fault(
        name="10 MB of Unicode in one event",
        does=streams(ROLE, delta(content=_UNICODE), END, USAGE, DONE),
    ),
    Fault(
        name="a stream without end",
        does=endless(chunk(TOKEN * 200)),
        recorded="connection: RemoteProtocolError: an answer of more than 64 MB, given up",
    ),
    Fault(
        name="an event of 1 GB",
        does=endless(chunk(_BLOCK)),
        recorded="connection: RemoteProtocolError: an answer of more than 64 MB, given up",
    ),
    Fault(
        name="an error page of 1 GB",
        does=endless(_BLOCK, b"HTTP/1.1 500 Error\r\ncontent-length: 1000000000\r\n\r\n"),
        recorded="connection: RemoteProtocolError: an answer of more than 64 MB, given up",
    ),
    Fault(
        name="an endless head",
        does=endless(b"x-a: b\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"),
        recorded="connection: RemoteProtocolError: head of more than 65536 bytes",
    ),
)
"""Those that send as much as they can: one request each, and what it costs in memory and time."""
