"""Read a sensor at its own rate while something else runs."""

from __future__ import annotations

import dataclasses
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from benchmarks.latency import Clock
from benchmarks.paired_statistics import FloatArray, Nanoseconds

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11

    from benchmarks.energy.sensor import Sensor

_MOST_FAILURES = 5  # one after the other: the sensor is lost
_JOIN_S = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What a sensor said.

    Attributes:
        ns: (n,) when, rising.
        values: (n, rails) milliwatts or millijoules; NaN where a rail was not read.
        failure: Why nothing was read any more; "" where it was read to the end.
    """

    ns: Nanoseconds
    values: FloatArray
    failure: str = ""


class Recording(Protocol):
    """A sensor that is being read."""

    def record(self) -> Record:
        """Return what was read so far."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Recorder:
    """A thread that reads; a reading is dated to the middle of the call that took it."""

    def __init__(self, sensor: Sensor, clock: Clock = time.perf_counter_ns) -> None:
        self._sensor, self._clock = sensor, clock
        self._ns: list[int] = []
        self._values: list[tuple[float, ...]] = []
        self._failure = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._sensor.interval_s:  # nobody reads any more when it is closed
            self._thread.join(_JOIN_S)
        self._sensor.close()  # ends a program whose next line is waited for
        self._thread.join(_JOIN_S)

    def record(self) -> Record:
        """Return what was read so far."""
        count = len(self._values)
        values = np.array(self._values[:count], np.float64).reshape(count, len(self._sensor.rails))
        failure = self._failure
        if not failure and not self._thread.is_alive() and not self._over.is_set():
            failure = "the thread that reads it ended"
        return Record(ns=np.array(self._ns[:count], np.int64), values=values, failure=failure)

    def _run(self) -> None:
        step_ns = round(self._sensor.interval_s * 1e9)
        failures, due = 0, self._clock()
        while not self._over.is_set():
            before = self._clock()
            try:
                values = tuple(self._sensor.read())
            except (OSError, ValueError) as error:
                failures += 1
                if failures >= _MOST_FAILURES or not step_ns:
                    self._failure = "" if self._over.is_set() else str(error)
                    return
            else:
                failures, after = 0, self._clock()
                # The times first: whoever reads counts by the values.
                self._ns.append((before + after) // 2 if step_ns else after)
                self._values.append(values)
            due += step_ns
            now = self._clock()
            due = max(due, now - step_ns)  # a late reading is not made up for by many
            if due > now:
                self._over.wait((due - now) / 1e9)
