"""Second by second, in numbers worked by hand."""

import dataclasses
import struct

from pytest_agentperf.records import (
    ClientHealth,
    Measurement,
    Metered,
    Sample,
    TurnRecord,
    Window,
)
from pytest_agentperf.timeline import timeline
from tests.phases import ns, request


def measured(*turns: TurnRecord, window: Window, first_sent_ns: tuple[int, ...]) -> Measurement:
    return Measurement(
        agents=2,
        window=window,
        turns=turns,
        samples=(),
        health=ClientHealth(loop_lag_s=(), cpu_ratio=0.0, first_sent_ns=first_sent_ns),
        floors_met=True,
    )


def turn(
    agent: int, sent_s: float, first_s: float | None, end_s: float, **more: object
) -> TurnRecord:
    return dataclasses.replace(
        request(agent=agent),
        sent_ns=ns(sent_s),
        first_token_ns=None if first_s is None else ns(first_s),
        end_ns=ns(end_s),
        **more,  # pyright: ignore[reportArgumentType] what each test names
    )


def test_requests_count_for_the_part_of_a_second_in_which_they_are_open():
    # From 10: one from 10 to 12.5, first token at 11.25; one from 11.5 to 12, that fails.
    seen = timeline(
        measured(
            turn(0, 10.0, 11.25, 12.5),
            turn(1, 11.5, None, 12.0, error="reset"),
            window=Window(start_ns=ns(11), end_ns=ns(12)),
            first_sent_ns=(ns(10), ns(11.5)),
        )
    )
    assert seen.started == (1, 2, 2)
    assert seen.in_flight == (1.0, 1.5, 0.5)
    assert seen.waiting == (1.0, 0.75, 0.0)
    assert seen.window_s == (1.0, 2.0)


def test_tokens_count_when_their_event_was_read():
    # Four events of 2 tokens each: 0.5, 0.9, 1.0 and 2.2 s after sending at 10.
    offsets = struct.pack("<4I", 500_000, 900_000, 1_000_000, 2_200_000)
    seen = timeline(
        measured(
            turn(0, 10.0, 10.5, 12.2, token_offsets_us=offsets, osl_tokens=8),
            window=Window(start_ns=ns(10), end_ns=ns(12)),
            first_sent_ns=(ns(10),),
        )
    )
    assert seen.output_tokens == (4.0, 2.0, 2.0)


def test_a_phase_without_a_request_is_one_empty_second():
    seen = timeline(measured(window=Window(start_ns=ns(5), end_ns=ns(5)), first_sent_ns=()))
    assert (seen.started, seen.in_flight, seen.output_tokens) == ((0,), (0.0,), (0.0,))


def test_what_the_server_told_stands_in_its_second():
    window = Window(start_ns=ns(10), end_ns=ns(12))
    told = [(9.5, 0.1), (10.2, 0.2), (10.8, 0.4), (12.1, 0.9)]
    counted = [(9.9, 5.0), (10.5, 8.0), (12.2, 9.0), (12.4, 2.0)]  # started anew before 12.4
    samples = (
        *(Sample(at_ns=ns(s), series="kv_use_ratio", unit="1", value=v) for s, v in told),
        *(Sample(at_ns=ns(s), series="preemptions", unit="n", value=v) for s, v in counted),
        Sample(at_ns=ns(10), series="gpu0", unit="W", value=100),
    )
    phase = measured(turn(0, 10.0, 11.0, 12.5), window=window, first_sent_ns=(ns(10),))
    seen = timeline(dataclasses.replace(phase, samples=samples))
    assert seen.server == {
        "kv_use_ratio": (0.3, None, 0.9),
        "preemptions": (3.0, None, 3.0),  # 1 until 12.2, and 2 since it was started anew
    }


def metered(
    *samples: tuple[str, float, str, float], series: tuple[str, ...] = ("gpu0",)
) -> Metered:
    return Metered(
        meter="nvml",
        kind="nvml",
        role="accelerator",
        series=series,
        devices=len(series),
        samples=tuple(
            Sample(series=name, at_ns=ns(s), unit=unit, value=value)
            for name, s, unit, value in samples
        ),
    )


def powers(meter: Metered) -> object:
    window = Window(start_ns=ns(10), end_ns=ns(13))
    phase = measured(turn(0, 10.0, 11.0, 13.0), window=window, first_sent_ns=(ns(10),))
    return dict(timeline(dataclasses.replace(phase, meters=(meter,))).power_w)


def test_power_is_what_the_devices_draw_in_the_middle_of_a_second():
    rows = [("gpu0", 10.0, "W", 100.0), ("gpu0", 12.0, "W", 300.0), ("gpu0", 13.0, "W", 300.0)]
    other = [("gpu1", 9.0, "W", 50.0), ("gpu1", 11.0, "W", 50.0), ("gpu1", 13.0, "W", 50.0)]
    assert powers(metered(*rows, *other, series=("gpu0", "gpu1"))) == {
        "nvml": (200.0, 300.0, 350.0)
    }


def test_a_counter_of_energy_gives_the_mean_of_a_second():
    # 100 J a second, read late; nothing is known before the first reading and after the last.
    rows = [("gpu0", 10.5, "J", 1050.0), ("gpu0", 11.5, "J", 1150.0), ("gpu0", 12.5, "J", 1250.0)]
    assert powers(metered(*rows)) == {"nvml": (None, 100.0, None)}


def test_a_meter_that_lacks_a_device_has_no_power():
    assert powers(metered(("gpu0", 10.0, "W", 1.0), series=("gpu0", "gpu1"))) == {}


def test_over_a_long_pause_nobody_knows_the_power():
    steps = [("gpu0", 8.0 + i / 10, "W", 100.0) for i in range(30)]  # to 10.9
    rows = (
        *steps,
        ("gpu0", 12.4, "W", 100.0),
        ("gpu0", 12.5, "W", 100.0),
        ("gpu0", 13, "W", 100.0),
    )
    assert powers(metered(*rows)) == {"nvml": (100.0, None, 100.0)}
