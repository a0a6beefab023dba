"""Read AzurePublicDataset's traces, which tell lengths alone: Copilot's agents of 2026, the CSVs.

*GitHub Copilot Coding Agent Traces 2026*: JSON lines in shards, one session each. A session has
turns of a person, a turn has ``llm_calls`` and ``tool_batches``. A call tells the length of its
prompt, how much of it the provider had in its cache, and the kind and length of each of its
segments, so what two prompts share is an estimate: the segments at the front that agree, or the
cached tokens, whichever is more. The prompt it is shared with is the one before, or the last that
the same model got. Tool time is that of the batch that names the call.

*AzureLLMInferenceTrace*: CSV with ``TIMESTAMP``, ``ContextTokens`` and ``GeneratedTokens``. A row
is a session of one request. Where a column names the session, a prompt longer than the one before
it is taken to continue it.

What is shared is cut to whole blocks of 64 tokens. Source: ``schema.json`` and the descriptions in
Azure/AzurePublicDataset.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count, takewhile
from typing import Annotated

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.blocks import MAX_PROMPT_TOKENS, Prompt, Scope, Texts
from pytest_agentperf.importers.gather import begins, stem
from pytest_agentperf.importers.lines import Count, broken, decode
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.sessions import busy_s, epoch_s
from pytest_agentperf.importers.shapes import Asked, Shape, shape_up
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset

__all__ = ["fits", "load"]

BLOCK_TOKENS = 64
SESSION_COLUMNS = ("sessionid", "conversationid")


class _Tokens(msgspec.Struct):
    prompt: Annotated[int, msgspec.Meta(ge=0, le=MAX_PROMPT_TOKENS)] | None = None
    completion: Count | None = None
    cached: Count | None = None


class _Segment(msgspec.Struct, frozen=True):
    type: str | None = None
    role: str | None = None
    token_len: Count | None = None


class _Call(msgspec.Struct):
    tokens: _Tokens | None = None
    timestamp: datetime | None = None
    message_id: str | None = None
    model: str | None = None
    message_metadata: list[_Segment] | None = None


class _Batch(msgspec.Struct):
    request_id: str | None = None
    timestamp: datetime | None = None
    duration_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None


class _Turn(msgspec.Struct):
    llm_calls: list[_Call] | None = None
    tool_batches: list[_Batch] | None = None


class _Session(msgspec.Struct):
    session_id: str
    turns: list[_Turn]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A prompt of a session: what is known of it, and its blocks."""

    isl_tokens: int
    model: str | None
    segments: Sequence[_Segment]
    blocks: Sequence[int]


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the sessions in a file, folder or archive.

    Args:
        source: path of it, such as one shard, or the archive of one day.
        strict: whether a session or row that cannot be read ends the import.

    Returns:
        ``None`` when no file is of either format.

    Raises:
        ConfigError: no session could be read, or one could not and the import is strict.
    """
    return shape_up(source, fits, _read, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    if file.stem_name.endswith(".csv"):
        columns = _columns(file.head().split(b"\n", 1)[0])
        return {"contexttokens", "generatedtokens"} <= columns.keys()
    return begins(file, (".jsonl",), b'"session_id"', b'"turns"', b'"llm_calls"')


def _read(file: SourceFile, texts: Texts, losses: Losses) -> Iterator[Shape]:
    if file.stem_name.endswith(".csv"):
        yield from _read_csv(file, texts, losses)
        return
    for number, line in file.lines():
        try:
            session = decode(line, _Session, file.name, number)
        except ConfigError as error:
            losses.skip(error)
            continue
        yield Shape(
            id=session.session_id,
            asked=list(_ask(session, texts, losses)),
            source=f"azure {stem(file.stem_name)}",
            harness="github-copilot",
        )


def _ask(session: _Session, texts: Texts, losses: Losses) -> Iterator[Asked]:
    scope, ids = Scope(texts, session.session_id, BLOCK_TOKENS), count()
    sent: list[_Sent] = []
    answer = 0
    calls = _calls(session)
    tool_s = _tool_times(session)
    for call in calls:
        tokens = call.tokens or _Tokens()
        if not tokens.prompt:
            losses.count("{n} calls without a length of their prompt were left out")
            continue
        if not sent and tokens.cached:
            losses.count("{n} first prompts share nothing, though part of them was cached")
        now = _lay(call, tokens.prompt, sent, ids)
        sent.append(now)
        prompt = scope.add(
            now.blocks,
            tokens.prompt,
            answer_tokens=answer,
            system_blocks=_system_tokens(now.segments) // BLOCK_TOKENS,
        )
        answer = tokens.completion or 0
        yield Asked(
            prompt=prompt,
            isl_tokens=tokens.prompt,
            osl_tokens=tokens.completion,
            tool_s=tool_s.get(call.message_id or ""),
        )
    losses.count("the prefixes that {n} prompts share are estimates", max(0, len(sent) - 1))


def _calls(session: _Session) -> list[_Call]:
    """Return the calls in order of time, or as they stand where one has none."""
    calls = [call for turn in session.turns for call in turn.llm_calls or ()]
    timed = [(time, call) for call in calls if (time := epoch_s(call.timestamp)) is not None]
    if len(timed) < len(calls):
        return calls
    return [call for _, call in sorted(timed, key=lambda pair: pair[0])]


def _tool_times(session: _Session) -> dict[str, float | None]:
    """Return how long the tools of each call took, seconds, by the call's id."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for turn in session.turns:
        for batch in turn.tool_batches or ():
            if batch.request_id is None or batch.duration_ms is None:
                continue
            start = epoch_s(batch.timestamp) or 0.0
            span = (start, start + batch.duration_ms / 1e3)
            spans.setdefault(batch.request_id, []).append(span)
    busy = {name: busy_s(some) for name, some in spans.items()}
    # Rounded, since epoch seconds have no more digits to spare.
    return {name: None if s is None else round(s, 4) for name, s in busy.items()}


def _lay(call: _Call, isl_tokens: int, sent: Sequence[_Sent], ids: Iterator[int]) -> _Sent:
    """Return the prompt with the blocks that it shares, and new ones for the rest."""
    segments = call.message_metadata or []
    same_model = next((one for one in reversed(sent) if one.model == call.model), None)
    cached = call.tokens.cached if call.tokens else None
    candidates = [(one, 0) for one in sent[-1:]]
    if same_model:
        candidates.append((same_model, cached or 0))
    shared: Sequence[int] = ()
    for before, hit in candidates:
        agreeing = _agreeing(segments, before.segments, isl_tokens)
        tokens = min(max(agreeing, hit), isl_tokens, before.isl_tokens)
        if tokens // BLOCK_TOKENS > len(shared):
            shared = before.blocks[: tokens // BLOCK_TOKENS]
    blocks = (*shared, *(next(ids) for _ in range(isl_tokens // BLOCK_TOKENS - len(shared))))
    return _Sent(isl_tokens=isl_tokens, model=call.model, segments=segments, blocks=blocks)


def _agreeing(now: Sequence[_Segment], before: Sequence[_Segment], isl_tokens: int) -> int:
    """Return the length of the segments at the front that are alike in both prompts.

    Lengths of segments are the client's own count, so they are scaled to the prompt's length.
    """
    total = sum(segment.token_len or 0 for segment in now)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(now, before, strict=False))
    tokens = sum(segment.token_len or 0 for segment, _ in alike)
    return tokens * isl_tokens // total if total else 0


def _system_tokens(segments: Sequence[_Segment]) -> int:
    system = takewhile(lambda segment: segment.role == "system", segments)
    return sum(segment.token_len or 0 for segment in system)


def _read_csv(file: SourceFile, texts: Texts, losses: Losses) -> Iterator[Shape]:
    name = stem(file.stem_name.removesuffix(".csv"))
    columns: dict[str, int] | None = None
    sessions: dict[str, list[tuple[int, int]]] = {}
    for number, line in file.lines():
        if columns is None:
            columns = _columns(line)
            continue
        try:
            session, lengths = _row(line, columns, file.name, number)
        except ConfigError as error:
            losses.skip(error)
            continue
        if "numimages" in columns:
            losses.count("{n} requests may have had images, which are left out")
        if session is None:
            yield _shape(f"{name}/{number}", [lengths], texts, name)
        else:
            sessions.setdefault(session, []).append(lengths)
    for session, rows in sessions.items():
        losses.count("the prefixes that {n} prompts share are estimates", len(rows) - 1)
        yield _shape(f"{name}/{session}", rows, texts, name)


def _columns(line: bytes) -> dict[str, int]:
    """Return the place of each column by its name in small letters, without underscores."""
    names = line.decode("utf-8-sig", errors="replace").strip().split(",")
    return {name.strip(' "').lower().replace("_", ""): i for i, name in enumerate(names)}


def _row(
    line: bytes, columns: dict[str, int], where: str, number: int
) -> tuple[str | None, tuple[int, int]]:
    try:
        cells = next(csv.reader([line.decode("utf-8", errors="replace").strip()]))
    except csv.Error as error:
        raise broken(where, number, "", f"no row of a CSV ({error}); correct it") from error

    def length(column: str, least: int) -> int:
        place = columns[column]
        cell = cells[place] if place < len(cells) else ""
        # Not int of any length: Python takes no more than 4,300 digits.
        digits = cell.strip()[:9]
        if not digits.isdecimal() or not least <= int(digits) <= MAX_PROMPT_TOKENS:
            problem = f"{cell[:20]!r} is no number of tokens from {least} on; correct the row"
            raise broken(where, number, column, problem)
        return int(digits)

    key = next((columns[name] for name in SESSION_COLUMNS if name in columns), None)
    session = cells[key] if key is not None and key < len(cells) else None
    return session, (length("contexttokens", 1), length("generatedtokens", 0))


def _shape(id: str, rows: Sequence[tuple[int, int]], texts: Texts, name: str) -> Shape:  # noqa: A002 the field's own name
    scope, ids = Scope(texts, id, BLOCK_TOKENS), count()
    asked: list[Asked] = []
    blocks: tuple[int, ...] = ()
    before = answer = 0
    for isl, osl in rows:
        shared = blocks if isl > before else ()
        blocks = (*shared, *(next(ids) for _ in range(isl // BLOCK_TOKENS - len(shared))))
        prompt: Prompt = scope.add(blocks, isl, answer_tokens=answer)
        asked.append(Asked(prompt=prompt, isl_tokens=isl, osl_tokens=osl, tool_s=None))
        before, answer = isl, osl
    return Shape(id=id, asked=asked, source=f"azure {name}")
