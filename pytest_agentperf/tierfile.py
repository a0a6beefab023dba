"""Tier files and ``--tier`` limits: text in, `ModelSpec` and `SLOTier` out."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import yaml

from pytest_agentperf.errors import ConfigError, did_you_mean
from pytest_agentperf.fields import count_of, list_of, mapping_of, number_of, text_of
from pytest_agentperf.metrics import STATISTICS
from pytest_agentperf.slo import HIGHER_IS_BETTER, Limit, ModelSpec, SLOTier

__all__ = ["choose_models", "find_model", "parse_tier_option", "parse_tiers"]

_SHORT = {"speed": "output_speed_tok_per_s.p25", "ttft": "ttft_s.p95"}
_MODEL_KEYS = (
    "model", "aliases", "context_tokens", "max_tokens", "request", "reasoning_field", "tiers",
)  # fmt: skip
_TIER_KEYS = ("name", "limits", "max_error_ratio", "min_agents")
_OPTION = re.compile(r"^\s*([\w.]+)\s*(>=|<=)\s*([-+.\w]+)\s*$")


def parse_tiers(text: str, where: str) -> tuple[ModelSpec, ...]:
    """Parse a tier file (YAML).

    Args:
        text: the file's content.
        where: its name, for messages.

    Raises:
        ConfigError: not YAML, an unknown key, a missing or impossible value.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as broken:
        raise ConfigError(f"{where}: not YAML: {broken}") from broken
    root = mapping_of(document, where, ("version", "models"))
    if root.get("version") != 1:
        raise ConfigError(f"{where}: version is {root.get('version')!r}; write 'version: 1'")
    models = list_of(root.get("models"), f"{where}: models")
    specs = tuple(_model(entry, f"{where}: models[{i}]") for i, entry in enumerate(models))
    _unique([n for s in specs for n in (s.model, *s.aliases)], f"{where}: model or alias")
    return specs


def find_model(specs: Iterable[ModelSpec], name: str) -> ModelSpec | None:
    """Return the entry that names a model, by its own name or an alias, in any case."""
    wanted = name.lower()
    for spec in specs:
        if wanted in {n.lower() for n in (spec.model, *spec.aliases)}:
            return spec
    return None


def parse_tier_option(text: str, model: str) -> SLOTier | None:
    """Parse ``NAME:speed>=50,ttft_s.p95<=3``; ``None`` for a bare name, which only selects.

    Raises:
        ConfigError: a part that is no limit, or a limit in the wrong direction.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        return None
    limits: list[Limit] = []
    for part in rest.split(","):
        match = _OPTION.match(part)
        if match is None:
            raise ConfigError(
                f"--tier {text!r}: {part!r} is no limit; write NAME:speed>=50,ttft<=3"
            )
        key, sign, value = match.groups()
        limit = _limit(_SHORT.get(key, key), value, f"--tier {text!r}")
        if limit.sign != sign:
            raise ConfigError(
                f"--tier {text!r}: {limit.metric} is a limit with {limit.sign}, got {sign}"
            )
        limits.append(limit)
    return SLOTier(model=model, name=_slug(name, f"--tier {text!r}"), limits=tuple(limits))


def choose_models(
    specs: Sequence[ModelSpec], *, models: Sequence[str], tiers: Sequence[str], where: str
) -> dict[str, ModelSpec]:
    """Return the entry of every model that was asked for, by the name its requests carry.

    Args:
        specs: entries to choose from.
        models: names as the server knows them.
        tiers: ``--tier`` options: bare names select, ``NAME:LIMIT,...`` adds a tier.
        where: where the entries stand, for messages.

    Raises:
        ConfigError: no model, a model that no entry names, or a tier that none has.
    """
    if not models:
        raise ConfigError(
            f"no --model was given; {where} has tiers for {', '.join(s.model for s in specs)}"
        )
    chosen = {name: _choose(specs, name, tiers, where) for name in models}
    for option in tiers:
        known = {t.name for spec in chosen.values() for t in spec.tiers}
        if ":" not in option and option not in known:
            every = {t.name for name in models for t in _tiers_of(specs, name)}
            raise ConfigError(f"--tier: no tier is called {option!r}{did_you_mean(option, every)}")
    return chosen


def _choose(specs: Sequence[ModelSpec], name: str, options: Sequence[str], where: str) -> ModelSpec:
    own = [tier for o in options if (tier := parse_tier_option(o, name)) is not None]
    names = {o for o in options if ":" not in o}
    listed = [t for t in _tiers_of(specs, name) if not options or t.name in names]
    spec = find_model(specs, name)
    if spec is None and not own:
        raise ConfigError(
            f"no tiers for model {name!r} in {where}"
            f"{did_you_mean(name, [n for s in specs for n in (s.model, *s.aliases)])} "
            "(or give limits, --tier 'NAME:speed>=50,ttft<=3', or a file, --agentperf-slo FILE)"
        )
    tiers = tuple(replace(t, model=name) for t in (*listed, *own))
    _unique([t.name for t in tiers], "--tier: tier")
    return replace(spec or ModelSpec(model=name, tiers=()), model=name, tiers=tiers)


def _tiers_of(specs: Sequence[ModelSpec], name: str) -> tuple[SLOTier, ...]:
    spec = find_model(specs, name)
    return spec.tiers if spec else ()


def _model(entry: object, where: str) -> ModelSpec:
    fields = mapping_of(entry, where, _MODEL_KEYS)
    model = text_of(fields.get("model"), f"{where}: model")
    tiers = list_of(fields.get("tiers"), f"{where}: tiers")
    parsed = tuple(_tier(t, model, f"{where} ({model}): tiers[{i}]") for i, t in enumerate(tiers))
    _unique([t.name for t in parsed], f"{where} ({model}): tier")
    aliases = list_of(fields.get("aliases", []), f"{where}: aliases", empty=True)
    max_tokens = fields.get("max_tokens")
    return ModelSpec(
        model=model,
        tiers=parsed,
        aliases=tuple(text_of(a, f"{where}: aliases") for a in aliases),
        context_tokens=count_of(fields.get("context_tokens", 131_072), f"{where}: context_tokens"),
        max_tokens=None if max_tokens is None else count_of(max_tokens, f"{where}: max_tokens"),
        request=mapping_of(fields.get("request", {}), f"{where}: request"),
        reasoning_field=text_of(
            fields.get("reasoning_field", "reasoning_content"), f"{where}: reasoning_field"
        ),
    )


def _tier(entry: object, model: str, where: str) -> SLOTier:
    fields = mapping_of(entry, where, _TIER_KEYS)
    name = _slug(text_of(fields.get("name"), f"{where}: name"), where)
    limits = mapping_of(fields.get("limits"), f"{where}: limits")
    if not limits:
        raise ConfigError(f"{where}: no limits; write e.g. ttft_s.p95: 5")
    ratio = number_of(fields.get("max_error_ratio", 0.01), f"{where}: max_error_ratio")
    if not 0 <= ratio < 1:
        raise ConfigError(f"{where}: max_error_ratio is a share from 0 to 1, got {ratio}")
    return SLOTier(
        model=model,
        name=name,
        limits=tuple(_limit(key, value, f"SLO {name!r}: {where}") for key, value in limits.items()),
        max_error_ratio=ratio,
        min_agents=count_of(fields.get("min_agents", 1), f"{where}: min_agents"),
    )


def _limit(key: str, value: object, where: str) -> Limit:
    metric, _, statistic = key.partition(".")
    if metric not in HIGHER_IS_BETTER:
        known = (*HIGHER_IS_BETTER, *_SHORT)
        if metric in _SHORT:  # it stands for one statistic and takes no other
            whole, _, usual = _SHORT[metric].partition(".")
            right = f"{whole}.{statistic or usual}"
            raise ConfigError(f"{where}: unknown metric {key!r}; write {right}")
        raise ConfigError(f"{where}: unknown metric {metric!r}{did_you_mean(metric, known)}")
    if statistic not in STATISTICS:
        raise ConfigError(
            f"{where}: {key!r} names no statistic{did_you_mean(statistic, STATISTICS)}"
        )
    number = number_of(value, f"{where}: {key}")
    if number <= 0:
        raise ConfigError(f"{where}: {key} must be more than 0, got {number}")
    return Limit(metric=metric, statistic=statistic, value=number)


def _slug(value: str, where: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
        raise ConfigError(f"{where}: tier name {value!r}; use letters, digits, '-', '_' and '.'")
    return value


def _unique(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where} {twice[0]!r} stands twice; keep one")
