"""Read Mooncake's hashed traces: JSON lines, one request each, with ids for blocks of its prompt.

A row has ``timestamp`` (ms), ``input_length``, ``output_length`` and ``hash_ids``, of which the
last may stand for a partial block. Ids mean the same block in the whole file. The file does not
tell the size of a block: it is 512 tokens where that fits the lengths, else what does.

Mooncake's own traces have no sessions. A request continues the earlier one whose whole blocks it
begins with; of several that with the most, then the latest. What half of all requests begin with
is taken for a system prompt and joins nothing. What continues nothing begins a session.

Dynamo's rows add ``session_id`` and ``delay`` (ms after the answer before), and may call things
``input_tokens``, ``output_tokens``, ``created_time`` and ``delay_ms``. Its agentic rows name the
requests that they wait for: by ``wait_for`` with ``delay`` and ``tool_wait_ms``, or, where the
first line is a header, by ``dependencies``. Sources: ``lib/data-gen`` of Dynamo, and the FAST'25
traces of Mooncake.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import msgspec

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.blocks import MAX_BLOCK_TOKENS, BlockTokens, Length, Scope, Texts
from pytest_agentperf.importers.gather import stem
from pytest_agentperf.importers.lines import Count, broken, decode, misfit
from pytest_agentperf.importers.losses import Losses
from pytest_agentperf.importers.shapes import Asked, Shape, shape_up, tell_hashes
from pytest_agentperf.importers.sources import SourceFile
from pytest_agentperf.trajectory import Dataset

__all__ = ["fits", "load"]

BLOCK_TOKENS = 512
AGENTIC = "dynamo.agentic_mooncake"

Wait = Annotated[float, msgspec.Meta(ge=0)]


class _Header(msgspec.Struct):
    block_size: BlockTokens
    hash_id_scope: str = "global"


class _Dependency(msgspec.Struct):
    request_id: str
    delay_ms: Wait = 0.0
    relation: str = "sequence"


class _Row(msgspec.Struct):
    input_length: Length
    output_length: Count | None = None
    hash_ids: list[int] = []
    timestamp: float | None = None
    session_id: str | int | None = None
    delay: Wait | None = None
    request_id: str | None = None
    play_id: str = ""
    wait_for: list[str] = []
    tool_wait_ms: Wait | None = None
    dependencies: list[_Dependency] = []
    line: int = 0
    """Where it stands in the file."""

    @property
    def waited_s(self) -> float | None:
        """Time from the answer before to this request; ``None`` when the row does not tell."""
        if self.dependencies:
            chained = [one for one in self.dependencies if one.relation == "sequence"]
            return max(one.delay_ms for one in chained or self.dependencies) / 1e3
        if self.delay is None and self.tool_wait_ms is None:
            return None
        return ((self.delay or 0) + (self.tool_wait_ms or 0)) / 1e3


ALIASES = {
    "input_tokens": "input_length",
    "output_tokens": "output_length",
    "created_time": "timestamp",
    "delay_ms": "delay",
}


def load(source: str, *, strict: bool = False) -> Dataset | None:
    """Return the requests in a file, folder or archive, as sessions.

    Args:
        source: path of it.
        strict: whether a row that cannot be read ends the import.

    Returns:
        ``None`` when no file is of this format.

    Raises:
        ConfigError: no request could be read, a row could not and the import is strict, or no size
            of a block fits the lengths.
    """
    return shape_up(source, fits, _read, strict=strict)


def fits(file: SourceFile) -> bool:
    """Tell by a look at its beginning whether a file is of this format."""
    if not file.stem_name.endswith((".jsonl", ".json")):
        return False
    first = file.head().lstrip().split(b"\n", 1)[0]
    is_header = b'"schema"' in first and AGENTIC.encode() in first
    lengths = b'"input_length"' in first or b'"input_tokens"' in first
    return is_header or (b'"hash_ids"' in first and lengths and b'"requests"' not in first)


def _read(file: SourceFile, texts: Texts, losses: Losses) -> Iterator[Shape]:
    header, rows = _rows(file, losses)
    if not rows:
        return
    size = header.block_size if header else _block_tokens(rows, file.name)
    if header is None and size != BLOCK_TOKENS:
        losses.count(f"the size of a block, {size} tokens, is worked out from the lengths")
    name = stem(file.stem_name)
    is_local = header is not None and header.hash_id_scope == "local"
    scopes: dict[str, Scope] = {}
    head = _head([row.hash_ids for row in rows])
    for session in _sessions(rows, len(head), size, losses):
        first = session[0]
        scope_name = f"{name}/{first.play_id}" if is_local else name
        scope = scopes.setdefault(scope_name, Scope(texts, scope_name, size))
        told = str(first.line) if first.session_id is None else f"{first.session_id}"
        yield Shape(
            id=f"{scope_name}/{told}",
            asked=list(_ask(session, scope, head, losses)),
            source=f"mooncake {name}",
        )


def _rows(file: SourceFile, losses: Losses) -> tuple[_Header | None, list[_Row]]:
    header: _Header | None = None
    rows: list[_Row] = []
    for number, text in file.lines():
        try:
            if not rows and header is None and AGENTIC.encode() in text:
                header = decode(text, _Header, file.name, number)
                continue
            rows.append(_row(text, file.name, number))
        except ConfigError as error:
            losses.skip(error)
    return header, rows


def _row(text: bytes, where: str, line: int) -> _Row:
    value = decode(text, dict[str, Any], where, line)
    try:
        row = msgspec.convert({ALIASES.get(k, k): v for k, v in value.items()}, _Row)
    except msgspec.ValidationError as error:
        raise misfit(where, line, error) from error
    row.line = line
    return row


def _block_tokens(rows: Iterable[_Row], where: str) -> int:
    """Return the size of a block that agrees with all lengths and numbers of ids.

    Raises:
        ConfigError: there is none.
    """
    for last_is_partial in (True, False):
        least, most = 1, MAX_BLOCK_TOKENS
        for row in rows:
            n, length = len(row.hash_ids), row.input_length
            if last_is_partial and n:
                least = max(least, -(-length // n))
                most = min(most, (length - 1) // (n - 1) if n > 1 else most)
            elif not last_is_partial:
                least = max(least, length // (n + 1) + 1)
                most = min(most, length // n if n else most)
        powers = (2**k for k in range(MAX_BLOCK_TOKENS.bit_length()))
        for size in (BLOCK_TOKENS, *powers, least):
            if least <= size <= most:
                return size
    problem = "no one size of a block fits the lengths and the numbers of ids; correct its rows"
    raise broken(where, next(iter(rows)).line, "hash_ids", problem)


def _head(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the blocks that at least half of all prompts, and two or more, begin with."""
    head: list[int] = []
    for place in range(max(map(len, prompts))):
        following = Counter(
            ids[place] for ids in prompts if len(ids) > place and ids[:place] == head
        )
        block, times = following.most_common(1)[0] if following else (0, 0)
        if times < max(2, len(prompts) / 2):
            break
        head.append(block)
    return head


def _sessions(
    rows: Sequence[_Row], head: int, size: int, losses: Losses
) -> Iterable[Sequence[_Row]]:
    """Return the sessions in order of their first rows."""
    named: dict[str, list[_Row]] = {}
    waiting: list[_Row] = []
    nameless: list[_Row] = []
    for row in rows:
        if row.session_id is not None:
            named.setdefault(f"{row.play_id}/{row.session_id}", []).append(row)
        elif row.request_id is not None:
            waiting.append(row)
        else:
            nameless.append(row)
    chained = _chained(nameless, head, size)
    if nameless:
        losses.count(
            f"{{n}} requests without a session were joined to {len(chained)} by their prompts",
            len(nameless),
        )
    return sorted([*named.values(), *_followed(waiting), *chained], key=lambda one: one[0].line)


def _chained(rows: Sequence[_Row], head: int, size: int) -> list[list[_Row]]:
    """Join rows without a name by what their prompts begin with."""
    sessions: list[list[_Row]] = []
    # Sessions by the number of whole blocks of their last prompt, and the last of these.
    open_at: defaultdict[tuple[int, int], list[list[_Row]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.timestamp or 0.0):
        session = _continued(row, open_at, head)
        if session is None:
            session = list[_Row]()
            sessions.append(session)
        session.append(row)
        whole = row.input_length // size
        if head < whole <= len(row.hash_ids):
            open_at[whole, row.hash_ids[whole - 1]].append(session)
    return sessions


def _continued(
    row: _Row, open_at: dict[tuple[int, int], list[list[_Row]]], head: int
) -> list[_Row] | None:
    """Return the session whose last prompt this one continues, which is then open no more."""
    for length in range(len(row.hash_ids), head, -1):
        candidates = open_at.get((length, row.hash_ids[length - 1]), [])
        for session in reversed(candidates):
            last = session[-1]
            is_later = (last.timestamp or 0.0) < (row.timestamp or 0.0)
            if is_later and last.hash_ids[:length] == row.hash_ids[:length]:
                # Found by identity: rows may be equal, and sessions with them.
                place = next(i for i, one in enumerate(candidates) if one is session)
                del candidates[place]
                return session
    return None


def _followed(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Join rows that wait for each other; of several that wait for one, the first goes on."""
    sessions: list[list[_Row]] = []
    ending: dict[str, list[_Row]] = {}
    for row in rows:
        awaited = [*row.wait_for, *(one.request_id for one in row.dependencies)]
        found = next((ending.pop(name) for name in reversed(awaited) if name in ending), None)
        session = found if found is not None else []
        if found is None:
            sessions.append(session)
        session.append(row)
        ending[row.request_id or ""] = session
    return sessions


def _ask(session: Sequence[_Row], scope: Scope, head: list[int], losses: Losses) -> Iterator[Asked]:
    answer = 0
    pauses = [*(row.waited_s for row in session[1:]), None]
    for row, tool_s in zip(session, pauses, strict=True):
        prompt = scope.add(
            row.hash_ids,
            row.input_length,
            answer_tokens=answer,
            system_blocks=len(head) if row.hash_ids[: len(head)] == head else 0,
        )
        tell_hashes(len(row.hash_ids), row.input_length, scope, losses)
        answer = row.output_length or 0
        yield Asked(
            prompt=prompt,
            isl_tokens=row.input_length,
            osl_tokens=row.output_length,
            tool_s=tool_s,
        )
