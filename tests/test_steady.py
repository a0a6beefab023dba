from dataclasses import replace

import pytest

from pytest_agentperf.records import TurnRecord
from pytest_agentperf.steady import Floors, PhaseState
from tests.phases import ns, request

FLOORS = Floors(min_trajectories=6, min_trajectories_per_agent=2, min_steady_s=100.0)


def two_agents(
    *, floors: Floors = FLOORS, completed: tuple[int, int] = (3, 3), settle_s: float = 30.0
) -> PhaseState:
    """Agents that sent at 10 and 20 s, so that the window opens at 50 s."""
    state = PhaseState(agents=2, settle_s=settle_s, floors=floors)
    state.started({0: ns(10), 1: ns(20)})
    for agent, trajectories in enumerate(completed):
        for _ in range(trajectories):
            state.turn(request(agent=agent, last_turn=True))
    return state


def test_the_window_opens_after_the_last_agent_has_settled():
    assert two_agents().opens_ns == ns(50)


def test_the_window_stays_shut_while_an_agent_has_not_sent():
    state = PhaseState(agents=3, settle_s=30.0, floors=FLOORS)
    state.started({0: ns(10)})
    state.started({2: ns(15)})
    assert (state.opens_ns, state.left_s(ns(500))) == (None, None)
    assert state.missing(ns(500)) == ("1 agents have not started",)


def test_an_agent_is_active_from_its_first_request_on():
    state = two_agents()
    state.started({0: ns(90)})
    assert (state.first_sent_ns, state.opens_ns) == ((ns(10), ns(20)), ns(50))


def test_first_sends_stand_in_order_of_agent():
    state = PhaseState(agents=2, settle_s=30.0, floors=FLOORS)
    state.started({1: ns(10)})
    state.started({0: ns(20)})
    assert state.first_sent_ns == (ns(20), ns(10))


def test_the_window_may_close_when_all_floors_are_met():
    assert two_agents().missing(ns(150)) == ()


@pytest.mark.parametrize(
    ("completed", "now_s", "missing"),
    [
        ((3, 3), 149.0, ("99 of 100 s steady",)),
        ((3, 2), 150.0, ("5 of 6 trajectories",)),
        ((9, 1), 150.0, ("slowest agent at 1 of 2",)),
        ((9, 0), 150.0, ("slowest agent at 0 of 2",)),
        ((0, 0), 40.0,
         ("0 of 100 s steady", "0 of 6 trajectories", "slowest agent at 0 of 2")),
    ],
    ids=[
        "length alone",
        "trajectories alone",
        "the slowest agent alone",
        "an agent that completed nothing",
        "all three",
    ],
)  # fmt: skip
def test_binds(completed: tuple[int, int], now_s: float, missing: tuple[str, ...]):
    assert two_agents(completed=completed).missing(ns(now_s)) == missing


def test_a_trajectory_that_failed_is_not_completed():
    state = two_agents(completed=(3, 2))
    state.turn(request(agent=1, last_turn=True, error="x"))
    state.turn(request(agent=1, last_turn=False))
    assert state.missing(ns(150)) == ("5 of 6 trajectories",)


def test_a_trajectory_that_was_begun_in_its_middle_is_not_completed():
    state = two_agents(completed=(3, 2))
    state.turn(request(agent=1, last_turn=True, from_turn=1))
    assert state.missing(ns(150)) == ("5 of 6 trajectories",)


def test_trajectories_that_ended_before_the_window_count():
    state = two_agents(completed=(0, 0))
    for agent in (0, 0, 0, 1, 1, 1):
        state.turn(request(20.0, agent=agent, last_turn=True))
    assert state.missing(ns(150)) == ()


def test_requests_and_failures_are_counted():
    state = two_agents(completed=(1, 0))
    state.turn(request(error="HTTP 500: x"))
    state.turn(request(error="timeout after 300 s"))
    assert (state.ended, state.failed, state.failed_in_a_row) == (3, 2, 1)


def test_an_answer_ends_a_run_of_failures_and_a_timeout_does_not():
    state = two_agents()
    state.turn(request(error="x"))
    state.turn(request(error="timeout"))
    state.turn(request(error="x"))
    assert state.failed_in_a_row == 2
    state.turn(request())
    assert state.failed_in_a_row == 0


@pytest.mark.parametrize(
    ("agents", "run"),
    [(1, 50), (16, 50), (17, 51), (100, 300)],
    ids=["one agent", "few agents", "just more than few", "many agents"],
)
def test_hopeless_is_three_failures_per_agent_or_fifty(agents: int, run: int):
    assert PhaseState(agents=agents, settle_s=1.0, floors=FLOORS).hopeless_run == run


CUT = "connection: ReadError: reset"


def state_of(agents: int) -> PhaseState:
    return PhaseState(agents=agents, settle_s=1.0, floors=FLOORS)


def failed(
    agent: int, error: str, end_s: float = 100.0, heard_s: float | None = None
) -> TurnRecord:
    """A request that failed; it was sent 10 s before."""
    heard_ns = None if heard_s is None else ns(heard_s)
    made = request(end_s - 10, agent=agent, error=error)
    return replace(made, end_ns=ns(end_s), first_byte_ns=heard_ns, last_token_ns=heard_ns)


class TestGone:
    def test_half_of_the_agents_cut_off_at_once_are_a_restart(self):
        state = state_of(8)
        for agent in (0, 1, 2):
            state.turn(failed(agent, CUT, 100 + agent))
        assert state.stopped_answering is None
        state.turn(failed(2, CUT, 102))  # the same again
        assert state.stopped_answering is None
        state.turn(failed(3, CUT, 103))
        assert state.stopped_answering == "4 of 8 agents were cut off within 5 s"

    def test_a_gateway_that_refuses_half_of_the_agents_serves_the_others(self):
        state = state_of(8)
        for number in range(40):
            refused = failed(number % 4, "HTTP 502: bad gateway", 100 + number / 10)
            state.turn(replace(refused, sent_ns=refused.end_ns - ns(0.05)))
            state.turn(request(100 + number / 10, agent=4 + number % 4))
            assert state.stopped_answering is None

    def test_agents_cut_off_one_by_one_are_none(self):
        state = state_of(8)
        for agent in range(8):
            state.turn(failed(agent, CUT, 100 + 6 * agent))
            state.turn(request(agent=7 - agent))
        assert state.stopped_answering is None

    def test_two_cut_agents_of_two_are_not_enough_and_five_failures_are(self):
        state = state_of(2)
        for number in range(4):
            state.turn(failed(number % 2, CUT, 100 + number))
            assert state.stopped_answering is None
        state.turn(failed(0, CUT, 104))
        said = state.stopped_answering
        assert said == "5 requests in a row were cut off or met silence"

    def test_what_sheds_load_serves_somebody(self):
        state = state_of(4)
        for number in range(300):
            state.turn(failed(number % 3, "HTTP 429: slow down"))
        assert state.stopped_answering is None
        state.turn(failed(3, "HTTP 429: slow down"))
        assert state.stopped_answering == "301 requests in a row failed"

    def test_silence_is_the_end_and_slow_tokens_are_not(self):
        state = state_of(6)
        for agent in range(5):
            state.turn(failed(agent, "timeout after 10 s"))
        # Of the last one a token came after 6 of its 10 s.
        state.turn(failed(5, "timeout after 10 s", heard_s=96.0))
        assert state.stopped_answering is None
        for agent in range(6):
            state.turn(failed(agent, "timeout after 10 s", heard_s=94.0))
        said = state.stopped_answering
        assert said == "6 requests in a row were cut off or met silence"

    def test_an_answer_begins_the_count_anew(self):
        state = state_of(2)
        for _ in range(2):
            for agent in (0, 1):
                state.turn(failed(agent, CUT))
            state.turn(request())
        assert state.stopped_answering is None


class TestTimeLeft:
    """The phase began at 10 s and its window opens at 50 s."""

    def test_is_the_rest_of_the_window(self):
        assert two_agents().left_s(ns(90)) == 60  # open until 150 s

    def test_is_a_whole_window_before_it_opens(self):
        assert two_agents().left_s(ns(40)) == 110

    def test_is_nothing_when_the_floors_are_met(self):
        assert two_agents().left_s(ns(500)) == 0

    def test_follows_the_pace_of_trajectories(self):
        # 4 of 6 in 400 s: 200 s for the other 2.
        assert two_agents(completed=(2, 2)).left_s(ns(410)) == pytest.approx(200)

    def test_follows_the_pace_of_the_slowest_agent(self):
        # 1 of 2 in 400 s: as long again.
        assert two_agents(completed=(9, 1)).left_s(ns(410)) == pytest.approx(400)

    def test_is_unknown_while_an_agent_has_completed_nothing(self):
        assert two_agents(completed=(9, 0)).left_s(ns(410)) is None


def test_no_floors_are_met_at_once():
    none = Floors(min_trajectories=0, min_trajectories_per_agent=0, min_steady_s=0.0)
    state = two_agents(floors=none, completed=(0, 0), settle_s=0.0)
    assert (state.opens_ns, state.missing(ns(20)), state.left_s(ns(20))) == (ns(20), (), 0)


def test_failures_before_the_window_are_not_the_windows():
    state = PhaseState(
        agents=1,
        settle_s=10.0,
        floors=Floors(min_trajectories=0, min_trajectories_per_agent=0, min_steady_s=0.0),
    )
    state.started({0: ns(100)})
    state.turn(request(sent_s=109.9, error="HTTP 503"))
    state.turn(request(sent_s=110.0, error="HTTP 503"))
    state.turn(request(sent_s=111.0))
    assert (state.failed, state.ended) == (2, 3)
    assert (state.failed_in_window, state.ended_in_window) == (1, 2)


class TestBalancedStart:
    """Agents that begin in the middle of trajectories, with contexts that are new to the server."""

    @staticmethod
    def two() -> PhaseState:
        """Agents that sent at 10 and 20 s."""
        state = PhaseState(agents=2, settle_s=30.0, floors=FLOORS, start="balanced")
        state.started({0: ns(10), 1: ns(20)})
        return state

    def test_opens_after_the_last_first_token(self):
        state = self.two()
        state.answering({1: ns(25)})
        assert state.opens_ns is None
        state.answering({0: ns(80)})
        assert state.opens_ns == ns(110)

    def test_says_whom_it_waits_for(self):
        state = PhaseState(agents=3, settle_s=30.0, floors=FLOORS, start="balanced")
        state.started({0: ns(10)})
        assert state.missing(ns(50)) == ("2 agents have not started",)
        state.started({1: ns(20), 2: ns(30)})
        assert state.missing(ns(50)) == ("3 agents wait for their first token",)
        state.answering({2: ns(60)})
        assert (state.missing(ns(60)), state.left_s(ns(60))) == (
            ("2 agents wait for their first token",),
            None,
        )

    def test_once_open_says_what_its_floors_lack(self):
        state = self.two()
        state.answering({0: ns(30), 1: ns(40)})
        assert state.missing(ns(100)) == (
            "30 of 100 s steady", "0 of 6 trajectories", "slowest agent at 0 of 2"
        )  # fmt: skip

    def test_failures_before_it_opened_are_not_the_windows(self):
        state = self.two()
        state.answering({0: ns(30), 1: ns(40)})
        state.turn(request(69.9, error="HTTP 503"))
        state.turn(request(70.0, error="HTTP 503"))
        assert (state.failed, state.failed_in_window) == (2, 1)


def test_a_start_at_first_turns_opens_whether_answers_have_begun_or_not():
    state = two_agents()
    state.answering({0: ns(90)})
    assert state.opens_ns == ns(50)


def test_how_far_every_floor_is_that_is_asked_for():
    # The window opens at 50 s.
    seen = two_agents(completed=(3, 2)).reached(ns(130))
    assert [(r.floor, r.done, r.wanted, r.is_met) for r in seen] == [
        ("steady", 80.0, 100.0, False),
        ("trajectories", 5, 6, False),
        ("per agent", 2, 2, True),
    ]
    unasked = PhaseState(agents=1, settle_s=0, floors=Floors(
        min_trajectories=0, min_trajectories_per_agent=0, min_steady_s=1.0
    ))  # fmt: skip
    assert [(r.floor, r.done) for r in unasked.reached(ns(5))] == [("steady", 0.0)]
