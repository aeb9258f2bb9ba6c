"""All images are there: how many a second, at the batch that gives the most.

Batches double until the largest that the artefact takes, or until one does not fit into memory.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

from benchmarks.latency import Clock
from engines.errors import EngineError

_NS = 1_000_000_000
_FEWEST_RUNS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineBatch:
    """The throughput at one batch size, without a pause between runs."""

    batch: int
    runs: int
    images_per_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineResult:
    """The throughput at rising batch sizes.

    Attributes:
        batches: What was measured, rising.
        ended: Why no larger batch was; "" where the artefact takes none.
    """

    batches: tuple[OfflineBatch, ...]
    ended: str

    @property
    def best(self) -> OfflineBatch:
        """The batch with the most images a second."""
        return max(self.batches, key=lambda one: one.images_per_s)


def sizes_between(low: int, high: int) -> Iterator[int]:
    """Yield `low`, its doubles below `high`, and `high`."""
    size = low
    while size < high:
        yield size
        size *= 2
    yield high


def run_offline(
    bind: Callable[[int], Callable[[], None]],
    *,
    low: int,
    high: int,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
) -> OfflineResult:
    """Measure the throughput at rising batch sizes.

    Args:
        bind: Returns the call that runs a batch of this size.
        low: Smallest batch that the artefact takes.
        high: Largest.
        seconds: How long each one runs at least, and three runs.
        clock: Nanoseconds.

    Raises:
        EngineError: Not even the smallest batch runs.
    """
    found: list[OfflineBatch] = []
    for batch in sizes_between(low, high):
        try:
            run_once = bind(batch)
            run_once()  # allocates
            found.append(_steady(run_once, batch, seconds, clock))
        except (EngineError, MemoryError) as error:
            if not found:
                raise
            what = error.what if isinstance(error, EngineError) else "out of memory"
            return OfflineResult(batches=tuple(found), ended=f"batch {batch} failed: {what}")
    return OfflineResult(batches=tuple(found), ended="")


def _steady(run_once: Callable[[], None], batch: int, seconds: float, clock: Clock) -> OfflineBatch:
    runs, start = 0, clock()
    while True:
        run_once()
        runs += 1
        elapsed = clock() - start
        if runs >= _FEWEST_RUNS and elapsed >= seconds * _NS:
            return OfflineBatch(batch=batch, runs=runs, images_per_s=runs * batch * _NS / elapsed)
