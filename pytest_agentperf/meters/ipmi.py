"""A chassis at the wall through its BMC's DCMI power reading, by ``ipmitool``."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_agentperf.meters.address import MeterAddress, read_address
from pytest_agentperf.meters.programs import printed
from pytest_agentperf.protocols import Meter, ReadingError
from pytest_agentperf.records import Role, Sample

__all__ = ["IpmiMeter", "connect", "watts_of"]

USER_VARIABLE = "AGENTPERF_IPMI_USER"
PASSWORD_VARIABLE = "AGENTPERF_IPMI_PASSWORD"
_PERIOD_S = 1.0
_TIMEOUT_S = 10.0
_READING = re.compile(r"Instantaneous power reading:\s*(\S+)\s+Watts")
_STATE = re.compile(r"Power reading state is:\s*(\S+)")


def connect(text: str) -> Meter:
    """Ask once: ``ipmi`` for this machine, ``ipmi:HOST`` for a BMC over the network.

    ``devices``: how many nodes it is the power of, one without it.

    Raises:
        ConfigError: there is no ipmitool, the BMC does not answer, or it tells no power.
    """
    address = read_address(text, ("devices",))
    address.refuse_credentials()
    meter = IpmiMeter(address)
    try:
        meter.sample()
    except ReadingError as failed:
        raise address.refused(
            f"{failed}; ipmitool has to be there, and for another host {USER_VARIABLE} and "
            f"{PASSWORD_VARIABLE} in the environment"
        ) from failed
    return meter


class IpmiMeter:
    """Runs ``ipmitool dcmi power reading`` for every reading."""

    kind = "ipmi"

    def __init__(self, address: MeterAddress) -> None:
        """Take the host; no host is this machine."""
        self.name = address.text
        self.role: Role = address.role("chassis")
        self.period_s = address.period_s(_PERIOD_S)
        self._timeout_s = address.timeout_s(_TIMEOUT_S)
        self._series = address.target or "chassis"
        # -E: the password comes from the environment and stands in no list of processes.
        user = os.environ.get(USER_VARIABLE, "")
        remote = ("-I", "lanplus", "-H", address.target, "-U", user, "-E")
        self._command = (
            "ipmitool", *(remote if address.target else ()), "dcmi", "power", "reading",
        )  # fmt: skip
        self.devices: Sequence[Mapping[str, Any]] = [
            {"series": self._series, "source": "DCMI power reading", **address.shares(1)[0]}
        ]

    def sample(self) -> Sequence[Sample]:
        """Read the chassis once, watts.

        Raises:
            ReadingError: ipmitool fails, or tells no power.
        """
        began_ns = time.perf_counter_ns()
        password = os.environ.get(PASSWORD_VARIABLE, "")
        text = printed(self._command, timeout_s=self._timeout_s, also={"IPMI_PASSWORD": password})
        at_ns = (began_ns + time.perf_counter_ns()) // 2
        return [Sample(at_ns=at_ns, series=self._series, unit="W", value=watts_of(text))]

    def clock(self) -> None:
        """Return nothing: stamps are our own."""

    def close(self) -> None:
        """Do nothing: no run is left."""


def watts_of(text: str) -> float:
    """Return the instantaneous power that ``ipmitool dcmi power reading`` prints, watts.

    Raises:
        ReadingError: it prints none, or says that readings are not activated.
    """
    state, found = _STATE.search(text), _READING.search(text)
    if state is not None and state[1] != "activated":
        raise ReadingError(f"power readings are {state[1]}; activate them: ipmitool dcmi power")
    if found is None or not found[1].isdigit():
        raise ReadingError(f"ipmitool prints no power reading: {text.strip()[:120]!r}")
    return float(found[1])
