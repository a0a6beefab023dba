"""The baseline of a gate: find it, refuse it where it is of something else, and its noise."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_agentperf.bench import Inputs, Models
from pytest_agentperf.bundle import Bundle, ModelRun, provenance, read_bundle
from pytest_agentperf.conformance import is_conformant
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.gate import Gate
from pytest_agentperf.resume import differs, hardware, setting_differences, spec_differences
from pytest_agentperf.settings import Settings, compared
from pytest_agentperf.slo import ModelSpec
from pytest_agentperf.spread import Noise, parse_noise

__all__ = [
    "accept",
    "carried_agents",
    "check_answers",
    "differences",
    "read_baseline",
    "read_noise",
    "verified_agents",
]

_OPTION = "--agentperf-baseline"


def accept(settings: Settings, models: Models, inputs: Inputs) -> tuple[Gate, Models]:
    """Return the baseline that a run names, and what is to be measured for it.

    Raises:
        ConfigError: there is none, it lacks an answer, or it is of something else.
    """
    baseline, path = read_baseline(settings.baseline or "")
    check_answers(baseline, models)
    found = differences(baseline, settings, models, inputs)
    if found and not settings.compare_anyway:
        raise ConfigError(
            f"{_OPTION}: run {baseline.provenance.run} cannot be compared with: {'; '.join(found)}."
            " Make them equal, measure a new baseline, or pass --agentperf-compare-anyway, which "
            "marks the comparison"
        )
    gate = Gate(
        baseline=baseline,
        noise=read_noise(settings.noise, baseline, path),
        differences=tuple(found),
    )
    if settings.gate == "search":
        return gate, models
    carried = verified_agents(baseline)
    if settings.gate == "ab":
        _check_carried(baseline, models, carried)
    return gate, replace(models, verify=carried)


def _check_carried(
    baseline: Bundle, models: Models, carried: Mapping[str, Mapping[str, int]]
) -> None:
    none = [
        f"{model} {tier.name}"
        for model, spec in models.specs.items()
        for tier in spec.tiers
        if tier.name not in carried.get(model, {})
    ]
    if none:
        raise ConfigError(
            f"--agentperf-gate ab: run {baseline.provenance.run} carries no agent of "
            f"{', '.join(none)}; leave these tiers out by --agentperf-tier"
        )


def read_baseline(name: str) -> tuple[Bundle, Path]:
    """Read a baseline, and tell which file it is.

    Args:
        name: a ``bundle.json``, a run's folder, or a folder of runs: then its last run that is
            conformant and did not itself regress.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = Path(name)
    path = path / "bundle.json" if (path / "bundle.json").is_file() else path
    if path.is_file():
        return _read(path), path
    found = [(_read(p), p) for p in sorted(path.glob("*/bundle.json"))]
    if not found:
        raise ConfigError(
            f"{_OPTION} {name!r}: no bundle.json and no folder of runs; give a finished run"
        )
    # A run may lie there twice, once without what its gate said.
    regressed = {b.provenance.run for b, p in found if _regressed(p.parent / "comparison.json")}
    good = [(bundle, p) for bundle, p in found if not _objection(bundle, regressed)]
    if not good:
        last, _ = max(found, key=_started)
        raise ConfigError(
            f"{_OPTION} {name!r}: none of its {len(found)} runs is conformant; the last, "
            f"{last.provenance.run}, {_objection(last, regressed)}. Name the run to compare with "
            "itself"
        )
    return max(good, key=_started)


def _started(found: tuple[Bundle, Path]) -> tuple[str, bool]:
    """Return when a run began; of its copies that in the run's own folder comes last."""
    bundle, path = found
    return bundle.provenance.started_at, path.parent.name == bundle.provenance.run


def _read(path: Path) -> Bundle:
    try:
        return read_bundle(path.read_bytes(), f"{_OPTION} {path}")
    except OSError as failed:
        raise ConfigError(f"{_OPTION} {path} cannot be read: {failed}") from failed


def _objection(bundle: Bundle, regressed: Set[str]) -> str:
    """Say why a run of a history is no baseline; empty where it is one."""
    if bundle.provenance.run in regressed:
        return "had itself regressed"
    missed = [
        rule.name for run in bundle.models for rule in run.conformance if rule.status == "not met"
    ]
    if missed:
        return f"does not meet: {', '.join(dict.fromkeys(missed))}"
    if bundle.settings.mode != "exact" or not bundle.capacities:
        return "has no answers of mode exact"
    sound = all(is_conformant(run.conformance) for run in bundle.models)
    return "" if sound and bundle.models else "measured no model"


def _regressed(path: Path) -> bool:
    if not path.exists():
        return False
    told: Any = msgspec.json.decode(path.read_bytes())
    return told["verdict"] == "regressed"


def check_answers(baseline: Bundle, models: Models) -> None:
    """Check that the baseline has an answer for every tier that is asked for.

    Raises:
        ConfigError: it has not: nothing could be compared.
    """
    answered = {
        (c.model, c.tier): c.label
        for c in baseline.capacities
        if c.status not in {"open", "invalid", "below", "unclear"}
    }
    lacking = [
        f"{model} {tier.name}"
        for model, spec in models.specs.items()
        for tier in spec.tiers
        if (model, tier.name) not in answered
    ]
    if lacking:
        raise ConfigError(
            f"{_OPTION}: run {baseline.provenance.run} has no answer for {', '.join(lacking)}; "
            "leave these tiers out by --agentperf-tier, or give a baseline that searched them"
        )


def differences(baseline: Bundle, settings: Settings, models: Models, inputs: Inputs) -> list[str]:
    """Return in what two runs differ that must be equal to compare them, with both values."""
    return [
        *_rescored(baseline),
        *_client(baseline, inputs),
        *differs("--agentperf-system", hardware(baseline.system), hardware(inputs.system)),
        *setting_differences(baseline.settings, settings, compared()),
        *_models(baseline.models, models, inputs),
    ]


def _rescored(baseline: Bundle) -> Iterator[str]:
    if (mark := baseline.rescored) is not None:
        yield f"the baseline judges run {mark.run} again: {'; '.join(mark.changed)}"


def _client(baseline: Bundle, inputs: Inputs) -> Iterator[str]:
    now = provenance(
        endpoint="", server="", served_models=(), meter="", devices=(), simulated=False
    )
    package = "pytest-agentperf"
    then = baseline.provenance
    yield from differs("client version", then.versions.get(package), now.versions[package])
    yield from differs("simulated", then.simulated, inputs.endpoint.simulated)
    devices = [device for meter in inputs.meters for device in meter.devices]
    if then.devices and devices:
        yield from differs("metered devices", _names(then.devices), _names(devices))


def _names(devices: Any) -> list[str]:
    return sorted(str(device.get("name", "device")) for device in devices)


def _models(then: tuple[ModelRun, ...], models: Models, inputs: Inputs) -> Iterator[str]:
    runs = {run.spec.model: run for run in then}
    for name, spec in models.specs.items():
        if name not in runs:
            yield from differs("--agentperf-model", ", ".join(runs) or "none", name)
            continue
        run = runs[name]
        yield from spec_differences(_asked(run.spec, spec), spec)
        yield from differs("dataset sha256", run.dataset.sha256, inputs.dataset.sha256)


def _asked(then: ModelSpec, now: ModelSpec) -> ModelSpec:
    """Return the baseline's spec with those of its tiers that are asked for now."""
    names = {tier.name for tier in now.tiers}
    return replace(then, tiers=tuple(t for t in then.tiers if t.name in names))


def verified_agents(baseline: Bundle) -> Mapping[str, Mapping[str, int]]:
    """Return, by model and tier, the capacity that is to be verified.

    A tier that the baseline does not support has none: it is searched.
    """
    agents: dict[str, dict[str, int]] = {}
    for found in baseline.capacities:
        if found.agents:
            agents.setdefault(found.model, {})[found.tier] = found.agents
    return agents


def carried_agents(baseline: Bundle, model: str) -> tuple[int, ...]:
    """Return the numbers of agents that the tiers of a model carried.

    Raises:
        ConfigError: none carried any.
    """
    numbers = tuple(sorted(set(verified_agents(baseline).get(model, {}).values())))
    if not numbers:
        raise ConfigError(f"the baseline carries no agent of {model!r}: give --agents")
    return numbers


def read_noise(named: str | None, baseline: Bundle, path: Path) -> Noise | None:
    """Read the measured noise: the file that is named, or ``noise.json`` beside the baseline.

    Raises:
        ConfigError: the named one is missing, broken, or of another dataset.
    """
    file = Path(named) if named is not None else path.parent / "noise.json"
    if named is None and not file.exists():
        return None
    where = f"--agentperf-noise {file}"
    try:
        noise = parse_noise(file.read_bytes(), where)
    except OSError as failed:
        raise ConfigError(f"{where} cannot be read: {failed}") from failed
    known = {run.spec.model: run.dataset.sha256 for run in baseline.models}
    for spread in noise.spreads:
        if known.get(spread.model, spread.dataset_sha256) != spread.dataset_sha256:
            raise ConfigError(
                f"{where}: measured with dataset {spread.dataset_sha256[:12]}, the baseline with "
                f"{known[spread.model][:12]}; measure it anew"
            )
    return noise
