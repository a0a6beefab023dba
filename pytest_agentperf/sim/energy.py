"""Energy of one replica: of its steps, and of the idle time between them."""

__all__ = ["EnergyMeter"]


class EnergyMeter:
    """Told of every step, it knows the energy up to any instant from the last step on."""

    def __init__(self, idle_w: float, began_s: float) -> None:
        self._idle_w = idle_w
        self._began_s = began_s
        self._before_j = 0.0
        """Of all steps but the last."""
        self._busy_s = 0.0
        self._start_s = self._end_s = began_s
        self._power_w = 0.0

    def add(self, start_s: float, end_s: float, power_w: float) -> None:
        """Add a step, or a run of them."""
        self._before_j += (self._end_s - self._start_s) * self._power_w
        self._busy_s += self._end_s - self._start_s
        self._start_s, self._end_s, self._power_w = start_s, end_s, power_w

    def energy_j(self, now_s: float) -> float:
        """Return the energy from the beginning until now."""
        current_s = min(max(0.0, now_s - self._start_s), self._end_s - self._start_s)
        idle_s = now_s - self._began_s - self._busy_s - current_s
        return self._before_j + current_s * self._power_w + idle_s * self._idle_w

    def power_w(self, now_s: float) -> float:
        """Return the power now."""
        return self._power_w if self._start_s <= now_s < self._end_s else self._idle_w
