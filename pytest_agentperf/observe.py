"""What a server lacks, found out by a few small requests: which are sent, in which order.

What makes a number untrustworthy refuses the run; what only leaves something unknown, or is a
property of the system that is measured, is told and measured.
"""

from pytest_agentperf.dialect import REASONING_FIELDS, Dialect, ToolCalls
from pytest_agentperf.mends import mend
from pytest_agentperf.observed import Line, Needs, Observed
from pytest_agentperf.probes import Ask, Probes, Seen, named_field
from pytest_agentperf.sightings import (
    cache_lines,
    hello_lines,
    ignore_eos_line,
    is_over,
    reasoning_fields,
    reasoning_line,
    streaming_line,
    tools_line,
)
from pytest_agentperf.wire import MAX_TOKENS

__all__ = ["observe"]

_OK = 200
_LEAST_GROWTH_TOKENS = 40
"""Of a prompt that brings over a hundred tokens of reasoning."""
_THINKING_TOKENS = 512
"""So long a model may think about a greeting, unseen."""
_HISTORY_FIELDS = REASONING_FIELDS[:2]


async def observe(ask: Ask, needs: Needs, *, thorough: bool = True) -> Observed:
    """Ask one model, and return a line for each thing that the run needs.

    Args:
        ask: sends a request.
        needs: what the run needs.
        thorough: ask more than one request.
    """
    return await _Preflight(ask, needs).run(thorough=thorough)


class _Preflight:
    def __init__(self, ask: Ask, needs: Needs) -> None:
        self._needs = needs
        self._probes = Probes(ask, needs.spec, key=needs.key)
        self._lines: list[Line] = []
        self._history_field: str | None = None

    async def run(self, *, thorough: bool) -> Observed:
        hello = await self._greet(thorough=thorough)
        if not self._is_refused:
            self._lines += hello_lines(self._needs, hello, self._probes.max_tokens_field)
        if thorough and not self._is_refused:
            await self._more()
        return Observed(
            model=self._needs.spec.model,
            lines=tuple(self._lines),
            dialect=self._dialect(hello),
            requests=len(self._probes.all),
        )

    @property
    def _is_refused(self) -> bool:
        return any(line.refuses for line in self._lines)

    async def _more(self) -> None:
        needs, probes = self._needs, self._probes
        takes_tools = False
        if needs.demands.tools:
            called = await probes.call()
            takes_tools = not called.rejected
            self._lines.append(tools_line(needs, called))
        if needs.demands.reasoning:
            await self._history(tools=takes_tools)
        await self._cache()
        await self._length()
        if needs.output == "exact":
            self._lines.append(ignore_eos_line(needs, await probes.hello(exact=True)))
        self._lines.append(reasoning_line(needs, probes.all))
        held = streaming_line(needs, probes.all)
        self._lines = [held if held and x.name == held.name else x for x in self._lines]

    def _dialect(self, hello: Seen) -> Dialect:
        called: ToolCalls = "none"
        for each in reversed(self._probes.all):
            if each.heard.tool_calls != "none":
                called = each.heard.tool_calls
        return Dialect(
            max_tokens_field=self._probes.max_tokens_field,
            history_field=self._history_field,
            reasoning_fields=reasoning_fields(self._probes.all),
            usage=hello.heard.usage,
            tool_calls=called,
            done=hello.heard.done,
        )

    async def _greet(self, *, thorough: bool) -> Seen:
        """Say hello, under the other name of the cap where the server does not know the first."""
        hello = await self._say_hello()
        if (hello.rejected and "max_tokens" in hello.error) or (thorough and is_over(hello)):
            hello = await self._with_other_cap() or hello
        if hello.rejected:
            await self._blame(hello)
        elif hello.answer.error is not None and hello.status == _OK and not hello.heard.events:
            self._refuse(
                "streaming",
                "the answer to stream: true came in one piece: TTFT and speed cannot be told",
                "have server and gateway stream",
            )
        elif hello.answer.error is not None:
            self._has_failed(hello)
        return hello

    async def _say_hello(self, *, without: str | None = None) -> Seen:
        """Say hello, again with room for thoughts where the cap went into hidden ones."""
        hello = await self._probes.hello(without=without)
        if hello.spent_unseen:
            hello = await self._probes.hello(without=without, max_tokens=_THINKING_TOKENS)
        return hello

    async def _with_other_cap(self) -> Seen | None:
        """Ask under the other name of the cap; go back to the first where that is no better."""
        first = self._probes.max_tokens_field
        self._probes.max_tokens_field = next(name for name in MAX_TOKENS if name != first)
        hello = await self._say_hello()
        if hello.answer.error is None and not is_over(hello):
            return hello
        self._probes.max_tokens_field = first
        return None

    async def _blame(self, hello: Seen) -> None:
        """Say which field of the tier file a server does not take, or that it takes none."""
        request = self._needs.spec.request
        field = named_field(hello.error, request)
        for name in request if field is None else ():
            if (await self._say_hello(without=name)).answer.error is None:
                field = name
                break
        if field is None:
            self._has_failed(hello)
            return
        self._refuse(
            "request fields",
            f"the server rejects the field {field!r} of the tier file: {hello.error}",
            f"take it out of `request:` of {self._needs.spec.model!r}, or serve the model so that "
            "it is known",
        )

    def _has_failed(self, hello: Seen) -> None:
        spec = self._needs.spec
        self._refuse(
            "reachable",
            f"a first small request to {spec.model!r} failed: {hello.error}; its fields were "
            f"{dict(spec.request)}",
            "",
        )

    def _refuse(self, name: str, text: str, mends: str) -> None:
        self._lines.append(self._needs.line(name, "missing", text, mends=mends, refuses=True))

    async def _history(self, *, tools: bool) -> None:
        """Find the message field whose reasoning reaches the prompt: the prompt grows by it."""
        needs, wanted = self._needs, self._needs.spec.reasoning_field
        bare = await self._probes.history(None, tools=tools)
        base = bare.answer.isl_tokens
        if bare.answer.error is not None or base is None:
            said = bare.error or "prompt tokens are not reported"
            self._lines.append(needs.line("reasoning kept", "unknown", said))
            return
        rejected: dict[str, str] = {}
        for field in dict.fromkeys((wanted, *_HISTORY_FIELDS)):
            seen = await self._probes.history(field, tools=tools)
            grown = (seen.answer.isl_tokens or 0) - base
            if seen.rejected:
                rejected[field] = seen.error
            elif grown >= _LEAST_GROWTH_TOKENS:
                self._history_field = field
                instead = "" if field == wanted else f" instead of {wanted!r}"
                text = f"goes back in {field!r}{instead}: {grown} prompt tokens more"
                self._lines.append(needs.line("reasoning kept", "ok", text))
                return
        self._not_kept(rejected)

    def _not_kept(self, rejected: dict[str, str]) -> None:
        taken = [
            f for f in (self._needs.spec.reasoning_field, *_HISTORY_FIELDS) if f not in rejected
        ]
        self._history_field = taken[0] if taken else None
        why = "".join(f"; {field!r} is rejected: {said}" for field, said in rejected.items())
        self._lines.append(
            self._needs.line(
                "reasoning kept",
                "missing",
                f"recorded reasoning does not reach the prompt{why}: prompts are shorter than the "
                "recorded ones",
                mends="a chat template that keeps it, or a field of `request:` that makes it do so",
                refuses=not taken,
            )
        )

    async def _cache(self) -> None:
        """Send a prompt, the same again, and the same under a new salt."""
        seen: list[Seen] = []
        hits = [self._needs.prefix_hits()]
        for number in (1, 1, 2):
            seen.append(await self._probes.repeated(number))
            hits.append(self._needs.prefix_hits())
        self._lines += cache_lines(self._needs, seen, hits)

    async def _length(self) -> None:
        """See that the longest prompt and its answer fit, and that the load's cap is taken."""
        needs, line = self._needs, self._needs.line
        longest, cap, limit = (
            needs.demands.longest_prompt_tokens,
            needs.max_tokens,
            needs.limit_tokens,
        )
        if limit is None:
            text = f"the server does not tell; the longest prompt has {longest} tokens"
            context = line("context", "unknown", text)
        elif longest >= limit:
            text = f"the longest prompt has {longest} tokens, the server takes {limit}"
            context = self._too_long(text)
        else:
            context = line("context", "ok", f"{limit} tokens; the longest prompt has {longest}")
        is_tight = limit is not None and longest < limit < longest + cap
        # Where the longest prompt and its cap are over the limit, this request is as well.
        asked = limit if is_tight and limit is not None else cap
        seen = await self._probes.hello(max_tokens=asked, hang_up=True)
        if seen.rejected and is_tight:
            context = self._too_long(
                f"the longest prompt has {longest} tokens and its answer up to {cap}, the server "
                f"takes {limit} in all: {seen.error}"
            )
        elif seen.rejected:
            mends = "lower --agentperf-max-tokens, or max_tokens in the tier file"
            self._refuse("max_tokens", f"{asked} is rejected: {seen.error}", mends)
        self._lines.append(context)

    def _too_long(self, text: str) -> Line:
        return self._needs.line(
            "context",
            "missing",
            text,
            mends=f"{mend('context', self._needs.engine)}; or context_tokens in the tier file",
            refuses=True,
        )
