"""The thread that reads a sensor, with real time; no test here asserts how long something took."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from benchmarks.energy.recorder import Record, Recorder
from benchmarks.energy.sensor import Sensor


def sensor(read: object, **changes: object) -> Sensor:
    described = Sensor(
        source="fake", covers="nothing", rails=("A", "B"), total=(0,), rule="total = A",
        read=read, interval_s=0.002,  # type: ignore[arg-type]
    )  # fmt: skip
    return dataclasses.replace(described, **changes)  # type: ignore[arg-type]


def until(recorder: Recorder, readings: int) -> Record:
    """Wait for so many readings, or for the end of the sensor."""
    while len(recorder.record().ns) < readings and not recorder.record().failure:
        time.sleep(0.005)
    return recorder.record()


def test_readings_come_in_order_with_their_times() -> None:
    counter = iter(range(10**9))

    with Recorder(sensor(lambda: (float(next(counter)), 2.0))) as recorder:
        found = until(recorder, 20)

    assert (np.diff(found.ns) > 0).all()
    assert (np.diff(found.values[:, 0]) == 1).all()
    assert (found.values[:, 1] == 2).all()
    assert found.failure == ""


def test_a_reading_that_fails_now_and_then_is_left_out() -> None:
    calls = iter(range(10**9))

    def read() -> tuple[float, float]:
        if next(calls) % 3 == 1:
            raise OSError("busy")
        return (1.0, 2.0)

    with Recorder(sensor(read)) as recorder:
        found = until(recorder, 20)

    assert len(found.ns) >= 20
    assert found.failure == ""


def test_a_sensor_that_is_gone_ends_the_record_with_the_reason() -> None:
    calls = iter(range(10**9))

    def read() -> tuple[float, float]:
        if next(calls) >= 10:
            raise OSError("No such device")
        return (1.0, 2.0)

    with Recorder(sensor(read)) as recorder:
        found = until(recorder, 10**6)

    assert len(found.ns) == 10
    assert found.failure == "No such device"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_certifies_nothing() -> None:
    def read() -> tuple[float, float]:
        raise ZeroDivisionError

    with Recorder(sensor(read)) as recorder:
        found = until(recorder, 10**6)

    assert found.failure == "the thread that reads it ended"


def test_a_program_whose_next_line_is_waited_for_is_ended() -> None:
    over = threading.Event()

    def read() -> tuple[float, float]:
        over.wait()
        raise OSError("it ended")

    with Recorder(sensor(read, interval_s=0.0, close=over.set)) as recorder:
        pass

    assert over.is_set()
    assert recorder.record().failure == ""  # it was asked to end
    assert not recorder._thread.is_alive()


def test_a_sensor_is_closed_when_nobody_reads_it_any_more() -> None:
    reading, wrong = threading.Event(), []

    def read() -> tuple[float, float]:
        reading.set()
        time.sleep(0.02)
        reading.clear()
        return (1.0, 2.0)

    def close() -> None:
        wrong.append(reading.is_set())

    with Recorder(sensor(read, close=close)) as recorder:
        until(recorder, 3)

    assert wrong == [False]
