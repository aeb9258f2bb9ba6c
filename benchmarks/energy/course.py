"""What happens while a sensor is read: rest, steady work of one contender at a time, rest.

Contenders take turns in short segments, so that a board that grows warm hits all of them alike.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.energy.curve import curve_of
from benchmarks.energy.recorder import Record, Recording
from benchmarks.latency import Clock, Contender, Pause, Progress
from benchmarks.paired_statistics import Nanoseconds

if TYPE_CHECKING:
    from benchmarks.energy.sensor import Sensor

Span = tuple[int, int]
"""From and until when, in nanoseconds."""
PHASE = "energy"
"""What a `Progress` is told to be at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to work and to rest.

    Attributes:
        seconds: Steady work of each contender, at least.
        segments: Segments of each contender, at least.
        steady_s: Steady work of a segment, at least.
        settle_s: Work at the beginning of a segment that does not count: until the sensor shows
            nothing of what ran before.
        tail_s: Work at its end that does not count: until a reading lies behind what counts.
        idle_s: How long rest is measured before and after.
        cool_s: Rest before that which does not count.
        warm_s: Work before the first segment, all contenders together, at least.
        slice_s: The steady work is cut into slices of this length for the interval.
    """

    seconds: float = 10.0
    segments: int = 8
    steady_s: float = 1.25
    settle_s: float = 0.5
    tail_s: float = 0.2
    idle_s: float = 5.0
    cool_s: float = 2.0
    warm_s: float = 3.0
    slice_s: float = 0.25

    def suited_to(self, *, period_s: float, averaging_s: float) -> Plan:
        """Return a plan that is no shorter and gives a slow sensor the time that it needs.

        Args:
            period_s: Time between two different values of the sensor.
            averaging_s: Over how long it averages.
        """
        settle_s = max(self.settle_s, averaging_s + 2 * period_s)
        steady_s = max(self.steady_s, 5 * period_s)
        return dataclasses.replace(
            self,
            settle_s=settle_s,
            tail_s=max(self.tail_s, 2 * period_s),
            steady_s=steady_s,
            segments=max(self.segments, math.ceil(self.seconds / steady_s)),
            idle_s=max(self.idle_s, settle_s + 5 * period_s),
            cool_s=max(self.cool_s, settle_s),
            slice_s=max(self.slice_s, 2 * period_s),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """One contender at work, without a pause.

    Attributes:
        name: Whose.
        start_ns: When the first run began.
        ends_ns: (runs,) when each run ended.
    """

    name: str
    start_ns: int
    ends_ns: Nanoseconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """What was done, and what the sensor said meanwhile.

    Attributes:
        plan: How long it was done.
        idle: Rest before and after, when the sensor shows nothing of the work any more.
        segments: All contenders once a cycle.
        record: From the first rest to the last.
    """

    plan: Plan
    idle: tuple[Span, Span]
    segments: tuple[Segment, ...]
    record: Record


def run_course(
    contenders: Sequence[Contender],
    sensor: Sensor,
    record: Callable[[Sensor], Recording],
    *,
    plan: Plan,
    seed: int,
    clock: Clock,
    pause: Pause,
    at_work: AbstractContextManager[object] | None = None,
    progress: Progress | None = None,
) -> Course:
    """Rest, work in turns, rest; read the sensor all the time, and close it.

    Args:
        contenders: Who works, one after the other in an order that changes.
        sensor: What is read.
        record: Begins to read it.
        plan: How long; a slow sensor gets more.
        seed: Seed of the order.
        clock: The clock of `record`, in nanoseconds.
        pause: Rests.
        at_work: Entered for the segments alone: what is true of work is not true of rest.
        progress: Called after every segment; returning False stops like Ctrl-C.
    """
    generator = np.random.default_rng(seed)
    warm_s = max(plan.warm_s / len(contenders), 1.0)
    warm = dataclasses.replace(plan, settle_s=0.0, steady_s=warm_s, tail_s=0.0)
    with record(sensor) as recording:
        before = _rest(plan, clock, pause)
        start = clock()
        for contender in contenders:
            _work(contender, warm, clock)
        period_s = _period_s(recording.record(), sensor, (start, clock())) or 0.0
        period_s = max(period_s, sensor.interval_s)
        plan = plan.suited_to(period_s=period_s, averaging_s=sensor.averaging_s)
        segments = []
        count = plan.segments * len(contenders)
        orders = [generator.permutation(len(contenders)) for _ in range(plan.segments)]
        with at_work or contextlib.nullcontext():
            for index in itertools.chain.from_iterable(orders):
                segments.append(_work(contenders[index], plan, clock))
                if progress is not None and not progress(PHASE, len(segments), count):
                    raise KeyboardInterrupt
        after = _rest(plan, clock, pause)
        pause(plan.tail_s)
        found = recording.record()
    return Course(plan=plan, idle=(before, after), segments=tuple(segments), record=found)


def period_of(course: Course, sensor: Sensor) -> float | None:
    """Return the usual time between two different values at work; None where nothing tells."""
    first, last = course.segments[0], course.segments[-1]
    return _period_s(course.record, sensor, (first.start_ns, int(last.ends_ns[-1])))


def _period_s(record: Record, sensor: Sensor, span: Span) -> float | None:
    curve = curve_of(record, sensor, sensor.total)
    return None if isinstance(curve, str) else curve.period_s(*span)


def _rest(plan: Plan, clock: Clock, pause: Pause) -> Span:
    pause(plan.cool_s)
    start = clock()
    pause(plan.idle_s)
    return start, clock()


def _work(contender: Contender, plan: Plan, clock: Clock) -> Segment:
    """Run until there is enough of steady work, one whole run at least."""
    ends: list[int] = []
    start = clock()
    while not _is_enough(start, ends, plan):
        contender.run_once()
        ends.append(clock())
    return Segment(name=contender.name, start_ns=start, ends_ns=np.array(ends, np.int64))


def _is_enough(start_ns: int, ends_ns: Sequence[int], plan: Plan) -> bool:
    if not ends_ns or ends_ns[-1] < start_ns + (plan.settle_s + plan.tail_s) * 1e9:
        return False
    first, last = steady_runs(start_ns, ends_ns, plan)
    return last > first and ends_ns[last] - ends_ns[first] >= plan.steady_s * 1e9


def steady_runs(start_ns: int, ends_ns: Sequence[int] | Nanoseconds, plan: Plan) -> tuple[int, int]:
    """Return the runs at whose ends the steady work begins and ends, as indices."""
    first = bisect.bisect_left(ends_ns, start_ns + plan.settle_s * 1e9)
    last = bisect.bisect_right(ends_ns, ends_ns[-1] - plan.tail_s * 1e9) - 1
    return first, last
