"""Minutes of work without a pause: whether an engine stays as fast as it began.

A chip that is fast while it is cold says nothing of what a board does in an hour. The time is cut
into windows, and only their medians are kept, so that hours take no memory.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from benchmarks.conditions.validity import Finding
from benchmarks.latency import Clock, Progress
from benchmarks.paired_statistics import percentile

WINDOWS = 60
"""Windows of a soak; fewer where one would be shorter than a second."""

_NS = 1_000_000_000
_SLOWER = 0.05
_END_SHARE = 6
"""The first and the last sixth of the windows are compared."""
_FEWEST_RUNS = 4
"""Runs of a window below which its median is not judged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoakWindow:
    """What one window of time had.

    Attributes:
        start_s: Since the beginning.
        runs: Runs that ended in it.
        p50_ns: Median of them.
        p99_ns: At most one in a hundred took longer; with fewer runs the slowest.
    """

    start_s: float
    runs: int
    p50_ns: int
    p99_ns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoakResult:
    """What minutes of work came to.

    Attributes:
        minutes: How long it was to last.
        images: Images that were computed.
        images_per_s: Over all the time.
        windows: In order.
        slowdown: Median of the last windows over that of the first; None with too few.
    """

    minutes: float
    images: int
    images_per_s: float
    windows: tuple[SoakWindow, ...]
    slowdown: float | None


def run_soak(
    run_once: Callable[[], None],
    *,
    minutes: float,
    batch: int,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> SoakResult:
    """Run without a pause.

    Args:
        run_once: Runs one batch, warmed up.
        minutes: How long.
        batch: Images of one run.
        clock: Nanoseconds.
        progress: Called after every window; returning False stops like Ctrl-C.
    """
    total_ns = round(minutes * 60 * _NS)
    window_ns = max(total_ns // WINDOWS, _NS)
    report = progress or (lambda phase, done, total: True)
    windows: list[SoakWindow] = []
    samples: list[int] = []
    start = opened = before = clock()
    while True:
        run_once()
        now = clock()
        samples.append(now - before)
        before = now
        if now - opened >= window_ns or now - start >= total_ns:
            windows.append(_window(samples, opened - start))
            samples, opened = [], now
            if not report("soak", round((now - start) / _NS), round(total_ns / _NS)):
                raise KeyboardInterrupt
        if now - start >= total_ns:
            break
    images = batch * sum(window.runs for window in windows)
    return SoakResult(
        minutes=minutes,
        images=images,
        images_per_s=images * _NS / (now - start),
        windows=tuple(windows),
        slowdown=_slowdown(windows),
    )


def check_soak(name: str, result: SoakResult) -> tuple[Finding, ...]:
    """Return that an engine became slower, where it did."""
    if result.slowdown is None or result.slowdown <= 1 + _SLOWER:
        return ()
    return (
        Finding(
            severity="doubtful",
            what=f"after {result.minutes:g} min of work {name} took {result.slowdown:.2f} of its "
            "first latency",
            fix="read the soak's last windows, not the short rounds; cool the device better, or "
            "choose a power mode that it can keep up",
        ),
    )


def _window(samples: list[int], start_ns: int) -> SoakWindow:
    ordered = np.sort(np.array(samples, np.int64))
    return SoakWindow(
        start_s=round(start_ns / _NS, 3),
        runs=len(samples),
        p50_ns=percentile(ordered, 50),
        p99_ns=percentile(ordered, 99),
    )


def _slowdown(windows: list[SoakWindow]) -> float | None:
    """Return how the last windows compare with the first.

    The last window may be cut short, and is left out where it holds few runs.
    """
    whole = [window for window in windows if window.runs >= _FEWEST_RUNS]
    share = len(whole) // _END_SHARE
    if share == 0:
        return None
    medians = [window.p50_ns for window in whole]
    return float(np.median(medians[-share:]) / np.median(medians[:share]))
