"""`python -m tools.halves`: all tests, those that wait for servers beside those that compute.

Most of the time of the first goes by in waiting, so that on two cores the second cost next to none.
The first print as they go; the second when they have ended. Ends with 1 where either does not pass.
"""

import subprocess
import sys
import tempfile

WAITING = ("tests/e2e", "tests/plugin")
PYTEST = (sys.executable, "-m", "coverage", "run", "-m", "pytest")


def main() -> int:
    """Run both halves, and return the exit code."""
    others = [f"--ignore={folder}" for folder in WAITING]
    with tempfile.TemporaryFile() as output:
        computing = subprocess.Popen(
            ["nice", "-n", "5", *PYTEST, *others], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            waited = subprocess.run([*PYTEST, *WAITING], check=False).returncode
            computed = computing.wait()
        finally:
            computing.kill()
        output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
    return int(bool(waited or computed))


if __name__ == "__main__":
    sys.exit(main())
