"""The page ``/metrics``: what vLLM and dcgm-exporter would publish of this deployment."""

from collections.abc import Callable, Mapping, Sequence

from pytest_agentperf.sim.fleet import ReplicaStatus
from pytest_agentperf.sim.pacer import Lateness

__all__ = ["FINISH_REASONS", "metrics_page"]

FINISH_REASONS = ("stop", "length", "abort")
"""How vLLM's engine counts requests; one that ends in a tool call has stopped."""

# Name, type and help are vLLM's.
_VLLM: tuple[tuple[str, str, str, Callable[[ReplicaStatus], float]], ...] = (
    (
        "num_requests_running",
        "gauge",
        "Number of requests in model execution batches.",
        lambda row: row.running,
    ),
    (
        "num_requests_waiting",
        "gauge",
        "Number of requests waiting to be processed.",
        lambda row: row.waiting,
    ),
    (
        "kv_cache_usage_perc",
        "gauge",
        "KV-cache usage. 1 means 100 percent usage.",
        lambda row: row.kv_use_ratio,
    ),
    (
        "prefix_cache_queries_total",
        "counter",
        "Prefix cache queries, in terms of number of queried tokens.",
        lambda row: row.counters.prefix_queries_tokens,
    ),
    (
        "prefix_cache_hits_total",
        "counter",
        "Prefix cache hits, in terms of number of cached tokens.",
        lambda row: row.counters.prefix_hits_tokens,
    ),
    (
        "num_preemptions_total",
        "counter",
        "Cumulative number of preemption from the engine.",
        lambda row: row.counters.preemptions,
    ),
    (
        "prompt_tokens_total",
        "counter",
        "Number of prefill tokens processed.",
        lambda row: row.counters.prompt_tokens,
    ),
    (
        "generation_tokens_total",
        "counter",
        "Number of generation tokens processed.",
        lambda row: row.counters.generation_tokens,
    ),
    (
        "spec_decode_num_draft_tokens_total",
        "counter",
        "Number of spec decoding draft tokens.",
        lambda row: row.counters.draft_tokens,
    ),
    (
        "spec_decode_num_accepted_tokens_total",
        "counter",
        "Number of spec decoding accepted tokens.",
        lambda row: row.counters.accepted_tokens,
    ),
)


def metrics_page(
    replicas: Sequence[ReplicaStatus],
    *,
    model: str,
    finished: Mapping[str, int],
    lateness: Lateness,
) -> bytes:
    """Return the page.

    Args:
        replicas: one row each.
        model: the first name that is served.
        finished: requests by finish reason.
        lateness: how well the server keeps its clock.
    """
    families = [
        _family(
            f"vllm:{name}",
            kind,
            text,
            {
                f'engine="{place}",model_name="{model}"': str(float(value(row)))
                for place, row in enumerate(replicas)
            },
        )
        for name, kind, text, value in _VLLM
    ]
    families.append(_finished(model, finished))
    families += _power(replicas)
    families += _own(lateness)
    return "".join(families).encode()


def _finished(model: str, finished: Mapping[str, int]) -> str:
    # Without an engine label: a request may have been on two replicas.
    values = {
        f'finished_reason="{reason}",model_name="{model}"': str(float(finished.get(reason, 0)))
        for reason in FINISH_REASONS
    }
    text = "Count of successfully processed requests."
    return _family("vllm:request_success_total", "counter", text, values)


def _power(replicas: Sequence[ReplicaStatus]) -> list[str]:
    """Return power and energy; a replica's accelerators share both alike."""
    shares = [
        (row.power_w / row.accelerators, row.energy_j * 1000 / row.accelerators)
        for row in replicas
        for _ in range(row.accelerators)
    ]
    labels = [
        f'gpu="{gpu}",UUID="sim-{gpu}",modelName="agentperf-sim"' for gpu in range(len(shares))
    ]
    watts = {label: f"{power:.6f}" for label, (power, _) in zip(labels, shares, strict=True)}
    millijoules = {
        label: f"{energy:.0f}" for label, (_, energy) in zip(labels, shares, strict=True)
    }
    total = "Total energy consumption since boot (in mJ)."
    return [
        _family("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", watts),
        _family("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", total, millijoules),
    ]


def _own(lateness: Lateness) -> list[str]:
    steps, late, worst = "steps_total", "late_steps_total", "behind_seconds_max"
    rows = (
        (steps, "counter", "Steps whose end was handed out.", lateness.steps),
        (late, "counter", "Steps handed out more than 50 ms late.", lateness.late_steps),
        (worst, "gauge", "Longest that a step was handed out late.", lateness.worst_s),
    )
    return [
        _family(f"agentperf_sim_{name}", kind, text, {"": str(float(value))})
        for name, kind, text, value in rows
    ]


def _family(name: str, kind: str, text: str, values: Mapping[str, str]) -> str:
    lines = [f"# HELP {name} {text}\n# TYPE {name} {kind}\n"]
    for labels, value in values.items():
        lines.append(f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n")
    return "".join(lines)
