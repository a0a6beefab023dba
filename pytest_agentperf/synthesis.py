"""Make up a dataset from distributions and a seed.

The same arguments give the same dataset on every machine and under every version of Python and
numpy: only the raw integers of PCG64 are used, which numpy promises to keep (NEP 19), and what
passes through a logarithm is rounded at once. Every trajectory has a stream of its own, so a
larger dataset begins with the smaller one. Lengths hold at 4 characters a token, exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import Any

import msgspec
from numpy.random import PCG64

from pytest_agentperf.errors import ConfigError, did_you_mean
from pytest_agentperf.synthetic_text import LANGUAGES, Book, arguments, choose_tool, tool_schemas
from pytest_agentperf.trajectory import Dataset, Message, ToolCall, Trajectory, Turn

__all__ = ["SCHEME", "Lognormal", "parse_synthetic", "synthesize"]

SCHEME = "synthetic:"
CHARS_PER_TOKEN = 4
MAX_ISL_TOKENS = 131_072 - 16_384
"""What the longest published context leaves beside ``max_tokens`` (METHODOLOGY, section 1)."""
SYSTEM_TOKENS = 2_000
MIN_RESULT_TOKENS = 8
LEAST_GROWTH = 1.2
"""Of prompts with a drawn mean, over what the answers in them come to."""
TASK = "Find out why this goes wrong and mend it; the tests should pass afterwards.\n\n"
CORRELATION = 0.8
"""Of the number of turns with the mean ISL of a trajectory: long sessions grow long prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """A distribution by two of its quantiles."""

    median: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """What may be asked for, and to where drawn values are clipped."""

    low: float
    high: float
    drawn_low: float
    drawn_high: float
    whole: bool = True


BOUNDS = {
    "turns": _Bounds(low=1, high=1_000, drawn_low=1, drawn_high=200),
    "isl": _Bounds(low=800, high=MAX_ISL_TOKENS, drawn_low=800, drawn_high=MAX_ISL_TOKENS),
    "osl": _Bounds(low=16, high=16_384, drawn_low=16, drawn_high=16_384),
    "tool_s": _Bounds(low=0, high=600, drawn_low=0.05, drawn_high=5, whole=False),
}
FIRST = Lognormal(median=5_000, p95=6_500)
FIRST_BOUNDS = _Bounds(low=800, high=9_000, drawn_low=4_000, drawn_high=9_000)
# Sizes of tool results relative to each other: most are short, a file now and then is long.
RESULT = Lognormal(median=1, p95=8)
# The mean ISL over all prompts comes to 27,000, since long trajectories have more of them.
DEFAULTS: dict[str, float | Lognormal] = {
    "turns": Lognormal(median=38, p95=100),
    "isl": Lognormal(median=15_000, p95=36_000),
    "osl": Lognormal(median=150, p95=2_000),
    "tool_s": Lognormal(median=1, p95=4),
}


def synthesize(
    *,
    trajectories: int = 100,
    turns: float | Lognormal = DEFAULTS["turns"],
    isl_tokens: float | Lognormal = DEFAULTS["isl"],
    osl_tokens: float | Lognormal = DEFAULTS["osl"],
    tool_s: float | Lognormal = DEFAULTS["tool_s"],
    seed: int = 7,
) -> Dataset:
    """Make up coding sessions with these lengths and tool times.

    A plain number holds for every trajectory, turn or pause; a ``Lognormal`` is drawn from. The
    defaults follow the published workload of AA-AgentPerf.

    Args:
        trajectories: how many, 1 or more.
        turns: requests a trajectory.
        isl_tokens: mean ISL over the prompts of a trajectory; they grow from about 5,000 tokens,
            or less where the mean is small, to at most 114,688.
        osl_tokens: length of each answer, reasoning included.
        tool_s: seconds of tool time after each answer.
        seed: 0 or more; another seed gives other lengths and other text.

    Raises:
        ConfigError: a value is out of range, or plain numbers contradict each other.
    """
    shape = {"turns": turns, "isl": isl_tokens, "osl": osl_tokens, "tool_s": tool_s}
    for key, value in shape.items():
        _check(key, value)
    _check_whole("trajectories", trajectories, least=1)
    _check_whole("seed", seed, least=0)
    numbers = ",".join(f"{key}={_spelt(value)}" for key, value in shape.items())
    plans = [_plan(_Draws(seed, n), shape) for n in range(1, trajectories + 1)]
    common = _Draws(seed, 0)
    writer = _Writer(Book(common.below), common)
    return Dataset(
        name=f"{SCHEME}{numbers},seed={seed},trajectories={trajectories}",
        trajectories=tuple(
            writer.trajectory(f"synthetic-{seed}-{n}", plan) for n, plan in enumerate(plans, 1)
        ),
        losses=_losses(plans),
    )


def parse_synthetic(source: str) -> Dataset:
    """Return the dataset that a text such as ``synthetic:turns=12,osl=150~2000,seed=7`` asks for.

    After the colon stand ``key=value`` pairs, separated by commas. ``turns``, ``isl``, ``osl`` and
    ``tool_s`` take a number, or ``MEDIAN~P95`` for a lognormal distribution; ``seed`` and
    ``trajectories`` take a whole number. What is left out has its default.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    known = [*BOUNDS, "seed", "trajectories"]
    given: dict[str, Any] = {}
    for part in filter(None, source.removeprefix(SCHEME).split(",")):
        key, _, text = (piece.strip() for piece in part.partition("="))
        if key not in known:
            raise ConfigError(f"dataset {source!r}: unknown key {key!r}{did_you_mean(key, known)}")
        if key in given:
            raise ConfigError(f"dataset {source!r}: {key!r} is given twice; give it once")
        given[key] = _value(text) if key in BOUNDS else _number(text)
        if given[key] is None:
            form = "NUMBER or MEDIAN~P95" if key in BOUNDS else "a whole number"
            raise ConfigError(f"dataset {source!r}: {key} is {text!r}; give {form}")
    names = {"isl": "isl_tokens", "osl": "osl_tokens"}
    return synthesize(**{names.get(key, key): value for key, value in given.items()})


def _value(text: str) -> float | Lognormal | None:
    median, tilde, p95 = text.partition("~")
    low, high = _number(median), _number(p95 if tilde else median)
    if low is None or high is None:
        return None
    return Lognormal(median=low, p95=high) if tilde else low


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _spelt(value: float | Lognormal) -> str:
    if isinstance(value, Lognormal):
        return f"{_spelt(value.median)}~{_spelt(value.p95)}"
    return str(int(value)) if value == int(value) else repr(float(value))


def _check(key: str, value: float | Lognormal) -> None:
    bounds = BOUNDS[key]
    numbers = (value.median, value.p95) if isinstance(value, Lognormal) else (value,)
    for number in numbers:
        # "not within" rather than "outside", so that NaN is refused too.
        if not bounds.low <= number <= bounds.high:
            raise ConfigError(
                f"synthetic {key}: {number} is out of range; give {bounds.low} to {bounds.high}"
            )
        if bounds.whole and number != int(number):
            raise ConfigError(f"synthetic {key}: {number} is no whole number; give one")
    if isinstance(value, Lognormal) and not 0 < value.median <= value.p95:
        raise ConfigError(f"synthetic {key}: {_spelt(value)}; give a median above 0, at most P95")


def _check_whole(key: str, value: float, least: int) -> None:
    if not (isinstance(value, int) and value >= least):
        raise ConfigError(f"synthetic {key}: {value}; give a whole number, {least} or more")


class _Draws:
    """One stream of random numbers."""

    def __init__(self, seed: int, stream: int) -> None:
        self._bits = PCG64([seed, stream])

    def below(self, end: int) -> int:
        return self._bits.random_raw() * end >> 64

    def normal(self) -> float:
        # The middle of one of 2**52 equal steps: never 0 or 1, where the quantile is infinite.
        return NormalDist().inv_cdf(((self._bits.random_raw() >> 12) + 0.5) * 2.0**-52)

    def value(self, key: str, value: float | Lognormal, normal: float | None = None) -> float:
        """Return the number itself, or one drawn from the distribution, clipped and rounded."""
        if not isinstance(value, Lognormal):
            return value
        bounds = FIRST_BOUNDS if key == "first" else BOUNDS[key]
        drawn = _quantile(value, self.normal() if normal is None else normal)
        clipped = min(max(drawn, bounds.drawn_low), bounds.drawn_high)
        return round(clipped) if bounds.whole else round(clipped, 3)


def _quantile(value: Lognormal, normal: float) -> float:
    # 1.6449: the normal distribution's P95.
    return value.median * math.exp(math.log(value.p95 / value.median) / 1.6449 * normal)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The lengths of one trajectory in tokens, before any text is written."""

    draws: _Draws
    first: int
    outputs: Sequence[int]
    results: Sequence[int]
    tool_s: Sequence[float]
    ends_early: bool
    """The answers alone outgrow the mean or the limit before the drawn number of turns."""
    is_shortened: bool
    """Its longest answers were shortened, so that the number of turns asked for fits."""


def _plan(draws: _Draws, shape: dict[str, float | Lognormal]) -> _Plan:
    length = draws.normal()
    turns = int(draws.value("turns", shape["turns"], length))
    along = CORRELATION * length + math.sqrt(1 - CORRELATION**2) * draws.normal()
    isl = draws.value("isl", shape["isl"], along)
    first = draws.value("first", FIRST)
    outputs = [int(draws.value("osl", shape["osl"])) for _ in range(turns)]
    tool_s = [float(draws.value("tool_s", shape["tool_s"])) for _ in range(turns)]
    isl_is_drawn = isinstance(shape["isl"], Lognormal)
    fitting, start, mean = _fit(first, isl, outputs, isl_is_drawn=isl_is_drawn)
    longest = drawn_longest = max(outputs)
    # A plain number of turns is a promise: drawn answers give way to it, plain ones contradict it.
    while fitting < turns and not isinstance(shape["turns"], Lognormal):
        if longest < 2 * BOUNDS["osl"].low or not isinstance(shape["osl"], Lognormal):
            raise ConfigError(
                f"synthetic turns: {turns} answers outgrow isl={_spelt(shape['isl'])} or the limit "
                f"of {MAX_ISL_TOKENS} after turn {fitting}; raise isl or lower turns or osl"
            )
        longest //= 2
        outputs = [min(tokens, longest) for tokens in outputs]
        fitting, start, mean = _fit(first, isl, outputs, isl_is_drawn=isl_is_drawn)
    return _Plan(
        draws=draws,
        first=start,
        outputs=outputs[:fitting],
        results=_results(draws, start, mean, outputs[: fitting - 1]),
        tool_s=tool_s[:fitting],
        ends_early=fitting < turns,
        is_shortened=longest < drawn_longest,
    )


def _fit(
    first: float, isl: float, outputs: Sequence[int], *, isl_is_drawn: bool
) -> tuple[int, int, float]:
    """Return how many turns fit, the first prompt's length and the mean ISL, both in tokens.

    Answers stay in the history, so they alone set a lower bound to the mean. A drawn mean gives
    way to it; one that was asked for is kept, and the trajectory ends earlier instead.
    """
    grown = _grown(outputs[:-1])
    # Of a mean that must hold, half is left to growth; a drawn one grows with its answers.
    start = min(first, max(BOUNDS["isl"].low, isl * (0.9 if isl_is_drawn else 0.5)))
    for turns in range(len(outputs), 1, -1):
        average = sum(grown[:turns]) / turns
        room = MAX_ISL_TOKENS - grown[turns - 1]
        low, high = start + average, room + average
        target = min(max(isl, start + LEAST_GROWTH * average), high) if isl_is_drawn else isl
        if low <= target <= high:
            # A mean near the limit is only reached from a longer first prompt.
            reached = turns * (target - average) - room * (turns - 1)
            return turns, round(max(start, reached)), target
    return 1, round(isl), isl


def _grown(outputs: Sequence[int]) -> list[int]:
    return list(accumulate((tokens + MIN_RESULT_TOKENS for tokens in outputs), initial=0))


def _results(draws: _Draws, first: int, isl: float, outputs: Sequence[int]) -> list[int]:
    """Return the length of each tool result in tokens, so that the mean ISL comes out."""
    if not outputs:
        return []
    weights = (round(max(_quantile(RESULT, draws.normal()), 0.01), 3) for _ in outputs)
    totals = list(accumulate(weights))
    grown = _grown(outputs)
    room = max(MAX_ISL_TOKENS - first - grown[-1], 0)
    wanted = len(grown) * (isl - first) - sum(grown)
    low, high = 0.0, room / totals[0]
    for _ in range(50):
        scale = (low + high) / 2
        if sum(min(scale * total, room) for total in totals) < wanted:
            low = scale
        else:
            high = scale
    sizes = [0, *(round(min(high * total, room)) for total in totals)]
    return [after - before + MIN_RESULT_TOKENS for before, after in pairwise(sizes)]


class _Writer:
    """Fills plans with text."""

    def __init__(self, book: Book, draws: _Draws) -> None:
        self._book = book
        self._tools = tool_schemas()
        self._tool_chars = len(msgspec.json.encode(self._tools))
        # One text for all trajectories, as one harness sends it.
        rules = book.cut("rules", SYSTEM_TOKENS * CHARS_PER_TOKEN, draws.below)
        self._rules = f"You are a coding agent and work alone in one repository.\n{rules}"

    def trajectory(self, name: str, plan: _Plan) -> Trajectory:
        """Write one trajectory."""
        language = LANGUAGES[plan.draws.below(len(LANGUAGES))]
        turns: list[Turn] = []
        isl, kept = plan.first, 0
        appended = self._opening(plan, language)
        for n, osl in enumerate(plan.outputs):
            turns.append(
                Turn(
                    kept=kept,
                    appended=appended,
                    recorded_isl_tokens=isl,
                    recorded_osl_tokens=osl,
                    tool_s=plan.tool_s[n],
                )
            )
            kept += len(appended)
            if n < len(plan.results):
                appended = self._exchange(plan, language, n)
                isl += osl + plan.results[n]
        return Trajectory(
            id=name, turns=tuple(turns), tools=self._tools, language=language, harness="synthetic"
        )

    def _opening(self, plan: _Plan, language: str) -> tuple[Message, ...]:
        chars = plan.first * CHARS_PER_TOKEN - self._tool_chars
        system = self._rules[: chars * 6 // 10]
        chars -= len(system)
        words = TASK + self._book.cut("prose", chars // 3, plan.draws.below)
        code = self._book.cut(language, chars - len(words), plan.draws.below)
        return (Message(role="system", content=system), Message(role="user", content=words + code))

    def _exchange(self, plan: _Plan, language: str, n: int) -> tuple[Message, ...]:
        below = plan.draws.below
        tool = choose_tool(plan.outputs[n], plan.results[n], below)
        chars = plan.outputs[n] * CHARS_PER_TOKEN
        text = arguments(tool, language, chars // 2, self._book, below)
        chars -= len(tool) + len(text)
        content = self._book.cut("prose", min(chars // 8, 240), below)
        reasoning = self._book.cut("prose", chars - len(content), below)
        call = ToolCall(id=f"call_{n}_{below(2**32):08x}", name=tool, arguments=text)
        kind = language if tool in {"read_file", "edit_file"} else tool
        result = self._book.cut(kind, plan.results[n] * CHARS_PER_TOKEN, below)
        return (
            Message(role="assistant", content=content, reasoning=reasoning, tool_calls=(call,)),
            Message(role="tool", content=result, tool_call_id=call.id),
        )


def _losses(plans: Sequence[_Plan]) -> tuple[str, ...]:
    made_up = f"all text is made up; a token is taken to be {CHARS_PER_TOKEN} characters"
    early = sum(plan.ends_early for plan in plans)
    shortened = sum(plan.is_shortened for plan in plans)
    sentences = {
        made_up: 1,
        f"{early} trajectories end before the drawn turn: answers alone fill their prompts": early,
        f"{shortened} trajectories have their longest answers shortened to fit": shortened,
    }
    return tuple(sentence for sentence, times in sentences.items() if times)
