import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.answer import Answer, AnswerReader
from pytest_agentperf.records import RawAnswer

PAGES = Path(__file__).parent / "data" / "sse"


def read(chunks: list[bytes], *, status: int = 200, error: str | None = None) -> Answer:
    """Decode reads that came one nanosecond after the other, the first at 1."""
    raw = RawAnswer(status=status, reads=list(enumerate(chunks, 1)), error=error)
    reader = AnswerReader()
    for at_ns, data in raw.reads:
        reader.feed(at_ns, data)
    return reader.finish(raw)


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


def usage(osl_tokens: int | None, **more: Any) -> bytes:
    return event(
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": osl_tokens, **more}}
    )


STOP = delta("stop")
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a server is known to have sent, counted by hand in its file."""

    file: str
    events: int
    isl: int
    osl: int
    cached: int | None
    reasoning_tokens: int | None
    reasoning: str
    first: str
    text: str
    calls: int
    finish: str


THOUGHT = "0: The user wants a fix; first I read the file.\n"
CALL = 'read_file{"path": "src/main.py"}'
ANSWERS = "3: All is done; now I answer.\n"
PROSE_HEAD = " dir allowance give sub pat ent just send days network signature win"
PAGES_OF = [
    Page(
        file="llamacpp-tools", events=8, isl=282, osl=13, cached=281, reasoning_tokens=None,
        reasoning=THOUGHT, first="0: The user", text=CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="vllm-tools", events=8, isl=282, osl=13, cached=256, reasoning_tokens=5,
        reasoning=THOUGHT, first="0: The user", text=CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="litellm-tools", events=8, isl=282, osl=13, cached=0, reasoning_tokens=13,
        reasoning=THOUGHT, first="0: The user", text=CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="transformers-cb-toolreq", events=7, isl=282, osl=13, cached=None,
        reasoning_tokens=None, reasoning=THOUGHT, first="<|m0|>", text="<|m0|>" + CALL, calls=1,
        finish="tool_calls",
    ),
    Page(
        file="llamacpp-prose", events=22, isl=17, osl=24, cached=16, reasoning_tokens=None,
        reasoning=ANSWERS, first="3: All is", calls=0, finish="length",
        text=PROSE_HEAD + " prec callback async being variable distri mult",
    ),
    Page(
        file="litellm-prose", events=22, isl=17, osl=24, cached=16, reasoning_tokens=10,
        reasoning=ANSWERS, first="3: All is", calls=0, finish="length",
        text=PROSE_HEAD + " prec callback async being variable distri mult",
    ),
    Page(
        file="transformers-prose", events=23, isl=17, osl=24, cached=None, reasoning_tokens=None,
        reasoning=ANSWERS, first="<|m3|>", calls=0, finish="length",
        text="<|m3|>" + PROSE_HEAD + " just send days network signature win just",
    ),
    Page(
        file="transformers-cb-prose", events=23, isl=17, osl=24, cached=None, reasoning_tokens=None,
        reasoning=ANSWERS, first="<|m3|>", calls=0, finish="length",
        text="<|m3|>" + PROSE_HEAD + " just send days network signature win just",
    ),
    Page(
        file="llamacpp-toolreq", events=8, isl=282, osl=13, cached=281, reasoning_tokens=None,
        reasoning=THOUGHT, first="0: The user", text=CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="vllm-toolreq", events=8, isl=282, osl=13, cached=256, reasoning_tokens=5,
        reasoning=THOUGHT, first="0: The user", text=CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="litellm-toolreq", events=8, isl=282, osl=13, cached=281, reasoning_tokens=13,
        reasoning=THOUGHT, first="0: The user", text=CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="transformers-toolreq", events=7, isl=282, osl=13, cached=None, reasoning_tokens=None,
        reasoning=THOUGHT, first="<|m0|>", text="<|m0|>" + CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="vllm-prose", events=22, isl=17, osl=24, cached=0, reasoning_tokens=3,
        reasoning=ANSWERS, first="3: All is", calls=0, finish="length",
        text=" dir allowance give sub pat ent checked those cal decoded ref starts methods cons"
        " cal decoded space are during",
    ),
    Page(
        file="dynamo-mocker-prose", events=22, isl=17, osl=24, cached=16, reasoning_tokens=8,
        reasoning=" moreExriveync thread they(c", first=" more", calls=0, finish="length",
        text="ax dictionaryironzenET repr {}\n_e was res'),coder lastapp system",
    ),
    Page(
        file="transformers-tools", events=7, isl=282, osl=13, cached=None, reasoning_tokens=None,
        reasoning=THOUGHT, first="<|m0|>", text="<|m0|>" + CALL, calls=1, finish="tool_calls",
    ),
    Page(
        file="transformers-cb-tools", events=7, isl=282, osl=13, cached=None,
        reasoning_tokens=None, reasoning=THOUGHT, first="<|m0|>", text="<|m0|>" + CALL, calls=1,
        finish="tool_calls",
    ),
    Page(
        # It mocks the model, and never calls a tool: what it says are tokens drawn by lot.
        file="dynamo-mocker-tools", events=177, isl=282, osl=200, cached=0, reasoning_tokens=79,
        reasoning=" " * 10 + " specified dictionary returnstents groupabcacular kind act directory"
        ".mdocays.is(n close_optionobjrive /" + " " * 34 + "networkaN('-''wo K_ST one '-(_condlevel"
        " optPREabstractmethod__,ardcond wasvarindexim buffer buffer mult NotImplementedlosedined"
        " makecond newlinebytesonseabstract_W spclude ...replaceImplementedOP tuplesub member '\\"
        " currentnext_con(path#\nreplace=Falseourcebugbuffer",
        first=" " * 10, calls=0, finish="length",
        text="'),\nmaskOpertain.formatBase called cmdgisask execLIImplemented(xlasseslan item"
        "localeclude.replace close hereROpatchindows.popatsotezenCH existnextats diffefrom hasattr"
        ' outputonlyhost Con":":\n ** mon either \'-term command help)):\n_address ali ImportErrora'
        "tterntentsity runmptiron generlengthpecial.fileody], shouldML dict It header oldCT(xceback"
        "_listATElengthprec_partsMP(t current}\nag(x position********ways          CHimp matchGS"
        " writ non))movedoc[:-oolimattern(file resp cattributeError ansimETpol functions delva[key"
        "__,_Bier address user server",
    ),
]  # fmt: skip
BY_FILE = pytest.mark.parametrize("page", PAGES_OF, ids=[p.file for p in PAGES_OF])


def body_of(name: str) -> bytes:
    head_and_body = (PAGES / f"{name}.txt").read_bytes()
    return head_and_body.split(b"\n\n", 1)[1]


@BY_FILE
def test_usage_of_a_real_stream(page: Page):
    answer = read([body_of(page.file)])
    seen = answer.isl_tokens, answer.osl_tokens, answer.cached_tokens, answer.reasoning_tokens
    assert seen == (page.isl, page.osl, page.cached, page.reasoning_tokens)


@BY_FILE
def test_tokens_of_a_real_stream(page: Page):
    answer = read([body_of(page.file)])
    assert answer.token_ns == (1,) * page.events
    assert (answer.reasoning, answer.first_text) == (page.reasoning, page.first)
    assert answer.text == page.text
    assert answer.calls == (("read_file", '{"path": "src/main.py"}'),) * page.calls
    assert answer.reasoning_streamed


@BY_FILE
def test_end_of_a_real_stream(page: Page):
    answer = read([body_of(page.file)])
    assert (answer.finish_reason, answer.tool_calls, answer.error) == (
        page.finish,
        page.calls,
        None,
    )


@BY_FILE
def test_a_real_stream_says_what_plain_json_says(page: Page):
    """Against a reader of ten lines that knows nothing of ours."""
    lines = body_of(page.file).decode().splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas: list[Any] = [choice["delta"] for event in events for choice in event["choices"]]
    reasoning = [d.get("reasoning") or d.get("reasoning_content") or "" for d in deltas]
    content = [d.get("content") or "" for d in deltas]
    called: list[Any] = [c["function"] for d in deltas for c in d.get("tool_calls", ())]
    call = [function.get(k) or "" for k in ("name", "arguments") for function in called]
    (told,) = [event["usage"] for event in events if event.get("usage")]
    answer = read([body_of(page.file)])
    assert answer.reasoning == "".join(reasoning)
    assert answer.text == "".join(content + call)
    counts = answer.isl_tokens, answer.osl_tokens
    assert counts == (told["prompt_tokens"], told["completion_tokens"])
    brought = sum(any(d.get(k) for k in ("content", "tool_calls")) for d in deltas)
    assert len(answer.token_ns) == brought + sum(map(bool, reasoning))


@pytest.mark.parametrize("name", sorted(p.stem for p in PAGES.glob("*.txt")))
def test_a_real_stream_byte_by_byte_says_the_same(name: str):
    body = body_of(name)
    assert timeless(read([body[i : i + 1] for i in range(len(body))])) == timeless(read([body]))


def test_a_real_stream_cut_at_any_byte_says_the_same():
    body = body_of("vllm-tools")
    whole = timeless(read([body]))
    assert all(timeless(read([body[:at], body[at:]])) == whole for at in range(len(body)))


def test_every_recorded_stream_has_its_page():
    assert {path.stem for path in PAGES.glob("*.txt")} == {page.file for page in PAGES_OF}


@given(data=st.data(), name=st.sampled_from(sorted(p.stem for p in PAGES.glob("*.txt"))))
def test_a_real_stream_cut_anywhere_says_the_same(data: st.DataObject, name: str):
    body = body_of(name)
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    edges = [0, *places, len(body)]
    chunks = [body[a:b] for a, b in pairwise(edges)]
    assert timeless(read(chunks)) == timeless(read([body]))


def timeless(answer: Answer) -> Answer:
    """Blank what must depend on the reads: stamps, and the share of the largest one."""
    return replace(
        answer,
        token_ns=(0,) * len(answer.token_ns),
        largest_read_ratio=None,
        first_token_merged=False,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "a"},
        {"reasoning": "a"},
        {"reasoning_content": "a"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "a"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "a"}]},
        {"refusal": "a"},
        {"tool_calls": [{"index": 0, "function": {"name": "a"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "a"}}]},
    ],
    ids=[
        "content",
        "reasoning",
        "reasoning_content",
        "text of reasoning_details",
        "summary of reasoning_details",
        "refusal",
        "name of a tool call",
        "arguments of a tool call",
    ],
)
def test_is_a_token(fields: dict[str, Any]):
    answer = read([delta(role="assistant"), delta(**fields), STOP])
    assert (answer.token_ns, answer.first_text, answer.error) == ((2,), "a", None)


@pytest.mark.parametrize(
    "data",
    [
        delta(role="assistant", content=""),
        delta(content=None, reasoning="", tool_calls=[]),
        delta(tool_calls=[{"index": 0, "function": {"name": "", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "id": "x"}]),
        delta(reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}]),
        event({"choices": [{"index": 0}]}),
        event({"choices": None}),
        usage(1),
        DONE,
        b": ping\n\n",
    ],
    ids=[
        "a role with empty content",
        "a delta of nothing",
        "an empty tool call",
        "a tool call without a function",
        "reasoning that cannot be read",
        "a choice without a delta",
        "an event without choices",
        "the usage chunk",
        "the end mark",
        "a comment",
    ],
)
def test_is_no_token(data: bytes):
    assert read([data, delta(content="a"), STOP]).token_ns == (2,)


def test_one_text_under_two_names_counts_once():
    answer = read([delta(reasoning="ab", reasoning_content="ab"), STOP])
    assert (answer.reasoning, answer.first_text) == ("ab", "ab")


def test_an_event_with_two_choices_is_one_token_bearing_event():
    both = [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]
    answer = read([event({"choices": both}), STOP])
    assert (answer.token_ns, answer.first_text, answer.text) == ((1,), "ab", "ab")


def test_tokens_are_stamped_by_the_read_that_completes_them():
    token = delta(content="a")
    answer = read([token[:9], token[9:] + delta(content="b"), STOP, DONE])
    assert (answer.first_byte_ns, answer.token_ns) == (1, (2, 2))


def test_an_event_without_its_blank_line_is_stamped_by_the_last_read():
    answer = read([delta(content="a"), STOP + delta(content="b").rstrip()])
    assert answer.token_ns == (1, 2)


def test_the_largest_read_is_a_share_of_all_characters():
    answer = read([delta(content="abc"), delta(content="de") + delta(content="fghij"), STOP])
    assert answer.largest_read_ratio == pytest.approx(0.7)  # 2 + 5 of 10


def test_two_tool_calls_are_counted_by_their_names():
    one = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    two = {"index": 1, "function": {"name": "g", "arguments": ""}}
    answer = read([delta(content="x", tool_calls=[one]), delta(tool_calls=[two]), STOP])
    assert (answer.tool_calls, answer.text) == (2, "xf{}g")


@pytest.mark.parametrize(
    ("chunks", "tokens"),
    [
        ([delta(content="ab"), delta(content="cd"), STOP, usage(8)], None),
        ([delta(content="a"), delta(content="b"), STOP, usage(2)], 1),
        ([delta(content="a"), STOP], None),
        ([delta(content="a"), STOP, usage(None)], None),
    ],
    ids=[
        "more tokens than events: not known",
        "as many tokens as events: one each",
        "no usage: not known",
        "usage without a count: not known",
    ],
)
def test_tokens_of_the_first_chunk(chunks: list[bytes], tokens: int | None):
    assert read(chunks).first_chunk_tokens == tokens


@pytest.mark.parametrize(
    ("told", "tokens"),
    [(4, 4), (0, None), (-1, None)],
    ids=["a count is believed", "0 beside a token is no count", "a negative count is none"],
)
def test_usage_beside_the_first_token_tells_its_size(told: int, tokens: int | None):
    token = {"choices": [{"delta": {"content": "abcd"}}], "usage": {"completion_tokens": told}}
    answer = read([event(token), delta(content="efgh"), STOP, usage(8)])
    assert (answer.first_chunk_tokens, answer.osl_tokens) == (tokens, 8)


def test_the_last_usage_counts():
    running = {"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 1}}
    assert read([event(running), STOP, usage(5)]).osl_tokens == 5


def test_negative_counts_are_no_counts():
    details = {
        "prompt_tokens_details": {"cached_tokens": -1},
        "completion_tokens_details": {"reasoning_tokens": -1},
    }
    answer = read([delta(content="a"), STOP, usage(-1, prompt_tokens=-1, **details)])
    seen = answer.isl_tokens, answer.osl_tokens, answer.cached_tokens, answer.reasoning_tokens
    assert seen == (None, None, None, None)


def test_what_a_server_does_not_report_is_not_zero():
    answer = read([delta(content="a"), STOP])
    seen = answer.isl_tokens, answer.osl_tokens, answer.cached_tokens, answer.reasoning_tokens
    assert seen == (None, None, None, None)


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([delta(content="a")], "stream ended without finish_reason"),
        ([delta(content="a"), DONE], "stream ended without finish_reason"),
        ([], "stream ended without finish_reason"),
        ([delta(role="assistant"), STOP, DONE], "empty answer"),
        ([delta(content="a"), delta("abort")], "server gave up: finish_reason 'abort'"),
        ([delta(content="a"), delta("error")], "server gave up: finish_reason 'error'"),
        ([delta(content="a"), event({"error": {"message": "no KV"}}), STOP],
         "error in stream: no KV"),
        ([event({"error": "x"}), event({"error": "y"}), STOP], "error in stream: x"),
        ([b"data: {\n\n", STOP], "malformed event: Input data was truncated"),
        ([b"data: {\n\n", event({"error": "later"})], "malformed event: Input data was truncated"),
        ([delta(content=7), STOP],
         "malformed event: Expected `str | null`, got `int` - at `$.choices[0].delta.content`"),
    ],
    ids=[
        "a stream that only stops",
        "an end mark without a finish_reason",
        "no byte at all",
        "an end without a token",
        "an aborted answer",
        "an answer that ended in an error",
        "an error inside a 200 stream",
        "the first of two errors",
        "broken JSON",
        "broken JSON before an error",
        "a field of the wrong type",
    ],
)  # fmt: skip
def test_has_failed(chunks: list[bytes], error: str):
    assert read(chunks).error == error


def test_bytes_that_are_no_text_are_a_malformed_event():
    stream = delta(content="a").replace(b'"a"', b'"\xff"')
    assert (read([stream, STOP]).error or "").startswith("malformed event: ")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"error": {"message": "too long", "type": "x"}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"object": "error", "message": "too long"}', "too long"),
        (b'{"detail": "too long"}', "too long"),
        (b'["too", "long"]', "too; long"),
        (
            (
                b'{"detail": [{"type": "missing", "loc": ["body", "messages", 0], "msg": "Field '
                b'required", "input": {"content": "our secret"}, "ctx": {"e": "our secret"}}, '
                b'{"loc": [], "msg": "bad"}, {"input": "our secret"}, "odd"]}'
            ),
            "body.messages.0: Field required; bad; no message; odd",
        ),
        (
            (
                b'{"error": {"message": "1 error: {\'msg\': \'Field required\', '
                b"'input': {'content': 'our secret'}}\"}}"
            ),
            "1 error: {'msg': 'Field required', (what was sent is left out)",
        ),
        (
            b'{"message": "Field required [type=missing, input_value=our secret, input_type=str]"}',
            "Field required [type=missing, (what was sent is left out)",
        ),
        (
            b'{"detail": [{"msg": "cut", "input": "our secret',
            '{"detail": [{"msg": "cut", (what was sent is left out)',
        ),
        (b'{"detail": [' + b'{"msg": "long"}, ' * 99 + b'"x"]}', ("long; " * 99)[:300]),
        (f'{{"error": "{chr(0x200B) * 300}"}}'.encode(), "\\u200b" * 50),
        (b" too long\n", "too long"),
        (b"", "(no body)"),
        (b"x" * 999, "x" * 300),
        (b'{"error": "' + b"x" * 999 + b'"}', "x" * 300),
    ],
    ids=[
        "vLLM's and OpenAI's body",
        "a bare error",
        "SGLang's body",
        "FastAPI's body",
        "a list",
        "FastAPI's faults, which quote the request",
        "such faults in a message",
        "Pydantic's faults in a message",
        "such faults, cut",
        "endless faults",
        "what does not print",
        "plain text",
        "nothing",
        "a long page",
        "a long message",
    ],
)
def test_an_http_error_shows_the_human_part_of(body: bytes, shown: str):
    assert read([body] if body else [], status=400).error == f"HTTP 400: {shown}"


def test_an_error_of_the_connection_comes_first():
    answer = read([delta(content="a")], error="timeout after 300 s")
    assert answer.error == "timeout after 300 s"


PIECES = st.lists(
    st.tuples(
        st.sampled_from(["reasoning", "reasoning_content", "content", "arguments"]),
        st.text(alphabet=st.sampled_from('ab "\\\tä\n{}:,'), max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@given(PIECES)
def test_pieces_of_any_text_are_what_a_json_decoder_finds(pieces: list[tuple[str, str]]):
    """Events alike but for their text are read by a shorter way, which must not show."""
    chunks: list[bytes] = []
    wanted = {"reasoning": "", "content": "", "arguments": ""}
    for field, text in pieces:
        wanted["reasoning" if field.startswith("reasoning") else field] += text
        if field == "arguments":
            chunks.append(delta(tool_calls=[{"index": 0, "function": {"arguments": text}}]))
        else:
            chunks.append(delta(**{field: text}))
    answer = read([*chunks, delta("stop"), b"data: [DONE]\n\n"])
    assert answer.reasoning == wanted["reasoning"]
    assert answer.text == wanted["content"] + wanted["arguments"]
    assert len(answer.token_ns) == sum(bool(text) for _, text in pieces)
    longest = max(len(text) for _, text in pieces)
    total = sum(len(text) for _, text in pieces)
    assert answer.largest_read_ratio == (longest / total if total else None)


def test_what_only_looks_like_text_between_the_same_ends_is_decoded():
    one = delta(content="a")
    head, tail = one.split(b'"a"')
    trap = head + b'"b", "reasoning": "c"' + tail
    answer = read([one, one, trap, STOP])
    assert (answer.text, answer.reasoning) == ("aab", "c")


@pytest.mark.parametrize(
    ("chunks", "is_merged"),
    [
        ([delta(role="assistant") + delta(content="a"), delta(content="b"), STOP], False),
        ([delta(role="assistant"), delta(content="a") + delta(content="b"), STOP], True),
        ([delta(content="a") + STOP], True),
        ([delta(content="a") + STOP[:9], STOP[9:]], True),
        ([delta(content="a")[:9], delta(content="a")[9:], delta(content="b") + STOP], False),
    ],
    ids=[
        "something before it",
        "another token behind it",
        "an end behind it",
        "the beginning of an end behind it",
        "later ones together",
    ],
)
def test_a_first_token_that_came_with_more_behind_it_is_known(
    chunks: list[bytes], *, is_merged: bool
) -> None:
    assert read(chunks).first_token_merged is is_merged
