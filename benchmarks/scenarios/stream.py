"""Images that arrive on a clock: how long each one waits for its answer, and which come too late.

A camera does not wait for the engine. One run is in progress at a time; where several images have
arrived meanwhile the newest is taken and the older ones are dropped, so that no answer is about an
old picture. An answer is late when the next image has arrived before it is there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from benchmarks.latency import Clock, Pause
from benchmarks.paired_statistics import LatencySummary, summarise
from engines.errors import UsageError

WaitUntil = Callable[[int], None]
"""Returns when the clock, in nanoseconds, has reached that moment."""

_NS = 1_000_000_000
_SPIN_NS = 1_000_000
"""The end of a wait is spent looking at the clock: a sleep ends up to this much too late."""
_FEWEST = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamResult:
    """What became of the images of a stream.

    Attributes:
        fps: Arrivals in a second; of a batch each arrival is one image of every camera.
        arrived: Arrivals.
        dropped: Arrivals that were never looked at, because a newer one came before their turn.
        late: Answers that came after the next arrival.
        busy: Share of the time in which the engine worked.
        response: From an arrival to its answer, waiting included.
    """

    fps: float
    arrived: int
    dropped: int
    late: int
    busy: float
    response: LatencySummary

    @property
    def missed(self) -> int:
        """Arrivals without an answer in time."""
        return self.dropped + self.late


def run_stream(
    run_once: Callable[[], None],
    *,
    fps: float,
    seconds: float,
    batch: int,
    clock: Clock = time.perf_counter_ns,
    wait_until: WaitUntil | None = None,
) -> StreamResult:
    """Serve images that arrive on a clock.

    Args:
        run_once: Runs one batch, warmed up.
        fps: Arrivals in a second.
        seconds: How long images arrive.
        batch: Images of one arrival.
        clock: Nanoseconds.
        wait_until: Waits for an arrival; by default it sleeps, and watches the clock at the end.

    Raises:
        UsageError: Fewer than two images would arrive.
    """
    count = round(fps * seconds)
    if count < _FEWEST:
        raise UsageError(
            f"{fps:g} images a second make {count} in {seconds:g} s",
            where="stream",
            fix="let them arrive more often or for longer",
        )
    wait = wait_until or _waiting(clock, time.sleep)
    start = clock()
    arrivals = [start + round(index * _NS / fps) for index in range(count)]
    due = [*arrivals[1:], start + round(count * _NS / fps)]
    responses, busy_ns, dropped, late, index = [], 0, 0, 0, 0
    while index < count:
        wait(arrivals[index])
        now = clock()
        newest = index
        while newest + 1 < count and arrivals[newest + 1] <= now:
            newest += 1
        dropped += newest - index
        run_once()
        done = clock()
        busy_ns += done - now
        responses.append(done - arrivals[newest])
        late += done > due[newest]
        index = newest + 1
    elapsed = max(clock() - start, 1)
    return StreamResult(
        fps=fps,
        arrived=count,
        dropped=dropped,
        late=late,
        busy=busy_ns / elapsed,
        response=summarise(np.array(responses, np.int64), batch=batch),
    )


def _waiting(clock: Clock, pause: Pause) -> WaitUntil:
    def wait_until(moment_ns: int) -> None:
        ahead = moment_ns - clock() - _SPIN_NS
        if ahead > 0:
            pause(ahead / _NS)
        while clock() < moment_ns:
            pass

    return wait_until
