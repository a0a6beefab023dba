import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.metrics import (
    STATISTICS,
    distribution,
    first_chunk_speed_tok_per_s,
    is_bundled,
    largest_burst,
    members,
    output_speed_tok_per_s,
    summarize,
    throughput_tok_per_s,
    ttft_s,
)
from pytest_agentperf.records import TurnRecord, Window
from tests.phases import WINDOW, measurement, metrics, ns, request

INF = math.inf
FAILED = request(error="HTTP 500: x")


class TestDistribution:
    def test_percentiles_interpolate_between_neighbours(self):
        # Ranks 0..4: P25 at 1.0, P95 at 3.8, P05 at 0.2, P99 at 3.96.
        found = distribution([50, 10, 40, 20, 30])
        assert found is not None
        assert (found.n, found.mean, found.p25, found.p50) == (5, 30, 20, 30)
        assert (found.p95, found.p05, found.p99) == pytest.approx((48, 12, 49.6))

    def test_one_value_is_every_percentile(self):
        found = distribution([7.0])
        assert found is not None
        assert {found.statistic(name) for name in STATISTICS} == {7.0}

    def test_no_values_are_no_distribution(self):
        assert distribution([]) is None

    def test_a_percentile_that_leans_on_infinity_is_infinite(self):
        # P95 of 20 values is at rank 18.05: between the 19th and the 20th.
        found = distribution([1.0] * 19 + [INF])
        assert found is not None
        assert (found.p95, found.p90, found.mean) == (INF, 1.0, INF)

    def test_a_percentile_exactly_below_infinity_is_finite(self):
        # P95 of 21 values is at rank 19.0: the 20th, whatever the 21st is.
        found = distribution([1.0] * 20 + [INF])
        assert found is not None
        assert (found.p95, found.p99) == (1.0, INF)

    def test_infinities_all_over_are_infinite(self):
        found = distribution([INF, INF, INF])
        assert found is not None
        assert (found.p05, found.p25, found.p99) == (INF, INF, INF)

    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
    def test_agrees_with_numpy(self, values: list[float]):
        found = distribution(values)
        assert found is not None
        assert [found.p05, found.p25, found.p95] == pytest.approx(
            list(np.percentile(values, [5, 25, 95]))
        )

    @given(st.lists(st.one_of(st.floats(0, 1e6), st.just(INF)), min_size=1, max_size=50))
    def test_percentiles_rise(self, values: list[float]):
        found = distribution(values)
        assert found is not None
        rising = [found.statistic(name) for name in STATISTICS[1:]]
        assert rising == sorted(rising)


class TestOneRequest:
    def test_ttft_is_first_token_less_sent(self):
        assert ttft_s(request(100.0, ttft_s=0.25)) == 0.25

    def test_speed_counts_the_tokens_after_the_first(self):
        assert output_speed_tok_per_s(request(osl_tokens=21, decode_s=2.0)) == 10  # 20 in 2 s

    def test_the_end_of_the_stream_is_no_end_of_decoding(self):
        turn = request(osl_tokens=21, decode_s=2.0)
        assert output_speed_tok_per_s(replace(turn, end_ns=turn.end_ns + ns(9))) == 10

    @pytest.mark.parametrize(
        "turn",
        [FAILED, request(error="timeout", osl_tokens=None), request(error="x", osl_tokens=1)],
        ids=["with an answer", "without a count", "after one token"],
    )
    def test_a_failed_request_has_no_first_token_and_no_speed(self, turn: TurnRecord):
        seen = ttft_s(turn), output_speed_tok_per_s(turn), first_chunk_speed_tok_per_s(turn)
        assert seen == (INF, 0.0, 0.0)

    def test_an_answer_without_a_token_never_began(self):
        assert ttft_s(request(first_token_ns=None, last_token_ns=None)) == INF

    @pytest.mark.parametrize(
        "turn",
        [
            request(osl_tokens=1),
            request(osl_tokens=0),
            request(osl_tokens=None),
            request(decode_s=0.0),
            request(first_token_ns=None, last_token_ns=None),
        ],
        ids=["one token", "no token", "an unknown count", "all in one read", "no stamp"],
    )
    def test_speed_is_undefined_for(self, turn: TurnRecord):
        turn = replace(turn, first_chunk_tokens=1)
        assert (output_speed_tok_per_s(turn), first_chunk_speed_tok_per_s(turn)) == (None, None)

    def test_two_chunks_of_four_tokens_are_judged_both_ways(self):
        # 4 tokens, 20 ms, 4 tokens: 7 / 0.02 = 350 by usage, truly 4 / 0.02 = 200 (pitfall 84).
        turn = request(osl_tokens=8, decode_s=0.02, first_chunk_tokens=4)
        assert output_speed_tok_per_s(turn) == pytest.approx(350)
        assert first_chunk_speed_tok_per_s(turn) == pytest.approx(200)

    def test_an_unknown_first_chunk_has_no_variant(self):
        assert first_chunk_speed_tok_per_s(request(first_chunk_tokens=None)) is None

    @pytest.mark.parametrize(
        ("ratio", "error", "bundled"),
        [(0.51, None, True), (0.5, None, False), (None, None, False), (1.0, "x", False)],
        ids=["more than half in one read", "half", "not known", "a failed request"],
    )
    def test_is_bundled(self, ratio: float | None, error: str | None, *, bundled: bool):
        assert is_bundled(request(largest_read_ratio=ratio, error=error)) is bundled


class TestWindow:
    @pytest.mark.parametrize(
        ("sent_s", "counts"),
        [(99.999, False), (100.0, True), (199.999, True), (200.0, False)],
        ids=["just before", "at its start", "just before its end", "at its end"],
    )
    def test_a_request_counts_by_when_it_was_sent(self, sent_s: float, *, counts: bool):
        assert bool(members([request(sent_s, decode_s=500)], WINDOW)) is counts

    def test_a_member_is_followed_past_the_end(self):
        found = metrics(request(199.0, ttft_s=5.0, decode_s=300.0))
        assert found.ttft_s is not None
        assert (found.requests, found.ttft_s.p95) == (1, 5.0)

    @given(shift_ns=st.integers(-(10**12), 10**12))
    def test_a_shift_in_time_changes_nothing(self, shift_ns: int):
        turns = [request(98.0), request(150.0, ttft_s=0.5), request(199.5), FAILED]
        moved = replace(
            measurement(shifted(t, shift_ns) for t in turns),
            window=Window(start_ns=WINDOW.start_ns + shift_ns, end_ns=WINDOW.end_ns + shift_ns),
        )
        assert summarize(moved) == summarize(measurement(turns))


def shifted(turn: TurnRecord, by_ns: int) -> TurnRecord:
    stamps = ("scheduled_ns", "sent_ns", "end_ns", "first_token_ns", "last_token_ns")
    return replace(turn, **{name: getattr(turn, name) + by_ns for name in stamps})


class TestThroughput:
    @pytest.mark.parametrize(
        ("sent_s", "tokens"),
        [(100.0, 30), (197.5, 20), (98.5, 20), (99.0, 30), (97.0, 10), (198.0, 10), (96.9, 0)],
        ids=[
            "all three chunks inside",
            "the last chunk after the end",
            "the first chunk before the start",
            "a chunk on the start counts",
            "only the last chunk inside",
            "a chunk on the end does not count",
            "all before the start",
        ],
    )
    def test_chunks_count_where_they_arrive(self, sent_s: float, tokens: int):
        # Three chunks of ten tokens, 1, 2 and 3 s after sending; the window is 100 s long.
        turn = request(sent_s, osl_tokens=30, tokens_at_s=(1.0, 2.0, 3.0))
        assert throughput_tok_per_s([turn], WINDOW) == pytest.approx(tokens / 100)

    def test_agents_add_up(self):
        turns = [request(110.0, osl_tokens=50), request(120.0, osl_tokens=150)]
        assert throughput_tok_per_s(turns, WINDOW) == pytest.approx(2.0)  # 200 in 100 s

    def test_a_long_answer_counts_in_proportion(self):
        # 300 chunks a second apart from 51 s to 350 s: those at 100 .. 199 s are a third.
        turn = request(50.0, osl_tokens=600, tokens_at_s=range(1, 301))
        assert throughput_tok_per_s([turn], WINDOW) == pytest.approx(2.0)  # 200 in 100 s

    @pytest.mark.parametrize(
        "turn",
        [request(osl_tokens=None), request(osl_tokens=0), request(token_offsets_us=b"")],
        ids=["no count", "no token", "no stamp"],
    )
    def test_nothing_is_received_from(self, turn: TurnRecord):
        assert throughput_tok_per_s([turn], WINDOW) == 0

    def test_an_empty_window_has_none(self):
        empty = Window(start_ns=ns(100), end_ns=ns(100))
        found = summarize(measurement([request()], window=empty))
        assert (found.throughput_tok_per_s, found.in_flight, found.requests) == (0, 0, 0)


class TestBurst:
    def test_lock_step_shows(self):
        assert largest_burst([ns(1)] * 40 + [ns(2)] * 3) == 40

    @pytest.mark.parametrize(
        ("stamps", "burst"),
        [([], 0), ([5], 1), ([0, 9_999_999], 2), ([0, 10_000_000], 1), ([20, 0, 10], 3)],
        ids=["no send", "one send", "just within 10 ms", "10 ms apart", "in any order"],
    )
    def test_counts_sends_within_10_ms(self, stamps: list[int], burst: int):
        assert largest_burst(stamps) == burst

    def test_even_starts_do_not_burst(self):
        # 50 sends, 4 ms apart: a span of 10 ms holds those at 0, 4 and 8.
        assert largest_burst([i * 4_000_000 for i in range(50)]) == 3


class TestSummary:
    def test_a_failure_is_in_every_judged_percentile(self):
        found = metrics(request(), request(), request(), FAILED)
        assert found.ttft_s is not None
        assert found.output_speed_tok_per_s is not None
        assert (found.ttft_s.n, found.output_speed_tok_per_s.n) == (4, 4)
        # Speeds 0, 10, 10, 10: P05 at rank 0.15 is 1.5. TTFT P95 at rank 2.85 leans on the failure.
        assert found.output_speed_tok_per_s.p05 == pytest.approx(1.5)
        assert found.ttft_s.p95 == INF

    def test_failures_are_counted_by_reason(self):
        found = metrics(request(), FAILED, FAILED, request(error="timeout"))
        assert (found.requests, found.failed, found.error_ratio) == (4, 3, 0.75)
        assert found.errors == {"HTTP 500: x": 2, "timeout": 1}

    def test_failures_outside_the_window_do_not_count(self):
        found = metrics(request(), replace(FAILED, sent_ns=ns(99)))
        assert (found.failed, found.errors, found.error_ratio) == (0, {}, 0.0)

    def test_an_undefined_speed_stays_in_ttft(self):
        found = metrics(request(), request(), request(), request(osl_tokens=1, ttft_s=9.0))
        assert found.ttft_s is not None
        assert found.output_speed_tok_per_s is not None
        assert (found.ttft_s.n, found.output_speed_tok_per_s.n) == (4, 3)
        assert found.undefined_speed_ratio == 0.25

    def test_first_chunk_speed_stands_beside_the_judged_one(self):
        turn = request(osl_tokens=8, decode_s=0.02, first_chunk_tokens=4)
        found = summarize(measurement([turn]))
        assert found.output_speed_tok_per_s is not None
        assert found.first_chunk_speed_tok_per_s is not None
        assert found.output_speed_tok_per_s.p25 == pytest.approx(350)  # 7 / 0.02
        assert found.first_chunk_speed_tok_per_s.p25 == pytest.approx(200)  # 4 / 0.02

    def test_first_chunk_speed_can_be_the_judged_one(self):
        turn = request(osl_tokens=8, decode_s=0.02, first_chunk_tokens=4)
        found = summarize(measurement([turn]), speed="first-chunk")
        assert found.output_speed_tok_per_s is not None
        assert found.output_speed_tok_per_s.p25 == pytest.approx(200)

    def test_an_unknown_first_chunk_is_undefined_where_it_is_judged(self):
        turns = [request(first_chunk_tokens=1), request(), request(), request()]
        found = summarize(measurement(turns), speed="first-chunk")
        assert found.undefined_speed_ratio == 0.75

    def test_bundled_answers_are_left_out_of_a_third_speed(self):
        found = metrics(request(), request(decode_s=0.1, largest_read_ratio=0.9), FAILED)
        assert found.unbundled_speed_tok_per_s is not None
        assert (found.unbundled_speed_tok_per_s.n, found.unbundled_speed_tok_per_s.p95) == (
            2,
            pytest.approx(9.5),  # speeds 0 and 10
        )
        assert found.bundled_ratio == 0.5  # of two answers

    def test_latency_ends_with_the_last_byte(self):
        found = metrics(request())
        assert found.e2e_s is not None
        assert found.e2e_s.p95 == 3.0  # 1 s to the first token, 2 s more

    def test_lengths_are_those_of_answers(self):
        found = metrics(request(osl_tokens=5, isl_tokens=50), request(error="x", osl_tokens=9))
        assert found.e2e_s is not None
        assert found.osl_tokens is not None
        assert found.isl_tokens is not None
        assert (found.e2e_s.p05, found.e2e_s.n) == (math.inf, 2)  # a failure never ends
        assert (found.osl_tokens.mean, found.isl_tokens.mean) == (5, 50)

    def test_hidden_reasoning_is_counted_but_not_streamed(self):
        hidden = request(reasoning_tokens=9)
        open_ = request(reasoning_tokens=9, reasoning_streamed=True)
        assert metrics(hidden, open_, request(), request()).hidden_reasoning_ratio == 0.25

    def test_cut_answers_are_a_share_of_answers(self):
        found = metrics(request(finish_reason="length"), request(), FAILED)
        assert found.length_cut_ratio == 0.5

    def test_cached_share_is_by_tokens(self):
        turns = request(cached_tokens=900), request(isl_tokens=3000, cached_tokens=300)
        assert metrics(*turns).cached_ratio == pytest.approx(0.3)  # 1200 of 4000

    def test_an_unreported_cache_is_not_an_empty_one(self):
        assert metrics(request(cached_tokens=None)).cached_ratio is None
        assert metrics(request(cached_tokens=0)).cached_ratio == 0
        # vLLM leaves the field out where nothing was cached: 500 of 2,000 tokens.
        assert metrics(request(cached_tokens=500), request()).cached_ratio == 0.25

    def test_first_prompts_of_unknown_length_are_neither_known_nor_new(self):
        whole = request(turn=0, cached_tokens=1000)
        unknown = request(turn=0, cached_tokens=1000, isl_tokens=None)
        assert metrics(whole, unknown).known_first_prompts_ratio == 1.0
        assert metrics(unknown).known_first_prompts_ratio is None

    def test_first_turns_have_a_cached_share_of_their_own(self):
        found = metrics(request(turn=0, cached_tokens=10), request(cached_tokens=990))
        assert found.first_turn_cached_ratio == pytest.approx(0.01)

    def test_trajectories_count_over_the_whole_phase(self):
        ended = [request(50.0, last_turn=True), request(150.0, last_turn=True)]
        assert metrics(*ended, request(), replace(FAILED, last_turn=True)).trajectories == 2

    @pytest.mark.parametrize(
        ("sent_s", "seconds", "mean"),
        [(120.0, 50.0, 0.5), (90.0, 20.0, 0.1), (190.0, 20.0, 0.1), (50.0, 200.0, 1.0), (0, 9, 0)],
        ids=["inside", "over the start", "over the end", "over the whole window", "before it"],
    )
    def test_in_flight_is_a_mean_over_the_window(self, sent_s: float, seconds: float, mean: float):
        turn = request(sent_s, tokens_at_s=(seconds,))
        assert metrics(turn).in_flight == pytest.approx(mean)

    def test_slip_is_sent_less_scheduled(self):
        found = metrics(request(120.0, scheduled_ns=ns(119.5)))
        assert found.slip_s is not None
        assert found.slip_s.p99 == 0.5

    def test_requests_from_before_the_window_add_to_its_throughput(self):
        # 21 tokens in two chunks, at 99.5 s and 101.5 s: half of them in 100 s.
        found = metrics(request(98.5))
        assert (found.requests, found.throughput_tok_per_s) == (0, pytest.approx(0.105))

    def test_lock_step_stands_in_the_summary(self):
        assert metrics(*[request(150.0)] * 7, *[request(50.0)] * 9).sends_in_10ms == 7

    def test_token_ratio_is_the_median_of_usage_over_local(self):
        counts = [(110, 100), (100, 100), (300, 100), (7, None), (None, 100)]
        turns = [request(osl_tokens=u, local_osl_tokens=t) for u, t in counts]
        assert metrics(*turns).token_ratio == pytest.approx(1.1)
        assert metrics(request()).token_ratio is None

    def test_osl_against_recorded_is_in_sum(self):
        turns = [request(osl_tokens=30, recorded_osl_tokens=10), request(recorded_osl_tokens=None)]
        more = request(osl_tokens=30, recorded_osl_tokens=90)
        assert metrics(*turns, more).osl_vs_recorded == 0.6  # 60 of 100
        assert metrics(request()).osl_vs_recorded is None

    def test_reconnects_are_counted(self):
        assert metrics(request(reconnected=True), request()).reconnects == 1

    def test_a_window_without_requests_has_no_percentiles(self):
        found = metrics(request(50.0))
        assert (found.requests, found.ttft_s, found.output_speed_tok_per_s) == (0, None, None)
        assert (found.e2e_s, found.slip_s, found.sends_in_10ms) == (None, None, 0)


def test_every_number_is_a_plain_one_that_json_can_hold():
    found = metrics(request(), request(sent_s=150.0), FAILED)
    assert {type(v) for v in asdict(found).values()} <= {int, float, dict, type(None)}
    json.dumps(asdict(found))


def test_reasons_without_end_are_counted_in_sum():
    failed = [request(error=f"HTTP 500: request {number}") for number in range(80)]
    found = metrics(*failed, *[request(error="HTTP 503: busy")] * 3).errors
    assert len(found) == 51
    assert (found["HTTP 503: busy"], found["other reasons"]) == (3, 31)
