"""Searches by short phases and full ones, on systems whose answer is known by heart."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_agentperf.fast import FastSearch
from pytest_agentperf.search import Wanted
from pytest_agentperf.slo import Evidence, Finding, Outcome, Verdict

Findings = tuple[Finding, ...]
Curve = Callable[[float], Findings]
"""What a full phase of so many agents finds."""

UNCLEAR = 0.05
"""Nearer to a limit than this share of it, a short phase is never certain."""


def search(*, start: int = 8, at_most: int = 4096, resolution: float = 0.02) -> FastSearch:
    return FastSearch(start_agents=start, max_agents=at_most, resolution=resolution)


def speed(observed: float | None, bound: float = 60.0) -> Finding:
    """Against a limit of 60 tok/s."""
    return Finding(
        limit="output_speed_tok_per_s.p25", sign=">=", bound=bound, observed=observed, n=9,
        met=observed is not None and observed >= bound,
    )  # fmt: skip


def late(observed: float | None) -> Finding:
    """Against a limit of 5 s."""
    return Finding(
        limit="ttft_s.p95", sign="<=", bound=5.0, observed=observed, n=9,
        met=observed is not None and observed <= 5.0,
    )  # fmt: skip


def verdict(
    agents: int,
    *findings: Finding,
    outcome: Outcome | None = None,
    evidence: Evidence = "floors",
    doubts: tuple[str, ...] = (),
) -> Verdict:
    return Verdict(
        tier="t",
        agents=agents,
        outcome=outcome or ("pass" if all(f.met for f in findings) else "fail"),
        findings=findings,
        evidence=evidence,
        doubts=doubts,
    )


def short(found: FastSearch, agents: int, *findings: Finding, clear: bool = True) -> bool:
    """Record a short phase."""
    evidence: Evidence = "certain" if clear else "unclear"
    return found.record(agents, verdict(agents, *findings, evidence=evidence), short=True)


def full(found: FastSearch, agents: int, *findings: Finding) -> bool:
    """Record a full phase."""
    return found.record(agents, verdict(agents, *findings), short=False)


@dataclass(frozen=True, kw_only=True)
class System:
    """What phases on it say."""

    curve: Curve
    short: Curve | None = None
    """What short phases find; the same, where it is left out."""
    doubts: Callable[[int], bool] = lambda _: False
    """Whether a short phase of so many agents sees signs of a cliff."""

    def phase(self, wanted: Wanted) -> Verdict:
        agents = wanted.agents
        if not wanted.short:
            return verdict(agents, *self.curve(agents))
        findings = (self.short or self.curve)(agents)
        near = any(abs(_strain(f) - 1) < UNCLEAR for f in findings)
        return verdict(
            agents,
            *findings,
            evidence="unclear" if near else "certain",
            doubts=("lost caches",) if self.doubts(agents) else (),
        )


def _strain(finding: Finding) -> float:
    assert finding.observed is not None
    if finding.sign == ">=":
        return finding.bound / finding.observed
    return finding.observed / finding.bound


def run(found: FastSearch, on: System) -> list[Wanted]:
    """Measure what a search asks for until it ends; return what was measured."""
    asked: list[Wanted] = []
    while (wanted := found.next_phase()) is not None:
        asked.append(wanted)
        assert len(asked) < 100, asked
        found.record(wanted.agents, on.phase(wanted), short=wanted.short)
    return asked


def of_full(asked: list[Wanted]) -> list[int]:
    return [wanted.agents for wanted in asked if not wanted.short]


def line(threshold: float, idle: float = 0.25) -> Curve:
    """1 / speed grows by the agent; ``idle`` is its share without any."""
    return lambda n: (speed(60 / (idle + (1 - idle) * n / threshold)), late(0.5))


def queue(threshold: float, steepness: float = 1.0) -> Curve:
    """TTFT is flat as long as there is room, and then grows by the agent."""
    room = threshold * 0.8

    def found(agents: float) -> Findings:
        over = max(0.0, agents - room) / (threshold - room)
        return (speed(75.0), late(5 * (0.1 + 0.9 * over**steepness)))

    return found


def cliff(threshold: float, idle: float = 0.25) -> Curve:
    slow = line(2 * threshold, idle)
    return lambda n: (slow(n)[0], late(0.5 if n <= threshold else 500.0))


def harder(curve: Curve, factor: float) -> Curve:
    """Every strain by a factor."""

    def found(agents: float) -> Findings:
        fast, slow = curve(agents)
        assert fast.observed is not None
        assert slow.observed is not None
        return (speed(fast.observed / factor), late(slow.observed * factor))

    return found


class TestCourse:
    def test_short_phases_aim_and_full_ones_answer(self):
        # Strain = 0.25 + 0.75 n / 45: 0.383 at 8 and 0.517 at 16, so 1 at 45, and the ramp ends
        # 4 % beyond. It fails there, but not for certain; 45 passes, both ways, and uses up all.
        found = search()
        asked = run(found, System(curve=line(45.0)))
        shorts = [Wanted(n, short=True) for n in (8, 16, 47, 45)]
        assert asked == [*shorts, Wanted(45)]
        result = found.result()
        assert (result.agents, result.first_failing, result.status) == (45, None, "found")

    def test_one_step_by_hand(self):
        found = search()
        short(found, 8, speed(240.0))
        short(found, 48, speed(40.0))
        # 0.25 at 8 agents, 1.5 at 48: the line is at 1 with 32. The bracket is wider than 3 times,
        # so that a short phase looks there before a full one does.
        assert found.next_phase() == Wanted(32, short=True)

    def test_two_short_phases_that_tell_the_curve_are_followed_by_a_full_one(self):
        found = search()
        short(found, 24, speed(120.0))
        short(found, 48, speed(40.0))
        # 0.5 and 1.5: 1 with 36 agents; first turns flatter, so 1 % more: 36.36.
        assert found.next_phase() == Wanted(36)

    def test_a_full_phase_raises_the_curve_of_the_short_ones(self):
        found = search()
        short(found, 24, speed(120.0))
        short(found, 48, speed(40.0))
        full(found, 36, speed(75.0))
        # 0.8 where the short ones say 1.0: they reach 1.25 with 24 + 24 x 0.75 = 42 agents.
        assert found.next_phase() == Wanted(42)
        full(found, 42, speed(60.0))
        # Exactly at its limit, so that the next number surely fails: it is not measured.
        assert found.next_phase() is None
        assert (found.result().agents, found.result().first_failing) == (42, 48)

    def test_just_below_the_next_number_the_curve_is_not_trusted(self):
        found = search()
        short(found, 24, speed(120.0))
        short(found, 48, speed(40.0))
        full(found, 36, speed(61.0))
        # 60 / 61 = 0.984: 1 where the short ones say 1.0167, with 24 + 24 x 0.5167 = 36.4.
        assert found.next_phase() is None
        nearer = search()
        short(nearer, 24, speed(120.0))
        short(nearer, 48, speed(40.0))
        full(nearer, 36, speed(62.1))
        # 0.966, so 1.035: 36.84, and within 0.1 + 0.5 % of 36 of 37.
        assert nearer.next_phase() == Wanted(37)

    def test_between_two_full_phases_their_own_curve_aims(self):
        found = search()
        short(found, 24, speed(120.0))
        short(found, 60, speed(30.0))
        full(found, 36, speed(75.0))
        full(found, 48, speed(50.0))
        # 0.8 at 36 and 1.2 at 48: 1 with 42.
        assert found.next_phase() == Wanted(42)

    def test_what_may_be_the_last_that_passes_is_measured_in_full_at_once(self):
        found = search()
        short(found, 8, speed(120.0), late(0.1))
        short(found, 10, speed(100.0), late(500.0))
        # 10 fails for certain and by far, so 9 is the last that may pass, and no short one helps.
        assert found.next_phase() == Wanted(9)

    def test_full_phases_alone_climb_by_a_quarter_at_most(self):
        # No curve: a pass with 100 agents, where short phases fail unclearly from 8 on.
        found = search()
        full(found, 100, speed(70.0))
        while (wanted := found.next_phase()) is not None and wanted.short:
            short(found, wanted.agents, speed(59.9), clear=False)
        assert wanted is not None
        assert 100 < wanted.agents <= 125

    def test_at_the_limit_nothing_has_failed(self):
        found = search(at_most=64)
        asked = run(found, System(curve=line(500.5)))
        result = found.result()
        assert of_full(asked) == [64]
        assert (result.agents, result.first_failing, result.status) == (64, None, "at-limit")

    def test_a_search_begins_open(self):
        result = search().result()
        assert (result.agents, result.first_failing, result.status) == (0, None, "open")

    def test_a_phase_above_the_limit_counts_where_it_was_measured(self):
        found = search(at_most=32)
        full(found, 64, speed(70.0))
        assert found.next_phase() is None
        assert (found.result().agents, found.result().status) == (64, "at-limit")


class TestOneAgentIsTooMany:
    def test_a_clear_miss_in_a_short_phase_is_enough(self):
        found = search()
        # 30 tok/s with one agent: twice the strain that is allowed.
        asked = run(found, System(curve=lambda n: (speed(30.0 / n), late(0.5))))
        assert of_full(asked) == []
        assert asked[-1] == Wanted(1, short=True)
        result = found.result()
        assert (result.agents, result.first_failing, result.status) == (0, 1, "unsupported")
        assert found.interval() == (0, 0)

    @pytest.mark.parametrize(
        ("alone", "agents", "status"),
        [(60.5, 1, "found"), (59.0, 0, "unsupported")],
        ids=["it passes", "it fails"],
    )
    def test_an_unclear_miss_is_measured_in_full(self, alone: float, agents: int, status: str):
        found = search()
        # 59 tok/s in a short phase: 60 / 59 = 1.017 is not above 1.03. Two get half of it.
        on = System(
            curve=lambda n: (speed(alone / n), late(0.5)),
            short=lambda n: (speed(59.0 / n), late(0.5)),
        )
        asked = run(found, on)
        assert of_full(asked) == [1]
        assert (found.result().agents, found.result().status) == (agents, status)

    @pytest.mark.parametrize("start", [1, 2, 8])
    def test_where_no_curve_tells_a_full_phase_goes_no_higher_than_what_failed(self, start: int):
        """Flat, and just outside the limit, so that no miss is clear."""
        found = search(start=start)
        asked = run(found, System(curve=lambda _: (speed(59.0), late(0.5))))
        assert max(of_full(asked), default=0) <= start
        assert found.result().status == "unsupported"


class TestShort:
    def test_a_clear_fail_bounds_and_an_unclear_one_does_not(self):
        clear, unclear = search(), search()
        short(clear, 16, speed(30.0))
        short(unclear, 16, speed(30.0), clear=False)
        assert (clear.result().first_failing, unclear.result().first_failing) == (16, None)

    @pytest.mark.parametrize(
        ("agents", "observed", "bounds"),
        [
            (1, 60 / 1.031, True),
            (1, 60 / 1.029, False),
            (10, 60 / 1.101, True),
            (10, 60 / 1.099, False),
            (99, 60 / 1.099, False),
        ],
        ids=["one", "one, nearer", "ten", "ten, nearer", "many"],
    )
    def test_a_fail_is_clear_by_3_to_10_percent(self, agents: int, observed: float, bounds: bool):  # noqa: FBT001
        found = search()
        short(found, agents, speed(observed))
        assert (found.result().first_failing == agents) is bounds

    def test_a_pass_is_never_an_answer(self):
        found = search()
        short(found, 8, speed(240.0))
        assert (found.result().agents, found.result().status) == (0, "open")

    def test_a_pass_with_doubts_ends_the_ramp(self):
        doubts, clean = search(), search()
        sure: Evidence = "certain"
        for found, doubt in ((doubts, ("lost",)), (clean, ())):
            found.record(8, verdict(8, speed(240.0), evidence=sure, doubts=doubt), short=True)
        assert doubts.next_phase() == Wanted(4, short=True)
        assert clean.next_phase() == Wanted(16, short=True)

    def test_with_doubts_beside_a_clean_one_it_is_measured_in_full(self):
        found = search()
        short(found, 8, speed(240.0))
        short(found, 16, speed(120.0))
        sure = verdict(32, speed(90.0), evidence="certain", doubts=("lost caches",))
        found.record(32, sure, short=True)
        # Short phases cannot tell what happens from 32 on, however many there are.
        assert found.next_phase() == Wanted(32)

    def test_a_time_missed_beside_the_answer_is_measured_in_full(self):
        late_one, slow_one = search(), search()
        for found, miss in (
            (late_one, (speed(70.0), late(50.0))),
            (slow_one, (speed(30.0), late(0.5))),
        ):
            full(found, 15, speed(90.0), late(0.5))
            short(found, 16, *miss)
        assert late_one.next_phase() == Wanted(16)
        assert slow_one.next_phase() is None

    def test_off_a_cliff_before_its_edge_is_refuted_by_full_phases(self):
        """A start in mid-trajectory with a cold cache falls 4 agents before the others do."""
        found = search()
        asked = run(found, System(curve=cliff(41), short=cliff(37)))
        assert (found.result().agents, found.result().first_failing) == (41, 42)
        assert {41, 42} <= set(of_full(asked))

    def test_a_clear_fail_below_a_full_pass_is_forgotten(self):
        found = search()
        short(found, 16, speed(30.0))
        full(found, 20, speed(70.0))
        assert (found.result().agents, found.result().first_failing) == (20, None)


class TestInvalid:
    @pytest.mark.parametrize("is_short", [True, False], ids=["short", "full"])
    def test_twice_ends_the_search(self, is_short: bool):  # noqa: FBT001
        found = search()
        if not is_short:
            short(found, 24, speed(120.0))
            short(found, 48, speed(40.0))
        wanted = found.next_phase()
        assert wanted is not None
        assert wanted.short is is_short
        for status in ("open", "invalid"):
            assert found.next_phase() == wanted
            bad = verdict(wanted.agents, outcome="invalid")
            assert found.record(wanted.agents, bad, short=wanted.short)
            assert found.result().status == status
        assert found.next_phase() is None

    def test_a_short_phase_is_not_a_full_one_of_as_many_agents(self):
        found = search()
        short(found, 24, speed(120.0))
        short(found, 48, speed(40.0))
        for _ in range(2):
            found.record(36, verdict(36, outcome="invalid"), short=True)
        assert (found.next_phase(), found.result().status) == (Wanted(36), "open")

    def test_an_invalid_phase_that_then_passes_is_forgotten(self):
        found = search()
        found.record(8, verdict(8, outcome="invalid"), short=True)
        short(found, 8, speed(240.0))
        assert found.next_phase() == Wanted(16, short=True)


class TestFull:
    def test_a_pass_above_a_failure_is_reported_and_never_counts(self):
        found = search()
        full(found, 8, speed(70.0))
        full(found, 9, speed(55.0))
        full(found, 32, speed(65.0))
        result = found.result()
        assert found.next_phase() is None
        assert (result.agents, result.first_failing, result.status) == (8, 9, "found")
        assert result.passes_above_failure == (32,)

    @pytest.mark.parametrize("speeds", [(70.0, 50.0), (50.0, 70.0)], ids=["after it", "before it"])
    def test_a_failure_outweighs_a_pass_at_the_same_number(self, speeds: tuple[float, float]):
        found = search()
        full(found, 4, speed(90.0))
        for observed in speeds:
            full(found, 5, speed(observed))
        assert (found.result().agents, found.result().first_failing) == (4, 5)

    def test_needed_are_phases_that_were_asked_for_or_narrowed_the_bracket(self):
        found = search()
        told = [
            short(found, 8, speed(240.0)),  # asked for
            short(found, 9, speed(239.0)),  # nobody's
            full(found, 10, speed(200.0)),  # a floor
            full(found, 9, speed(210.0)),  # below it
            full(found, 64, speed(30.0)),  # a ceiling
            full(found, 99, speed(20.0)),  # above it
        ]
        assert told == [True, False, True, False, True, False]


class TestByCurve:
    """Whether the next number was left out since the curve says that it fails."""

    @staticmethod
    def told(strain: float, *, resolution: float) -> FastSearch:
        """80 agents use up 0.8 and 120 use up 1.2 in short phases; 100 so much in a full one."""
        found = search(resolution=resolution)
        short(found, 80, speed(75.0))
        short(found, 120, speed(50.0))
        full(found, 100, speed(60 / strain))
        assert found.next_phase() is None
        return found

    def test_is_told_where_it_was_not_measured(self):
        # All is used up with 100 / 0.998 = 100.2 agents.
        result = self.told(0.998, resolution=1e-9).result()
        assert (result.agents, result.status, result.by_curve) == (100, "found", True)

    def test_is_not_told_where_it_was_measured(self):
        found = self.told(0.998, resolution=1e-9)
        full(found, 101, speed(59.0))
        assert (found.result().first_failing, found.result().by_curve) == (101, False)

    def test_is_not_told_where_the_curve_says_that_it_passes(self):
        # 100 / 0.988 = 101.2: 101 is nearer than the resolution, not beyond the limit.
        assert not self.told(0.988, resolution=0.02).result().by_curve

    def test_is_not_told_of_no_answer_nor_at_the_limit_nor_on_the_way(self):
        unsupported, at_limit = search(), search(at_most=8)
        short(unsupported, 1, speed(9.0))
        full(at_limit, 8, speed(70.0))
        for found in (unsupported, at_limit, search()):
            assert not found.result().by_curve


class TestIsOpenAt:
    def test_everything_is_open_at_first(self):
        found = search()
        assert all(found.is_open_at(n) for n in (1, 8, 4096))

    def test_only_inside_the_brackets(self):
        found = search()
        full(found, 10, speed(70.0))
        full(found, 20, speed(50.0))
        assert [n for n in range(1, 40) if found.is_open_at(n)] == list(range(11, 20))

    def test_what_short_phases_have_not_told_is_open(self):
        found = search()
        short(found, 10, speed(70.0))
        short(found, 20, speed(30.0))
        # No full phase has passed, so all below 20 is open; and 20 has clearly failed.
        assert [n for n in range(1, 40) if found.is_open_at(n)] == list(range(1, 20))

    @given(threshold=st.integers(1, 3000), idle=st.floats(0.0, 0.9))
    def test_at_every_number_that_is_asked_for(self, threshold: int, idle: float):
        found, on = search(), System(curve=line(threshold + 0.5, idle))
        while (wanted := found.next_phase()) is not None:
            assert found.is_open_at(wanted.agents)
            found.record(wanted.agents, on.phase(wanted), short=wanted.short)


class TestInterval:
    def test_is_where_limits_two_percent_stricter_and_looser_are_crossed(self):
        found = search()
        # Strain = (39.5 + n) / 100: 1 with 60.5 agents, 0.98 with 58.5, 1.02 with 62.5.
        run(found, System(curve=lambda n: (speed(6000 / (39.5 + n)), late(0.5))))
        assert found.result().agents == 60
        assert found.interval() == (58, 62)

    def test_is_the_bracket_where_no_curve_tells(self):
        found = search()
        full(found, 40, speed(70.0), late(0.5))
        full(found, 41, speed(69.0), late(math.inf))
        assert found.interval() == (40, 40)

    def test_has_no_upper_end_where_nothing_has_failed(self):
        found = search(at_most=8)
        full(found, 8, speed(70.0))
        assert (found.result().status, found.interval()) == ("at-limit", (8, None))


@st.composite
def systems(draw: st.DrawFn) -> tuple[System, int]:
    """A monotone system, and the greatest number that passes a full phase on it."""
    threshold = draw(st.integers(1, 40) | st.integers(1, 3000))
    shape = draw(st.floats(0.0, 0.9))
    forms: list[Callable[[float, float], Curve]] = [line, lambda t, s: queue(t, 1 + 2 * s), cliff]
    curve = draw(st.sampled_from(forms))(threshold + 0.5, shape)
    bias = draw(st.sampled_from([0.97, 1.0, 1.03, 1.05]))
    return System(curve=curve, short=harder(curve, bias)), threshold


def hidden_cliff(
    threshold: int, *, idle: float, doubts_from: float, seen_from: float
) -> tuple[System, int]:
    """A cliff that short phases pass for some way, with doubts from just before it on."""
    curve = cliff(threshold + 0.5, idle)

    def lying(agents: float) -> Findings:
        return curve(agents if agents > seen_from else min(agents, threshold))

    return System(curve=curve, short=lying, doubts=lambda n: n > doubts_from), threshold


@st.composite
def hidden_cliffs(draw: st.DrawFn) -> tuple[System, int]:
    threshold = draw(st.integers(4, 3000))
    return hidden_cliff(
        threshold,
        idle=draw(st.floats(0.0, 0.9)),
        doubts_from=draw(st.floats(0.8, 1.0)) * threshold,
        seen_from=draw(st.floats(1.0, 1.5)) * threshold,
    )


def bears_out(found: FastSearch, asked: list[Wanted], on: System) -> None:
    """Hold an answer against every full phase."""
    result = found.result()
    told = {n: on.phase(Wanted(n)).outcome for n in of_full(asked)}
    failed = {n for n, outcome in told.items() if outcome == "fail"}
    passed = {n for n, outcome in told.items() if outcome == "pass"}
    below = {n for n in passed if all(n < each for each in failed)}
    assert result.agents == max(below, default=0)
    assert len(set(asked)) == len(asked)
    low, high = found.interval()
    assert low <= result.agents
    assert high is None or high >= result.agents


class TestAnyMonotoneSystem:
    @given(of=systems() | hidden_cliffs(), start=st.integers(1, 64))
    def test_is_answered_by_what_passed_in_full(self, of: tuple[System, int], start: int):
        on, threshold = of
        found = search(start=start)
        asked = run(found, on)
        bears_out(found, asked, on)
        assert found.result().agents <= threshold

    @given(of=systems(), start=st.integers(1, 64))
    def test_is_answered_within_the_resolution(self, of: tuple[System, int], start: int):
        on, threshold = of
        found = search(start=start)
        run(found, on)
        assert threshold - found.result().agents <= max(1, 0.02 * threshold)

    @given(of=systems(), start=st.integers(1, 64))
    def test_is_answered_exactly_when_the_resolution_is_tiny(
        self, of: tuple[System, int], start: int
    ):
        on, threshold = of
        found = search(start=start, resolution=1e-9)
        run(found, on)
        assert found.result().agents == threshold

    @given(threshold=st.integers(4, 3000), idle=st.floats(0.0, 0.5))
    def test_takes_two_full_phases_where_the_curve_is_a_line(self, threshold: int, idle: float):
        asked = run(search(), System(curve=line(threshold + 0.5, idle)))
        assert 1 <= len(of_full(asked)) <= 2

    @given(threshold=st.integers(4, 3000), idle=st.floats(0.0, 0.5), bias=st.floats(1.0, 1.03))
    def test_takes_three_where_short_ones_are_off_by_what_is_known(
        self, threshold: int, idle: float, bias: float
    ):
        curve = line(threshold + 0.5, idle)
        asked = run(search(), System(curve=curve, short=harder(curve, bias)))
        assert 1 <= len(of_full(asked)) <= 3

    @given(of=hidden_cliffs(), start=st.integers(1, 64))
    @example(of=hidden_cliff(2115, idle=0.7207, doubts_from=2101, seen_from=3151), start=8)
    def test_takes_sixteen_full_phases_at_most_where_short_ones_lie(
        self, of: tuple[System, int], start: int
    ):
        on, _ = of
        assert len(of_full(run(search(start=start), on))) <= 16


class TestAnyVerdicts:
    @given(data=st.data(), start=st.integers(1, 64), at_most=st.integers(64, 512))
    def test_are_searched_to_an_end_that_they_bear_out(
        self, data: st.DataObject, start: int, at_most: int
    ):
        """Values, outcomes, doubts at random, in no order, so that every aim is wrong."""
        found = search(start=start, at_most=at_most)
        numbers = st.floats(1e-3, 1e4) | st.floats(50.0, 70.0) | st.sampled_from([0.0, math.inf])
        values = st.none() | numbers
        outcomes: list[Outcome] = ["pass", "pass", "fail", "fail", "invalid"]
        told: list[tuple[Wanted, Outcome]] = []
        while (wanted := found.next_phase()) is not None:
            assert 1 <= wanted.agents <= at_most
            said = verdict(
                wanted.agents,
                speed(data.draw(values)),
                late(data.draw(values)),
                outcome=data.draw(st.sampled_from(outcomes)),
                evidence=data.draw(st.sampled_from(["certain", "unclear"]))
                if wanted.short
                else "floors",
                doubts=data.draw(st.sampled_from([(), ("lost",)])),
            )
            told.append((wanted, said.outcome))
            assert found.record(wanted.agents, said, short=wanted.short)
            low, high = found.interval()
            assert low <= found.result().agents
            assert high is None or high >= found.result().agents
            # Each kind closes its own bracket of 512; an answer that falls opens nothing again.
            assert len(told) <= 60
        decided = [wanted for wanted, outcome in told if outcome != "invalid"]
        assert len(set(decided)) == len(decided)
        passed = {w.agents for w, outcome in told if not w.short and outcome == "pass"}
        failed = {w.agents for w, outcome in told if not w.short and outcome == "fail"}
        result = found.result()
        below = {n for n in passed if all(n < each for each in failed)}
        assert result.agents == max(below, default=0)
        assert set(result.passes_above_failure) == {n for n in passed if failed and n > min(failed)}
        invalid = [wanted for wanted, outcome in told if outcome == "invalid"]
        twice = {wanted for wanted in invalid if invalid.count(wanted) == 2}
        assert (result.status == "invalid") is bool(twice)
        assert not twice or twice == {told[-1][0]}

    @given(data=st.data(), resolution=st.sampled_from([1e-9, 0.02, 0.3]))
    def test_every_full_phase_narrows_what_is_open(self, data: st.DataObject, resolution: float):
        found = search(resolution=resolution, at_most=512)
        while (wanted := found.next_phase()) is not None:
            before = found.result()
            observed = data.draw(st.floats(40.0, 90.0))
            said = verdict(
                wanted.agents, speed(observed), evidence="certain" if wanted.short else "floors"
            )
            found.record(wanted.agents, said, short=wanted.short)
            after = found.result()
            if not wanted.short:
                bounds = (before.agents, before.first_failing), (after.agents, after.first_failing)
                assert bounds[0] != bounds[1]


class TestTiers:
    """Every phase is told to the searches of all tiers, as the ledger does."""

    @staticmethod
    def searched(*limits: float, capacity_at_60: float = 100.5) -> tuple[list[Wanted], list[int]]:
        """Search tiers in order of these limits; 1 / speed = (capacity / 3 + n) / 80."""
        asked: list[Wanted] = []
        answers: list[int] = []

        def phase(wanted: Wanted, limit: float) -> Verdict:
            observed = 80 * capacity_at_60 / (capacity_at_60 / 3 + wanted.agents)
            near = abs(limit / observed - 1) < UNCLEAR
            evidence: Evidence = "floors" if not wanted.short else "unclear" if near else "certain"
            return verdict(wanted.agents, speed(observed, limit), late(0.5), evidence=evidence)

        for limit in limits:
            found = search()
            for wanted in asked:
                found.record(wanted.agents, phase(wanted, limit), short=wanted.short)
            while (wanted := found.next_phase()) is not None:
                assert wanted not in asked
                asked.append(wanted)
                assert len(asked) < 60
                found.record(wanted.agents, phase(wanted, limit), short=wanted.short)
            answers.append(found.result().agents)
        return asked, answers

    def test_an_answer_does_not_depend_on_which_tier_was_first(self):
        # 80 x 100.5 / (33.5 + n) tok/s: 60 with 100.5 agents, 120 with 33.5, 30 with 234.5.
        for limits in ((120.0, 60.0, 30.0), (30.0, 60.0, 120.0), (60.0, 120.0, 30.0)):
            _, answers = self.searched(*limits)
            for limit, answer in zip(limits, answers, strict=True):
                exact = {120.0: 33, 60.0: 100, 30.0: 234}[limit]
                assert 0 <= exact - answer <= max(1, 0.02 * exact)

    @pytest.mark.parametrize(
        "limits",
        [(120.0, 60.0), (60.0, 30.0), (60.0, 120.0), (30.0, 60.0)],
        ids=["strict first", "lax second", "lax first", "strict second"],
    )
    def test_a_second_tier_takes_no_more_full_phases_than_alone(self, limits: tuple[float, float]):
        alone = [len(of_full(self.searched(limit)[0])) for limit in limits]
        assert alone[1] <= 2
        assert len(of_full(self.searched(*limits)[0])) <= sum(alone)

    def test_a_second_tier_takes_fewer_phases_than_alone(self):
        for limits in ((60.0, 120.0), (30.0, 60.0)):
            alone = [len(self.searched(limit)[0]) for limit in limits]
            assert len(self.searched(*limits)[0]) < sum(alone)

    def test_the_same_tier_again_asks_for_nothing(self):
        once, answer = self.searched(60.0)
        twice, answers = self.searched(60.0, 60.0)
        assert (twice, answers) == (once, answer * 2)
