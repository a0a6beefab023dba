"""What servers' pages of metrics say, as recorded or in the shape of their sources."""

from pathlib import Path

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.series import Named, parse_named, read_pages

RECORDED = Path(__file__).parent / "data" / "metrics"

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="m"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
# TYPE vllm:spec_decode_num_draft_tokens counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 300.0
# TYPE vllm:spec_decode_num_accepted_tokens counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 120.0
"""
# sglang/srt/metrics/collector.py; retractions are counted by one rank of each replica.
SGLANG = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 5.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 1.0
# TYPE sglang:token_usage gauge
sglang:token_usage{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 0.28
# TYPE sglang:cache_hit_rate gauge
sglang:cache_hit_rate{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 0.0075
# TYPE sglang:spec_accept_rate gauge
sglang:spec_accept_rate{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 0.61
# TYPE sglang:num_retracted_reqs gauge
sglang:num_retracted_reqs{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 0.0
# TYPE sglang:num_retracted_requests_total counter
sglang:num_retracted_requests_total{engine_type="unified",model_name="m",tp_rank="0"} 2.0
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 8.0e+06
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{cache_source="device",model_name="m"} 6.0e+06
sglang:cached_tokens_total{cache_source="host",model_name="m"} 1.0e+06
"""
# tensorrt_llm/metrics/collector.py; its KV cache counts in blocks.
TRTLLM = """\
# TYPE trtllm_num_requests_running gauge
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 6.0
# TYPE trtllm_num_requests_waiting gauge
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 3.0
# TYPE trtllm_kv_cache_utilization gauge
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.91
# TYPE trtllm_kv_cache_hit_rate gauge
trtllm_kv_cache_hit_rate{engine_type="trtllm",model_name="m"} 0.5
# TYPE trtllm_kv_cache_reused_blocks_total counter
trtllm_kv_cache_reused_blocks_total{engine_type="trtllm",model_name="m"} 90.0
# TYPE trtllm_kv_cache_missed_blocks_total counter
trtllm_kv_cache_missed_blocks_total{engine_type="trtllm",model_name="m"} 10.0
# TYPE trtllm_spec_decode_num_draft_tokens_total counter
trtllm_spec_decode_num_draft_tokens_total{engine_type="trtllm",model_name="m"} 40.0
# TYPE trtllm_spec_decode_num_accepted_tokens_total counter
trtllm_spec_decode_num_accepted_tokens_total{engine_type="trtllm",model_name="m"} 30.0
"""
DYNAMO = """\
# TYPE dynamo_frontend_inflight_requests gauge
dynamo_frontend_inflight_requests{model="m"} 6
# TYPE dynamo_frontend_queued_requests gauge
dynamo_frontend_queued_requests{model="m"} 1
# TYPE dynamo_component_gpu_cache_usage_percent gauge
dynamo_component_gpu_cache_usage_percent{dynamo_component="backend"} 0.4
# TYPE dynamo_frontend_cached_tokens histogram
dynamo_frontend_cached_tokens_sum{model="m"} 700
dynamo_frontend_cached_tokens_count{model="m"} 2
# TYPE dynamo_frontend_input_sequence_tokens histogram
dynamo_frontend_input_sequence_tokens_sum{model="m"} 1000
dynamo_frontend_input_sequence_tokens_count{model="m"} 2
"""


def plain(*pages: str, named: tuple[Named, ...] = ()) -> dict[str, float]:
    return {name: value for name, (_, value) in read_pages(pages, named).items()}


def recorded(name: str) -> dict[str, float]:
    return plain((RECORDED / name).read_text("utf-8"))


def test_vllm_replicas_are_added_up_and_the_fullest_cache_counts():
    assert plain(VLLM) == {
        "running": 7.0,
        "waiting": 2.0,
        "kv_use_ratio": 0.75,
        "drafted": 300.0,
        "accepted": 120.0,
    }


def test_sglang_tells_ratios_beside_its_counters():
    assert plain(SGLANG) == {
        "running": 5.0,
        "waiting": 1.0,
        "kv_use_ratio": 0.28,
        "prefix_hits": 7e6,
        "prefix_queries": 8e6,
        "prefix_hit_ratio": 0.0075,
        "accepted_ratio": 0.61,
        "preemptions": 2.0,
    }


@pytest.mark.parametrize("prefix", ["trtllm_", "trtllm:"], ids=["trtllm-serve", "through Dynamo"])
def test_tensorrt_llm_counts_blocks(prefix: str):
    assert plain(TRTLLM.replace("trtllm_", prefix)) == {
        "running": 6.0,
        "waiting": 3.0,
        "kv_use_ratio": 0.91,
        "prefix_hits": 90.0,
        "prefix_queries": 100.0,  # 90 reused and 10 missed
        "prefix_hit_ratio": 0.5,
        "drafted": 40.0,
        "accepted": 30.0,
    }


def test_what_dynamo_has_queued_is_part_of_what_it_has_in_flight():
    assert plain(DYNAMO) == {
        "running": 5.0,  # 6 in flight, 1 of them without a first token
        "waiting": 1.0,
        "kv_use_ratio": 0.4,
        "prefix_hits": 700.0,
        "prefix_queries": 1000.0,
    }


def test_a_recorded_page_of_vllm():
    assert recorded("vllm-0.32.txt") == {
        "running": 0.0,
        "waiting": 0.0,
        "kv_use_ratio": 0.0,
        "prefix_hits": 25344.0,
        "prefix_queries": 60803.0,
        "preemptions": 0.0,
    }


def test_a_recorded_page_of_llama_cpp():
    assert recorded("llamacpp.txt") == {
        "running": 0.0,
        "waiting": 0.0,
        "prefix_hits": 13124.0,
        "prefix_queries": 30509.0,  # 17385 computed and 13124 reused
        "drafted": 0.0,
        "accepted": 0.0,
    }


def test_a_recorded_page_of_dynamo():
    assert recorded("dynamo-mocker.txt") == {
        "running": 0.0,
        "waiting": 0.0,
        "prefix_hits": 12736.0,
        "prefix_queries": 25144.0,
    }


@pytest.mark.parametrize(
    "page",
    ["vllm:num_requests_running 3\n", "up 1\n", "", "<html>no page of metrics</html>\n"],
    ids=["half", "other", "empty", "html"],
)
def test_a_page_says_nothing(page: str):
    assert plain(page) == {}


def test_a_number_that_is_none_is_not_told():
    assert "kv_use_ratio" not in plain("vllm:kv_cache_usage_perc NaN\n")


def test_units_tell_a_moment_from_a_count():
    told = read_pages([SGLANG])
    assert {n for n, (unit, _) in told.items() if unit == "n"} == {
        "prefix_hits",
        "prefix_queries",
        "preemptions",
    }


def test_pages_of_one_deployment_are_added_up():
    assert plain(VLLM, VLLM)["running"] == 14.0
    assert plain(VLLM, VLLM)["kv_use_ratio"] == 0.75


def test_a_router_and_its_workers_are_not_added_up():
    told = plain(DYNAMO, VLLM)
    assert (told["running"], told["waiting"], told["prefix_queries"]) == (7.0, 2.0, 1000.0)


def test_any_series_by_name_is_added_up():
    named = (parse_named("vllm:num_requests_waiting", "--x"),)
    assert read_pages([VLLM], named)["vllm:num_requests_waiting"] == ("1", 2.0)


def test_labels_choose_among_a_series():
    named = (parse_named('second=vllm:num_requests_running{engine="1"}', "--x"),)
    assert read_pages([VLLM], named)["second"] == ("1", 4.0)


def test_a_series_may_stand_for_a_quantity():
    named = (parse_named("kv_use_ratio=own_cache", "--x"),)
    page = "# TYPE own_cache gauge\nown_cache 0.5\n" + VLLM
    assert read_pages([page], named)["kv_use_ratio"] == ("1", 0.5)


def test_a_counter_by_name_counts():
    named = (parse_named("own_total", "--x"),)
    assert read_pages(["# TYPE own_total counter\nown_total 9\n"], named)["own_total"] == ("n", 9.0)


def test_a_series_by_name_that_is_not_there_is_not_told():
    named = (parse_named('own{a="2"}', "--x"),)
    assert read_pages(['own{a="1"} 3\n'], named) == {}


@pytest.mark.parametrize(
    "text", ["a b", "", "x{y}", '{a="1"}'], ids=["two words", "nothing", "no value", "no name"]
)
def test_a_text_that_is_no_series_is_refused(text: str):
    with pytest.raises(ConfigError) as refused:
        parse_named(text, "--agentperf-metrics-series")
    assert str(refused.value).startswith(
        f"--agentperf-metrics-series {text!r} is no series; write "
    )
