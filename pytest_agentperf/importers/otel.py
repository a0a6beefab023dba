"""Read OpenTelemetry's GenAI spans, from OTLP in JSON and from inference-perf's trace files.

A span of a model call with its input messages is one request; spans of one conversation, or else of
one trace, are a session. The messages hold the whole prompt, as parts or in OpenAI's form. Tool
time is that of ``execute_tool`` spans, or else the gap before a prompt that ends in tool results.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.chat import messages
from pytest_agentperf.importers.gather import begins, gather
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.otel_spans import Span, chats, count, read_spans, text, tool_schemas
from pytest_agentperf.importers.sessions import Session, busy_s
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset, Message, Trajectory

__all__ = ["fits", "load"]

MODEL_CALLS = ("chat", "generate_content", "text_completion")
TOOL_CALL = "execute_tool"
LOOKED_AT_BYTES = 2**20
CONVERSATION = "gen_ai.conversation.id"
INPUT = "gen_ai.input.messages"


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions of one file, or of all in a folder or archive.

    Args:
        source: what the user named.
        strict: whether a span that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: no session can be read, or a span cannot and the import is strict.
    """
    return gather(source, fits, _sessions, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    endings = (".json", ".jsonl", ".ndjson")
    found = begins(file, endings, b'"resourceSpans"') or begins(
        file, endings, b'"spans"', b'"trace_id"'
    )
    # Spans of other kinds may stand before the first of a model call.
    return found and b'"gen_ai.' in file.head(LOOKED_AT_BYTES)


def _sessions(file: SourceFile, losses: Losses) -> Iterator[Trajectory]:
    spans: dict[str, Span] = {}
    for span in read_spans(file, losses):
        losses.count("{n} spans were exported twice and taken once", int(span.span_id in spans))
        spans.setdefault(span.span_id, span)
    for name, (calls, tools) in _by_conversation(spans.values()).items():
        try:
            trajectory = _trajectory(name, calls, tools, file.stem_name, losses)
        except ConfigError as error:
            losses.skip(error)
            continue
        if trajectory is not None:
            yield trajectory


def _by_conversation(spans: Collection[Span]) -> dict[str, tuple[list[Span], list[Span]]]:
    """Return the model calls and the tool calls of each conversation."""
    found: dict[str, tuple[list[Span], list[Span]]] = {}
    owner: dict[str, str] = {}
    for span in spans:
        if _operation(span) in MODEL_CALLS:
            name = text(span.attributes.get(CONVERSATION)) or span.trace_id
            found.setdefault(name, ([], []))[0].append(span)
            owner[span.trace_id] = name
    for span in spans:
        # A tool's span need not name the conversation, but shares the trace with it.
        name = text(span.attributes.get(CONVERSATION)) or owner.get(span.trace_id)
        if _operation(span) == TOOL_CALL and name in found:
            found[name][1].append(span)
    return found


def _trajectory(
    name: str, calls: Sequence[Span], tools: Sequence[Span], source: str, losses: Losses
) -> Trajectory | None:
    answered = [call for call in calls if not call.failed]
    losses.count("{n} failed requests were left out", len(calls) - len(answered))
    answered.sort(key=lambda call: (call.start_s, call.end_s))
    read = [(call, _prompt(call, losses)) for call in answered]
    asked = [call for call, prompt in read if prompt]
    prompts = [prompt for _, prompt in read if prompt]
    losses.count(
        "{n} requests do not tell their messages and were left out", len(answered) - len(asked)
    )
    losses.count(
        "{n} requests began before the answer to the one before them and are replayed after it",
        sum(after.start_s < call.end_s for call, after in pairwise(asked)),
    )
    tool_times = [
        _tool_s(call, after, prompt, tools)
        for (call, after), prompt in zip(pairwise(asked), prompts[1:], strict=True)
    ]
    session = Session()
    for call, prompt, tool_s in zip(asked, prompts, [*tool_times, None], strict=False):
        session.ask(
            prompt,
            tools=tool_schemas(call),
            isl_tokens=count(call, "input_tokens", "prompt_tokens"),
            osl_tokens=count(call, "output_tokens", "completion_tokens"),
            tool_s=tool_s,
        )
    harness = next((span.service for span in asked if span.service), None)
    return session.trajectory(name, harness=harness, source=source)


def _prompt(call: Span, losses: Losses) -> tuple[Message, ...]:
    return messages(list(chats(call, losses))) if INPUT in call.attributes else ()


def _operation(span: Span) -> str:
    return text(span.attributes.get("gen_ai.operation.name")) or span.name.partition(" ")[0]


def _tool_s(
    call: Span, following: Span, next_prompt: Sequence[Message], tools: Sequence[Span]
) -> float | None:
    spans = [
        (tool.start_s, tool.end_s)
        for tool in tools
        if call.end_s <= tool.start_s < following.start_s
    ]
    if spans:
        return busy_s(spans)
    gap_s = following.start_s - call.end_s
    ends_in_result = bool(next_prompt) and next_prompt[-1].role == "tool"
    return gap_s if ends_in_result and gap_s >= 0 else None
