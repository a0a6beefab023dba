from dataclasses import replace

import pytest

from pytest_agentperf.serving import Late, Level, ServerMetrics
from pytest_agentperf.slo import Finding
from pytest_agentperf.symptoms import change_lines, server_line, why_line

TTFT = Finding(limit="ttft_s.p95", sign="<=", bound=3.0, observed=4.1, n=900, met=False)
SPEED = Finding(
    limit="output_speed_tok_per_s.p25", sign=">=", bound=60.0, observed=51.0, n=900, met=False
)
FULL = Late(
    limit_s=3.0, late=61, others=839, kv_use_late_ratio=0.98, kv_use_others_ratio=0.71,
    waiting_late=12.0, waiting_others=0.0,
)  # fmt: skip
SERVER = ServerMetrics(
    samples=600,
    running=Level(mean=30.0, most=42.0),
    waiting=Level(mean=1.5, most=14.0),
    kv_use_ratio=Level(mean=0.84, most=1.0),
    prefix_hit_ratio=0.62,
    accepted_ratio=0.7,
    preemptions=14.0,
    named={"queue_s": Level(mean=0.25, most=2.0)},
    late=(FULL,),
)


def why(late: Late) -> str | None:
    return why_line(TTFT, replace(SERVER, late=(late,)))


def test_a_full_cache_explains_a_late_first_token():
    assert why(FULL) == (
        "P95 TTFT broke when KV use reached 98 %: half of the 61 late requests met that or more, "
        "the others 71 %"
    )


def test_a_queue_beside_a_free_cache_explains_it():
    assert why(replace(FULL, kv_use_late_ratio=0.43)) == (
        "P95 TTFT broke in the queue: half of the 61 late requests met 12 or more waiting, the "
        "others 0, and KV use was only 43 %"
    )


def test_neither_explains_it():
    assert why(replace(FULL, kv_use_late_ratio=0.43, waiting_late=0.0)) == (
        "P95 TTFT broke without a queue, and KV use was only 43 %: the time of 61 late requests "
        "went into prefill, or was spent before the server"
    )


def test_a_server_that_tells_of_no_cache_still_tells_of_its_queue():
    text = why(replace(FULL, kv_use_late_ratio=None, kv_use_others_ratio=None, waiting_others=None))
    assert text == (
        "P95 TTFT broke in the queue: half of the 61 late requests met 12 or more waiting"
    )


@pytest.mark.parametrize(
    ("use", "text"),
    [(None, ""), (0.5, ", and KV use was only 50 %")],
    ids=["nothing", "only its cache"],
)
def test_a_server_tells_of_no_queue(use: float | None, text: str):
    late = replace(FULL, kv_use_late_ratio=use, waiting_late=None)
    assert why(late) == (
        f"P95 TTFT: the server does not tell of a queue that 61 late requests met{text}"
    )


def test_another_limit_is_not_explained_by_this_one():
    assert why_line(replace(TTFT, bound=5.0), SERVER) is None
    assert why_line(replace(TTFT, limit="error_ratio"), SERVER) is None


def test_a_low_speed_is_told_by_what_ran():
    assert why_line(SPEED, SERVER) == (
        "P25 output speed broke while 30 requests ran at once (mean), 14 were preempted and "
        "computed again, 70 % of drafted tokens were accepted, 62 % of prompts came from the cache"
    )
    assert why_line(SPEED, ServerMetrics(samples=9)) is None


def test_one_line_tells_all():
    assert server_line(SERVER) == (
        "running 30 (most 42); waiting 1.50 (most 14); KV use 84 % (most 100 %); prefix-cache hits "
        "62 %; drafts accepted 70 %; preemptions 14; queue_s 0.25 (most 2)"
    )
    assert server_line(ServerMetrics(samples=9)) == ""


def test_a_bracket_is_told_by_what_changed():
    before = replace(
        SERVER,
        kv_use_ratio=Level(mean=0.5, most=0.71),
        prefix_hit_ratio=0.93,
        preemptions=0.0,
    )
    assert change_lines(before, SERVER) == [
        "most KV use went from 71 % to 100 %",
        "prefix-cache hits went from 93 % to 62 %",
        "preemptions went from 0 to 14",
    ]
    assert change_lines(SERVER, SERVER) == []
