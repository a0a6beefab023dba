"""A preflight against servers that lack each thing in turn: a test a line.

The servers are the simulator's, in virtual time, with one trait each; a token is four bytes.
"""

import json
from dataclasses import replace

import pytest

from pytest_agentperf.asking import observe_model, observe_models, say_hello
from pytest_agentperf.dialect import Dialect
from pytest_agentperf.errors import EndpointError
from pytest_agentperf.observed import Line, Observed
from pytest_agentperf.preflight import connect_checked
from pytest_agentperf.revival import await_answer
from pytest_agentperf.settings import Settings
from pytest_agentperf.sim.launch import connect, connect_virtual
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.trajectory import Dataset, Message, Trajectory, Turn
from tests.faults import GOOD, HEAD, LAST, chunk, delta
from tests.servers.sockets import Answers, Piece, Server, serve

pytestmark = pytest.mark.asyncio

_TOOL = {"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}
DATASET = Dataset(
    name="two turns",
    trajectories=(
        Trajectory(
            id="a",
            tools=(_TOOL,),
            turns=(
                Turn(
                    kept=0,
                    appended=(Message(role="user", content="Fix it."),),
                    recorded_isl_tokens=1000,
                ),
                Turn(
                    kept=1,
                    appended=(
                        Message(role="assistant", content="Done.", reasoning="I look first."),
                        Message(role="user", content="And that."),
                    ),
                    recorded_isl_tokens=3000,
                ),
            ),
        ),
    ),
)
SPEC = ModelSpec(model="m", tiers=(), request={"temperature": 1.0}, max_tokens=2000)
SETTINGS = Settings()


async def look(
    address: str = "",
    *,
    spec: ModelSpec = SPEC,
    settings: Settings = SETTINGS,
    limit_tokens: int | None = None,
    dataset: Dataset = DATASET,
) -> Observed:
    """Observe a simulated server whose traits are named by an address."""
    from pytest_agentperf.detected import Fact  # noqa: PLC0415 for one argument

    info = connect_virtual(f"sim+virtual:?{address}", models=["m"])
    if limit_tokens is not None:
        facts = (Fact(key="engine.max_model_len", value=limit_tokens, source="GET /v1/models"),)
        info = replace(info, facts=facts)
    try:
        return await observe_model(info, spec, settings, dataset, thorough=True)
    finally:
        info.close()


def told(observed: Observed, name: str) -> Line:
    line = observed.line(name)
    assert line is not None, f"no line {name!r} in {[x.name for x in observed.lines]}"
    return line


async def test_a_server_that_lacks_nothing() -> None:
    seen = await look(limit_tokens=131_072)
    assert {line.name: line.state for line in seen.lines} == dict.fromkeys(
        (
            "reachable", "model", "streaming", "usage", "request fields", "max_tokens", "tools",
            "reasoning kept", "cached tokens", "prefix cache", "salt", "context", "reasoning",
        ),
        "ok",
    )  # fmt: skip
    assert not seen.refused
    assert seen.dialect == Dialect(
        max_tokens_field="max_tokens",
        history_field="reasoning_content",
        reasoning_fields=("reasoning",),
        usage="its own event",
        tool_calls="pieces",
        done=True,
    )
    # 1 greeting, 1 tool call, 2 of history, 3 of the cache, 1 with the load's cap.
    assert seen.requests == 8
    assert 0 < seen.took_s < 9


async def test_it_is_bounded_where_everything_is_wrong() -> None:
    seen = await look("tools=refused&history=dropped&cached_tokens=absent&max_tokens=ignored")
    assert seen.requests <= 12


async def test_streaming() -> None:
    info = connect("sim:?stream=whole", models=["m"])
    try:
        with pytest.raises(EndpointError, match="stream: true came in one piece") as refused:
            await observe_models(info, {"m": SPEC}, SETTINGS, DATASET, tell=_unheard)
    finally:
        info.close()
    assert "have server and gateway stream (streaming)" in str(refused.value)


async def test_usage() -> None:
    seen = await look("usage=none")
    assert told(seen, "usage").state == "missing"
    assert "reports no usage when stream_options.include_usage is set" in seen.refusal
    assert "--agentperf-tokenizer FOLDER" in seen.refusal


async def test_no_load_follows_a_refusal_and_every_line_is_told() -> None:
    info = connect_virtual("sim+virtual:?usage=none", models=["m"])
    heard: list[tuple[str, Line]] = []
    with pytest.raises(EndpointError, match="reports no usage"):
        await observe_models(
            info, {"m": SPEC}, SETTINGS, DATASET, tell=lambda m, line: heard.append((m, line))
        )
    info.close()
    assert [(model, line.name) for model, line in heard if line.refuses] == [("m", "usage")]


@pytest.mark.parametrize(
    ("usage", "where"),
    [("end", "its own event"), ("last", "the last event"), ("every", "every event")],
)
async def test_usage_may_come_anywhere(usage: str, where: str) -> None:
    seen = await look(f"usage={usage}")
    assert told(seen, "usage").text == f"comes in {where}"
    assert not seen.refused


async def test_the_end_of_a_stream_may_be_missing() -> None:
    seen = await look("done=missing")
    assert not seen.dialect.done
    assert "no [DONE]" in told(seen, "streaming").text
    assert not seen.refused


async def test_first_chunk() -> None:
    settings = Settings(speed="first-chunk")
    seen = await look("stream_interval=5", settings=settings)
    assert told(seen, "first chunk").refuses
    seen = await look("stream_interval=5&usage=every", settings=settings)
    assert told(seen, "first chunk").state == "ok"


async def test_a_request_field() -> None:
    spec = replace(SPEC, request={"temperature": 1.0, "reasoning_effort": "high"})
    seen = await look("refuses=reasoning_effort", spec=spec)
    line = told(seen, "request fields")
    assert line.refuses
    assert "rejects the field 'reasoning_effort' of the tier file" in line.text
    assert "take it out of `request:` of 'm'" in line.mend


async def test_a_request_field_that_the_message_does_not_name() -> None:
    """A server that says only that it will not: each field is left out in turn."""
    spec = replace(SPEC, request={"temperature": 1.0, "thinking": {"type": "on"}})
    seen = await look("refuses=thinking&refusal=silent", spec=spec)
    assert "rejects the field 'thinking'" in told(seen, "request fields").text


@pytest.mark.parametrize("trait", ["refused", "kept"])
async def test_max_tokens_has_two_names(trait: str) -> None:
    seen = await look(f"max_tokens={trait}")
    field = {"refused": "max_completion_tokens", "kept": "max_tokens"}[trait]
    assert seen.dialect.max_tokens_field == field
    assert told(seen, "max_tokens").state == "ok"


async def test_max_tokens() -> None:
    line = told(await look("max_tokens=ignored"), "max_tokens")
    assert line.state == "missing"
    assert not line.refuses
    assert line.text.startswith("max_tokens 16 was answered with ")


async def test_tools() -> None:
    line = told(await look("tools=refused"), "tools")
    assert line.refuses
    assert "requires --enable-auto-tool-choice" in line.text
    assert "vLLM: --enable-auto-tool-choice --tool-call-parser NAME" in line.mend


async def test_tools_that_nothing_parses() -> None:
    line = told(await look("tools=as-text"), "tools")
    assert (line.state, line.refuses) == ("missing", False)
    assert "nothing parses it" in line.text


async def test_tools_in_one_event() -> None:
    seen = await look("tool_calls=whole")
    assert told(seen, "tools").text == "a call was streamed, whole in one event"
    assert seen.dialect.tool_calls == "whole"


async def test_tools_are_not_asked_for_in_vain() -> None:
    bare = replace(DATASET.trajectories[0], tools=())
    seen = await look("tools=refused", dataset=replace(DATASET, trajectories=(bare,)))
    assert seen.line("tools") is None
    assert not seen.refused


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "reasoning_details"])
async def test_reasoning_may_come_in_any_field(field: str) -> None:
    seen = await look(f"reasoning_field={field}")
    assert told(seen, "reasoning").text == f"streamed in {field!r}"
    assert seen.dialect.reasoning_fields == (field,)


async def test_reasoning() -> None:
    line = told(await look("reasoning_field=hidden"), "reasoning")
    assert (line.state, line.refuses) == ("missing", False)
    assert "counted and none came" in line.text
    assert "SGLang: --reasoning-parser NAME" in line.mend


def _thinks_unseen(tokens: int) -> Answers:
    """A model that thinks so long before its first word, and shows none of it."""

    def does(_: Server, request: bytes) -> list[Piece]:
        if request.startswith(b"GET"):
            return [b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"]
        cap = json.loads(request.partition(b"\r\n\r\n")[2])["max_tokens"]
        events = GOOD if cap > tokens else (delta(role="assistant"), delta("length"))
        return [HEAD, *map(chunk, events), LAST]

    return does


async def test_a_greeting_has_room_for_thoughts_that_are_not_shown() -> None:
    with serve(_thinks_unseen(100)) as server:
        info = connect_checked(server.url, ("m",))
        seen = await observe_model(info, SPEC, SETTINGS, DATASET, thorough=False)
        info.close()
    assert not seen.refused
    assert (told(seen, "reachable").state, told(seen, "max_tokens").state) == ("ok", "ok")
    assert seen.requests == 2


async def test_a_server_is_back_that_answers_with_hidden_thoughts_alone() -> None:
    with serve(_thinks_unseen(100)) as server:
        info = connect_checked(server.url, ("m",))
        assert await await_answer(info, SPEC, SETTINGS.client, limit_s=1.0) < 1.0
        info.close()


async def test_a_canary_of_hidden_thoughts_alone_has_a_time() -> None:
    with serve(_thinks_unseen(100)) as server:
        info = connect_checked(server.url, ("m",))
        seen = await say_hello(info, SPEC, SETTINGS.client, limit_s=5.0)
        info.close()
    assert seen.ttft_s is None
    assert seen.answered_s == seen.end_s > 0


async def test_reasoning_goes_back_where_the_template_reads_it() -> None:
    seen = await look("history=reasoning")
    assert seen.dialect.history_field == "reasoning"
    assert "in 'reasoning' instead of 'reasoning_content'" in told(seen, "reasoning kept").text


async def test_reasoning_kept() -> None:
    seen = await look("history=dropped")
    line = told(seen, "reasoning kept")
    assert (line.state, line.refuses) == ("missing", False)
    assert "prompts are shorter than the recorded ones" in line.text
    assert seen.dialect.history_field == "reasoning_content"


async def test_cached_tokens() -> None:
    seen = await look("cached_tokens=absent")
    line = told(seen, "cached tokens")
    assert line.state == "missing"
    assert "vLLM: --enable-prompt-tokens-details; SGLang: --enable-cache-report" in line.mend
    # The simulator's own counters tell of the cache all the same.
    assert told(seen, "prefix cache").state == "ok"
    assert told(seen, "salt").state == "ok"
    assert not seen.refused


async def test_prefix_cache() -> None:
    seen = await look("prefix_cache=off")
    line = told(seen, "prefix cache")
    assert (line.state, line.refuses) == ("missing", False)
    assert "--enable-prefix-caching" in line.mend


@pytest.mark.parametrize("trait", ["salt=ignored", "salt=ignored&cached_tokens=absent"])
async def test_salt(trait: str) -> None:
    line = told(await look(trait), "salt")
    assert line.refuses
    assert "one phase would be served from another" in line.text


async def test_an_ineffective_salt_is_told_where_none_is_wanted() -> None:
    line = told(await look("salt=ignored", settings=Settings(salt="none")), "salt")
    assert (line.state, line.refuses) == ("missing", False)


async def test_context() -> None:
    # 3,000 recorded tokens and 64 of the salt.
    line = told(await look(limit_tokens=3064), "context")
    assert line.refuses
    assert "the longest prompt has 3064 tokens, the server takes 3064" in line.text
    assert "vLLM: --max-model-len N" in line.mend


async def test_context_with_the_answer() -> None:
    # 3,064 + 2,000 > 5,000, and a server that takes no more says so at once.
    address = "context_limit_tokens=5000"
    line = told(await look(address, limit_tokens=5000), "context")
    assert line.refuses
    assert "its answer up to 2000, the server takes 5000 in all" in line.text
    # One that cuts the answer instead is well.
    assert told(await look(limit_tokens=5000), "context").state == "ok"
    # And 3,064 + 2,000 fits into 5,064.
    address = "context_limit_tokens=5064"
    assert told(await look(address, limit_tokens=5064), "context").state == "ok"


async def test_context_that_nobody_tells() -> None:
    line = told(await look(), "context")
    assert (line.state, line.text) == (
        "unknown",
        "the server does not tell; the longest prompt has 3064 tokens",
    )


async def test_a_cap_that_the_server_does_not_take() -> None:
    spec = replace(SPEC, max_tokens=16_000, context_tokens=131_072)
    seen = await look("context_limit_tokens=4000", spec=spec)
    refused = [line for line in seen.refused if line.name == "max_tokens"]
    assert "16000 is rejected" in refused[0].text
    assert "lower --agentperf-max-tokens" in refused[0].mend


@pytest.mark.parametrize("trait", ["ignored", "refused"])
async def test_ignore_eos(trait: str) -> None:
    line = told(await look(f"ignore_eos={trait}", settings=Settings(output="exact")), "ignore_eos")
    assert line.refuses
    assert "--agentperf-output=exact needs it" in line.text


async def test_ignore_eos_is_asked_only_where_it_is_needed() -> None:
    assert (await look("ignore_eos=refused")).line("ignore_eos") is None
    seen = await look(settings=Settings(output="exact"))
    assert told(seen, "ignore_eos").text == "128 tokens came, as asked"


async def test_a_server_that_lists_nothing() -> None:
    info = connect_virtual("sim+virtual:", models=["m"])
    seen = await observe_model(replace(info, models=()), SPEC, SETTINGS, DATASET, thorough=True)
    info.close()
    assert told(seen, "model").state == "unknown"


async def test_a_server_that_names_its_engine_is_told_its_own_flag() -> None:
    from pytest_agentperf.detected import Fact  # noqa: PLC0415 for one argument

    info = connect_virtual("sim+virtual:?cached_tokens=absent", models=["m"])
    facts = (Fact(key="engine.name", value="SGLang", source="GET /server_info"),)
    seen = await observe_model(replace(info, facts=facts), SPEC, SETTINGS, DATASET, thorough=True)
    info.close()
    assert told(seen, "cached tokens").mend == "SGLang: --enable-cache-report"


async def test_an_endpoint_of_our_own_process_is_asked_once() -> None:
    """Further requests would change its cache and its time, and with them the last bit of a run."""
    info = connect_virtual("sim+virtual:", models=["m"])
    seen = await observe_models(info, {"m": SPEC}, SETTINGS, DATASET, tell=_unheard)
    info.close()
    assert [o.requests for o in seen.observed] == [1]


def _unheard(_model: str, _line: Line) -> None:
    pass
