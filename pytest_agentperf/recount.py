"""Count answers and prompts again, once the load of a phase has stopped."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pytest_agentperf.answer import Answer
from pytest_agentperf.encoded import EncodedTrajectories
from pytest_agentperf.plan import salts
from pytest_agentperf.records import TokenCount, TurnRecord
from pytest_agentperf.tokens import LocalTokenizer
from pytest_agentperf.wire import ChatEncoder

__all__ = ["Recount"]

_PROMPTS = 16
"""So many prompts of each load process are counted: a long one takes a fifth of a second."""


class Recount:
    """Counts what one load process has sent and got."""

    def __init__(
        self,
        tokenizer: LocalTokenizer,
        *,
        trajectories: EncodedTrajectories,
        encoder: ChatEncoder,
        salt: str,
        run: str,
    ) -> None:
        """Count with a tokenizer, and know how requests were made."""
        self._tokenizer = tokenizer
        self._trajectories = trajectories
        self._encoder = encoder
        self._salt = salt
        self._run = run
        self._places = {trajectories[n].id: n for n in range(len(trajectories))}

    def counts(self, phase: int, answered: Sequence[tuple[TurnRecord, Answer]]) -> list[TokenCount]:
        """Return the counts of all answers, and of some of their prompts, spread over the phase."""
        step = max(1, len(answered) // _PROMPTS)
        return [
            self._count(phase, turn, answer, prompt=number % step == 0)
            for number, (turn, answer) in enumerate(answered)
        ]

    def _count(self, phase: int, turn: TurnRecord, answer: Answer, *, prompt: bool) -> TokenCount:
        osl_tokens, is_whole = self._tokenizer.answer_tokens(answer)
        return TokenCount(
            agent=turn.agent,
            ordinal=turn.ordinal,
            turn=turn.turn,
            osl_tokens=osl_tokens,
            is_whole=is_whole,
            first_chunk_tokens=self._tokenizer.count(answer.first_text),
            isl_tokens=self._tokenizer.prompt_tokens(self._request(phase, turn))
            if prompt
            else None,
        )

    def _request(self, phase: int, turn: TurnRecord) -> Mapping[str, Any]:
        """Return a request as it was sent."""
        place = self._places[turn.trajectory]
        encoded = self._trajectories[place]
        prefixes = salts(
            self._salt,
            run=self._run,
            phase=phase,
            agent=turn.agent,
            ordinal=turn.ordinal,
            shares_head=encoded.shares_head,
        )
        prompt = self._trajectories.prompt(place, prefixes)
        for each in encoded.turns[: turn.turn + 1]:
            prompt.go_on(each)
        tools = self._trajectories.tools(encoded.turns[turn.turn])
        return msgspec.json.decode(self._encoder.body(prompt.pieces(), tools, None))
