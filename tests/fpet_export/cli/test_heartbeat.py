"""A line every few seconds of silence, and none where something else is printed or shown."""

from __future__ import annotations

import pytest

from fpet_export.cli.heartbeat import INTERVAL_S, Heartbeat


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def heart(clock: Clock, said: list[str]) -> Heartbeat:
    return Heartbeat(lambda text: said.append(f"{clock.now_s - 100:.0f}: {text}"), clock=clock)


def pass_time(heart: Heartbeat, clock: Clock, seconds: float) -> None:
    """Let the heart beat by itself for so long."""
    end = clock.now_s + seconds

    def wait(left: float) -> bool:
        if clock.now_s + left > end:
            clock.now_s = end
            return True
        clock.now_s += left
        return False

    heart.keep_beating(wait)


def test_ten_seconds_never_pass_without_a_line(
    heart: Heartbeat, clock: Clock, said: list[str]
) -> None:
    with heart.activity("float64 reference", 40) as activity:
        pass_time(heart, clock, 9)
        activity.advance(3)
        pass_time(heart, clock, 8)

    assert said == [
        "8: float64 reference: 0 of 40, 8 s",
        "16: float64 reference: 3 of 40, 16 s, about 3 min left",
    ]
    assert INTERVAL_S < 10


def test_more_steps_than_were_foreseen_are_no_nonsense(
    heart: Heartbeat, clock: Clock, said: list[str]
) -> None:
    with heart.activity("measuring", 20) as activity:
        activity.advance(57)
        pass_time(heart, clock, 8)

    assert said == ["8: measuring: 57 of 57, 8 s"]


def test_what_is_printed_otherwise_counts(heart: Heartbeat, clock: Clock, said: list[str]) -> None:
    for _ in range(5):
        pass_time(heart, clock, INTERVAL_S - 1)
        heart.heard()

    assert said == []


def test_work_whose_steps_nobody_counts_is_named(
    heart: Heartbeat, clock: Clock, said: list[str]
) -> None:
    with heart.activity("writing the graph", 0):
        pass_time(heart, clock, 8)

    assert said == ["8: writing the graph: 8 s"]


def test_the_inner_one_of_two_is_named_and_then_the_outer_again(
    heart: Heartbeat, clock: Clock, said: list[str]
) -> None:
    with heart.activity("outer", 0):
        with heart.activity("inner", 0):
            pass_time(heart, clock, 8)
        pass_time(heart, clock, 8)
    pass_time(heart, clock, 8)

    assert said == [
        "8: inner: 8 s",
        "16: outer: 16 s",
        "24: at work: 24 s",
    ]
    heart.heard()
    pass_time(heart, clock, 8)
    assert said[-1] == "32: at work: 8 s"  # since something was printed


def test_bars_are_enough(heart: Heartbeat, clock: Clock, said: list[str]) -> None:
    with heart.shown_otherwise():
        pass_time(heart, clock, 60)
    pass_time(heart, clock, INTERVAL_S - 1)

    assert said == []
