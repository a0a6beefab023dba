from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_agentperf.search import CapacitySearch, Outcome, SearchResult


def search(*, start: int = 8, at_most: int = 4096, resolution: float = 0.02) -> CapacitySearch:
    return CapacitySearch(start_agents=start, max_agents=at_most, resolution=resolution)


def run(found: CapacitySearch, judge: Callable[[int], Outcome]) -> list[int]:
    """Measure what the search asks for until it ends; return what was measured."""
    asked: list[int] = []
    while (agents := found.next_phase()) is not None:
        asked.append(agents)
        assert len(asked) < 100, asked
        found.record(agents, judge(agents))
    return asked


def up_to(threshold: int) -> Callable[[int], Outcome]:
    return lambda agents: "pass" if agents <= threshold else "fail"


def recorded(*verdicts: tuple[int, Outcome], **settings: int) -> CapacitySearch:
    found = search(**settings)
    for agents, outcome in verdicts:
        found.record(agents, outcome)
    return found


class TestCourse:
    @pytest.mark.parametrize(
        ("threshold", "asked"),
        [
            (21, [8, 16, 32, 24, 20, 22, 21]),
            (8, [8, 16, 12, 10, 9]),
            (5, [8, 4, 6, 5]),
            (1, [8, 4, 2, 1]),
            (0, [8, 4, 2, 1]),
        ],
        ids=[
            "doubles, then bisects",
            "ends at its start",
            "halves where the start fails, then bisects",
            "finds one agent",
            "ends where one agent is too many",
        ],
    )
    def test_it(self, threshold: int, asked: list[int]):
        assert run(search(), up_to(threshold)) == asked

    def test_the_ramp_ends_at_the_limit(self):
        found = search(at_most=20)
        assert run(found, up_to(99)) == [8, 16, 20]
        assert found.result() == SearchResult(agents=20, first_failing=None, status="at-limit")

    def test_below_fifty_agents_the_answer_is_exact(self):
        found = search()
        run(found, up_to(49))
        assert (found.result().agents, found.result().first_failing) == (49, 50)

    def test_above_fifty_agents_two_percent_are_enough(self):
        found = search()
        asked = run(found, up_to(1000))
        # 1024 fails above 512; 768, 896, 960, 992 pass, 1008 fails: within 19 = 2 % of 992.
        assert asked == [8, 16, 32, 64, 128, 256, 512, 1024, 768, 896, 960, 992, 1008]
        assert found.result() == SearchResult(agents=992, first_failing=1008, status="found")


class TestAnyThreshold:
    @given(threshold=st.integers(0, 5000), start=st.integers(1, 300), data=st.data())
    def test_is_found_exactly_when_the_resolution_is_tiny(
        self, threshold: int, start: int, data: st.DataObject
    ):
        at_most = data.draw(st.integers(start, 5000))
        found = search(start=start, at_most=at_most, resolution=1e-9)
        run(found, up_to(threshold))
        assert found.result().agents == min(threshold, at_most)

    @given(
        threshold=st.integers(0, 5000),
        start=st.integers(1, 300),
        resolution=st.floats(0, 0.99),
        data=st.data(),
    )
    def test_is_found_within_the_resolution(
        self, threshold: int, start: int, resolution: float, data: st.DataObject
    ):
        at_most = data.draw(st.integers(start, 5000))
        found = search(start=start, at_most=at_most, resolution=resolution)
        asked = run(found, up_to(threshold))
        result = found.result()
        assert len(set(asked)) == len(asked)
        assert all(1 <= agents <= at_most for agents in asked)
        if result.first_failing is None:
            assert (result.agents, result.status) == (at_most, "at-limit")
        else:
            assert result.agents <= threshold < result.first_failing
            assert result.first_failing - result.agents <= max(1, resolution * result.agents)
            assert result.status == ("found" if result.agents else "unsupported")

    @given(
        threshold=st.integers(0, 2000),
        known=st.lists(st.integers(1, 4096), max_size=12),
        resolution=st.sampled_from([0.0, 0.02, 0.3]),
    )
    def test_no_number_that_was_measured_for_another_tier_is_asked_again(
        self, threshold: int, known: list[int], resolution: float
    ):
        found = search(resolution=resolution)
        for agents in known:
            found.record(agents, up_to(threshold)(agents))
        asked = run(found, up_to(threshold))
        assert not set(asked) & set(known)
        assert found.result().agents <= threshold


class TestAnyCurve:
    @given(data=st.data(), start=st.integers(1, 64), at_most=st.integers(64, 512))
    def test_is_searched_to_an_end_that_its_verdicts_bear_out(
        self, data: st.DataObject, start: int, at_most: int
    ):
        """Verdicts at random: no order in them, and any of them may be invalid."""
        found = search(start=start, at_most=at_most)
        verdicts = list(verdicts_at_random(found, data))
        decided = [n for n, outcome in verdicts if outcome != "invalid"]
        assert len(set(decided)) == len(decided)
        result = found.result()
        passed = {n for n, outcome in verdicts if outcome == "pass"}
        failed = {n for n, outcome in verdicts if outcome == "fail"}
        assert result.status != "open"
        assert result.agents in passed | {0}
        assert all(result.agents < n for n in failed)
        assert set(result.passes_above_failure) == {n for n in passed if failed and n > min(failed)}

    @given(data=st.data())
    def test_asks_for_an_invalid_number_once_more_and_then_ends(self, data: st.DataObject):
        found = search()
        verdicts = list(verdicts_at_random(found, data))
        invalid = [n for n, outcome in verdicts if outcome == "invalid"]
        twice = {n for n in invalid if invalid.count(n) == 2}
        assert max(map(invalid.count, invalid), default=0) <= 2
        assert (found.result().status == "invalid") is bool(twice)
        assert not twice or twice == {verdicts[-1][0]}


def verdicts_at_random(found: CapacitySearch, data: st.DataObject) -> Iterator[tuple[int, Outcome]]:
    outcomes: list[Outcome] = ["pass", "pass", "fail", "invalid"]
    for _ in range(100):
        agents = found.next_phase()
        if agents is None:
            return
        outcome = data.draw(st.sampled_from(outcomes))
        found.record(agents, outcome)
        yield agents, outcome
    pytest.fail("the search does not end")


class TestVerdicts:
    def test_a_pass_above_a_failure_is_reported_and_never_counts(self):
        found = recorded((8, "pass"), (32, "pass"), (9, "fail"), (64, "pass"))
        assert found.next_phase() is None
        assert found.result() == SearchResult(
            agents=8, first_failing=9, status="found", passes_above_failure=(32, 64)
        )

    @pytest.mark.parametrize(
        "verdicts", [("pass", "fail"), ("fail", "pass")], ids=["after it", "before it"]
    )
    def test_a_failure_outweighs_a_pass_at_the_same_number(self, verdicts: tuple[Outcome, Outcome]):
        twice: list[tuple[int, Outcome]] = [(9, outcome) for outcome in verdicts]
        found = recorded((4, "pass"), *twice, (5, "fail"))
        assert found.result() == SearchResult(agents=4, first_failing=5, status="found")

    def test_an_invalid_phase_is_measured_once_more(self):
        found = recorded((8, "invalid"))
        assert (found.next_phase(), found.result().status) == (8, "open")

    def test_invalid_twice_ends_without_an_answer(self):
        found = recorded((8, "pass"), (16, "invalid"), (16, "invalid"))
        assert (found.next_phase(), found.result().status) == (None, "invalid")

    def test_an_invalid_phase_that_then_passes_is_forgotten(self):
        found = recorded((8, "invalid"), (8, "pass"))
        assert (found.next_phase(), found.result().agents) == (16, 8)

    def test_an_invalid_number_that_nobody_needs_does_no_harm(self):
        found = recorded((100, "invalid"), (100, "invalid"), (4, "pass"), (5, "fail"))
        assert found.result() == SearchResult(agents=4, first_failing=5, status="found")

    def test_a_search_begins_open(self):
        assert search().result() == SearchResult(agents=0, first_failing=None, status="open")

    def test_a_phase_above_the_limit_counts_where_it_was_measured(self):
        found = recorded((64, "pass"), at_most=32)
        assert found.result() == SearchResult(agents=64, first_failing=None, status="at-limit")
