import io
import json

from pytest_agentperf.sim.pacer import Lateness
from pytest_agentperf.sim.watch import LateWarner, SendLog, Sent


def steps(lateness: Lateness, *, late: int, of: int) -> None:
    for number in range(of):
        lateness.add(0.07 if number < late else 0.0)


def test_five_percent_late_is_borne_and_more_is_told():
    lateness = Lateness()
    warner = LateWarner(lateness)
    steps(lateness, late=5, of=100)
    assert warner.look(1.0) is None
    steps(lateness, late=6, of=100)
    warning = warner.look(2.0)
    assert warning is not None
    assert "in the last second 6 of 100 steps" in warning


def test_a_warning_comes_again_after_ten_seconds():
    lateness = Lateness()
    warner = LateWarner(lateness)
    told: list[bool] = []
    for second in range(22):
        steps(lateness, late=50, of=50)
        told.append(warner.look(100.0 + second) is not None)
    assert [second for second, said in enumerate(told) if said] == [0, 10, 20]


def test_an_idle_second_is_not_late():
    lateness = Lateness()
    warner = LateWarner(lateness)
    steps(lateness, late=3, of=3)
    warner.look(1.0)
    assert warner.look(20.0) is None


def test_the_log_writes_a_line_each_when_asked():
    file = io.BytesIO()
    log = SendLog(file)
    for name in ("a", "b"):
        log.add(Sent(id=name, request_id=None, received_s=1.0, prompt_tokens=3))
    assert file.getvalue() == b""
    log.flush()
    log.flush()
    assert [json.loads(line)["id"] for line in file.getvalue().splitlines()] == ["a", "b"]
