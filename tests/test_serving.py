"""What a server counted over a window, in numbers worked by hand."""

import pytest

from pytest_agentperf.records import Measurement, Sample
from pytest_agentperf.serving import Late, Level, ServerMetrics, serve
from tests.phases import measurement, ns, request


def level(series: str, *values: tuple[float, float]) -> tuple[Sample, ...]:
    return tuple(Sample(at_ns=ns(s), series=series, unit="1", value=v) for s, v in values)


def count(series: str, *values: tuple[float, float]) -> tuple[Sample, ...]:
    return tuple(Sample(at_ns=ns(s), series=series, unit="n", value=v) for s, v in values)


def served(*samples: Sample, limits_s: tuple[float, ...] = (), turns: tuple[object, ...] = ()):
    phase = measurement(turns, samples=samples)  # pyright: ignore[reportArgumentType] records
    found = serve(phase, limits_s)
    assert found is not None
    return found


def test_levels_are_those_inside_the_window():
    found = served(*level("kv_use_ratio", (99, 0.9), (120, 0.2), (130, 0.6), (201, 1.0)))
    assert found == ServerMetrics(samples=2, kv_use_ratio=Level(mean=0.4, most=0.6))


def test_a_ratio_is_that_of_the_window_alone():
    # Before the window 500 of 1,000; in it 300 of 400.
    found = served(
        *count("prefix_hits", (90, 500), (150, 600), (199, 800), (250, 9000)),
        *count("prefix_queries", (90, 1000), (150, 1200), (199, 1400), (250, 9900)),
    )
    assert found.prefix_hit_ratio == 0.75


def test_counters_win_over_a_gauge_of_the_same():
    found = served(
        *count("drafted", (100, 0), (150, 100)),
        *count("accepted", (100, 0), (150, 60)),
        *level("accepted_ratio", (100, 0.9), (150, 0.9)),
    )
    assert found.accepted_ratio == 0.6


def test_a_gauge_is_taken_where_nothing_is_counted():
    assert served(*level("accepted_ratio", (100, 0.5), (150, 0.7))).accepted_ratio == pytest.approx(
        0.6
    )


def test_nothing_looked_up_is_no_ratio():
    found = served(*count("drafted", (100, 0), (150, 0)), *count("accepted", (100, 0), (150, 0)))
    assert found.accepted_ratio is None


def test_a_server_that_was_started_anew_has_no_count():
    assert served(*count("preemptions", (100, 7), (150, 9), (180, 1))).preemptions is None


def test_preemptions_are_those_of_the_window():
    assert served(*count("preemptions", (95, 7), (150, 9), (180, 12), (210, 40))).preemptions == 5


def test_series_by_name_are_kept_and_counters_told_a_second():
    found = served(
        *level("queue", (100, 1), (150, 3)),
        *count("own_total", (100, 0), (150, 100), (199, 149)),
    )
    assert found.named["queue"] == Level(mean=2.0, most=3.0)
    # 149 in 100 s; at most 100 in the first 50 s.
    assert found.named["own_total"] == Level(mean=1.49, most=2.0)


def test_a_server_that_was_silent_tells_nothing():
    assert serve(measurement((), samples=level("running", (10, 1), (20, 1), (150, 1)))) is None
    assert serve(measurement(())) is None


def test_power_is_no_count_of_the_server():
    watts = tuple(Sample(at_ns=ns(s), series="gpu0", unit="W", value=1) for s in range(100, 200))
    assert serve(measurement((), samples=watts)) is None


def late_phase() -> Measurement:
    """Three requests that wait 4 s from 150 on, when the cache is full, and five that do not."""
    quick = [request(sent_s, ttft_s=1.0) for sent_s in (101, 105, 110, 115, 120)]
    slow = [request(sent_s, ttft_s=4.0) for sent_s in (150, 151, 152)]
    return measurement(
        [*quick, *slow],
        samples=(
            *level("kv_use_ratio", (100, 0.5), (130, 0.7), (151, 0.98), (199, 0.98)),
            *level("waiting", (100, 0), (130, 0), (151, 6), (199, 6)),
        ),
    )


def test_late_requests_are_told_by_what_they_met():
    found = serve(late_phase(), [3.0])
    assert found is not None
    assert found.late == (
        Late(
            limit_s=3.0,
            late=3,
            others=5,
            kv_use_late_ratio=0.98,
            kv_use_others_ratio=0.5,
            waiting_late=6.0,
            waiting_others=0.0,
        ),
    )


def test_where_nobody_is_late_nothing_was_met():
    found = serve(late_phase(), [5.0])
    assert found is not None
    assert (found.late[0].late, found.late[0].kv_use_late_ratio) == (0, None)


def test_a_failed_request_is_late():
    phase = measurement(
        [request(150, error="reset")], samples=level("kv_use_ratio", (149, 1), (155, 1))
    )
    found = serve(phase, [9.0])
    assert found is not None
    assert (found.late[0].late, found.late[0].kv_use_late_ratio) == (1, 1.0)
