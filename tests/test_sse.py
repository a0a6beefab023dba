from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.sse import SSEDecoder

STREAM = b': hello\nevent: x\ndata: {"a": 1}\n\nid: 7\ndata: two\ndata: lines\n\ndata: [DONE]\n\n'
EVENTS = [b'{"a": 1}', b"two\nlines", b"[DONE]"]


def decode(chunks: list[bytes]) -> list[bytes]:
    decoder = SSEDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


ENDS = pytest.mark.parametrize(
    "end", [b"\n", b"\r\n", b"\r"], ids=["lines end in LF", "lines end in CRLF", "lines end in CR"]
)


@ENDS
def test_a_whole_stream_gives_its_events(end: bytes):
    assert decode([STREAM.replace(b"\n", end)]) == EVENTS


@ENDS
def test_a_stream_byte_by_byte_gives_the_same_events(end: bytes):
    stream = STREAM.replace(b"\n", end)
    assert decode([stream[i : i + 1] for i in range(len(stream))]) == EVENTS


@given(
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    places=st.lists(st.integers(0, len(STREAM)), max_size=12),
)
def test_cutting_a_stream_anywhere_changes_nothing(end: bytes, places: list[int]):
    assert decode(cut(STREAM.replace(b"\n", end), places)) == EVENTS


@given(
    payloads=st.lists(
        st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), max_size=5
    ),
    places=st.lists(st.integers(0, 200), max_size=8),
)
def test_what_was_sent_comes_out_whatever_the_text(payloads: list[str], places: list[int]):
    sent = [p.encode() for p in payloads]
    stream = b"".join(b"data: " + p + b"\n\n" for p in sent)
    assert decode(cut(stream, [min(p, len(stream)) for p in places])) == sent


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b": ping\n\n: ping\n\n", []),
        (b"database: 1\n\n", []),
        (b"data:\n\n", [b""]),
    ],
    ids=[
        "blank lines alone are no event",
        "the blank after the colon may be missing",
        "only one blank is taken away",
        "comments are no event",
        "a field that only begins like data is none",
        "empty data is an event",
    ],
)
def test_lines(stream: bytes, events: list[bytes]):
    assert decode([stream]) == events


def test_an_event_comes_out_with_the_read_that_completes_it():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b") == [b"a"]


def test_an_empty_read_does_not_part_a_cr_from_its_lf():
    assert decode([b"data: a\r", b"", b"\ndata: b\r\n\r\n"]) == [b"a\nb"]


def test_a_blank_line_of_two_crs_completes_an_event_at_once():
    assert SSEDecoder().feed(b"data: a\r\r") == [b"a"]


@pytest.mark.parametrize(
    "tail",
    [b"data: last", b"data: last\n", b"data: last\r"],
    ids=["no line end", "no blank line", "a lone CR at the end"],
)
def test_the_last_event_survives_a_forgotten_blank_line(tail: bytes):
    assert decode([b"data: first\n\n", tail]) == [b"first", b"last"]


def test_a_closed_decoder_has_nothing_left():
    decoder = SSEDecoder()
    decoder.feed(b"data: a")
    assert decoder.close() == [b"a"]
    assert decoder.close() == []


def test_a_line_of_many_reads_is_joined_once():
    decoder = SSEDecoder()
    pieces = [b"x" * 1000] * 20_000
    # Joined with every read, 20 MB would be copied 20,000 times: 200 GB.
    assert all(decoder.feed(piece) == [] for piece in [b"data: ", *pieces])
    assert decoder.feed(b"\n\n") == [b"".join(pieces)]
