"""Distributions and kinds of requests, in numbers worked by hand."""

import math
from dataclasses import replace

import msgspec
import pytest

from pytest_agentperf.labels import FIRST, NO_TOOL, SEVERAL, Labels, labels
from pytest_agentperf.metrics import summarize
from pytest_agentperf.profile import BINS, MOST_GROUPS, MOST_REASONS, PhaseProfile, profile
from pytest_agentperf.records import ClientHealth, ReadLag
from pytest_agentperf.trajectory import Message, ToolCall, Trajectory, Turn
from tests.phases import measurement, request

NONE = Labels()


def called(*names: str) -> Message:
    calls = tuple(ToolCall(id=str(i), name=name, arguments="{}") for i, name in enumerate(names))
    return Message(role="assistant", tool_calls=calls)


def session(identity: str, *appended: tuple[Message, ...], language: str = "Go") -> Trajectory:
    first = Turn(kept=0, appended=(Message(role="user", content="go"),))
    turns = (first, *(Turn(kept=1, appended=messages) for messages in appended))
    return Trajectory(id=identity, turns=turns, language=language)


def test_a_turn_is_labelled_by_the_call_whose_result_it_brings():
    result = Message(role="tool", content="ok", tool_call_id="0")
    seen = labels(
        [
            session(
                "a",
                (called("bash"), result),
                (called("read", "read"), result, result),
                (called("read", "edit"), result, result),
                (Message(role="assistant", content="done"), Message(role="user", content="more")),
                # After a compaction all that went before is appended: its last call counts.
                (called("bash"), result, called("grep"), result),
            )
        ]
    )
    assert [seen.tool("a", i) for i in range(7)] == [
        FIRST, "bash", "read", SEVERAL, NO_TOOL, "grep", None,
    ]  # fmt: skip
    assert (seen.language("a"), seen.language("b"), seen.tool("b", 0)) == ("Go", None, None)


def test_only_requests_sent_in_the_window_count():
    seen = profile(measurement([request(99.9), request(100.0), request(200.0)]), NONE)
    assert seen.ttft_s is not None
    assert seen.ttft_s.n == 1


def test_a_histogram_counts_every_value_once_and_the_endless_ones_apart():
    turns = [request(100 + i, ttft_s=0.1 * 1.1**i) for i in range(50)]
    turns += [request(160, error="reset", first_token_ns=None)] * 3
    seen = profile(measurement(turns), NONE)
    assert seen.ttft_s is not None
    assert seen.output_speed_tok_per_s is not None
    assert (len(seen.ttft_s.counts), sum(seen.ttft_s.counts)) == (BINS, 50)
    assert (seen.ttft_s.apart, seen.ttft_s.n) == (3, 53)
    assert seen.ttft_s.low == pytest.approx(0.1)
    assert seen.ttft_s.high == pytest.approx(0.1 * 1.1**49)
    assert seen.output_speed_tok_per_s.apart == 3  # a failed request is 0 tok/s


def test_bins_are_equally_wide_on_a_logarithmic_axis():
    # From 1 to 16 s the bin of 4 s is the 21st of 40: half of the way.
    turns = [request(100 + i, ttft_s=s) for i, s in enumerate((1.0, 1.0, 4.0001, 16.0))]
    seen = profile(measurement(turns), NONE).ttft_s
    assert seen is not None
    assert {i: n for i, n in enumerate(seen.counts) if n} == {0: 2, 20: 1, 39: 1}


def test_requests_are_told_apart_by_length_and_turn():
    turns = [
        request(101, isl_tokens=900, turn=0, ttft_s=1.0),
        request(102, isl_tokens=1024, turn=1, ttft_s=2.0, cached_tokens=512),
        request(103, isl_tokens=2047, turn=4, ttft_s=4.0, cached_tokens=1023),
        request(104, isl_tokens=None, turn=5, error="reset", first_token_ns=None),
    ]
    seen = profile(measurement(turns), NONE)
    assert [(g.name, g.requests, g.failed) for g in seen.by["isl"]] == [
        ("not told", 1, 1),
        ("below 1,024", 1, 0),
        ("1,024 to 2,047", 2, 0),
    ]
    assert [(g.name, g.requests) for g in seen.by["turn"]] == [
        ("1", 1),
        ("2 to 5", 2),
        ("6 to 10", 1),
    ]
    kilo = seen.by["isl"][2]
    assert kilo.ttft_s is not None
    assert kilo.ttft_s.p50 == pytest.approx(3.0)
    assert kilo.cached_ratio == pytest.approx((512 + 1023) / (1024 + 2047))
    assert "tool" not in seen.by
    assert "language" not in seen.by


def test_an_answer_that_is_silent_about_caching_had_nothing_cached_once_another_tells():
    turns = [
        request(101, turn=0, isl_tokens=1000),
        request(102, turn=1, isl_tokens=1000),
        request(103, turn=2, isl_tokens=3000, cached_tokens=2000),
    ]
    assert [g.cached_ratio for g in profile(measurement(turns), NONE).by["turn"]] == [0.0, 0.5]
    assert summarize(measurement(turns)).cached_ratio == 0.4
    silent = profile(measurement(turns[:2]), NONE)
    assert [g.cached_ratio for g in silent.by["turn"]] == [None, None]


def test_the_rarest_tools_are_taken_together():
    names = [f"tool{i:02}" for i in range(MOST_GROUPS + 3)]
    told = Labels(tools={name: [FIRST, name] for name in names})
    turns = [request(101 + i, trajectory=name) for i, name in enumerate(names)]
    turns.append(request(150, trajectory=names[-1]))
    seen = profile(measurement(turns), told)
    groups = seen.by["tool"]
    assert [g.name for g in groups[:2]] == [names[-1], "tool00"]  # the most frequent first
    assert (groups[-1].name, groups[-1].requests) == ("all others", 4)
    assert seen.taken_together == {"tool": 4}
    assert sum(g.requests for g in groups) == len(turns)


def test_reasons_of_failure_are_bounded_however_many_there_are():
    failed = [request(101, agent=i % 3, error="reset", first_token_ns=None) for i in range(5)]
    failed += [request(110 + i, error=f"HTTP 500: id {i:04}") for i in range(60)]
    seen = profile(measurement(failed), NONE)
    first = seen.failures[0]
    assert (first.reason, first.requests, first.agents) == ("reset", 5, 3)
    assert (first.first_s, first.last_s) == (1.0, 1.0)
    assert len(seen.failures) == MOST_REASONS
    assert (seen.other_reasons, seen.other_failed) == (41, 41)


def test_the_client_of_every_process_is_told():
    lag = ReadLag(stamped=9, unstamped=1, p50_s=1e-4, p95_s=2e-4, p99_s=3e-4, most_s=4e-4)
    health = ClientHealth(
        loop_lag_s=((0.0, 0.001), ()),
        cpu_ratio=0.5,
        first_sent_ns=(0,),
        read_lag=(lag,),
        gc_pause_s=0.01,
    )
    seen = profile(measurement([request()], health=health), NONE)
    assert [(x.p50_s, x.most_s, x.n) for x in seen.loop_lag] == [(0.0005, 0.001, 2)]
    assert (seen.read_lag, seen.cpu_ratio, seen.gc_pause_s) == ((lag,), 0.5, 0.01)


def test_the_judged_speed_is_the_one_that_was_asked_for():
    # 20 tokens in 2 s by usage; the first chunk's 11 of 21 leave 10 in 2 s.
    turn = request(101, first_chunk_tokens=11)
    speeds = [profile(measurement([turn]), NONE, speed=s) for s in ("usage", "first-chunk")]
    middles = [
        math.sqrt(h.low * h.high) for s in speeds if (h := s.output_speed_tok_per_s) is not None
    ]
    assert middles == pytest.approx([10.0, 5.0])


def test_a_phase_without_requests_is_empty():
    seen = profile(measurement([]), NONE)
    assert (seen.ttft_s, seen.output_speed_tok_per_s, seen.failures) == (None, None, ())
    assert all(not groups for groups in seen.by.values())


def test_a_profile_outlives_json():
    turns = [request(101), request(102, error="reset", first_token_ns=None)]
    seen = profile(measurement(turns), NONE)
    again = msgspec.convert(msgspec.to_builtins(seen), PhaseProfile, strict=False)
    assert again == replace(seen)
