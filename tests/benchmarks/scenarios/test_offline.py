"""Rising batches: the best of them, and where memory ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.scenarios.offline import OfflineResult, run_offline, sizes_between
from engines.errors import EngineError

MS = 1_000_000


def offline(cost_ms: Callable[[int], float], *, low: int = 1, high: int = 16) -> OfflineResult:
    now = 0

    def bind(batch: int) -> Callable[[], None]:
        def run_once() -> None:
            nonlocal now
            now += round(cost_ms(batch) * MS)

        return run_once

    return run_offline(bind, low=low, high=high, seconds=1, clock=lambda: now)


def test_sizes_double_up_to_the_largest() -> None:
    assert list(sizes_between(1, 16)) == [1, 2, 4, 8, 16]
    assert list(sizes_between(3, 20)) == [3, 6, 12, 20]
    assert list(sizes_between(8, 8)) == [8]


def test_the_best_batch_wins_and_not_the_largest() -> None:
    found = offline(lambda batch: 10 + batch + (100 if batch > 8 else 0))
    assert [one.batch for one in found.batches] == [1, 2, 4, 8, 16]
    assert found.best.batch == 8
    assert found.best.images_per_s == pytest.approx(8 / 0.018)
    assert found.ended == ""


def test_three_runs_are_measured_at_least() -> None:
    assert [one.runs for one in offline(lambda batch: 5000, high=1).batches] == [3]


def test_it_ends_where_memory_does() -> None:
    def cost(batch: int) -> float:
        if batch > 4:
            raise EngineError("out of GPU memory", where="x", fix="y")
        return 10

    found = offline(cost)
    assert [one.batch for one in found.batches] == [1, 2, 4]
    assert found.ended == "batch 8 failed: out of GPU memory"


def test_a_smallest_batch_that_fails_is_an_error() -> None:
    def cost(batch: int) -> float:
        raise EngineError("broken", where="x", fix="y")

    with pytest.raises(EngineError, match="broken"):
        offline(cost)
