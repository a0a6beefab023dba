"""Where an answer begins and ends, however it was cut into reads."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.engine.framing import Framing, MalformedError

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SAID = b'data: {"a": "0\r\n\r\n"}\n\n'
"""Holds what ends a chunked body."""


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def read(*reads: bytes) -> tuple[bytes, Framing]:
    framing = Framing()
    return b"".join(map(framing.feed, reads)), framing


STREAMS = {
    "chunks": (HEAD + chunk(SAID) + chunk(b"x" * 300) + b"0\r\n\r\n", SAID + b"x" * 300),
    "chunks with extensions": (
        HEAD + chunk(SAID, b";a=b") + chunk(SAID, b' ; q="0"') + b"0;last\r\n\r\n",
        SAID * 2,
    ),
    "chunks with a trailer": (HEAD + chunk(SAID) + b"0\r\nA: b\r\nC: d\r\n\r\n", SAID),
    "no chunk at all": (HEAD + b"0\r\n\r\n", b""),
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "a length of nothing": (b"HTTP/1.1 500 No\r\ncontent-length:0\r\n\r\n", b""),
    "a length told twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi", b"hi"),
    "no body by its status": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "early hints before it": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + HEAD + b"0\r\n\r\n",
        b"",
    ),
    "line feeds alone in its head": (b"HTTP/1.1 200\nContent-Length: 2\n\nhi", b"hi"),
}
OF_EACH = pytest.mark.parametrize("name", STREAMS)


@OF_EACH
def test_a_whole_answer_in_one_read(name: str) -> None:
    stream, body = STREAMS[name]
    said, framing = read(stream)
    assert (said, framing.done, framing.surplus, framing.keeps_alive) == (body, True, False, True)


@OF_EACH
def test_an_answer_that_was_cut_at_any_byte(name: str) -> None:
    stream, body = STREAMS[name]
    for place in range(1, len(stream)):
        said, framing = read(stream[:place], stream[place:])
        assert (said, framing.done, framing.surplus) == (body, True, False), place


@OF_EACH
def test_an_answer_byte_by_byte_is_whole_with_its_last_byte(name: str) -> None:
    stream, body = STREAMS[name]
    said, framing = read(*(stream[i : i + 1] for i in range(len(stream) - 1)))
    assert not framing.done
    said += framing.feed(stream[-1:])
    assert (said, framing.done) == (body, True)


@OF_EACH
@given(data=st.data())
def test_an_answer_that_is_whole_is_looked_at(name: str, data: st.DataObject) -> None:
    stream, _ = STREAMS[name]
    places = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=6)))
    framing = Framing()
    for start, end in pairwise([0, *places, len(stream)]):
        looked_at = framing.ends_with(stream[start:end])
        framing.feed(stream[start:end])
        assert looked_at or not framing.done


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_any_body_in_any_chunks_and_reads(pieces: list[bytes], data: st.DataObject) -> None:
    stream = HEAD + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    said, framing = read(*(stream[a:b] for a, b in pairwise([0, *places, len(stream)])))
    assert (said, framing.done, framing.surplus) == (b"".join(pieces), True, False)


@OF_EACH
def test_what_comes_behind_an_answer_is_noticed(name: str) -> None:
    stream, body = STREAMS[name]
    assert read(stream + b"H")[1].surplus
    said, framing = read(stream, b"H")
    assert (said, framing.surplus) == (body, True)


def test_an_event_with_the_end_of_a_chunk_in_it_ends_nothing() -> None:
    framing = read(HEAD, chunk(SAID))[1]
    tail = SAID[: SAID.index(b"}")]
    assert not framing.done
    assert framing.ends_with(tail + b"\r\n\r\n")
    framing.feed(b"%x\r\n%b" % (len(SAID), tail[:-1]))
    assert not framing.done


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Upgrade, Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
    ids=["close", "close in a list", "HTTP/1.0", "HTTP/1.0 that says otherwise"],
)
def test_a_connection_that_is_kept(head: bytes, keeps: bool) -> None:  # noqa: FBT001 a parameter
    assert read(head + b"Content-Length: 0\r\n\r\n")[1].keeps_alive is keeps


def test_without_length_or_chunks_an_answer_ends_with_its_connection() -> None:
    said, framing = read(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
    assert not framing.done
    framing.end()
    assert (said, framing.done, framing.keeps_alive) == (b"hello", True, False)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"", "Server disconnected without sending a response."),
        (b"HTTP/1.1 200", "Server disconnected in its head."),
        (HEAD + b"5\r\nhel", r"complete message body \(incomplete chunked read\)"),
        (HEAD + b"0\r\n", r"complete message body \(incomplete chunked read\)"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel",
            r"complete message body \(too short\)",
        ),
    ],
    ids=["nothing", "half a head", "half a chunk", "half an end", "less than its length"],
)
def test_an_answer_that_its_connection_cut(stream: bytes, said: str) -> None:
    framing = read(stream)[1]
    with pytest.raises(MalformedError, match=said):
        framing.end()


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP/1.1 answer: b'SSH-2.0-OpenSSH"),
        (b"HTTP/2 200\r\n\r\n", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 99 Low\r\n\r\n", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 101 Other\r\n\r\n", "switched protocols"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "no header: b'no colon'"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "no header"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, "head of more than 65536 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "unknown transfer-encoding: b'gzip'",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no content-length: b'-1'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "no content-length: b'1, 2'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", "no content-length"),
        (HEAD + b"x\r\n", "no chunk size: b'x'"),
        (HEAD + b"0x5\r\nhello\r\n", "no chunk size"),
        (HEAD + b"-5\r\nhello\r\n", "no chunk size"),
        (HEAD + b"1_0\r\nhello\r\n", "no chunk size"),
        (HEAD + b"5\r\nhelloX\r\n", "chunk without its end: b'X"),
        (HEAD + b"5;" + b"x" * 5_000, "chunk size of more than 4096 bytes"),
        (HEAD + b"0\r\n" + b"A: b\r\n" * 20_000, "trailer of more than 65536 bytes"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_refused(stream: bytes, said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        read(stream)
