"""What the answers to a preflight's requests say of a server: answers in, lines out."""

from collections.abc import Sequence

from pytest_agentperf.dialect import REASONING_FIELDS
from pytest_agentperf.mends import mend
from pytest_agentperf.observed import Line, Needs
from pytest_agentperf.probes import EXACT_TOKENS, FEW_TOKENS, Seen

__all__ = [
    "cache_lines",
    "first_chunk_line",
    "hello_lines",
    "ignore_eos_line",
    "is_over",
    "reasoning_fields",
    "reasoning_line",
    "streaming_line",
    "tools_line",
]

_MOSTLY = 0.5
"""Of a prompt: so much of a repeated one is cached where a cache is on."""
_FASTER = 0.6
_LEAST_TTFT_S = 0.05
"""A shorter one says nothing of a cache."""
_TAGS = ("<think>", "<|channel|>", "<|start_thinking|>")
_CALL_TAGS = ("<tool_call", "<|tool", "<function", "[TOOL_CALLS]", "<invoke")


def hello_lines(needs: Needs, hello: Seen, max_tokens_field: str) -> list[Line]:
    """Return what a first good answer shows."""
    model = needs.spec.model
    if needs.served:
        served = needs.line("model", "ok", f"{model!r} is one of {len(needs.served)} served")
    else:
        served = needs.line("model", "unknown", "the server does not list what it serves")
    done = "[DONE]" if hello.heard.done else "no [DONE]"
    lines = [
        needs.line("reachable", "ok", f"first token after {hello.ttft_s or 0:.3g} s"),
        served,
        needs.line("streaming", "ok", f"{hello.heard.events} events, {done} at the end"),
        _usage_line(needs, hello),
    ]
    if needs.first_chunk:
        lines.append(first_chunk_line(needs, hello))
    if needs.spec.request:
        lines.append(needs.line("request fields", "ok", f"taken: {', '.join(needs.spec.request)}"))
    return [*lines, _cap_line(needs, hello, max_tokens_field)]


def _usage_line(needs: Needs, hello: Seen) -> Line:
    if hello.answer.osl_tokens is not None:
        return needs.line("usage", "ok", f"comes in {hello.heard.usage}")
    return needs.line(
        "usage",
        "missing",
        "reports no usage when stream_options.include_usage is set: tokens cannot be counted"
        + (" but by the tokenizer" if needs.counts_locally else ""),
        mends="make it report usage, or give --agentperf-tokenizer FOLDER",
        refuses=not needs.counts_locally,
    )


def first_chunk_line(needs: Needs, hello: Seen) -> Line:
    """Return whether first-chunk speed can be told."""
    if hello.answer.first_chunk_tokens is not None or needs.counts_locally:
        return needs.line("first chunk", "ok", "its tokens can be counted")
    return needs.line(
        "first chunk",
        "missing",
        "does not tell how many tokens its first chunk holds, and a tier is judged by first-chunk "
        "speed",
        mends="give --agentperf-tokenizer FOLDER, or make it report usage on every chunk",
        refuses=True,
    )


def _cap_line(needs: Needs, hello: Seen, field: str) -> Line:
    if not is_over(hello):
        return needs.line("max_tokens", "ok", f"{field} is kept to")
    text = f"{field} {hello.max_tokens} was answered with {hello.osl_tokens} tokens"
    return needs.line("max_tokens", "missing", text, mends="answers may be longer than the cap")


def is_over(seen: Seen) -> bool:
    """Tell whether an answer is clearly longer than its cap."""
    return seen.began and seen.osl_tokens > 2 * seen.max_tokens


def streaming_line(needs: Needs, seen: Sequence[Seen]) -> Line | None:
    """Return a line where every answer of some tokens came in one read; ``None``: all is well."""
    many = [each for each in seen if each.began and each.osl_tokens >= FEW_TOKENS // 2]
    if not many or not all(each.came_at_once for each in many):
        return None
    return needs.line(
        "streaming",
        "missing",
        f"each of {len(many)} answers came in one read: something holds them back",
        mends="switch off buffering in the proxy or gateway",
    )


def tools_line(needs: Needs, seen: Seen) -> Line:
    """Return what became of a request for a tool call."""
    if seen.rejected:
        return needs.line("tools", "missing", f"are rejected: {seen.error}", refuses=True)
    if seen.answer.error is not None:
        return needs.line("tools", "unknown", seen.error)
    if seen.answer.tool_calls:
        form = "in pieces" if seen.heard.tool_calls == "pieces" else "whole in one event"
        return needs.line("tools", "ok", f"a call was streamed, {form}")
    if any(tag in seen.answer.text for tag in _CALL_TAGS):
        text = "are taken, but a call came as text: nothing parses it"
        return needs.line("tools", "missing", text)
    return needs.line("tools", "ok", "are taken; the model called none here")


def reasoning_fields(seen: Sequence[Seen]) -> tuple[str, ...]:
    """Return the fields of a delta in which reasoning came."""
    found = {field for each in seen for field in each.heard.reasoning_fields}
    return tuple(field for field in REASONING_FIELDS if field in found)


def reasoning_line(needs: Needs, seen: Sequence[Seen]) -> Line:
    """Return how reasoning comes, by all answers."""
    fields = reasoning_fields(seen)
    hidden = max((each.answer.reasoning_tokens or 0 for each in seen), default=0)
    if fields:
        return needs.line("reasoning", "ok", f"streamed in {' and '.join(map(repr, fields))}")
    if any(tag in each.answer.text for tag in _TAGS for each in seen):
        text = "comes as content, in tags that nothing parses"
        return needs.line("reasoning", "missing", text)
    if hidden:
        text = f"{hidden} tokens of it were counted and none came as such: TTFT may be later"
        return needs.line("reasoning", "missing", text)
    return needs.line("reasoning", "unknown", "none came in these short answers")


def ignore_eos_line(needs: Needs, seen: Seen) -> Line:
    """Return whether an answer was as long as it had to be."""
    mends = "--agentperf-output=recorded or natural does without it"
    if seen.answer.error is not None and not seen.rejected:
        return needs.line("ignore_eos", "unknown", seen.error, mends=mends)
    if not seen.rejected and seen.osl_tokens >= EXACT_TOKENS:
        return needs.line("ignore_eos", "ok", f"{seen.osl_tokens} tokens came, as asked")
    said = seen.error or f"{seen.osl_tokens} tokens came where {EXACT_TOKENS} were asked for"
    text = f"--agentperf-output=exact needs it: {said}"
    return needs.line("ignore_eos", "missing", text, mends=mends, refuses=True)


def cache_lines(needs: Needs, seen: Sequence[Seen], hits: Sequence[float | None]) -> list[Line]:
    """Return what a new prompt, the same again and the same under a new salt show of the cache.

    Args:
        needs: of the run.
        seen: the three answers.
        hits: the server's own count before the first and after each.
    """
    failed = next((each.error for each in seen if each.answer.error is not None), None)
    if failed is not None:
        names = ("cached tokens", "prefix cache", "salt")
        return [needs.line(name, "unknown", f"a longer prompt: {failed}") for name in names]
    told = [each.answer.cached_tokens for each in seen]
    if any(cached is not None for cached in told):
        return _by_usage(needs, [cached or 0 for cached in told], seen[0].answer.isl_tokens or 1)
    text = "usage does not tell them, not for a repeated prompt"
    missing = needs.line("cached tokens", "missing", text)
    counts = [count for count in hits if count is not None]
    if len(counts) == len(hits):
        return [missing, *_by_hits(needs, counts)]
    return [missing, *_by_times(needs, [each.ttft_s or 0.0 for each in seen])]


def _by_usage(needs: Needs, cached: Sequence[int], prompt_tokens: int) -> list[Line]:
    new, repeated, salted = cached
    figures = ", ".join(map(str, cached))
    leak = max(new, salted)
    said = f"{repeated} of {prompt_tokens} tokens of a repeated prompt were cached"
    is_on = max(new, repeated) > _MOSTLY * prompt_tokens
    return [
        needs.line("cached tokens", "ok", f"{figures}: a prompt, repeated, and salted anew"),
        needs.line("prefix cache", "ok" if is_on else "missing", said),
        _salt_line(
            needs,
            f"{leak} of {prompt_tokens} tokens of a salted prompt were cached",
            leaks=leak > _MOSTLY * prompt_tokens,
        ),
    ]


def _by_hits(needs: Needs, counts: Sequence[float]) -> list[Line]:
    new, repeated, salted = (counts[i + 1] - counts[i] for i in range(3))
    leak = max(new, salted)
    said = f"by the server's own count, {repeated:g} hits of a repeated prompt"
    return [
        needs.line("prefix cache", "ok" if repeated > 0 else "missing", said),
        _salt_line(
            needs,
            f"by the server's own count, {leak:g} hits of a salted prompt",
            leaks=repeated > 0 and leak > _MOSTLY * repeated,
        ),
    ]


def _by_times(needs: Needs, ttft_s: Sequence[float]) -> list[Line]:
    new_s, repeated_s, salted_s = ttft_s
    said = f"TTFT {new_s:.3g} s, repeated {repeated_s:.3g} s, salted anew {salted_s:.3g} s"
    tells = mend("cached tokens", needs.engine)
    is_on = new_s >= _LEAST_TTFT_S and repeated_s <= _FASTER * new_s
    is_new = is_on and salted_s > _FASTER * new_s
    return [
        needs.line("prefix cache", "ok" if is_on else "unknown", said),
        needs.line("salt", "ok" if is_new else "unknown", said, mends=tells),
    ]


def _salt_line(needs: Needs, said: str, *, leaks: bool) -> Line:
    if not leaks:
        return needs.line("salt", "ok", said)
    return needs.line(
        "salt",
        "missing",
        f"{said} although it is new: one phase would be served from another",
        mends="switch off what caches more than prefixes",
        refuses=needs.salted,
    )
