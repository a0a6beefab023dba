import os
import sys
from pathlib import Path

import pytest

from pytest_agentperf import stolen
from pytest_agentperf.stolen import StolenTime, read_cores

STAT = """cpu  300 0 30 600 0 0 0 {both} 0 0
cpu{core} 100 0 10 {idle} 0 0 0 {stolen} 7 7
cpu9999 200 0 20 300 0 0 0 90 0 0
intr 12 0
"""


def stat_of(tmp_path: Path, *, idle: int, stolen: int) -> Path:
    path = tmp_path / "stat"
    core = min(os.sched_getaffinity(0))
    path.write_text(STAT.format(both=stolen + 90, core=core, idle=idle, stolen=stolen))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_was_stolen_of_our_cores_since_it_was_asked_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stolen, "_STAT", stat_of(tmp_path, idle=300, stolen=10))
    time = StolenTime()
    assert time.take_ratio() == 0.0
    stat_of(tmp_path, idle=380, stolen=30)
    assert time.take_ratio() == pytest.approx(0.2)
    stat_of(tmp_path, idle=480, stolen=30)
    assert time.take_ratio() == 0.0


def test_where_nothing_tells_nothing_was_stolen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stolen, "_STAT", Path("/nowhere/stat"))
    assert StolenTime().take_ratio() == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_this_machine_s_own_cores_are_read() -> None:
    cores = read_cores(Path("/proc/stat").read_text("ascii"))
    assert cores.keys() >= os.sched_getaffinity(0)
    assert all(0 <= taken <= ticks for taken, ticks in cores.values())


@pytest.mark.parametrize("text", ["", "\n", "cpu0 1 2 3", "cpux 1 2 3 4 5 6 7 8"])
def test_another_text_holds_no_cores(text: str) -> None:
    assert read_cores(text) == {}
