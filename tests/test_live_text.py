"""A running phase in words, on one line and on as many as a terminal is wide."""

from dataclasses import replace

import pytest

from pytest_agentperf.events import Event, Progress, Standing, TierStanding
from pytest_agentperf.evidence import Interval
from pytest_agentperf.forecast import Forecast
from pytest_agentperf.live_text import bracket, line, panel, so_far
from pytest_agentperf.slo import Limit, SLOTier
from pytest_agentperf.steady import Reached

SPEED = Limit(metric="output_speed_tok_per_s", statistic="p25", value=60.0)
TTFT = Limit(metric="ttft_s", statistic="p95", value=5.0)
TIER = SLOTier(model="m", name="slo-2", limits=(SPEED, TTFT))


def seen(low: float, estimate: float, high: float, n: int = 512) -> Interval:
    return Interval(low=low, high=high, estimate=estimate, n=n, se=0.01)


PROGRESS = Progress(
    stage="steady window",
    elapsed_s=210.0,
    left_s=510.0,
    reached=(
        Reached(floor="steady", done=90.0, wanted=600.0),
        Reached(floor="trajectories", done=12, wanted=30),
        Reached(floor="per agent", done=3, wanted=3),
    ),
    figures={SPEED.name: seen(55.1, 58.2, 59.3), TTFT.name: seen(0.2, 0.23, 0.26)},
    ended=530,
    failed=2,
    last_error="HTTP 503: full",
    power_w=5600.0,
)
STANDING = Standing(
    tiers=(TierStanding(tier=TIER, passed=16, failed=64, status="open"),),
    left=Forecast(
        least_phases=3, most_phases=5, least_s=3600, most_s=9000, least_agents=8, most_agents=128
    ),
)
EVENT = Event(kind="progress", model="big/model", phase=3, agents=32, progress=PROGRESS)


def test_a_line_of_a_log_can_be_read_alone() -> None:
    # To go: 3600 and 9000 s, 210 of which are over.
    assert line(EVENT, STANDING) == (
        "[big/model phase 3 · 32 agents] 4 min of about 12 min · steady window · 90 of 600 s steady"
        " · 12 of 30 trajectories · slowest agent at 3 of 3"
        " · P25 output speed 58.2 tok/s (55.1 to 59.3, n 512)"
        " · P95 TTFT 0.23 s (0.2 to 0.26, n 512)"
        " · 2 of 530 failed · last: HTTP 503: full · power 5.60 kW"
        " · slo-2 P25 output speed missed so far, passed 16, failed 64"
        " · to go: 3-5 phases, 0.9-2.4 h"
    )


def test_the_panel_says_the_same_at_80_columns() -> None:
    assert [each.text for each in panel(EVENT, STANDING, 80)] == [
        "big/model · phase 3 · 32 agents · steady window · 4 min of about 12 min",
        "window █░░░░░░░ 90 s of 10 min · trajectories ███░░░░░ 12 of 30",
        "slowest agent ████████ 3 of 3",
        "P25 output speed 58.2 tok/s · 55.1 to 59.3, n 512",
        "P95 TTFT 0.23 s · 0.2 to 0.26, n 512",
        "slo-2 · P25 speed ≥ 60 tok/s missed · P95 TTFT ≤ 5 s met · passed 16, failed 64",
        "2 of 530 failed · last: HTTP 503: full · power 5.60 kW",
        "to go: 3-5 phases, 0.9-2.4 h",
    ]


@pytest.mark.parametrize("width", [1, 20, 39, 60, 79, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    wide = replace(EVENT, model="模型" * 30)
    assert all(each.width <= width for each in panel(wide, STANDING, width))


def test_a_narrow_panel_leaves_the_limits_out() -> None:
    texts = [each.text for each in panel(EVENT, STANDING, 39)]
    assert "slo-2 · missed so far" in texts
    assert "passed 16, failed 64" in texts


@pytest.mark.parametrize("width", [39, 80])
def test_what_a_server_says_is_shown_and_never_obeyed(width: int) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[red]\r\n\u202e"
    event = replace(EVENT, model=evil, progress=replace(PROGRESS, last_error=evil))
    shown = [line(event, STANDING), line(replace(event, progress=None, text=evil), None)]
    shown += [each.text for each in panel(event, STANDING, width)]
    assert all(text.isprintable() for text in shown)
    assert r"last: \x1b[2J\x1b]0;owned\x07[red]\r\n\u202e" in shown[0]


def test_before_the_window_opens_it_says_what_is_waited_for() -> None:
    early = Progress(stage="starting", elapsed_s=5, left_s=None, waits_for="3 agents have not st…")
    text = line(replace(EVENT, progress=early), None)
    assert text.endswith("] 5 s · 3 agents have not st… · 0 of 0 failed")


@pytest.mark.parametrize(
    ("limit", "interval", "side"),
    [
        (SPEED, None, None),
        (SPEED, seen(60.1, 62, 64), "met"),
        (SPEED, seen(59, 62, 64), "unclear"),
        (SPEED, seen(50, 55, 59.9), "missed"),
        (TTFT, seen(5.1, 6, float("inf")), "missed"),
        (TTFT, seen(1, 2, float("inf")), "unclear"),
        (TTFT, seen(1, 2, 4.9), "met"),
    ],
)
def test_where_a_figure_lies_is_said_when_its_interval_leaves_the_limit_out(
    limit: Limit, interval: Interval | None, side: str | None
) -> None:
    assert so_far(limit, interval) == side


@pytest.mark.parametrize(
    ("passed", "failed", "status", "said"),
    [
        (0, None, "open", "not measured yet"),
        (16, None, "open", "passed 16"),
        (0, 8, "open", "failed 8"),
        (16, 64, "open", "passed 16, failed 64"),
        (35, 36, "found", "carries 35"),
        (256, None, "at-limit", "carries ≥ 256"),
        (0, 1, "unsupported", "carries 0"),
        (0, None, "invalid", "no answer"),
        (0, 11, "below", "failed 11"),
    ],
)
def test_the_bracket_of_a_tier(passed: int, failed: int | None, status: str, said: str) -> None:
    found = TierStanding(tier=TIER, passed=passed, failed=failed, status=status)
    assert bracket(found) == said
