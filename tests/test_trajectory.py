from dataclasses import replace

from pytest_agentperf.trajectory import Dataset, Message, Trajectory, Turn, prompts

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
