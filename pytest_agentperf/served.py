"""Is what the server sent counted, new to its cache, and the answer of a model at work?"""

from pytest_agentperf.checks import Check, Marks, at_most
from pytest_agentperf.metrics import Metrics
from pytest_agentperf.token_check import MOST_OFF, Ratios, TokenCheck, WorstCount

__all__ = ["check_served"]

_KNOWN_FIRST_PROMPTS = 0.05
_OSL_RATIO = 2.0
_UNVERIFIED = 0.05
_FEWEST_ANSWERS = 5
"""One answer of a few, such as one with a broken tool call, says nothing of a server's counts."""


def check_served(metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    """Check the answers of one phase."""
    return (
        *_counts(metrics, marks),
        *_streams(metrics),
        *_verified(metrics.tokens),
        *_answers(metrics),
        _salt(metrics, marks),
    )


def _counts(metrics: Metrics, marks: Marks) -> tuple[Check, ...]:
    answered = metrics.requests - metrics.failed
    counted = metrics.osl_tokens.n if metrics.osl_tokens else 0
    return (
        Check(
            name="tokens counted",
            value=counted,
            limit=answered,
            ok=counted == answered,
            invalidates=True,
            text="answers came without usage: serve with stream_options.include_usage, "
            "or give --agentperf-tokenizer",
        ),
        at_most(
            "first chunks not counted",
            metrics.uncounted_first_chunks if marks.first_chunk_judged else None,
            0,
            "a tier is judged by first-chunk speed, and not every first chunk could be counted: "
            "give --agentperf-tokenizer, or serve with usage on every chunk",
        ),
    )


def _streams(metrics: Metrics) -> tuple[Check, ...]:
    """What of the answers' timing leans on how they were sent."""
    speed, by_first_chunk = metrics.usage_speed_tok_per_s, metrics.first_chunk_speed_tok_per_s
    parted = None
    # Percentiles of different requests must not be compared: not every first chunk can be counted.
    if speed and by_first_chunk and speed.n == by_first_chunk.n and by_first_chunk.p25:
        parted = abs(speed.p25 / by_first_chunk.p25 - 1)
    return (
        at_most(
            "undefined speeds",
            metrics.undefined_speed_ratio,
            0.05,
            "many answers came in one piece or with one token: P25 speed leans on the rest",
            warning=True,
        ),
        at_most(
            "bundled first chunk",
            parted,
            0.02,
            "P25 speed parts from its first-chunk variant: the server bundles tokens",
            warning=True,
        ),
        at_most(
            "hidden reasoning",
            metrics.hidden_reasoning_ratio,
            0.05,
            "reasoning tokens were counted but never streamed: TTFT is not comparable",
            warning=True,
        ),
    )


def _verified(check: TokenCheck | None) -> tuple[Check, ...]:
    """Are the tokens there that all speeds are made of?"""
    osl = check.osl if check else None
    isl = check.isl if check else None
    agreed = check.verified_ratio if check else None
    farthest = "; ".join(map(_words, check.worst)) if check else ""
    return (
        at_most(
            "usage against tokenizer",
            osl.off if osl else None,
            MOST_OFF,
            f"usage says {_times(osl)} answers, so every speed is off by as much: the server "
            "counts wrongly, or this is another model's tokenizer or template; the farthest: "
            f"{farthest}",
            warning=osl is not None and osl.n < _FEWEST_ANSWERS,
        ),
        at_most(
            "answers not verified",
            None if agreed is None else 1 - agreed,
            _UNVERIFIED,
            f"in these and more answers usage and tokenizer part: {farthest}",
            warning=True,
        ),
        at_most(
            "prompts against tokenizer",
            isl.off if isl else None,
            MOST_OFF,
            f"usage says {_times(isl)} prompts: the server writes them by another template, or "
            "cuts them",
            warning=True,
        ),
    )


def _times(ratios: Ratios | None) -> str:
    if ratios is None:
        return ""
    factor = f"{ratios.p50:.3f} times (median; {ratios.pooled:.3f} in sum)"
    return f"{factor} the tokens that the tokenizer finds in {ratios.n}"


def _words(worst: WorstCount) -> str:
    return (
        f"agent {worst.agent}, turn {worst.turn} of {worst.trajectory}: "
        f"{worst.usage_tokens} by usage, {worst.counted_tokens} counted"
    )


def _answers(metrics: Metrics) -> tuple[Check, ...]:
    """Are these the answers of the model that was recorded, or of a broken one that is fast?"""
    osl = metrics.osl_vs_recorded
    far = None if osl is None else max(osl, 1 / osl) if osl else float("inf")
    empty = metrics.errors.get("empty answer", 0)
    return (
        at_most(
            "output length against recorded",
            far,
            _OSL_RATIO,
            f"answers were {osl or 0:.2f} times as long as the recorded ones: another model, "
            "reasoning effort or template; compare the request fields with the tier file's",
            warning=True,
        ),
        at_most(
            "cut by max_tokens",
            metrics.length_cut_ratio,
            0.05,
            "many answers ended at max_tokens and not by themselves: read a few, for a loop or an "
            "effort that is too high",
            warning=True,
        ),
        at_most(
            "empty answers",
            empty / metrics.requests if metrics.requests else None,
            0.01,
            f"{empty} answers held no token, and count as failed: look at the server's template "
            "and its parsers of reasoning and tool calls",
            warning=True,
        ),
        at_most(
            "looping answers",
            metrics.looping_ratio,
            0.01,
            "answers ended in one short piece, over and over: the server's sampling, quantisation "
            "or speculation is broken, and its speed is not that of a model at work",
            warning=True,
        ),
    )


def _salt(metrics: Metrics, marks: Marks) -> Check:
    known = metrics.known_first_prompts_ratio or 0.0
    # Tools that a template puts before the salt are cached for good reason; whole prompts are not.
    survives = marks.salted and known > _KNOWN_FIRST_PROMPTS
    return at_most(
        "first-turn cached share",
        None if marks.shared_system_prompt else metrics.first_turn_cached_ratio,
        0.1,
        f"the server knew {known:.0%} of the first prompts whole: what an earlier phase had it "
        "compute was served again; find the cache that answers in spite of the salt"
        if survives
        else "the server knew first prompts already: the salt does not reach its prefix cache",
        warning=not survives,
    )
