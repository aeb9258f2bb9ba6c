from __future__ import annotations

import dataclasses
import gc
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.latency import Contender, Schedule, measure_rounds
from engines.errors import MeasurementError

SCHEDULE = Schedule(min_rounds=30, min_s=0.0, settle_s=0.0)


def contender(
    name: str, clock: Any, *latencies_ns: int, calls: list[str] | None = None
) -> Contender:
    ahead = itertools.chain(latencies_ns, itertools.repeat(latencies_ns[-1]))

    def run_once() -> None:
        clock.work(next(ahead))
        if calls is not None:
            calls.append(name)

    return Contender(name=name, run_once=run_once)


def test_every_contender_runs_once_a_round(clock: Any) -> None:
    calls: list[str] = []
    three = [contender(name, clock, 1000, calls=calls) for name in "abc"]

    rounds = measure_rounds(three, schedule=SCHEDULE, clock=clock, pause=clock.pause)

    assert rounds.latency_ns.shape == (30, 3)
    assert all(sorted(calls[at : at + 3]) == ["a", "b", "c"] for at in range(0, len(calls), 3))


def test_each_pair_runs_in_either_order_equally_often(clock: Any) -> None:
    calls: list[str] = []
    three = [contender(name, clock, 1000, calls=calls) for name in "abc"]

    rounds = measure_rounds(three, schedule=SCHEDULE, clock=clock, pause=clock.pause)

    measured = calls[3 * rounds.warmup_rounds :]
    orders = ["".join(measured[at : at + 3]) for at in range(0, len(measured), 3)]
    assert Counter(order.index("a") < order.index("b") for order in orders) == {True: 15, False: 15}
    assert len(set(orders)) > 2  # not only one order and its reverse


def test_order_depends_on_the_seed_alone(clock: Any) -> None:
    def orders(seed: int) -> list[str]:
        calls: list[str] = []
        three = [contender(name, clock, 1000, calls=calls) for name in "abc"]
        schedule = dataclasses.replace(SCHEDULE, seed=seed)
        measure_rounds(three, schedule=schedule, clock=clock, pause=clock.pause)
        return calls

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)


def test_samples_are_what_the_clock_says_without_the_pause(clock: Any) -> None:
    schedule = dataclasses.replace(SCHEDULE, settle_s=0.5, max_s=1e6)
    pair = [contender("a", clock, 1000), contender("b", clock, 2500)]

    rounds = measure_rounds(pair, schedule=schedule, clock=clock, pause=clock.pause)

    assert set(rounds.of("a").tolist()) == {1000}
    assert set(rounds.of("b").tolist()) == {2500}


def test_each_run_waits_until_the_threads_of_the_one_before_sleep(clock: Any) -> None:
    spinning_until = [0]

    def run_once() -> None:
        clock.work(1000)
        spinning_until[0] = clock.now_ns + 40_000_000

    started: list[bool] = []

    def second() -> None:
        started.append(clock.now_ns >= spinning_until[0])
        clock.work(1000)

    pair = [Contender(name="spins", run_once=run_once), Contender(name="next", run_once=second)]
    waiting = dataclasses.replace(SCHEDULE, settle_s=0.25)

    for schedule, is_quiet in ((waiting, True), (SCHEDULE, False)):
        started.clear()
        measure_rounds(
            pair,
            schedule=schedule,
            clock=clock,
            pause=clock.pause,
            own_clock=lambda: min(clock.now_ns, spinning_until[0]),
        )
        assert all(started) == is_quiet  # without the wait, a spinner is met


def test_a_process_that_never_sleeps_does_not_stop_the_measurement(clock: Any) -> None:
    schedule = dataclasses.replace(SCHEDULE, settle_s=0.01)

    rounds = measure_rounds(
        [contender("a", clock, 1000)],
        schedule=schedule,
        clock=clock,
        pause=clock.pause,
        own_clock=clock,
    )

    assert len(rounds.latency_ns) == 30


def test_warm_up_goes_on_until_latencies_are_stable(clock: Any) -> None:
    slow_start = contender("a", clock, *[9000] * 4, *[3000] * 4, 1000)

    rounds = measure_rounds([slow_start], schedule=SCHEDULE, clock=clock, pause=clock.pause)

    assert rounds.warmed_up
    assert set(rounds.latency_ns.ravel().tolist()) == {1000}


def test_warm_up_that_never_settles_is_bounded_and_said(clock: Any) -> None:
    growing = contender("a", clock, *[int(1000 * 1.2**n) for n in range(60)])

    rounds = measure_rounds([growing], schedule=SCHEDULE, clock=clock, pause=clock.pause)

    assert rounds.warmup_rounds == SCHEDULE.warmup_rounds
    assert not rounds.warmed_up


def test_the_longest_time_ends_the_measurement(clock: Any) -> None:
    second = contender("a", clock, 10**9)
    schedule = dataclasses.replace(SCHEDULE, max_s=7.0)

    rounds = measure_rounds([second], schedule=schedule, clock=clock, pause=clock.pause)

    assert len(rounds.latency_ns) == 7
    assert rounds.duration_ns == 7 * 10**9


def test_short_runs_are_repeated_until_the_least_time(clock: Any) -> None:
    schedule = dataclasses.replace(SCHEDULE, min_s=1.0, max_rounds=10_000)

    rounds = measure_rounds(
        [contender("a", clock, 10**6)], schedule=schedule, clock=clock, pause=clock.pause
    )

    assert len(rounds.latency_ns) == 1000


def test_garbage_is_not_collected_while_timing_and_is_again_afterwards(clock: Any) -> None:
    seen: list[bool] = []

    def run_once() -> None:
        seen.append(gc.isenabled())
        clock.work(5)

    watcher = Contender(name="a", run_once=run_once)

    measure_rounds([watcher], schedule=SCHEDULE, clock=clock, pause=clock.pause)

    assert not any(seen)
    assert gc.isenabled()


def test_a_clock_that_stands_still_is_refused(clock: Any) -> None:
    with pytest.raises(MeasurementError, match="did not advance while a ran"):
        measure_rounds(
            [contender("a", clock, 0)],
            schedule=dataclasses.replace(SCHEDULE, settle_s=0.001),
            clock=clock,
            pause=clock.pause,
        )


@pytest.mark.parametrize("names", ["", "aa"])
def test_contenders_need_names_of_their_own(clock: Any, names: str) -> None:
    with pytest.raises(MeasurementError, match="different names"):
        measure_rounds(
            [contender(name, clock, 1) for name in names],
            schedule=SCHEDULE,
            clock=clock,
            pause=clock.pause,
        )


def test_progress_can_stop_a_measurement(clock: Any) -> None:
    stop: Callable[[str, int, int], bool] = lambda phase, done, total: done < 2  # noqa: E731

    with pytest.raises(KeyboardInterrupt):
        measure_rounds(
            [contender("a", clock, 1)],
            schedule=SCHEDULE,
            clock=clock,
            pause=clock.pause,
            progress=stop,
        )
