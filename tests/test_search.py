import math
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_agentperf.search import CapacitySearch, Outcome, SearchResult
from pytest_agentperf.slo import Finding


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


Curve = Callable[[int], tuple[Finding, ...]]
"""What a phase of so many agents finds."""


def aim(found: CapacitySearch, curve: Curve) -> list[int]:
    """Measure what a search asks for until it ends, limits and all."""
    asked: list[int] = []
    while (agents := found.next_phase()) is not None:
        asked.append(agents)
        assert len(asked) < 100, asked
        record(found, agents, curve)
    return asked


def record(found: CapacitySearch, agents: int, curve: Curve) -> bool:
    findings = curve(agents)
    return found.record(agents, "pass" if all(f.met for f in findings) else "fail", findings)


def speed(observed: float) -> Finding:
    """Against a limit of 60 tok/s."""
    return Finding(
        limit="output_speed_tok_per_s.p25", sign=">=", bound=60.0, observed=observed, n=9,
        met=observed >= 60.0,
    )  # fmt: skip


def late(observed: float) -> Finding:
    """Against a limit of 5 s."""
    return Finding(
        limit="ttft_s.p95", sign="<=", bound=5.0, observed=observed, n=9, met=observed <= 5.0
    )


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


class TestGuided:
    def test_one_step_by_hand(self):
        found = search()
        record(found, 8, lambda _: (speed(240.0),))
        record(found, 48, lambda _: (speed(40.0),))
        # 60 / 240 = 0.25 at 8 agents, 60 / 40 = 1.5 at 48: (1 - 0.25) / 1.25 = 0.6 of the way, so
        # 8 + 0.6 × 40 = 32. The middle would be 28.
        assert found.next_phase() == 32

    def test_then_one_beside_it_closes_the_bracket(self):
        # 1 / speed = (2 + n) / 2400: 60 tok/s with 38 agents.
        asked = aim(search(), lambda n: (speed(2400 / (2 + n)),))
        # The ramp doubles once, for want of a curve, and then ends 4 % beyond 38, at 39.52.
        assert asked == [8, 16, 40, 38, 39]

    def test_a_ramp_goes_no_farther_than_four_times(self):
        asked = aim(search(at_most=1000), lambda n: (speed(120.0 - n / 1000),))
        assert asked == [8, 16, 64, 256, 1000]

    def test_a_ramp_down_ends_below_the_crossing(self):
        # 1 / speed = n / 120: 60 tok/s with 2. 8 and 4 fail; 2 / 1.04 is below 2, so 1, then 2.
        assert aim(search(), lambda n: (speed(120 / n),)) == [8, 4, 1, 2, 3]

    def test_the_first_limit_to_be_crossed_decides(self):
        found = search()
        record(found, 8, lambda _: (speed(240.0), late(2.0)))
        record(found, 48, lambda _: (speed(40.0), late(12.0)))
        # 0.4 at 8 agents and 2.4 at 48 is ×6 for ×6: 1 at 20, before 60 tok/s is lost at 32.
        assert found.next_phase() == 20

    def test_a_cliff_is_bisected(self):
        found = search()
        record(found, 8, lambda _: (speed(240.0), late(1.0)))
        record(found, 48, lambda _: (speed(70.0), late(math.inf)))
        assert found.next_phase() == 28

    def test_asks_as_a_bisection_does_where_it_is_not_guided(self):
        plain = CapacitySearch(start_agents=8, max_agents=4096, resolution=0.02, guided=False)
        assert aim(plain, lambda n: (speed(2400 / (2 + n)),)) == [8, 16, 32, 64, 48, 40, 36, 38, 39]


def line(threshold: float, idle: float) -> Curve:
    """1 / speed grows by the agent; ``idle`` is its share without any."""
    return lambda n: (speed(60 / (idle + (1 - idle) * n / threshold)),)


def power(threshold: float, exponent: float) -> Curve:
    return lambda n: (speed(60 * (threshold / n) ** (4 * exponent)),)


def queue(threshold: float, steepness: float) -> Curve:
    """TTFT is flat as long as there is room, and then grows by the agent."""
    room = threshold * 0.8

    def found(agents: int) -> tuple[Finding, ...]:
        over = max(0.0, agents - room) / (threshold - room)
        return (speed(75.0), late(5 * (0.1 + 0.9 * over ** (1 + 9 * steepness))))

    return found


def cliff(threshold: float, idle: float) -> Curve:
    slow = line(2 * threshold, idle)
    return lambda n: (*slow(n), late(1.0 if n <= threshold else math.inf))


def flat(threshold: float, slope: float) -> Curve:
    """Just inside the limit for long, and far outside behind it."""
    return lambda n: (
        speed(60 / (1 + (slope / 50 if n <= threshold else 5) * (n / threshold - 1))),
    )


FORMS: list[Callable[[float, float], Curve]] = [line, power, queue, cliff, flat]


@st.composite
def curves(draw: st.DrawFn) -> tuple[Curve, int]:
    """A monotone curve, and the largest number that passes on it."""
    threshold = draw(st.integers(1, 40) | st.integers(1, 3000))
    form, shape = draw(st.sampled_from(FORMS)), draw(st.floats(0.05, 0.95))
    return form(threshold + 0.5, shape), threshold


def noisy(curve: Curve, seed: int, ratio: float) -> Curve:
    """The same verdicts; values off by up to a ratio, as far as they stay on their side."""

    def found(agents: int) -> tuple[Finding, ...]:
        rng = random.Random(f"{seed} {agents}")
        return tuple(_shaken(f, 1 + ratio * rng.uniform(-1, 1)) for f in curve(agents))

    return found


def _shaken(finding: Finding, factor: float) -> Finding:
    assert finding.observed is not None
    make = speed if finding.sign == ">=" else late
    shaken = make(finding.observed * factor)
    return shaken if shaken.met == finding.met else finding


class TestAnyMonotoneCurve:
    @given(of=curves(), seed=st.integers(0, 999), start=st.integers(1, 64))
    def test_is_answered_as_bisection_answers_it(
        self, of: tuple[Curve, int], seed: int, start: int
    ):
        curve, threshold = of
        found = search(start=start, resolution=1e-9)
        asked = aim(found, noisy(curve, seed, 0.01))
        assert len(set(asked)) == len(asked)
        assert (found.result().agents, found.result().first_failing) == (threshold, threshold + 1)

    @given(of=curves(), seed=st.integers(0, 999), start=st.integers(1, 64))
    def test_ends_in_a_bracket_as_wide_as_the_resolution(
        self, of: tuple[Curve, int], seed: int, start: int
    ):
        curve, threshold = of
        found = search(start=start)
        aim(found, noisy(curve, seed, 0.01))
        low, high = found.result().agents, found.result().first_failing
        assert high is not None
        assert low <= threshold < high
        assert high - low <= max(1, 0.02 * low)

    @given(of=curves(), seed=st.integers(0, 999), resolution=st.sampled_from([1e-9, 0.02]))
    @example(of=(power(114.5, 0.25 / 4), 114), seed=0, resolution=1e-9)
    def test_takes_at_most_five_phases_more_than_bisection(
        self, of: tuple[Curve, int], seed: int, resolution: float
    ):
        """Two of slack, two where a ramp of ×4 ends in a wider bracket, one for the rounding."""
        curve, threshold = of
        plain = CapacitySearch(start_agents=8, max_agents=4096, resolution=resolution, guided=False)
        guided = aim(search(resolution=resolution), noisy(curve, seed, 0.01))
        assert len(guided) <= len(run(plain, up_to(threshold))) + 5

    @given(threshold=st.integers(1, 3000), idle=st.floats(0.0, 0.9))
    def test_takes_six_phases_and_the_ramp_where_the_curve_is_a_line(
        self, threshold: int, idle: float
    ):
        asked = aim(search(resolution=1e-9), line(threshold + 0.5, idle))
        ramp = math.ceil(max(0.0, math.log(threshold / 8, 4)))
        assert len(asked) <= ramp + 6

    @given(of=curves(), known=st.lists(st.integers(1, 4096), max_size=12))
    def test_profits_from_phases_of_other_tiers(self, of: tuple[Curve, int], known: list[int]):
        curve, threshold = of
        found = search()
        for agents in known:
            record(found, agents, curve)
        asked = aim(found, curve)
        assert not set(asked) & set(known)
        assert found.result().agents <= threshold


class TestAnyReadings:
    @given(data=st.data(), start=st.integers(1, 64), at_most=st.integers(64, 512))
    def test_are_searched_to_an_end_that_they_bear_out(
        self, data: st.DataObject, start: int, at_most: int
    ):
        """Values at random, in no order, so that every aim is wrong."""
        seen: dict[int, tuple[Finding, ...]] = {}

        def curve(agents: int) -> tuple[Finding, ...]:
            speeds = st.floats(0.0, 1e4) | st.floats(58.0, 62.0)
            times = st.floats(0.0, 1e4) | st.just(math.inf)
            seen[agents] = (speed(data.draw(speeds)), late(data.draw(times)))
            return seen[agents]

        found = search(start=start, at_most=at_most)
        asked = aim(found, curve)
        assert len(set(asked)) == len(asked)
        assert all(1 <= agents <= at_most for agents in asked)
        passed = {n for n, findings in seen.items() if all(f.met for f in findings)}
        failed = set(seen) - passed
        result = found.result()
        assert result.agents in passed | {0}
        assert all(result.agents < n for n in failed)
        assert set(result.passes_above_failure) == {n for n in passed if failed and n > min(failed)}
        low, high = found.interval()
        assert low <= result.agents
        assert high is None or high >= result.agents

    @given(data=st.data(), low=st.integers(1, 500), width=st.integers(2, 1000))
    def test_close_a_bracket_two_phases_after_bisection_at_the_latest(
        self, data: st.DataObject, low: int, width: int
    ):
        """Whatever is measured inside, and however it misleads."""
        speeds = st.floats(0.0, 1e4) | st.floats(58.0, 62.0)
        found = search(resolution=1e-9)
        record(found, low, lambda _: (speed(data.draw(st.floats(60.0, 600.0))),))
        record(found, low + width, lambda _: (speed(data.draw(st.floats(0.0, 59.0))),))
        asked = aim(found, lambda _: (speed(data.draw(speeds)),))
        assert len(asked) <= math.ceil(math.log2(width)) + 2


class TestInterval:
    def test_is_where_limits_two_percent_stricter_and_looser_are_crossed(self):
        # 60 / speed = (39.5 + n) / 100: 1 with 60.5 agents, 0.98 with 58.5, 1.02 with 62.5.
        found = search(resolution=1e-9)
        aim(found, lambda n: (speed(6000 / (39.5 + n)),))
        assert found.result().agents == 60
        assert found.interval() == (58, 62)

    def test_of_a_flat_curve_is_as_wide_as_the_curve_is_flat(self):
        # 60.6 tok/s with 96 agents and 59.5 with 160: 60 / 60.6 = 0.990 and 60 / 59.5 = 1.008.
        found = search(resolution=0.5)
        for agents, observed in ((48, 80.0), (96, 60.6), (160, 59.5), (320, 40.0)):
            record(found, agents, lambda _, observed=observed: (speed(observed),))
        # 0.75 at 48, 0.9901 at 96: 0.98 at 48 + 48 × 0.23 / 0.2401 = 93.98.
        # 1.0084 at 160, 1.5 at 320: 1.02 at 160 + 160 × 0.0116 / 0.4916 = 163.8.
        assert (found.result().agents, found.interval()) == (96, (93, 163))

    def test_never_lies_inside_the_bracket(self):
        found = search(resolution=0.5)
        record(found, 40, lambda _: (speed(80.0),))
        record(found, 60, lambda _: (speed(40.0),))
        # 0.75 and 1.5: 1.02 with 47.2 agents; but 41 to 59 were not measured.
        assert found.interval() == (40, 59)

    def test_reaches_from_phase_to_phase_across_a_cliff(self):
        found = search(resolution=0.5)
        record(found, 40, lambda _: (speed(80.0), late(1.0)))
        record(found, 50, lambda _: (speed(70.0), late(math.inf)))
        assert found.interval() == (40, 49)

    def test_is_open_where_nothing_has_missed_the_looser_limits(self):
        found = search()
        record(found, 8, lambda _: (speed(90.0),))
        record(found, 9, lambda _: (speed(59.5),))
        assert found.interval() == (8, None)

    def test_below_the_fewest_agents_goes_on_along_the_curve(self):
        found = search(resolution=1e-9)
        for agents, observed in ((8, 60.6), (9, 56.0), (16, 40.0)):
            record(found, agents, lambda _, observed=observed: (speed(observed),))
        # 0.9901 at 8 and 1.5 at 16: 0.98 at 8 - 8 × 0.0101 / 0.5099 = 7.84.
        # 0.9901 at 8 and 1.0714 at 9: 1.02 at 8.37.
        assert found.interval() == (7, 8)


class TestNeeded:
    def test_are_phases_that_were_asked_for_or_narrowed_the_bracket(self):
        found = search()
        judge = up_to(20)
        told = [(n, found.record(n, judge(n))) for n in (8, 64, 128, 4, 32)]
        assert told == [(8, True), (64, True), (128, False), (4, False), (32, True)]

    def test_are_invalid_ones_where_they_were_asked_for(self):
        found = search()
        assert found.record(8, "invalid")
        assert not found.record(99, "invalid")


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
