"""A capacity, and what it is per accelerator, system, megawatt, dollar and rack."""

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_agentperf.power import Power
from pytest_agentperf.system import System

__all__ = [
    "PER",
    "Capacity",
    "Normalized",
    "declared_power",
    "declared_wall",
    "joules_per_token",
    "normalize",
]

PER: Mapping[str, str] = {
    "per_accelerator": "accelerator",
    "per_system": "system",
    "per_megawatt": "MW, measured",
    "per_megawatt_wall": "MW, wall",
    "per_kw_tdp": "kW TDP",
    "per_usd_per_hour": "$/hour",
    "per_rack": "rack",
}
"""What a quantity is divided by, by field of `Normalized`."""

_METERED = ("per_megawatt", "per_megawatt_wall")
_NO_ANSWER = "no answer to divide"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalized:
    """One quantity over what it took; ``None`` with the reason in ``missing``."""

    per_accelerator: float | None
    per_system: float | None
    per_megawatt: float | None
    """By measured mean power of the accelerators, not by TDP."""
    per_kw_tdp: float | None
    per_usd_per_hour: float | None
    per_rack: float | None
    missing: Mapping[str, str]
    """Why what is ``None`` is: by name."""
    per_megawatt_wall: float | None = None
    """By measured mean power of the whole chassis, fans and hosts too."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Capacity:
    """How many agents one tier carries, and how that was found."""

    model: str
    tier: str
    agents: int
    """Largest number found to pass; 0: not even one."""
    status: str
    """``found``, ``at-limit`` (at least ``agents``), ``unsupported``, ``invalid`` or ``open``.

    Where one number alone was asked about, also ``below`` and, missed by no more than the phase is
    unsure, ``unclear``."""
    first_failing: int | None
    limited_by: tuple[str, ...]
    """Limits missed at ``first_failing``, or ``search limit``."""
    passing_phase: int | None
    failing_phase: int | None
    passes_above_failure: tuple[int, ...]
    throughput_tok_per_s: float | None
    """Output throughput at ``agents``."""
    mean_power_w: float | None
    """Of all accelerators, watts, in the steady window of the passing phase."""
    per: Normalized
    """Agents, normalised."""
    throughput_per: Normalized
    """Output tokens per second, normalised."""
    wall_power_w: float | None = None
    """Of the whole chassis, watts, in the same window."""
    energy_j_per_output_token: float | None = None
    """Of all accelerators, joules: mean power / output throughput. ``None``: see
    ``throughput_per.missing``."""
    agents_low: int | None = None
    """Least number that the phases, as unsure as they are, allow. ``None``: not known."""
    agents_high: int | None = None
    """Greatest, just below ``first_failing`` or beyond. ``None``: not known."""
    phases_used: int = 0
    """Phases that this tier's search needed, whichever tier they were measured for."""
    measured_s: float = 0.0
    """Duration of these phases, seconds."""
    by_curve: bool = False
    """The next number was not measured: by the slope of short phases it fails."""
    explanation: str = ""

    def __repr__(self) -> str:
        # Short, since pytest prints it when an assertion fails; the explanation stands beside it.
        return f"<Capacity {self.model} {self.tier}: {self.label}>"

    @property
    def per_accelerator(self) -> float | None:
        """Agents per accelerator."""
        return self.per.per_accelerator

    @property
    def per_system(self) -> float | None:
        """Agents per system."""
        return self.per.per_system

    @property
    def per_megawatt(self) -> float | None:
        """Agents per megawatt of measured accelerator power."""
        return self.per.per_megawatt

    def carries(self, agents: int) -> bool | None:
        """Tell whether it carries so many; ``None`` where what was measured does not tell.

        One number that failed says nothing of a smaller one, and one that passed nothing of a
        greater one.
        """
        if self.status in {"invalid", "open", "unclear"}:
            return None
        if self.first_failing is not None and self.first_failing <= agents:
            return False
        if self.status == "below":
            return None
        if self.agents >= agents:
            return True
        return None if self.status == "at-limit" else False

    @property
    def label(self) -> str:
        """The answer as printed: ``12``, ``≥ 256``, ``invalid``, ``not finished (8 passed)``."""
        return {
            "at-limit": f"≥ {self.agents}",
            "unsupported": "0 (not supported)",
            "below": f"< {self.first_failing}",
            "unclear": f"about {self.agents}",
            "invalid": "invalid",
            "open": f"not finished ({self.agents} passed)",
        }.get(self.status, str(self.agents))


def normalize(
    value: float | None,
    system: System | None,
    *,
    mean_power_w: float | None,
    power_reason: str | None,
    wall_power_w: float | None = None,
    wall_reason: str | None = None,
) -> Normalized:
    """Divide a quantity of the whole deployment by what it took.

    Args:
        value: agents, or output tokens per second; ``None`` when there is no answer to divide.
        system: ``None`` when no system.yaml was given.
        mean_power_w: measured power of all accelerators, watts.
        power_reason: why there is none.
        wall_power_w: measured power of the whole chassis, watts.
        wall_reason: why there is none.
    """
    divisors: dict[str, tuple[float | None, str]] = {
        "per_accelerator": (system and system.accelerators, "system.yaml: accelerators"),
        "per_system": (system and system.systems, "system.yaml: systems"),
        "per_megawatt": (mean_power_w and mean_power_w / 1e6, power_reason or "no power reading"),
        "per_megawatt_wall": (
            wall_power_w and wall_power_w / 1e6,
            wall_reason or "no meter of the whole chassis",
        ),
        "per_kw_tdp": (
            system and system.tdp_w and system.tdp_w * system.accelerators / 1e3,
            "system.yaml: accelerators.tdp_w",
        ),
        "per_usd_per_hour": (
            system and system.price_usd_per_hour,
            "system.yaml: price_usd_per_hour",
        ),
        "per_rack": (system and system.racks, "system.yaml: racks"),
    }
    if value is None:
        return Normalized(**dict.fromkeys(divisors), missing=dict.fromkeys(divisors, _NO_ANSWER))
    return Normalized(
        **{name: value / divisor if divisor else None for name, (divisor, _) in divisors.items()},
        missing={
            name: reason if system or name in _METERED else "no --system file"
            for name, (divisor, reason) in divisors.items()
            if not divisor
        },
    )


def declared_power(power: Power, system: System | None) -> tuple[float | None, str | None]:
    """Return watts to divide by, or why there are none: other devices than declared are no answer.

    Args:
        power: of the accelerators.
        system: ``None`` when no system.yaml was given; then every meter is taken at its word.
    """
    declared = system.accelerators if system else None
    if power.mean_w is not None and declared not in {None, power.devices}:
        devices = "1 device" if power.devices == 1 else f"{power.devices} devices"
        return None, f"the meter reads {devices}, {declared} are declared"
    return power.mean_w, power.reason


def declared_wall(power: Power, system: System | None) -> tuple[float | None, str | None]:
    """Return watts at the wall to divide by, or why there are none: of some nodes is of too few.

    Args:
        power: of the chassis; each device of its meters stands for a node, or for as many as
            ``devices=`` says.
        system: ``None`` when no system.yaml was given; then, and where one system is declared and
            not how many nodes it has, every meter is taken at its word.
    """
    if power.mean_w is None or system is None or system.nodes == power.devices:
        return power.mean_w, power.reason
    if system.nodes is not None:
        return None, (
            f"the chassis meters cover {power.devices} of {system.nodes} nodes that are declared; "
            "devices=N in --agentperf-meter says how many one covers"
        )
    if power.devices < system.systems:
        return None, (
            f"the chassis meters cover {power.devices} of {system.systems} systems that are "
            "declared; write nodes: N into system.yaml, and devices=N in --agentperf-meter where "
            "one meter covers several"
        )
    return power.mean_w, power.reason


def joules_per_token(
    throughput_tok_per_s: float | None, *, mean_power_w: float | None, power_reason: str | None
) -> tuple[float | None, str | None]:
    """Return the energy of one output token, mean power / throughput, or why it is not known.

    Args:
        throughput_tok_per_s: output tokens a second; ``None`` when there is no answer.
        mean_power_w: measured power of all accelerators, watts.
        power_reason: why there is none.
    """
    if throughput_tok_per_s is None:
        return None, _NO_ANSWER
    if not mean_power_w:
        return None, power_reason or "no power reading"
    if not throughput_tok_per_s:
        return None, "no output token"
    return mean_power_w / throughput_tok_per_s, None
