"""What a run would ask for, in numbers worked by hand."""

import pytest

from pytest_agentperf.forecast import Case, Pace, Replays, hours_left_text
from pytest_agentperf.ledger import Ledger, make_ledger
from pytest_agentperf.outlook import outlook, planned_phases
from pytest_agentperf.search import Wanted
from pytest_agentperf.settings import make_settings
from pytest_agentperf.slo import ModelSpec, SLOTier
from pytest_agentperf.trajectory import Dataset, Message, Trajectory, Turn
from tests.test_forecast import AT_50, OFFICIAL, TEN_TURNS, tier
from tests.test_live_text import STANDING

HELLO = (Message(role="user", content="hello"),)


def ledger(*tiers: SLOTier, verify: dict[str, int] | None = None) -> Ledger:
    """Two prompts of 1,000 and 3,000 tokens, answered by 100; 1 s of tools between them."""
    turns = (
        Turn(kept=0, appended=HELLO, recorded_isl_tokens=1000, recorded_osl_tokens=100, tool_s=1.0),
        Turn(kept=1, appended=HELLO, recorded_isl_tokens=3000, recorded_osl_tokens=100, tool_s=0.0),
    )
    dataset = Dataset(name="two", trajectories=(Trajectory(id="t", turns=turns),))
    return make_ledger(
        ModelSpec(model="m", tiers=tiers),
        dataset,
        sha256="0",
        settings=make_settings({"start_agents": 8, "max_agents": 16}),
        system=None,
        verify=verify or {},
    )


def test_agents_send_a_request_as_often_as_answers_and_tools_let_them() -> None:
    # 10 requests in 29 s each. 8 agents start 3.75 s apart: 8 x 656.25 - 105 = 5,145 s in all.
    replays = Replays(TEN_TURNS, OFFICIAL)
    assert replays.requests(8, 656.25, AT_50) == pytest.approx(5145 / 2.9)
    # An agent that would start after the end sends nothing.
    assert replays.requests(2, 15.0, Pace(speed_tok_per_s=50.0, ttft_s=0.0)) == pytest.approx(
        15 / 2.9
    )


def test_a_phase_has_its_time_requests_and_tokens() -> None:
    one = tier(speed=50.0, ttft_s=6.0)
    case = Case(carried={"t": 8}, asked={Wanted(8): one})
    (phase,) = planned_phases(ledger(one), case)
    # A trajectory takes 2 + 1 + 2 = 5 s, or with a mean TTFT of 2 s 9: the window is the floor,
    # 26.25 + 30 + 600 s. A mean answer takes 2 s at best, the longest 4 s.
    assert phase.seconds == (pytest.approx(658.25), pytest.approx(660.25))
    # A request every 2.5 s, or every 4.5 s.
    most, least = (8 * 658.25 - 105) / 2.5, (8 * 660.25 - 105) / 4.5
    assert phase.requests == (pytest.approx(least), pytest.approx(most))
    assert phase.input_tokens == (pytest.approx(2000 * least), pytest.approx(2000 * most))
    assert phase.output_tokens == (pytest.approx(100 * least), pytest.approx(100 * most))


def test_the_outlook_names_phases_assumptions_and_checks() -> None:
    text = outlook(ledger(tier("a"), tier("b")), 100)
    assert "if these agents are carried: a 8, b 8" in text
    assert "if these agents are carried: a 15, b 7" in text
    assert "two: 1 trajectories, 2 prompts of 2,000 tokens on average, answers of 100" in text
    assert "│     1 │      8 │ a    │ 11 min" in text
    assert "Assumed: every agent is answered at its tier's own speed" in text
    assert "one request of 16 tokens" in text
    for name in ("phase complete", "floors met", "client loop lag p95", "tokens counted", "drift"):
        assert name in text


def test_where_a_baseline_is_verified_its_capacities_alone_are_asked_for() -> None:
    made = ledger(tier("a"), tier("b"), tier("c"), verify={"a": 12, "b": 12, "c": 5})
    (case,) = made.cases()
    assert [(w.agents, t.name) for w, t in case.asked.items()] == [(5, "c"), (12, "a")]


@pytest.mark.parametrize(
    ("elapsed_s", "phase_left_s", "said"),
    [
        (0, 0, "to go: 3-5 phases, 1-2.5 h"),
        (1800, 0, "to go: 3-5 phases, 0.5-2 h"),
        # What the running phase still takes is the least.
        (3500, 1800, "to go: 3-5 phases, 30-92 min"),
    ],
)
def test_what_is_left_gets_less_while_a_phase_runs(
    elapsed_s: float, phase_left_s: float, said: str
) -> None:
    assert STANDING.left is not None
    assert hours_left_text(STANDING.left, elapsed_s, phase_left_s) == said
