"""An answer, and what its model wrote to give it: its parts with the template's marks around them.

A server parses reasoning and tool calls out of what the model wrote, and counts the tokens of all.
What was written is found by rendering the answer as the last message of a conversation, without
what stands before it anyhow.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

__all__ = ["Render", "Spoken", "Vocabulary", "loaded_arguments", "written"]

Render = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""Messages, and whether the beginning of an answer follows them → the prompt as text.

It may raise anything: templates refuse what they do not know in their own ways.
"""

_NO_REASONING = re.compile(r"^\s*<think>\s*</think>\s*")
"""Templates that put this before every last answer do so for models that had it in their prompt."""
_QUESTION = {"role": "user", "content": "Go on."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What came of one answer."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, str], ...]
    """Name and arguments of every tool call."""
    ended: bool
    """The model ended by itself, by a mark that nobody sees; else it was cut."""

    @property
    def parts(self) -> tuple[str, ...]:
        """All text, in order."""
        called = (text for call in self.calls for text in call)
        return tuple(text for text in (self.reasoning, self.content, *called) if text)

    @property
    def is_plain(self) -> bool:
        """Tell whether there is nothing but content: no template writes marks around that."""
        return not self.reasoning and not self.calls


class Vocabulary(Protocol):
    """A model's tokenizer."""

    def count(self, text: str) -> int:
        """Return the tokens of a text, without any that mark begin or end."""
        ...

    def answer_tokens(self, spoken: Spoken) -> int | None:
        """Return the tokens of an answer as its model wrote it; ``None``: no template tells."""
        ...

    def prompt_tokens(self, request: Mapping[str, Any]) -> int | None:
        """Return the tokens of a request's prompt; ``None``: no template tells."""
        ...


def written(render: Render, spoken: Spoken) -> str | None:
    """Return an answer as a model wrote it, with its end mark.

    ``None`` where the template does not write all of it: some drop reasoning, or know no tools.
    """
    for message in _messages(spoken):
        try:
            after = render([_QUESTION, message], False)  # noqa: FBT003 a callable has no keywords
            before = render([_QUESTION], True)  # noqa: FBT003 as above
        except Exception:  # noqa: BLE001, S112 the next way of putting it may please the template
            continue
        # Some templates begin an answer otherwise when it is past: what both share was not written.
        answer = after[_shared(before, after) :]
        if not spoken.reasoning:
            answer = _NO_REASONING.sub("", answer)
        end = _end_of_parts(answer, spoken)
        if end is not None:
            return answer.rstrip() if spoken.ended else answer[:end]
    return None


def loaded_arguments(text: str) -> Any:
    """Return the arguments of a call as most templates want them; text where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _messages(spoken: Spoken) -> Iterator[dict[str, Any]]:
    """Yield the answer as a message in the ways that templates differ in."""
    empty = (None, "") if spoken.calls and not spoken.content else (spoken.content,)
    loads = (loaded_arguments, str) if spoken.calls else (str,)
    for content, load in product(empty, loads):
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if spoken.reasoning:
            names = ("reasoning_content", "reasoning", "thinking")
            message |= dict.fromkeys(names, spoken.reasoning)
        if spoken.calls:
            message["tool_calls"] = [
                {
                    "id": f"call{n}",
                    "type": "function",
                    "function": {"name": name, "arguments": load(arguments)},
                }
                for n, (name, arguments) in enumerate(spoken.calls)
            ]
        yield message


def _shared(one: str, other: str) -> int:
    """Return the length of the beginning that two texts share, up to a mark that is not whole."""
    pairs = zip(one, other, strict=False)
    parted = (n for n, (a, b) in enumerate(pairs) if a != b)
    length = next(parted, min(len(one), len(other)))
    opened = one.rfind("<", 0, length)
    return opened if opened > one.rfind(">", 0, length) else length


def _end_of_parts(answer: str, spoken: Spoken) -> int | None:
    """Return where the last part of an answer ends; ``None`` where one is missing."""
    at = 0
    for part in spoken.parts:
        wanted = part.strip()
        found = answer.find(wanted, at)
        if found < 0:
            # Arguments may have been written anew from what they mean.
            wanted = json.dumps(loaded_arguments(part), ensure_ascii=False)
            found = answer.find(wanted, at)
        if found < 0:
            return None
        at = found + len(wanted)
    return at
