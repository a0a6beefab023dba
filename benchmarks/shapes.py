"""The simulated systems of all studies, what they replay, and the tiers they are held to."""

from pytest_agentperf.slo import Limit, ModelSpec, SLOTier

__all__ = [
    "DATASET",
    "DEFAULT_DATASET",
    "LONG",
    "LONG_DATASET",
    "PARTIAL",
    "PUBLISHED_TURNS",
    "QUIET",
    "SHAPES",
    "SPEC",
    "TIERS",
    "replayed_on",
]

DATASET = "synthetic:turns=10~24,isl=12000~30000,osl=120~900,tool_s=0.5~3,seed=11"
PUBLISHED_TURNS = DATASET.replace("turns=10~24", "turns=24~52")
"""As many prompts a trajectory as the published ones have, 38 in the mean: longer phases."""
TIERS = {"slo-1": (20.0, 10.0), "slo-2": (60.0, 5.0), "slo-3": (180.0, 3.0)}
"""P25 of output speed at least, tok/s, and P95 of TTFT at most, s."""
QUIET = "stream_interval=100000"
"""First and last token, which are all that counts here, go out when they always do."""
_QUEUE = (
    "acceptance=&max_sequences=24&step_overhead_s=0.004&sequence_overhead_s=0.001"
    "&flops_per_token=2e10&kv_capacity_tokens=100000000"
)
SHAPES = {
    "smooth": "acceptance=&max_sequences=512&step_overhead_s=0.004&sequence_overhead_s=0.001"
    "&flops_per_token=2e10&kv_capacity_tokens=100000000",
    "queue": _QUEUE,
    "queue-long": _QUEUE,
    "cliff": "acceptance=&max_sequences=512&step_overhead_s=0.004&sequence_overhead_s=0.0005"
    "&flops_per_token=5e10&kv_capacity_tokens=900000",
    "small": "acceptance=&max_sequences=64&step_overhead_s=0.012&sequence_overhead_s=0.006"
    "&flops_per_token=1e11&kv_capacity_tokens=100000000",
}
"""What binds: output speed; places in the batch, and so TTFT; the KV cache; a slow machine.

All replay ``DATASET`` but ``queue-long``, whose trajectories are as long as the published ones:
where agents wait for places, one phase says least surely what its P95 TTFT is.
"""
PARTIAL = (
    "acceptance=&max_sequences=512&step_overhead_s=0.004&sequence_overhead_s=0.0002"
    "&flops_per_token=2e9&kv_capacity_tokens=900000"
)
"""A cache that contexts pass mildly, before prefill so cheap that what it lost is soon there again:
prefixes are found in part, and nothing collapses."""
LONG = (
    "acceptance=&max_sequences=512&step_overhead_s=0.004&flops_per_token=1e10"
    "&kv_read_bytes_per_token=200000&kv_capacity_tokens=100000000"
)
LONG_DATASET = "synthetic:turns=20~40,isl=30000~90000,osl=120~900,tool_s=0.5~3,seed=11"
"""A system whose speed hangs on the length of the contexts, and trajectories that grow to 90K."""
DEFAULT = LONG.replace("kv_read_bytes_per_token=200000", "kv_read_bytes_per_token=50000")
DEFAULT_DATASET = "synthetic:aa"
"""What a run replays that names nothing: first prompts of 5K tokens, last ones of up to 131K.

Its system is so fast that no answer meets the time limit: an agent whose request fails begins a
trajectory anew, at short contexts.
"""


def replayed_on(shape: str) -> tuple[str, str]:
    """Return the deployment of a shape, or of ``default``, and the dataset that it is given."""
    if shape == "default":
        return DEFAULT, DEFAULT_DATASET
    return SHAPES[shape], PUBLISHED_TURNS if shape == "queue-long" else DATASET


SPEC = ModelSpec(
    model="model",
    tiers=tuple(
        SLOTier(
            model="model",
            name=name,
            limits=(
                Limit(metric="output_speed_tok_per_s", statistic="p25", value=speed),
                Limit(metric="ttft_s", statistic="p95", value=ttft),
            ),
        )
        for name, (speed, ttft) in TIERS.items()
    ),
)
