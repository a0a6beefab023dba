"""Every knob once: default, unit, help. Command line, ini file and docs are generated from here."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.places import parse_places
from pytest_agentperf.user_info import refuse_user_info

__all__ = [
    "FULL_CPU_RATIO",
    "LEAST_PAIRS",
    "SMOKE",
    "Settings",
    "Value",
    "compared",
    "knobs",
    "make_settings",
    "option_name",
    "parse_value",
]

FULL_CPU_RATIO = 0.8
"""Share of a core (0-1) that a load process may use in a valid phase."""

Value = str | int | float | bool | None | tuple[str, ...]


def _knob(default: Any, text: str, *, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run was asked to do. METHODOLOGY names in brackets where a rule fixes the value."""

    endpoint: str | None = _knob(
        None, "where load goes: http(s)://HOST:PORT/v1, or sim: for the embedded simulator"
    )
    model: tuple[str, ...] = _knob((), "served model name; may be given several times")
    tier: tuple[str, ...] = _knob(
        (), "only this tier by name, or limits: NAME:speed>=50,ttft<=3; may be given several times"
    )
    slo: str | None = _knob(None, "YAML file of tiers that replaces the ones in the package")
    dataset: str = _knob("synthetic:", "trajectories to replay: a path, or synthetic:KEY=VALUE,...")
    importer: str | None = _knob(None, "format of the dataset, when detection guesses wrong")
    system: str | None = _knob(None, "system.yaml: accelerators, nodes and engine of the server")
    mode: str = _knob(
        "exact",
        "exact keeps the methodology's floors; fast aims with short phases and confirms answers "
        "by phases that keep them; smoke shortens them; neither of these two is ever conformant",
        choices=("exact", "fast", "smoke"),
    )
    api_key_file: str | None = _knob(
        None, "file that holds the endpoint's key; without it: AGENTPERF_API_KEY in the environment"
    )
    insecure_key: bool = _knob(
        default=False, text="send the key over http to another machine, where anybody may read it"
    )
    results: str = _knob("agentperf-results", "folder that gets one folder per run")
    resume: str | None = _knob(
        None, "earlier run to go on with: its folder, or its name in the folder of results"
    )
    baseline: str | None = _knob(
        None,
        "run to compare with: its bundle.json, its folder, or a folder of runs, whose last "
        "conformant one counts",
    )
    gate: str = _knob(
        "search",
        "what is measured for the comparison: search finds every capacity anew; verify measures "
        "only the baseline's capacities, a phase each; ab measures them on two endpoints in turns, "
        "and compares these",
        choices=("search", "verify", "ab"),
    )
    endpoint_b: str | None = _knob(
        None, "for gate ab: the endpoint under test; the one of --agentperf-endpoint is its measure"
    )
    pairs: int = _knob(4, "for gate ab: pairs of phases, at least 4")
    noise: str | None = _knob(
        None,
        "measured noise, made by pytest_agentperf.calibrate; else noise.json beside the baseline",
    )
    compare_anyway: bool = _knob(
        False,  # noqa: FBT003 a default
        "compare with a baseline of another system, model, dataset, settings or client; marked",
    )
    ci_json: str | None = _knob(
        None, "file for the outcome as one line of JSON; - writes it to the terminal"
    )
    max_hours: float = _knob(
        0.0, "begin no phase after so many hours of the run's own time; 0 sets no limit"
    )
    seed: int = _knob(0, "seed of assignments and sampled delays")
    workers: int | str = _knob(
        0,
        "load processes; 0 chooses by cores; ray:auto or ray://HOST:PORT runs them on the nodes of "
        "a Ray cluster, with ?workers=N behind it so many",
    )
    client: str = _knob(
        "engine",
        "what carries the load: engine stamps what the kernel received; httpx is the fallback, and "
        "marks the times as degraded",
        choices=("engine", "httpx"),
    )
    client_check_s: float = _knob(
        1.5, "check the load client for so long before the run; 0 leaves it out, s"
    )
    warmup_s: float = _knob(
        20.0,
        "agents on made-up trajectories outside the dataset warm a model up for so long before its "
        "first phase; a simulator needs none; 0 leaves it out, s",
    )
    rest_s: float = _knob(
        60.0,
        "before each phase wait until the server is idle, at most so long; 0 waits for nothing, s",
    )
    affinity_header: str | None = _knob(
        None,
        "request header, as X-Session-ID, that names the agent, for a router that keeps sessions "
        "at one replica",
    )
    meter: tuple[str, ...] = _knob(
        (),
        "power meter, KIND:TARGET?OPTION=VALUE (see docs/power.md); may be given several times; "
        "auto, as without one: the endpoint's own, else NVML where it answers and the endpoint is "
        "on this machine; none: no meter",
    )
    metrics_url: tuple[str, ...] = _knob(
        (),
        "page of metrics of the server or a worker, where it is not beside the endpoint; may be "
        "given several times",
    )
    metrics_series: tuple[str, ...] = _knob(
        (),
        'series of these pages to read besides: [NAME=]SERIES or SERIES{label="value"}; a NAME '
        "such as kv_use_ratio says what it stands for; may be given several times",
    )
    require_power: bool = _knob(
        default=False,
        text="a phase without a figure for its power is invalid, not only without that figure",
    )
    idle_s: float = _knob(10.0, "the meters are read for so long before the first phase, s")
    tokenizer: str | None = _knob(
        None,
        "the model's tokenizer, to hold usage against and to count where there is none: a folder, "
        "a name as on the hub, harmony[:FOLDER], tekken:FILE or tiktoken:FILE?split=NAME",
    )
    tokenizer_download: bool = _knob(
        False,  # noqa: FBT003 a default
        "fetch the tokenizer where it is not on this machine; else no network is asked for it",
    )

    start_agents: int = _knob(8, "agents of the first phase")
    max_agents: int = _knob(
        4096,
        "never measure more agents than this; refused before any load where this machine has no "
        "files or ports for them",
    )
    resolution: float = _knob(
        0.02, "relative resolution of the answer (0-1), never finer than 1 agent"
    )

    start_spread_s: float = _knob(30.0, "agents start spread evenly over this span, s")
    settle_s: float = _knob(30.0, "all agents active for this long before the window opens, s")
    min_trajectories: int = _knob(30, "floor: trajectories completed in a phase")
    min_trajectories_per_agent: int = _knob(3, "floor: trajectories completed by every agent")
    min_steady_s: float = _knob(600.0, "floor: length of the steady window, s")
    max_phase_s: float = _knob(14_400.0, "give a phase up as invalid after this long, s")
    request_timeout_s: float = _knob(300.0, "a request that takes longer has failed, s")

    max_down_s: float = _knob(
        600.0,
        "where the endpoint goes away in a phase, wait so long for it to answer again, and measure "
        "that phase once more, s",
    )

    tool_delay: str = _knob(
        "recorded",
        "tool time after each answer: as recorded (sampled where missing), all sampled, or none",
        choices=("recorded", "sampled", "none"),
    )
    max_tool_s: float = _knob(5.0, "tool times are clipped here, s")
    salt: str = _knob(
        "trajectory",
        "prefix that keeps the server's cache from serving one phase from another",
        choices=("trajectory", "two-level", "none"),
    )
    output: str = _knob(
        "natural",
        "answer length: the model stops by itself, recorded length as cap, or exactly recorded",
        choices=("natural", "recorded", "exact"),
    )
    max_tokens: int = _knob(16_384, "cap on output tokens of one request")
    speed: str = _knob(
        "usage",
        "judged output speed: usage is (OSL - 1) / span, first-chunk subtracts the first chunk",
        choices=("usage", "first-chunk"),
    )

    max_loop_lag_p95_s: float = _knob(0.003, "client event-loop lag, P95, above which late, s")
    max_loop_lag_p99_s: float = _knob(0.005, "client event-loop lag, P99, above which late, s")
    max_cpu_ratio: float = _knob(FULL_CPU_RATIO, "CPU of a load process above which: invalid (0-1)")
    plan: bool = _knob(
        default=False,
        text="print which phases the tests would ask for, how long they take and what they send; "
        "then end: no test runs, no endpoint is needed, nothing is sent",
    )
    live: str = _knob(
        "auto",
        "how a run is shown while it goes on: auto draws a panel on a terminal that it has to "
        "itself and writes lines elsewhere; on always draws; off always writes lines",
        choices=("auto", "on", "off"),
    )
    progress_s: float = _knob(30.0, "span between lines of progress where no panel is drawn, s")


SMOKE: Mapping[str, Value] = {
    "client_check_s": 0.0,
    "start_spread_s": 1.0,
    "settle_s": 1.0,
    "idle_s": 1.0,
    "warmup_s": 1.0,
    "rest_s": 10.0,
    "min_trajectories": 0,
    "min_trajectories_per_agent": 0,
    "min_steady_s": 5.0,
    "max_phase_s": 300.0,
    "max_agents": 256,
    "resolution": 0.2,
    "max_loop_lag_p95_s": 0.1,
    "max_loop_lag_p99_s": 0.3,
    "max_cpu_ratio": 0.95,
    "progress_s": 5.0,
    "max_down_s": 10.0,
}
"""What ``mode=smoke`` changes, where the user named no value."""

_LONGEST_REQUEST_S = 3600
"""Offsets of tokens are 32-bit microseconds in the request log."""

LEAST_PAIRS = 4
"""Fewer tell too little of how far pairs lie apart."""

_MAY_DIFFER = frozenset(
    {
        # What is compared, and what is compared by what it comes to.
        "endpoint", "endpoint_b", "pairs", "model", "tier", "slo", "dataset", "importer", "system",
        # Where results lie, how many load processes there are, what watches, what a gate does.
        "results", "resume", "workers", "meter", "progress_s", "live", "plan", "max_down_s",
        "api_key_file", "insecure_key", "tokenizer_download", "metrics_url",
        "metrics_series", "idle_s", "client_check_s", "require_power", "baseline", "gate", "noise",
        "compare_anyway", "ci_json",
        # Which phases are measured, not what a phase measures. Fast answers by full phases.
        "start_agents", "max_agents", "resolution", "max_hours", "mode",
        # Noise is what other seeds do.
        "seed",
    }
)  # fmt: skip

_POSITIVE = frozenset(
    {
        "start_agents",
        "max_agents",
        "max_phase_s",
        "request_timeout_s",
        "max_tokens",
        "min_steady_s",
        "progress_s",
        "max_cpu_ratio",
        "max_loop_lag_p95_s",
        "max_loop_lag_p99_s",
    }
)


def knobs() -> tuple[Field[Any], ...]:
    """Return the dataclass fields of `Settings`, in order."""
    return fields(Settings)


def compared() -> tuple[str, ...]:
    """Return the names of the knobs that must be equal for the figures of two runs to compare."""
    return tuple(knob.name for knob in knobs() if knob.name not in _MAY_DIFFER)


def option_name(name: str) -> str:
    """Return the command-line option of a field: ``max_agents`` is ``--agentperf-max-agents``."""
    return "--agentperf-" + name.replace("_", "-")


def parse_value(name: str, text: str) -> Value:
    """Parse the text of one knob.

    Raises:
        ConfigError: no number, or not one of the choices.
    """
    knob = next(k for k in knobs() if k.name == name)
    choices: tuple[str, ...] = knob.metadata["choices"]
    if knob.type is bool:
        return _truth(name, text)
    if choices and text not in choices:
        raise ConfigError(f"{option_name(name)}: {text!r} is not one of {', '.join(choices)}")
    kind = knob.type
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{option_name(name)} takes {wanted}, got {text!r}") from None
    if name == "workers":
        return int(text) if text.removeprefix("-").isdecimal() else text
    if tuple in (kind, getattr(kind, "__origin__", None)):
        return tuple(part for part in text.splitlines() if part.strip())
    return text


def _truth(name: str, text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no"}:
        raise ConfigError(f"{option_name(name)} is true or false, got {text!r}")
    return text.lower() in {"true", "1", "yes"}


def make_settings(given: Mapping[str, Value]) -> Settings:
    """Join what the user named with the mode's values and the defaults, and check the whole.

    Raises:
        ConfigError: a value is out of range or two of them contradict.
    """
    values: dict[str, Value] = {**(SMOKE if given.get("mode") == "smoke" else {}), **given}
    if "start_agents" not in given and isinstance(limit := values.get("max_agents"), int):
        values["start_agents"] = max(1, min(limit, Settings().start_agents))
    settings = Settings(**values)  # pyright: ignore[reportArgumentType] parse_value made the types
    for knob in knobs():
        value = getattr(settings, knob.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_range(knob.name, value)
    _check_addresses(settings)
    if settings.max_agents < settings.start_agents:
        raise ConfigError(
            f"--agentperf-max-agents {settings.max_agents} is below --agentperf-start-agents "
            f"{settings.start_agents}; raise the one or lower the other"
        )
    _check_gate(settings)
    return settings


def _check_addresses(settings: Settings) -> None:
    keyed = "a key belongs into the environment, AGENTPERF_API_KEY, or a file"
    for name in ("endpoint", "endpoint_b"):
        refuse_user_info(getattr(settings, name) or "", option_name(name), keyed)
    for url in settings.metrics_url:
        told = f"{keyed}: a page of the endpoint's own host and port is shown it"
        refuse_user_info(url, option_name("metrics_url"), told)
    parse_places(str(settings.workers))


def _check_gate(settings: Settings) -> None:
    needing = {"gate": "search", "noise": None, "compare_anyway": False}
    for name, default in needing.items():
        if settings.baseline is None and getattr(settings, name) != default:
            raise ConfigError(
                f"{option_name(name)} {getattr(settings, name)} needs a run to compare with; give "
                "--agentperf-baseline RUN"
            )
    if (settings.gate == "ab") != (settings.endpoint_b is not None):
        raise ConfigError(
            "--agentperf-gate ab and --agentperf-endpoint-b URL belong together: give both, or "
            "neither"
        )
    if settings.gate == "ab" and settings.resume is not None:
        raise ConfigError(
            "--agentperf-gate ab cannot go on with an earlier run; leave out --agentperf-resume"
        )
    if settings.gate == "ab" and (named := set(settings.meter) - {"auto", "none"}):
        raise ConfigError(
            f"--agentperf-meter {', '.join(sorted(named))}: with --agentperf-gate ab nothing tells "
            "which of the two endpoints it reads, and both would get its power; leave it out"
        )
    if settings.pairs < LEAST_PAIRS:
        raise ConfigError(
            f"--agentperf-pairs {settings.pairs}: at least {LEAST_PAIRS} tell how far pairs lie "
            "apart"
        )


def _check_range(name: str, value: float) -> None:
    low = 0 if name not in _POSITIVE else None
    if not value < float("inf") or (low is None and value <= 0) or value < 0:
        wanted = "more than 0" if low is None else "0 or more"
        raise ConfigError(f"{option_name(name)} must be {wanted}, got {value}")
    if name == "request_timeout_s" and value > _LONGEST_REQUEST_S:
        raise ConfigError(f"{option_name(name)} must be {_LONGEST_REQUEST_S} or less, got {value}")
    if name == "resolution" and value >= 1:
        raise ConfigError(f"{option_name(name)} is a share below 1, got {value}; 0.02 is 2 %")
