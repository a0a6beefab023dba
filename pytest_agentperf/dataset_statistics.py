"""What a dataset is like in numbers: lengths, delays, tools, and how far prompts repeat."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.importers.harness import estimate
from pytest_agentperf.languages import answers, language
from pytest_agentperf.trajectory import WITHHELD, Dataset, Message, Trajectory, Turn, prompts

__all__ = [
    "PUBLISHED",
    "PUBLISHED_PROMPTS",
    "PUBLISHED_TRAJECTORIES",
    "Quantiles",
    "Statistics",
    "statistics",
]

PUBLISHED_TRAJECTORIES = 500
PUBLISHED_PROMPTS = 18_997
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "turns": {"mean": 38, "max": 200},
    "isl_tokens": {"mean": 27_000, "min": 5_000, "max": 131_000},
    "osl_tokens": {"p50": 150, "p95": 2_000},
    "tool_s": {"min": 0.1, "p50": 1, "max": 5},
}
"""What is published of AA-AgentPerf's tuning set (docs/methodology.md), all of it rounded."""

Watch = Callable[[Sequence[Trajectory]], Iterable[Trajectory]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Some numbers in short; quantiles are interpolated linearly."""

    n: int
    mean: float
    min: float
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """One dataset in numbers. Of a private one, names and losses are withheld."""

    name: str
    sha256: str
    private: bool
    trajectories: int
    prompts: int
    turns: Quantiles
    """Prompts a trajectory."""
    isl_tokens: Quantiles
    estimated_isl: int
    """Prompts whose length is not recorded but estimated at 4 characters a token."""
    osl_tokens: Quantiles | None
    tool_s: Quantiles | None
    languages: Mapping[str, int]
    """Trajectories of each; where it is not recorded, by the files that the calls name."""
    languages_by_files: int
    """Trajectories whose language is not recorded."""
    harnesses: Mapping[str, int]
    tools: Mapping[str, int]
    """Calls of each in the answers that the prompts show, the most called first."""
    following: int
    """Prompts that are not the first of their trajectory."""
    extending_ratio: float | None
    """Share of them that begin with the whole previous prompt."""
    ideal_cache_hit_ratio: float
    """Share of all prompt tokens that a perfect prefix cache for each trajectory would hold."""
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    isl_tokens: int
    is_estimated: bool
    held_ratio: float
    """Share of it that the requests before it left in the cache."""
    extends: bool | None
    """``None`` for the first one."""


def statistics(dataset: Dataset, *, watch: Watch = iter) -> Statistics:
    """Return a dataset in numbers.

    The prefix cache holds what the last request of the trajectory left there: of the kept messages
    and, where all are kept, of the answer that follows them. Tool schemas stand in front; where
    they change, nothing is held. Trajectories share nothing, since each is salted.

    Args:
        dataset: what is described.
        watch: sees every trajectory go by, for a progress bar.

    Raises:
        ConfigError: it holds no prompt.
    """
    seen = [prompt for one in watch(dataset.trajectories) for prompt in _read(one)]
    turns = [turn for one in dataset.trajectories for turn in one.turns]
    turn_counts = _quantiles([len(one.turns) for one in dataset.trajectories])
    isl_tokens = _quantiles([prompt.isl_tokens for prompt in seen])
    if turn_counts is None or isl_tokens is None:
        raise ConfigError(f"dataset {dataset.name!r} holds no prompt; give another one")
    following = [prompt.extends for prompt in seen if prompt.extends is not None]
    open_to_all = not dataset.private
    return Statistics(
        name=dataset.name if open_to_all else WITHHELD,
        sha256=dataset.sha256,
        private=dataset.private,
        trajectories=len(dataset.trajectories),
        prompts=len(seen),
        turns=turn_counts,
        isl_tokens=isl_tokens,
        estimated_isl=sum(prompt.is_estimated for prompt in seen),
        osl_tokens=_quantiles([turn.recorded_osl_tokens for turn in turns]),
        tool_s=_quantiles([turn.tool_s for turn in turns]),
        languages=_count(map(language, dataset.trajectories)) if open_to_all else {},
        languages_by_files=sum(not one.language for one in dataset.trajectories),
        harnesses=_count(one.harness for one in dataset.trajectories) if open_to_all else {},
        tools=_count(_calls(dataset.trajectories)) if open_to_all else {},
        following=len(following),
        extending_ratio=sum(following) / len(following) if following else None,
        ideal_cache_hit_ratio=_hit_ratio(seen),
        losses=dataset.losses if open_to_all else (),
    )


def _quantiles(values: Iterable[float | None]) -> Quantiles | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, p05, p25, p50, p75, p95, high = map(
        float, np.quantile(known, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
    )
    mean = float(np.mean(known))
    return Quantiles(
        n=len(known), mean=mean, min=low, p05=p05, p25=p25, p50=p50, p75=p75, p95=p95, max=high
    )


def _count(names: Iterable[str | None]) -> dict[str, int]:
    counted = Counter(name for name in names if name)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _calls(trajectories: Iterable[Trajectory]) -> Iterator[str]:
    for trajectory in trajectories:
        for answer in answers(trajectory):
            yield from (call.name for call in answer.tool_calls)


def _hit_ratio(seen: Iterable[_Prompt]) -> float:
    pairs = [(prompt.isl_tokens, prompt.held_ratio) for prompt in seen]
    total = sum(tokens for tokens, _ in pairs)
    return sum(tokens * ratio for tokens, ratio in pairs) / total if total else 0.0


def _read(trajectory: Trajectory) -> Iterator[_Prompt]:
    sizes: list[int] = []
    offered: Sequence[dict[str, Any]] | None = None
    schemas = 0
    for turn, prompt in zip(trajectory.turns, prompts(trajectory), strict=True):
        tools = trajectory.tools if turn.tools is None else turn.tools
        is_same = tools == offered
        schemas = schemas if is_same else estimate((), tools)
        before, sizes = len(sizes), sizes[: turn.kept] + list(map(_size, turn.appended))
        held = _held(turn, before, sizes) if is_same else 0
        held += schemas if held else 0
        recorded = turn.recorded_isl_tokens
        yield _Prompt(
            isl_tokens=estimate(prompt, tools) if recorded is None else recorded,
            is_estimated=recorded is None,
            held_ratio=held / (sum(sizes) + schemas) if held else 0.0,
            extends=None if offered is None else turn.kept == before,
        )
        offered = tools


def _held(turn: Turn, before: int, sizes: Sequence[int]) -> int:
    """Return the size of what is in the cache already, schemas aside."""
    answered = turn.appended[:1] if turn.kept == before else ()
    held = turn.kept + sum(message.role == "assistant" for message in answered)
    return sum(sizes[:held])


def _size(message: Message) -> int:
    return estimate((message,))
