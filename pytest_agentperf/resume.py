"""An earlier run that is gone on with: read it, and refuse it where it measured something else."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_agentperf.bench import Inputs, Models
from pytest_agentperf.bundle import Bundle, read_bundle
from pytest_agentperf.errors import ConfigError, did_you_mean
from pytest_agentperf.server_settings import setting_changes
from pytest_agentperf.settings import Settings, knobs, option_name
from pytest_agentperf.slo import ModelSpec, SLOTier
from pytest_agentperf.system import System

__all__ = [
    "check_same",
    "differs",
    "hardware",
    "read_run",
    "setting_differences",
    "spec_differences",
]

_MAY_DIFFER = frozenset(
    {
        # Compared by what they come to, not by how they are given.
        "endpoint", "model", "tier", "slo", "dataset", "importer", "system",
        # Where results lie, how many load processes there are, what watches.
        "results", "resume", "workers", "meter", "metrics_url", "metrics_series", "idle_s",
        "client_check_s", "progress_s", "live", "plan", "max_down_s", "api_key_file",
        "insecure_key", "tokenizer_download",
        # What the results are held against.
        "baseline", "gate", "pairs", "noise", "compare_anyway", "ci_json",
        # Which phases are measured, not what a phase measures.
        "start_agents", "max_agents", "resolution", "max_hours",
    }
)  # fmt: skip
_SPEC = ("context_tokens", "max_tokens", "request", "reasoning_field")


def read_run(name: str, results: str) -> Bundle:
    """Read the bundle of a run; nothing is written there.

    Args:
        name: the run's folder, or its name in the folder of results.
        results: the folder of results.

    Raises:
        ConfigError: there is no such run, or its bundle cannot be read.
    """
    folders = (Path(name), Path(results) / name)
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        known = [p.parent.name for p in Path(results).glob("*/bundle.json")]
        hint = did_you_mean(name, known) if known else "; there are none"
        raise ConfigError(f"--agentperf-resume {name!r}: no such run in {results}{hint}")
    path = folder / "bundle.json"
    try:
        data = path.read_bytes()
    except OSError as failed:
        raise ConfigError(
            f"--agentperf-resume {name!r}: {path} cannot be read: {failed}; nothing can be taken "
            "over from this run: start one without --agentperf-resume"
        ) from failed
    run = read_bundle(data, f"--agentperf-resume {path}")
    if run.rescored is not None:
        raise ConfigError(
            f"--agentperf-resume {name!r}: it judges run {run.rescored.run} again and has measured "
            "nothing itself; go on with that run"
        )
    return run


def check_same(run: Bundle, settings: Settings, models: Models, inputs: Inputs) -> None:
    """Check that a run's phases are what this one would measure.

    Raises:
        ConfigError: they are not; names what differs, with both values.
    """
    found = [
        *_endpoint(run, settings, inputs),
        *setting_differences(run.settings, settings, _compared()),
        *_models(run, models, inputs),
    ]
    if found:
        raise ConfigError(
            f"--agentperf-resume: run {run.provenance.run} measured something else: "
            f"{'; '.join(found)}. Make them equal, or start a run without --agentperf-resume"
        )


def _endpoint(run: Bundle, settings: Settings, inputs: Inputs) -> Iterator[str]:
    then, now = run.provenance, inputs.endpoint
    yield from differs("server", then.server, now.server)
    yield from differs("simulated", then.simulated, now.simulated)
    yield from setting_changes(then.server_settings, now.settings)
    if now.simulated:  # the address is the system
        yield from differs("--agentperf-endpoint", run.settings.endpoint, settings.endpoint)
    if run.system is not None and inputs.system is not None:
        yield from differs("--agentperf-system", hardware(run.system), hardware(inputs.system))


def _compared() -> Iterator[str]:
    return (knob.name for knob in knobs() if knob.name not in _MAY_DIFFER)


def hardware(system: System | None) -> str:
    """Return, in words, what was declared that any two runs must have in common."""
    if system is None:
        return "not declared"
    return f"{system.systems} systems of {system.accelerators} x {system.accelerator} in all"


def setting_differences(then: Settings, now: Settings, names: Iterable[str]) -> Iterator[str]:
    """Yield in which of these settings two runs differ, with both values."""
    for name in names:
        yield from differs(option_name(name), getattr(then, name), getattr(now, name))


def _models(run: Bundle, models: Models, inputs: Inputs) -> Iterator[str]:
    digest = inputs.dataset.sha256 if run.models else ""
    for then in run.models:
        name = then.spec.model
        if name not in models.specs:
            yield from differs("--agentperf-model", name, ", ".join(models.specs))
            continue
        yield from spec_differences(then.spec, models.specs[name])
        yield from differs("dataset sha256", then.dataset.sha256, digest)


def spec_differences(then: ModelSpec, now: ModelSpec) -> Iterator[str]:
    """Yield in what two specs of one model differ that a phase would show, with both values."""
    model = now.model
    for name in _SPEC:
        yield from differs(
            f"{model}: {name}", _plain(getattr(then, name)), _plain(getattr(now, name))
        )
    before, tiers = ({_limits(tier) for tier in spec.tiers} for spec in (then, now))
    if before != tiers:
        yield from differs(f"{model}: tiers", *map(_listed, (before - tiers, tiers - before)))


def _limits(tier: SLOTier) -> SLOTier:
    # How many agents a test asks for is no limit of the tier.
    return replace(tier, min_agents=1)


def _listed(tiers: set[SLOTier]) -> str:
    shown = (
        f"{t.name} ({', '.join(f'{x.name} {x.sign} {x.value:g}' for x in t.limits)}, "
        f"error_ratio <= {t.max_error_ratio:g})"
        for t in tiers
    )
    return ", ".join(sorted(shown)) or "none other"


def _plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    return msgspec.json.decode(msgspec.json.encode(value))


def differs(name: str, then: Any, now: Any) -> Iterator[str]:
    """Yield, where two values differ, what they are."""
    if then != now:
        yield f"{name} was {then!r} and is {now!r}"
