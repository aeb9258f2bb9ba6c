"""A soak on a clock that is ours: windows, their medians, and whether it became slower."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from benchmarks.scenarios.soak import WINDOWS, SoakResult, check_soak, run_soak

MS = 1_000_000


def soaked(runs_ms: Iterable[float], minutes: float) -> SoakResult:
    now, left = 0, iter(runs_ms)

    def run_once() -> None:
        nonlocal now
        now += round(next(left) * MS)

    return run_soak(run_once, minutes=minutes, batch=2, clock=lambda: now)


def test_a_steady_engine_has_no_slowdown() -> None:
    found = soaked(itertools.repeat(100), minutes=2)
    assert len(found.windows) == WINDOWS
    assert {window.runs for window in found.windows} == {20}
    assert found.images == 2 * 1200
    assert found.images_per_s == pytest.approx(20)
    assert found.slowdown == 1
    assert check_soak("a", found) == ()


def test_one_that_heats_up_is_said_to_be_slower() -> None:
    found = soaked((100 if index < 600 else 130 for index in itertools.count()), minutes=2)
    assert found.slowdown == pytest.approx(1.3)
    (finding,) = check_soak("a.plan", found)
    assert finding.severity == "doubtful"
    assert finding.what == "after 2 min of work a.plan took 1.30 of its first latency"


def test_a_spike_is_no_slowdown() -> None:
    found = soaked((900 if index == 700 else 100 for index in itertools.count()), minutes=2)
    assert found.slowdown == 1
    assert max(window.p99_ns for window in found.windows) == 900 * MS


def test_short_soaks_have_windows_of_a_second() -> None:
    found = soaked(itertools.repeat(100), minutes=0.1)
    assert [window.start_s for window in found.windows] == [0, 1, 2, 3, 4, 5]


def test_slow_runs_are_not_judged_by_a_handful() -> None:
    found = soaked(itertools.repeat(900), minutes=0.5)
    assert found.images == 2 * 34
    assert found.slowdown is None


def test_progress_stops_it() -> None:
    now = 0

    def run_once() -> None:
        nonlocal now
        now += 100 * MS

    with pytest.raises(KeyboardInterrupt):
        run_soak(
            run_once, minutes=1, batch=1, clock=lambda: now, progress=lambda *what: what[1] < 5
        )
    assert 5e9 <= now < 7e9
