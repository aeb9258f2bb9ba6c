"""Run contenders in turn, round by round, and keep every sample.

No statistics here, and no clock of its own: the clock is an argument, so that tests need no time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.paired_statistics import Nanoseconds
from engines.errors import MeasurementError

Clock = Callable[[], int]
"""Returns a time in nanoseconds that never goes back."""
Pause = Callable[[float], None]
"""Waits for that many seconds."""
Progress = Callable[[str, int, int], bool]
"""`progress(phase, done, total) -> keep going?`; total 0 means unknown."""

_WINDOW = 3  # rounds whose medians are compared to see whether the warm-up is over
_STABLE = 0.05  # relative change between two windows that counts as stable
_STEP_S = 0.002
_IDLE = 0.2  # of one processor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A name and the call that is timed, as `Engine.bind` returns it."""

    name: str
    run_once: Callable[[], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long to measure.

    Attributes:
        min_rounds: Rounds that are measured unless `max_s` is over before.
        min_s: Seconds that are measured at least.
        max_rounds: Rounds that are measured at most.
        max_s: Seconds after which no further round starts.
        warmup_rounds: Untimed rounds at most; warm-up ends when every contender is stable.
        warmup_s: Seconds after which warm-up ends even so.
        settle_s: Longest wait before each run for the threads of the run before to fall asleep.
            ONNX Runtime's workers spin for some 40 ms after their work and OpenMP's for 10: on
            few cores they would slow down whoever comes next. 0 does not wait.
        seed: Seed of the order in each round and of the bootstrap.
    """

    min_rounds: int = 40
    min_s: float = 3.0
    max_rounds: int = 1000
    max_s: float = 120.0
    warmup_rounds: int = 20
    warmup_s: float = 20.0
    settle_s: float = 0.25
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds:
    """Paired samples.

    Attributes:
        names: The contenders, in the order of the columns.
        latency_ns: (rounds, contenders).
        warmup_rounds: Rounds that were run and thrown away.
        warmed_up: Whether every contender was stable when the warm-up ended.
        duration_ns: From the first measured round to the end of the last.
    """

    names: tuple[str, ...]
    latency_ns: Nanoseconds
    warmup_rounds: int
    warmed_up: bool
    duration_ns: int

    def of(self, name: str) -> Nanoseconds:
        """Return the samples of one contender, (rounds,)."""
        samples: Nanoseconds = self.latency_ns[:, self.names.index(name)]
        return samples


def measure_rounds(
    contenders: Sequence[Contender],
    *,
    schedule: Schedule,
    clock: Clock = time.perf_counter_ns,
    pause: Pause = time.sleep,
    own_clock: Clock = time.process_time_ns,
    progress: Progress | None = None,
) -> Rounds:
    """Warm up, then let every contender run once a round, in an order that changes.

    Each order is drawn with the seed, and the next round takes it backwards: each pair of
    contenders runs in either order equally often.

    Args:
        contenders: What is timed.
        schedule: How long, and how long to wait in between.
        clock: What the samples are differences of.
        pause: Waits between runs.
        own_clock: Processor time of this process in nanoseconds, all threads.
        progress: Called after every round; returning False stops like Ctrl-C.

    Raises:
        MeasurementError: Two contenders have the same name, there is none, or the clock did not
            move during a run.
    """
    names = tuple(contender.name for contender in contenders)
    if not names or len(set(names)) != len(names):
        raise MeasurementError(
            f"contenders need different names, found {list(names)}",
            where="the list of contenders",
            fix="give at least one contender, and each one once",
        )
    orders = _orders(len(contenders), schedule.seed)
    report = progress or (lambda phase, done, total: True)

    def one_round() -> list[int]:
        elapsed = [0] * len(contenders)
        for index in next(orders):
            _settle(schedule.settle_s, pause, own_clock)
            start = clock()
            contenders[index].run_once()
            elapsed[index] = clock() - start
        return elapsed

    with _without_garbage_collection():
        warmup, warmed_up = _warm_up(one_round, schedule, clock, report)
        rows: list[list[int]] = []
        start = clock()
        while not _is_over(len(rows), clock() - start, schedule):
            rows.append(one_round())
            if not report("measure", len(rows), 0):
                raise KeyboardInterrupt
        duration = clock() - start
    latency = np.array(rows, np.int64).reshape(-1, len(names))
    if (latency <= 0).any():
        still = [name for name, column in zip(names, latency.T, strict=True) if (column <= 0).any()]
        raise MeasurementError(
            f"the clock did not advance while {', '.join(still)} ran",
            where="clock",
            fix="use a finer clock, or a contender that does something",
        )
    return Rounds(
        names=names,
        latency_ns=latency,
        warmup_rounds=warmup,
        warmed_up=warmed_up,
        duration_ns=duration,
    )


def _settle(longest_s: float, pause: Pause, own_clock: Clock) -> None:
    """Wait until this process is idle: until it uses next to nothing of a step."""
    for _ in range(round(longest_s / _STEP_S)):
        before = own_clock()
        pause(_STEP_S)
        if own_clock() - before < _IDLE * _STEP_S * 1e9:
            return


def _is_over(rounds: int, elapsed_ns: int, schedule: Schedule) -> bool:
    if rounds >= schedule.max_rounds or elapsed_ns >= schedule.max_s * 1e9:
        return rounds > 0
    return rounds >= schedule.min_rounds and elapsed_ns >= schedule.min_s * 1e9


def _orders(contenders: int, seed: int) -> Iterator[list[int]]:
    generator = np.random.default_rng(seed)
    while True:
        order = [int(index) for index in generator.permutation(contenders)]
        yield order
        yield order[::-1]


def _warm_up(
    one_round: Callable[[], list[int]], schedule: Schedule, clock: Clock, report: Progress
) -> tuple[int, bool]:
    """Run rounds until the last ones are like those before; return how many, and whether."""
    rows: list[list[int]] = []
    start = clock()
    while len(rows) < schedule.warmup_rounds and clock() - start < schedule.warmup_s * 1e9:
        rows.append(one_round())
        if not report("warm up", len(rows), schedule.warmup_rounds):
            raise KeyboardInterrupt
        if _is_stable(np.array(rows, np.float64)):
            return len(rows), True
    return len(rows), False


def _is_stable(latency: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bool:
    if len(latency) < 2 * _WINDOW:
        return False
    last = np.median(latency[-_WINDOW:], axis=0)
    before = np.median(latency[-2 * _WINDOW : -_WINDOW], axis=0)
    return bool((np.abs(last - before) <= _STABLE * before).all())


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
