"""The server's token counts held against a tokenizer's."""

from dataclasses import replace

import pytest

from pytest_agentperf.token_check import Ratios, TokenCheck, WorstCount, check_tokens
from pytest_agentperf.validity import check
from tests.phases import measurement, metrics, request
from tests.test_validity import MARKS


def found(*pairs: tuple[int, int]) -> TokenCheck:
    """Usage and our count of each answer."""
    checked = check_tokens(request(osl_tokens=u, local_osl_tokens=t) for u, t in pairs)
    assert checked is not None
    return checked


def osl(*pairs: tuple[int, int]) -> Ratios:
    ratios = found(*pairs).osl
    assert ratios is not None
    return ratios


def missed(checked: TokenCheck | None) -> list[tuple[str, bool, str]]:
    seen = check(measurement([]), replace(metrics(request()), tokens=checked), MARKS)
    return [(c.name, c.invalidates, c.text) for c in seen if not c.ok]


def test_a_right_usage_is_not_flagged():
    lengths = (40, 150, 2000, 90)
    checked = found(*((n, n) for n in lengths))
    assert (checked.answers, checked.verified, checked.verified_ratio) == (4, 4, 1.0)
    assert (checked.worst, missed(checked)) == ((), [])


@pytest.mark.parametrize("factor", [1.03, 0.97], ids=["too much", "too little"])
def test_a_usage_that_is_off_by_3_percent_makes_the_phase_invalid(factor: float):
    lengths = (100, 150, 2000, 400, 70)
    checked = found(*((round(factor * n), n) for n in lengths))
    invalid, unverified = missed(checked)
    assert (invalid[:2], unverified[:2]) == (
        ("usage against tokenizer", True),
        ("answers not verified", False),
    )
    assert f"{factor:.3f} times" in invalid[2]


def test_a_few_answers_are_only_warned_of():
    names = [(name, invalidates) for name, invalidates, _ in missed(found(*[(103, 100)] * 4))]
    assert names == [("usage against tokenizer", False), ("answers not verified", False)]


def test_the_mark_of_the_end_may_be_counted_or_not():
    # One of 20 tokens is 5 %.
    checked = found((21, 20), (19, 20), (20, 20))
    assert (checked.verified, osl((21, 20)).p50, missed(checked)) == (3, 1.0, [])


def test_marks_that_a_template_does_not_tell_move_only_short_answers():
    # Three tokens more in answers of 30 are 10 % in the median; in sum 15 of 2,150 are 0.7 %.
    ratios = osl(*[(33, 30)] * 5, (2000, 2000))
    assert (ratios.p50, ratios.pooled) == (1.1, pytest.approx(2165 / 2150))
    assert ratios.off == pytest.approx(15 / 2150)


def test_one_answer_that_is_wholly_otherwise_moves_only_the_sum():
    ratios = osl(*[(100, 100)] * 5, (9000, 100))
    assert (ratios.p50, ratios.pooled, ratios.off) == (1.0, 9500 / 600, 0.0)


def test_the_farthest_answers_are_named():
    turns = [request(osl_tokens=100 + n, local_osl_tokens=100, agent=n) for n in range(10)]
    checked = check_tokens(turns)
    assert checked is not None
    # Agents 0 to 2 agree, by one token or 2 %.
    assert checked.verified == 3
    assert [worst.agent for worst in checked.worst] == [9, 8, 7, 6, 5]
    assert checked.worst[0] == WorstCount(
        agent=9, trajectory="t", turn=1, usage_tokens=109, counted_tokens=100
    )
    (_, (_, _, text)) = missed(checked)
    assert "agent 9, turn 1 of t: 109 by usage, 100 counted" in text


def test_answers_without_a_count_are_no_evidence():
    turns = [request(osl_tokens=100), request(osl_tokens=None, local_osl_tokens=100)]
    assert check_tokens(turns) is None
    one = check_tokens([*turns, request(osl_tokens=100, local_osl_tokens=100)])
    assert one is not None
    assert (one.answers, one.osl and one.osl.n, one.verified_ratio) == (2, 1, 1.0)


def test_prompts_are_only_warned_of():
    turns = [request(isl_tokens=1030, local_isl_tokens=1000), request(isl_tokens=5)]
    checked = check_tokens(turns)
    assert checked is not None
    assert checked.osl is None
    ((name, invalidates, text),) = missed(checked)
    assert (name, invalidates) == ("prompts against tokenizer", False)
    assert "1.030 times (median; 1.030 in sum) the tokens that the tokenizer finds in 1 " in text


def test_hidden_reasoning_is_not_held_against_a_server():
    hidden = request(osl_tokens=300, local_osl_tokens=100, reasoning_tokens=200)
    assert metrics(hidden).tokens is None
