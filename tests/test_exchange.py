"""An answer cut into reads anywhere says what it says in one read."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.engine.exchange import Exchange
from pytest_agentperf.engine.hub import Hub
from pytest_agentperf.records import RawAnswer

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TEXTS = ["Hello", " wörld ☕", "0\\r\\n\\r\\n", "\\n", 'a\\"b', "plain", "plain"]
EVENTS = [
    ": a comment\n\n",
    'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
    *(f'data: {{"choices": [{{"delta": {{"content": "{text}"}}}}]}}\n\n' for text in TEXTS),
    'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n',
    'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7}}\n\n',
    "data: [DONE]\n\n",
]
BROKEN = 'data: {"error": {"message": "no KV"}}\n\n'


def framed(events: list[str], *, end: bytes = b"0\r\n\r\n", crlf: bool = False) -> bytes:
    said = [e.replace("\n", "\r\n") if crlf else e for e in events]
    chunks = (b"%x;n=1\r\n%b\r\n" % (len(e.encode()), e.encode()) for e in said)
    return HEAD + b"".join(chunks) + end


STREAMS = {
    "line feeds": framed(EVENTS),
    "carriage returns": framed(EVENTS, crlf=True),
    "a trailer": framed(EVENTS, end=b"0\r\nA: b\r\n\r\n"),
    "an error in its middle": framed([*EVENTS[:4], BROKEN, *EVENTS[4:]]),
    "an early end": framed(EVENTS[:5], end=b""),
    "half a chunk": framed(EVENTS)[:-150],
    "a status": b'HTTP/1.1 503 No\r\ncontent-length: 24\r\n\r\n{"error": "overloaded."}',
    "a length": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len("".join(EVENTS).encode())
    + "".join(EVENTS).encode(),
    "the end of its connection": b"HTTP/1.1 200 OK\r\n\r\n" + "".join(EVENTS).encode(),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
}
ENDED_BY_US = ("line feeds", "carriage returns", "a trailer", "an error in its middle", "a length")


def heard(reads: list[bytes], *, closes: bool = True) -> tuple[Answer, str, bool]:
    """Hear reads with a turn of the loop between them; the answer, its failure, its keeping."""

    async def hear() -> tuple[Answer, str, bool]:
        hub = Hub.of_running_loop()
        reader = AnswerReader()
        raw = RawAnswer(reader=reader, sent_ns=1)
        exchange = Exchange(hub, raw)
        for number, data in enumerate(reads):
            exchange.read(2 + number, data)
            await asyncio.sleep(0)
        if closes:
            exchange.end("")
        await exchange.whole
        hub.leave()
        for at_ns, data in raw.reads:
            reader.feed(at_ns, data)
        broken = str(exchange.failure or "")
        raw.error = broken or None
        return reader.finish(raw), broken, exchange.framing.keeps_alive

    return asyncio.run(asyncio.wait_for(hear(), 20))


def timeless(heard_of: tuple[Answer, str, bool]) -> tuple[Answer, str, bool]:
    """Blank what must depend on the reads: stamps, and what one read brought."""
    answer, *rest = heard_of
    blank = replace(
        answer,
        first_byte_ns=None,
        token_ns=(0,) * len(answer.token_ns),
        largest_read_ratio=None,
        first_token_merged=False,
    )
    return (blank, *rest)  # pyright: ignore[reportReturnType] two more


# What is no HTTP is shown as far as it was read.
OF_EACH = pytest.mark.parametrize("name", [name for name in STREAMS if name != "no HTTP"])


@OF_EACH
@given(data=st.data())
def test_cut_anywhere(name: str, data: st.DataObject) -> None:
    stream = STREAMS[name]
    places = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=30)))
    reads = [stream[a:b] for a, b in pairwise([0, *places, len(stream)])]
    assert timeless(heard(reads)) == timeless(heard([stream]))


@OF_EACH
def test_byte_by_byte(name: str) -> None:
    stream = STREAMS[name]
    reads = [stream[i : i + 1] for i in range(len(stream))]
    assert timeless(heard(reads)) == timeless(heard([stream]))


@pytest.mark.parametrize("name", ENDED_BY_US)
def test_is_whole_without_the_end_of_its_connection(name: str) -> None:
    stream = STREAMS[name]
    for place in range(len(stream) - 20, len(stream)):
        answer, broken, keeps = heard([stream[:place], stream[place:]], closes=False)
        assert (len(answer.token_ns), broken, keeps) == (7, "", True)


def test_what_each_stream_says() -> None:
    errors = {name: heard([stream])[0].error for name, stream in STREAMS.items()}
    cut = "RemoteProtocolError: peer closed connection without sending complete message body "
    assert errors == {
        "line feeds": None,
        "carriage returns": None,
        "a trailer": None,
        "an error in its middle": "error in stream: no KV",
        "an early end": cut + "(incomplete chunked read)",
        "half a chunk": cut + "(incomplete chunked read)",
        "a status": "HTTP 503: overloaded.",
        "a length": None,
        "the end of its connection": None,
        "no HTTP": "RemoteProtocolError: no HTTP/1.1 answer: b'SSH-2.0-OpenSSH_9.6\\r\\n'",
    }


def test_tokens_have_the_stamp_of_the_read_that_completes_them() -> None:
    chunks = STREAMS["line feeds"].split(b"data: ")
    answer, _, _ = heard([b"data: ".join([*chunks[:2], b""]), b"data: ".join(chunks[2:])])
    # The second read, at 3 ns, brings all but the beginning of the first token.
    assert (answer.first_byte_ns, set(answer.token_ns)) == (2, {3})
    assert answer.first_token_merged


def test_the_first_token_is_known_at_once_and_the_next_ones_wait() -> None:
    async def hear() -> list[int]:
        hub = Hub.of_running_loop()
        reader = AnswerReader()
        raw = RawAnswer(reader=reader, sent_ns=1)
        exchange = Exchange(hub, raw)
        exchange.read(2, framed(EVENTS[:2], end=b""))
        for at_ns in (3, 4, 5):
            exchange.read(at_ns, framed([EVENTS[2]], end=b"")[len(HEAD) :])
            await asyncio.sleep(0)
        known = [reader.first_byte_ns or 0, reader.first_token_ns or 0]
        known.append(len(reader.finish(raw).token_ns))
        exchange.read(6, b"0\r\n\r\n")
        await exchange.whole
        hub.leave()
        return [*known, len(reader.finish(raw).token_ns)]

    assert asyncio.run(hear()) == [2, 3, 1, 3]


def test_a_stamp_never_lies_before_the_one_that_came_first() -> None:
    async def hear() -> Answer:
        hub = Hub.of_running_loop()
        reader = AnswerReader()
        raw = RawAnswer(reader=reader, sent_ns=50)
        exchange = Exchange(hub, raw)
        stream = STREAMS["line feeds"]
        for at_ns, start in ((40, 0), (70, 330), (60, 700)):
            exchange.read(at_ns, stream[start : {0: 330, 330: 700}.get(start)])
        await exchange.whole
        hub.leave()
        assert raw.end_ns == 70
        return reader.finish(raw)

    answer = asyncio.run(hear())
    assert answer.first_byte_ns == 50
    assert set(answer.token_ns) <= {50, 70}


def test_a_long_answer_is_decoded_in_slices() -> None:
    async def hear() -> tuple[int, int]:
        hub = Hub.of_running_loop()
        reader = AnswerReader()
        exchange = Exchange(hub, RawAnswer(reader=reader, sent_ns=1))
        exchange.read(2, HEAD)
        event = framed([EVENTS[2]])[len(HEAD) : -5]
        for _ in range(1000):
            exchange.read(2, event * 100)
        exchange.read(2, b"0\r\n\r\n")
        turns = 0
        while not exchange.whole.done():
            await asyncio.sleep(0)
            turns += 1
        hub.leave()
        return turns, len(reader.finish(RawAnswer(status=200)).token_ns)

    turns, tokens = asyncio.run(hear())
    # 100,000 events take 0.1 s at the least, and a slice 0.4 ms.
    assert tokens == 100_000
    assert turns > 20


class _Fragile(AnswerReader):
    def feed(self, at_ns: int, data: bytes) -> None:
        raise RuntimeError(f"a bug at {at_ns} in {len(data)} bytes")


def test_a_bug_in_a_reader_is_raised_to_who_waits_and_hurts_no_other_answer():
    async def hear() -> Answer:
        hub = Hub.of_running_loop()
        bad, good = RawAnswer(reader=_Fragile(), sent_ns=1), RawAnswer(sent_ns=1)
        reader = good.reader = AnswerReader()
        exchanges = Exchange(hub, bad), Exchange(hub, good)
        for exchange in exchanges:
            exchange.read(2, STREAMS["line feeds"])
        with pytest.raises(RuntimeError, match="a bug"):
            await exchanges[0].whole
        await exchanges[1].whole
        hub.leave()
        return reader.finish(good)

    assert asyncio.run(hear()).finish_reason == "stop"


def test_what_had_come_of_an_answer_that_is_given_up_is_known():
    async def hear() -> Answer:
        hub = Hub.of_running_loop()
        reader = AnswerReader()
        raw = RawAnswer(reader=reader, sent_ns=1)
        exchange = Exchange(hub, raw)
        for number, event in enumerate([HEAD.decode(), *EVENTS[1:5]]):
            data = event.encode()
            exchange.read(2 + number, data if not number else b"%x\r\n%b\r\n" % (len(data), data))
            await asyncio.sleep(0.01)
        exchange.give_up()
        hub.leave()
        return reader.finish(raw)

    # Three tokens, the last of which nobody had waited for.
    assert asyncio.run(hear()).token_ns == (4, 5, 6)
