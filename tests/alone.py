"""`python -m tests.alone COUNTS COMMAND …`: a command without a network, and what it tried.

For a network namespace of its own (`alone`), where loopback is the only device. The kernel counts
what it had no route for and every datagram, of whatever library, whichever process it was in.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENTER = ("unshare", "--user", "--map-root-user", "--net")
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
_COUNTERS = ("Ip:OutNoRoutes", "Ip6OutNoRoutes", "Udp:OutDatagrams", "Udp6OutDatagrams")
"""A datagram is a question to a name server on loopback: nothing else of ours sends any."""


def alone(counts: Path, command: Sequence[str]) -> list[str]:
    """Return the command that runs another alone, and writes what the kernel counted."""
    return [*ENTER, sys.executable, "-m", "tests.alone", str(counts), *command]


def is_permitted() -> bool:
    """Return whether this user may have a network namespace."""
    try:
        return subprocess.run([*ENTER, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _counters() -> dict[str, int]:
    found: dict[str, int] = {}
    rows = [line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines()]
    for names, values in zip(rows[::2], rows[1::2], strict=True):
        found |= {names[0] + n: int(v) for n, v in zip(names[1:], values[1:], strict=True)}
    for line in Path("/proc/self/net/snmp6").read_text().splitlines():
        name, value = line.split()
        found[name] = int(value)
    return found


def main() -> int:
    """Bring loopback up, run the command, write the counters; return its exit code."""
    counts, *command = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP_RUNNING))
    before = _counters()
    code = subprocess.run(command, check=False).returncode
    after = _counters()
    Path(counts).write_text(json.dumps({name: after[name] - before[name] for name in _COUNTERS}))
    return code


if __name__ == "__main__":
    sys.exit(main())
