"""Which search a mode runs."""

from dataclasses import replace

import pytest

from pytest_agentperf.fast import FastSearch
from pytest_agentperf.modes import Exact, make_search
from pytest_agentperf.search import CapacitySearch, Wanted
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import Evidence, Finding, Outcome, Verdict


def verdict(agents: int, outcome: Outcome, *findings: Finding) -> Verdict:
    return Verdict(tier="t", agents=agents, outcome=outcome, findings=findings)


def speed(observed: float) -> Finding:
    """Against a limit of 60 tok/s."""
    return Finding(
        limit="output_speed_tok_per_s.p25", sign=">=", bound=60.0, observed=observed, n=9,
        met=observed >= 60.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "kind"), [("exact", Exact), ("smoke", Exact), ("fast", FastSearch)]
)
def test_a_mode_has_its_search(mode: str, kind: type):
    assert type(make_search(make_settings({"mode": mode}))) is kind


@pytest.mark.parametrize(("mode", "first"), [("exact", Wanted(3)), ("fast", Wanted(3, short=True))])
def test_begins_and_ends_where_the_settings_say(mode: str, first: Wanted):
    search = make_search(make_settings({"mode": mode, "start_agents": 3, "max_agents": 5}))
    assert search.next_phase() == first
    search.record(5, verdict(5, "pass", speed(70.0)), short=False)
    assert (search.next_phase(), search.result().status) == (None, "at-limit")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_ends_as_finely_as_the_settings_say(mode: str):
    search = make_search(make_settings({"mode": mode, "resolution": 0.5}))
    search.record(8, verdict(8, "pass", speed(70.0)), short=False)
    search.record(12, verdict(12, "fail", speed(50.0)), short=False)
    # 4 apart are half of 8.
    assert (search.next_phase(), search.result().status) == (None, "found")


class TestExact:
    @staticmethod
    def search() -> Exact:
        return Exact(CapacitySearch(start_agents=8, max_agents=64, resolution=0.02))

    @pytest.mark.parametrize(
        ("outcome", "evidence", "agents", "first_failing"),
        [
            ("pass", "floors", 16, None),
            ("pass", "certain", 0, None),
            ("pass", "unclear", 0, None),
            ("fail", "unclear", 0, None),
            ("fail", "certain", 0, 16),
        ],
    )
    def test_what_evidence_ended_is_a_certain_miss_or_nothing(
        self, outcome: Outcome, evidence: Evidence, agents: int, first_failing: int | None
    ):
        search = self.search()
        search.record(16, replace(verdict(16, outcome), evidence=evidence), short=False)
        found = search.result()
        assert (found.agents, found.first_failing) == (agents, first_failing)

    def test_asks_for_full_phases_alone(self):
        search = self.search()
        asked: list[Wanted] = []
        while (wanted := search.next_phase()) is not None:
            asked.append(wanted)
            outcome: Outcome = "pass" if wanted.agents <= 21 else "fail"
            assert search.record(wanted.agents, verdict(wanted.agents, outcome), short=False)
        assert asked == [Wanted(n) for n in (8, 16, 32, 24, 20, 22, 21)]
        assert (search.result().agents, search.result().first_failing) == (21, 22)

    def test_hears_nothing_of_a_short_phase(self):
        search = self.search()
        assert not search.record(8, verdict(8, "fail"), short=True)
        assert (search.next_phase(), search.result().first_failing) == (Wanted(8), None)

    def test_aims_by_what_was_found(self):
        search = self.search()
        search.record(8, verdict(8, "pass", speed(240.0)), short=False)
        search.record(48, verdict(48, "fail", speed(40.0)), short=False)
        # 0.25 at 8 agents and 1.5 at 48: 1 with 32.
        assert search.next_phase() == Wanted(32)

    def test_tells_the_interval_of_its_search(self):
        search = self.search()
        search.record(40, verdict(40, "pass", speed(80.0)), short=False)
        search.record(41, verdict(41, "fail", speed(40.0)), short=False)
        assert search.interval() == (40, 40)

    def test_is_open_everywhere(self):
        search = self.search()
        search.record(8, verdict(8, "fail"), short=False)
        assert all(search.is_open_at(n) for n in (1, 8, 4096))
