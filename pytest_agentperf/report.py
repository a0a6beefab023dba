"""A run as HTML: a fragment for the top of a pytest-html report, or a page that opens offline.

Everything in a bundle is somebody else's text: Jinja2 escapes it, ``tojson`` escapes ``<`` inside
scripts, and hover texts, which plotly reads as HTML, are escaped in `chart`. Rounded numbers are
for the eye; the exact ones stand in ``data-agentperf-*`` attributes and in the charts' data.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_agentperf import words
from pytest_agentperf.bundle import Bundle, ModelRun, PhaseResult
from pytest_agentperf.chart import charts
from pytest_agentperf.conformance import is_conformant
from pytest_agentperf.normalize import Capacity
from pytest_agentperf.settings import Settings, knobs, option_name
from pytest_agentperf.slo import SLOTier
from pytest_agentperf.system import SECTIONS

__all__ = ["render", "render_first", "render_page"]

_PER = {
    "per_accelerator": "per accelerator",
    "per_system": "per system",
    "per_megawatt": "per MW, measured",
    "per_megawatt_wall": "per MW, wall",
    "per_kw_tdp": "per kW TDP",
    "per_usd_per_hour": "per $/hour",
    "per_rack": "per rack",
}
_ENERGY = "energy_j_per_output_token"
_UNFINISHED = {"open": "the search has not finished", "invalid": "the search ended invalid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelView:
    """One model, joined for the templates."""

    run: ModelRun
    phases: tuple[PhaseResult, ...]
    tiers: tuple[tuple[SLOTier, Capacity | None], ...]
    conformant: bool
    counts: Mapping[str, int]
    """Rules by status."""
    notes: Mapping[str, int]
    """Footnotes of the normalised table: text and number."""
    not_counted: frozenset[tuple[int, str]]
    """Agents and tier of passes above a failure."""
    charts: tuple[Mapping[str, Any], ...]

    @property
    def any_normalised(self) -> bool:
        """Tell whether any capacity could be divided by anything."""
        return any(
            c is not None and getattr(c.per, name) is not None
            for _, c in self.tiers
            for name in _PER
        )

    def note(self, capacity: Capacity, name: str) -> int:
        """Return the number of the footnote on one normalised value."""
        return self.notes[_note(capacity, name)]

    def phase(self, number: int | None) -> PhaseResult | None:
        """Return a phase of this model by number."""
        return next((p for p in self.phases if p.number == number), None)


def render(bundle: Bundle) -> str:
    """Return one ``<section class="agentperf">`` with its style, charts and script.

    It carries plotly.js (5 MB) and needs nothing from outside; all of its CSS stays inside it.
    """
    return _render("fragment.html.jinja", bundle)


def render_first(bundle: Bundle) -> str:
    """Return the fragment with a line that moves it to the top of the page it is put into.

    pytest-html lets a plugin write into its summary only, below its table of the environment.
    """
    move = (
        "<script>document.getElementById('title').after("
        "document.querySelector('section.agentperf'))</script>"
    )
    return render(bundle) + move


def render_page(bundle: Bundle) -> str:
    """Return a whole page around the fragment; it opens from disk without a network."""
    return _render("page.html.jinja", bundle)


def _render(template: str, bundle: Bundle) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 heavy; the plugin starts without it
    from plotly import offline  # noqa: PLC0415 as above  # pyright: ignore[reportMissingTypeStubs] it has none

    environment = Environment(
        loader=PackageLoader("pytest_agentperf"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters.update({name: getattr(words, name) for name in words.__all__})
    models = tuple(_model_view(run, bundle) for run in bundle.models)
    return environment.get_template(template).render(
        bundle=bundle,
        models=models,
        settings=_settings(bundle.settings),
        per=_PER,
        sections=SECTIONS,
        unfinished=_UNFINISHED,
        plotly_js=offline.get_plotlyjs() if any(m.charts for m in models) else "",
    )


def _model_view(run: ModelRun, bundle: Bundle) -> _ModelView:
    model = run.spec.model
    phases = tuple(p for p in bundle.phases if p.model == model)
    capacities = {c.tier: c for c in bundle.capacities if c.model == model}
    statuses = [rule.status for rule in run.conformance]
    return _ModelView(
        run=run,
        phases=phases,
        tiers=tuple((tier, capacities.get(tier.name)) for tier in run.spec.tiers),
        conformant=is_conformant(run.conformance) and bundle.settings.mode != "smoke",
        counts={s: statuses.count(s) for s in ("met", "not met", "not checkable")},
        notes=_notes(capacities.values()),
        not_counted=frozenset(
            (agents, c.tier) for c in capacities.values() for agents in c.passes_above_failure
        ),
        charts=charts(run.spec.tiers, phases),
    )


def _notes(capacities: Iterable[Capacity]) -> Mapping[str, int]:
    texts = [
        _note(c, name)
        for c in capacities
        for name in (*_PER, _ENERGY)
        if c.status in _UNFINISHED or getattr(c if name == _ENERGY else c.per, name) is None
    ]
    return {text: number for number, text in enumerate(dict.fromkeys(texts), 1)}


def _note(capacity: Capacity, name: str) -> str:
    if capacity.status in _UNFINISHED:
        return f"{capacity.tier}: {_UNFINISHED[capacity.status]}"
    missing = capacity.throughput_per.missing if name == _ENERGY else capacity.per.missing
    reason = missing.get(name, "not known")
    if name == _ENERGY:
        return f"J per token: {reason}"
    if name in {"per_megawatt", "per_megawatt_wall"}:
        return f"{_PER[name]}: {reason}"
    return f"not given: {reason}" if reason.startswith("system.yaml") else reason


def _settings(settings: Settings) -> list[dict[str, Any]]:
    """Return a row per knob, those that are not at their default first."""
    rows: list[dict[str, Any]] = []
    for knob in knobs():
        value, default = getattr(settings, knob.name), getattr(Settings(), knob.name)
        rows.append(
            {
                "option": option_name(knob.name),
                "name": knob.name,
                "value": value,
                "default": default,
                "changed": value != default,
                "help": knob.metadata["help"],
            }
        )
    return sorted(rows, key=lambda row: not row["changed"])
