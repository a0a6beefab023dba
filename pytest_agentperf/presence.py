"""Whether the endpoint of a run is there, and still the server that the run began with."""

import asyncio
from collections.abc import Callable

from pytest_agentperf.errors import EndpointError, OtherServerError
from pytest_agentperf.protocols import EndpointInfo
from pytest_agentperf.revival import await_answer
from pytest_agentperf.server_settings import setting_changes
from pytest_agentperf.settings import Settings
from pytest_agentperf.slo import ModelSpec

__all__ = ["Presence"]

_LOOKS = 8
"""Of two servers behind one address the first one answers none of so many questions in 1 of 256."""


class Presence:
    """Waits for an endpoint that went away, and looks whether another server has its place.

    One capacity is made of phases of one server: where it is another one, nothing more is measured.
    """

    def __init__(
        self,
        endpoint: EndpointInfo,
        settings: Settings,
        *,
        go_on: str,
        tell: Callable[[str, str], None],
    ) -> None:
        """Take what the endpoint told of itself as what it is to be.

        Args:
            endpoint: where load goes.
            settings: how long is waited.
            go_on: how a later run goes on with this one, or that none can.
            tell: hears notes, with their model.
        """
        self._endpoint = endpoint
        self._settings = settings
        self._go_on = go_on
        self._tell = tell
        self._down: EndpointError | None = None
        self._told_of_several = False

    def check(self) -> None:
        """Check that more may be measured.

        Raises:
            EndpointError: the endpoint stayed away, or is another server.
        """
        if self._down is not None:
            raise self._down

    async def await_return(self, spec: ModelSpec) -> None:
        """Wait until an endpoint that went away answers again; without it nothing is measured.

        Raises:
            EndpointError: it did not.
        """
        limit_s, client = self._settings.max_down_s, self._settings.client
        self._tell(spec.model, f"waiting up to {limit_s:.0f} s for the endpoint to answer again")
        try:
            waited_s = await await_answer(self._endpoint, spec, client, limit_s=limit_s)
        except EndpointError as down:
            said = f"{self._go_on[0].upper()}{self._go_on[1:]}"
            self._down = EndpointError(f"{down}. {said}")
            raise self._down from None
        self._tell(spec.model, f"the endpoint answers again, after {waited_s:.0f} s")

    async def look(self, spec: ModelSpec) -> str | None:
        """Look whether the server is another one than before, with which nothing may be measured.

        One that answers now and then as before is one of several behind one address.

        Returns:
            In what it is another one; ``None``: nothing tells so.
        """
        ask = self._endpoint.ask_settings
        if ask is None:
            return None
        found = ""
        for _ in range(_LOOKS):
            now = await asyncio.to_thread(ask)
            other = "; ".join(setting_changes(self._endpoint.settings, now))
            if not other:
                break
            found = other
        else:
            self._down = OtherServerError(
                f"endpoint {self._endpoint.url} is another server than the run began with: "
                f"{found}. Numbers of both make no capacity: start a run of the new one, or bring "
                f"the first one back: {self._go_on}"
            )
            return found
        if found and not self._told_of_several:
            self._told_of_several = True
            self._tell(
                spec.model,
                f"several servers answer at {self._endpoint.url}, and they differ: {found}; what "
                "is measured is of all of them together",
            )
        return None
