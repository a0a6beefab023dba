"""A session on a real terminal: a pseudo-terminal, and the screen that a person would see."""

import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable

import pytest

from tests.plugin.conftest import SHORT
from tests.screens import Screen

pytestmark = pytest.mark.e2e

OPTIONS = (
    "--endpoint=sim:",
    "--model=gpt-oss-120b",
    "--tier=easy:speed>=1",
    "--agentperf-start-agents=2",
    "--agentperf-max-agents=2",
    *SHORT,
    "--agentperf-min-steady-s=3",
)
TEST = "def test_it(capacity):\n    print('said by the test')\n    assert capacity.agents == 2\n"


class Session(Screen):
    """A pytest session on a terminal of its own."""

    def __init__(self, project: pytest.Pytester, *options: str, columns: int) -> None:
        environ = os.environ | {"TERM": "xterm-256color"}
        for name in ("CI", "NO_COLOR", "COLUMNS", "LINES"):
            environ.pop(name, None)
        super().__init__(columns, 50)
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(project.path)
            os.execve(sys.executable, [sys.executable, "-m", "pytest", *options], environ)
        size = struct.pack("HHHH", 50, columns, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def read_until(self, seen: Callable[[], bool] = lambda: False) -> None:
        """Read until something is on the screen, or until the session ends."""
        while not seen():
            try:
                data = os.read(self._terminal, 65536)
            except OSError:  # Linux says so when the other end is closed
                return
            if not data:
                return
            self.write(data)

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def ended(self) -> int:
        self.read_until()
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_panel_stands_while_a_phase_runs_and_is_gone_afterwards(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(TEST)
    session = Session(project, *OPTIONS, "-v", "-s", columns=40)
    session.read_until(lambda: session.shows("of 3 s"))
    session.read_until(lambda: session.shows("to go:"))
    assert session.shows("gpt-oss-120b · phase 1 · 2 agents")
    assert all(len(line) <= 40 for line in session.lines)
    assert session.ended() == pytest.ExitCode.OK
    assert not session.shows("to go: ")
    assert session.shows("PASSED: every tier carries what was")
    assert b"said by the test" in session.written
    assert b"\x1b[?" not in session.written


def test_ctrl_c_leaves_the_terminal_as_it_was(project: pytest.Pytester) -> None:
    project.makepyfile(TEST)
    session = Session(project, *OPTIONS, "--agentperf-min-steady-s=60", columns=80)
    session.read_until(lambda: session.shows("to go:"))
    session.type(b"\x03")
    assert session.ended() == pytest.ExitCode.INTERRUPTED
    assert not session.shows("to go: ")
    assert session.shows("[gpt-oss-120b phase 1 · 2 agents] broken off: interrupted")
    assert session.shows("Not finished: go on with --agentperf-resume=")
    assert b"\x1b[?" not in session.written


def test_lines_come_in_spite_of_capture_where_there_is_no_terminal(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(TEST)
    result = project.runpytest_subprocess(*OPTIONS, "--agentperf-progress-s=1", "-q")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            (
                "[[]gpt-oss-120b phase 1 · 2 agents] * of 3 s steady *P25 output speed * tok/s *n *"
                "P95 TTFT * s *0 of * failed · power * easy * so far, not measured yet · to go: *"
            )
        ]
    )
    assert "\x1b" not in result.stdout.str()
