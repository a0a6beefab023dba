from dataclasses import replace

from pytest_agentperf.plan import make_plan
from pytest_agentperf.records import ClientHealth, Measurement, Window
from pytest_agentperf.synthesis import synthesize
from pytest_agentperf.trajectory import Dataset, Message, Trajectory, Turn, prompts
from tests.phases import request

ONE, TWO, THREE = (Message(role="user", content=text) for text in ("one", "two", "three"))
A = Trajectory(id="a", turns=(Turn(kept=0, appended=(ONE,)),))
B = Trajectory(id="b", turns=(Turn(kept=0, appended=(TWO,)),))
DATASET = Dataset(name="d", trajectories=(A, B))


def prompts_of(*turns: tuple[int, tuple[Message, ...]]) -> list[tuple[Message, ...]]:
    all_turns = tuple(Turn(kept=kept, appended=appended) for kept, appended in turns)
    return prompts(Trajectory(id="t", turns=all_turns))


def test_a_prompt_is_what_was_kept_and_what_came():
    assert prompts_of((0, (ONE,)), (1, (TWO, THREE))) == [(ONE,), (ONE, TWO, THREE)]


def test_a_compaction_keeps_only_the_front():
    assert prompts_of((0, (ONE, TWO)), (1, (THREE,)), (0, (TWO,))) == [
        (ONE, TWO),
        (ONE, THREE),
        (TWO,),
    ]


def test_the_digest_is_that_of_the_content():
    renamed = Dataset(name="other", trajectories=(B, A), losses=("x",))
    assert renamed.sha256 == DATASET.sha256


def test_another_word_is_another_digest():
    changed = replace(A, turns=(Turn(kept=0, appended=(THREE,)),))
    assert replace(DATASET, trajectories=(changed, B)).sha256 != DATASET.sha256
    assert replace(DATASET, trajectories=(A,)).sha256 != DATASET.sha256


def test_a_traceback_that_writes_out_arguments_does_not_write_out_all_of_a_run() -> None:
    # pytest does so with every frame of a Ctrl-C, while somebody waits.
    dataset = synthesize(trajectories=8, turns=3, isl_tokens=1500, seed=1)
    plan = make_plan(
        dataset, context_tokens=9000, max_tokens=500, tool_delay="none", max_tool_s=5.0, seed=0
    )
    measured = Measurement(
        agents=1,
        window=Window(start_ns=0, end_ns=1),
        turns=(request(),) * 1000,
        samples=(),
        health=ClientHealth(loop_lag_s=(), cpu_ratio=0.0, first_sent_ns=()),
        floors_met=True,
    )
    assert max(len(repr(each)) for each in (dataset, plan, measured)) < 1000
