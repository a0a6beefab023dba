"""An answer as a server streams it, and the lines that a recorder writes of it."""

from pathlib import Path
from typing import Any

import msgspec

from pytest_agentperf.trajectory import ToolCall

CALL = ToolCall(id="c1", name="bash", arguments='{"command": "ls"}')


def events(*values: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(value) for value in values)


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def call(**function: str) -> dict[str, Any]:
    named = {"id": "c1"} if "name" in function else {}
    return chunk(tool_calls=[{"index": 0, **named, "function": function}])


CHAT = (
    events(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="Hm. "),
        chunk(content="I "),
        chunk(content="look."),
        call(name="bash", arguments=""),
        call(arguments='{"command"'),
        call(arguments=': "ls"}'),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
    )
    + b"data: [DONE]\n\n"
)


def lines(path: Path) -> list[Any]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
