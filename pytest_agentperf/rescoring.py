"""A stored run, judged again as a whole: its phases, what they say of every tier, and the mark."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_agentperf import __version__
from pytest_agentperf.answers import capacity_of
from pytest_agentperf.bundle import Bundle, ModelRun, PhaseResult, Rescored
from pytest_agentperf.conformance import Rule, conformance
from pytest_agentperf.errors import ConfigError
from pytest_agentperf.judged import facts_of
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.rejudged import Part, Terms, is_alike, rejudge
from pytest_agentperf.settings import Settings, option_name
from pytest_agentperf.slo import ModelSpec, SLOTier
from pytest_agentperf.stored import StoredRun

__all__ = ["Asked", "answer_said", "rescore"]

_RULE = "judged as it was measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run is to be judged by; what is left out stays as the run had it."""

    tiers: Mapping[str, tuple[SLOTier, ...]] = field(default_factory=dict[str, tuple[SLOTier, ...]])
    """By model."""
    settings: Mapping[str, str | float] = field(default_factory=dict[str, str | float])
    """By name: ``speed`` and the floors."""
    part: Part = field(default_factory=Part)
    published: Mapping[str, ModelSpec] = field(default_factory=dict[str, ModelSpec])
    """The entries that ship for these models."""


def rescore(run: StoredRun, asked: Asked) -> Bundle:
    """Judge a run again; under its own terms the bundle is the run's own.

    Raises:
        ConfigError: its files are broken, or do not give what it says.
    """
    bundle = run.bundle
    settings = _settings(bundle.settings, asked)
    changed = tuple(_changes(bundle, settings, asked))
    terms = {
        was.spec.model: (
            Terms(spec=was.spec, settings=bundle.settings),
            Terms(spec=_spec(was.spec, asked), settings=settings, part=asked.part),
        )
        for was in bundle.models
    }
    by_number = {p.result.number: rejudge(p, *terms[p.result.model]) for p in run.phases()}
    phases = tuple(by_number[p.number] for p in bundle.phases)
    judged = replace(
        bundle,
        settings=settings,
        models=tuple(
            _model_run(was, bundle, phases, terms[was.spec.model], asked) for was in bundle.models
        ),
        phases=phases,
        capacities=tuple(_capacities(bundle, phases, [now for _, now in terms.values()], asked)),
    )
    if changed:
        return _marked(judged, run, changed)
    return bundle if is_alike(judged, bundle) else _marked(judged, run, (_of_itself(bundle),))


def answer_said(capacity: Capacity) -> str:
    """Say what stored phases answer; where a search would go on, what they bound it by."""
    if capacity.status == "invalid":
        return "no answer: phases that it needs are invalid"
    if capacity.status != "open":
        return f"{capacity.label} agents"
    passed, failed = capacity.agents, capacity.first_failing
    if passed and failed is not None:
        said = f"{passed} passed, {failed} failed, and a search would go on between them"
        return f"{passed} to {failed - 1} agents: {said}"
    if passed:
        return f"at least {passed} agents (a lower bound): no number was found to fail"
    if failed is not None:
        return f"at most {failed - 1} agents (an upper bound): no number was found to pass"
    return "no phase answers this"


def _of_itself(bundle: Bundle) -> str:
    then = bundle.provenance.versions.get("pytest-agentperf", "another version")
    return (
        "nothing was asked for; the requests give another judgement than the run's own, which is "
        f"by version {then} of this package, and this one by {__version__}"
    )


def _settings(then: Settings, asked: Asked) -> Settings:
    now = replace(then, **asked.settings)  # pyright: ignore[reportArgumentType] by their names
    length_s = asked.part.length_s
    if length_s is not None and length_s < now.min_steady_s:
        raise ConfigError(
            f"{asked.part} has {length_s:g} s, and the floor of a window's length is "
            f"{now.min_steady_s:g} s: take a longer part, or lower the floor by --min-steady-s"
        )
    return now


def _spec(then: ModelSpec, asked: Asked) -> ModelSpec:
    return replace(then, tiers=asked.tiers.get(then.model, then.tiers))


def _changes(bundle: Bundle, settings: Settings, asked: Asked) -> Iterator[str]:
    """Yield what is judged otherwise than in the run."""
    for was in bundle.models:
        tiers = _spec(was.spec, asked).tiers
        if tiers != was.spec.tiers:
            yield f"{was.spec.model}: tiers {'; '.join(map(_listed, tiers))}"
    for name in ("speed", "min_trajectories", "min_trajectories_per_agent", "min_steady_s"):
        before, after = getattr(bundle.settings, name), getattr(settings, name)
        if before != after:
            yield f"{option_name(name)} {after}, was {before}"
    if not asked.part.is_all:
        yield f"requests of {asked.part}"


def _listed(tier: SLOTier) -> str:
    limits = ", ".join(f"{x.name} {x.sign} {x.value:g}" for x in tier.limits)
    return f"{tier.name} ({limits}, error_ratio <= {tier.max_error_ratio:g})"


def _model_run(
    was: ModelRun,
    bundle: Bundle,
    phases: Sequence[PhaseResult],
    terms: tuple[Terms, Terms],
    asked: Asked,
) -> ModelRun:
    """Return what is said of a model: rules that judging again does not touch stay as they were."""
    then, now = terms
    published = asked.published.get(was.spec.model)
    before, after = (
        {
            rule.name: rule
            for rule in conformance(
                each.settings,
                each.spec,
                published,
                was.dataset,
                facts_of(p for p in judged if p.model == was.spec.model),
                simulated=bundle.provenance.simulated,
            )
        }
        for each, judged in ((then, bundle.phases), (now, phases))
    )
    rules = tuple(
        rule if before.get(rule.name) == after.get(rule.name) else after[rule.name]
        for rule in was.conformance
    )
    forecast = was.forecast if now.spec.tiers == then.spec.tiers else None
    return replace(was, spec=now.spec, conformance=rules, forecast=forecast)


def _capacities(
    bundle: Bundle, phases: Sequence[PhaseResult], terms: Sequence[Terms], asked: Asked
) -> Iterator[Capacity]:
    """Yield the answer of every tier that is asked for, or whose test had asked for one."""
    stood = {(c.model, c.tier): c for c in bundle.capacities}
    for now in terms:
        model = now.spec.model
        own = [p for p in phases if p.model == model]
        before = [p for p in bundle.phases if p.model == model]
        was = next(run.spec for run in bundle.models if run.spec.model == model)
        for tier in now.spec.tiers:
            known = stood.get((model, tier.name))
            if known is not None and tier in was.tiers and _alike(before, own, tier):
                yield known
            elif known is not None or model in asked.tiers:
                yield _bounded(tier, capacity_of(own, tier, now.settings, bundle.system))


def _alike(before: Sequence[PhaseResult], after: Sequence[PhaseResult], tier: SLOTier) -> bool:
    """Tell whether all is equal that an answer rests on."""
    return all(
        is_alike(
            (a.verdict(tier.name), a.metrics, a.meters),
            (b.verdict(tier.name), b.metrics, b.meters),
        )
        for a, b in zip(before, after, strict=True)
    )


def _bounded(tier: SLOTier, found: Capacity) -> Capacity:
    """Return what stored phases say of a tier whose search would go on, with its bounds."""
    if found.status != "open":
        return found
    bound = None if found.first_failing is None else found.first_failing - 1
    lines = found.explanation.splitlines()[1:]  # the first speaks of a search that was stopped
    return replace(
        found,
        agents_low=found.agents if found.agents or bound is not None else None,
        agents_high=bound,
        explanation="\n".join((f"'{tier}' by stored phases: {answer_said(found)}", *lines)),
    )


def _marked(judged: Bundle, run: StoredRun, changed: tuple[str, ...]) -> Bundle:
    name, sha256 = run.bundle.provenance.run, hashlib.sha256(run.data).hexdigest()
    mark = hashlib.sha256("\n".join((sha256, *changed)).encode()).hexdigest()[:6]
    rule = Rule(name=_RULE, status="not met", detail=f"run {name} again: {'; '.join(changed)}")
    return replace(
        judged,
        provenance=replace(judged.provenance, run=f"{name}-rescored-{mark}"),
        models=tuple(replace(m, conformance=(*m.conformance, rule)) for m in judged.models),
        rescored=Rescored(run=name, bundle_sha256=sha256, client=__version__, changed=changed),
    )
