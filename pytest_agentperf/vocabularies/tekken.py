"""Mistral's tokenizers, ``tekken.json``: package ``mistral-common``."""

from collections.abc import Mapping
from typing import Any

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.vocabularies.optional import needed
from pytest_agentperf.vocabularies.written import Spoken

__all__ = ["Tekken"]


class Tekken:
    """A tekken file, and the template that its version stands for."""

    def __init__(self, file: str) -> None:
        """Load it.

        Raises:
            ConfigError: package or file is missing, or the file is no tokenizer.
        """

        def module(name: str) -> Any:
            name = f"mistral_common.{name}"
            return needed(name, package="mistral-common", tokenizer=f"tekken:{file}")

        self._messages = module("protocol.instruct.messages")
        self._calls = module("protocol.instruct.tool_calls")
        self._requests = module("protocol.instruct.request")
        opened = module("tokens.tokenizers.mistral").MistralTokenizer
        try:
            self._tokenizer = opened.from_file(file)
        except Exception as failed:  # the package raises its own kinds, and bare ones
            raise ConfigError(
                f"--agentperf-tokenizer tekken:{file}: no tokenizer could be read: {failed}"
            ) from failed
        self._instruct: Any = self._tokenizer.instruct_tokenizer

    def count(self, text: str) -> int:
        """See `Vocabulary`."""
        return len(self._instruct.tokenizer.encode(text, bos=False, eos=False)) if text else 0

    def answer_tokens(self, spoken: Spoken) -> int | None:
        """See `Vocabulary`."""
        if spoken.reasoning:
            return None  # written by newer versions in ways of their own
        question = self._messages.UserMessage(content="Go on.")
        answer = self._messages.AssistantMessage(
            content=spoken.content or None,
            tool_calls=[
                self._calls.ToolCall(
                    id=f"call{n:05}",
                    function=self._calls.FunctionCall(name=name, arguments=arguments),
                )
                for n, (name, arguments) in enumerate(spoken.calls)
            ]
            or None,
        )
        try:
            tokens = self._tokens([question, answer]) - self._tokens([question])
        except Exception:  # noqa: BLE001 a file of an old version knows no tools
            return None
        return tokens - (not spoken.ended)

    def prompt_tokens(self, request: Mapping[str, Any]) -> int | None:
        """See `Vocabulary`."""
        try:
            chat = self._requests.ChatCompletionRequest.from_openai(
                messages=request["messages"], tools=request.get("tools")
            )
            return len(self._tokenizer.encode_chat_completion(chat).tokens)
        except Exception:  # noqa: BLE001 the package raises its own kinds, and bare ones
            return None

    def _tokens(self, messages: list[Any]) -> int:
        request = self._requests.InstructRequest(messages=messages)
        return len(self._instruct.encode_instruct(request).tokens)
