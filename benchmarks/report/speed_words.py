"""How fast, beside what and on what, as a reader would say it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from benchmarks.conditions.devices import gpu_name, runs_on_gpu
from benchmarks.conditions.gpu_state import in_words as gpu_in_words
from engines.plurals import counted

if TYPE_CHECKING:
    from benchmarks.measurement import ContenderResult, Measurement


def measured_on(measurement: Measurement, result: ContenderResult) -> str:
    """Return the processor of one contender, such as "AMD EPYC (CPU, 2 threads)"."""
    where = measurement.environment
    runtime = result.runtime
    if runs_on_gpu(runtime):
        device = runtime.get("device", "an unnamed one")
        return f"{gpu_name(where, measurement.gpu, device)} (GPU)"
    threads = runtime.get("threads", "")
    detail = f", {counted(int(threads), 'thread')}" if threads.isdecimal() else ""
    board = f"{where.board}, " if where.board else ""
    return f"{board}{where.cpu} (CPU{detail})"


def hardware(measurement: Measurement) -> str:
    """Return what all contenders ran on: the GPU, the CPU where one ran there, or both."""
    environment = measurement.environment
    on_gpu = [runs_on_gpu(result.runtime) for result in measurement.contenders]
    cpu = f"{environment.cpu}, {counted(environment.usable_processors, 'processor')}"
    if not any(on_gpu):
        return cpu
    name = gpu_name(measurement.environment, measurement.gpu, "an unnamed GPU")
    if measurement.gpu is not None:
        gpu = dataclasses.replace(measurement.gpu.gpu, name=name)
        name = gpu_in_words(gpu, measurement.gpu.after)
    return name if all(on_gpu) else f"{name}; and {cpu}"


def speed_clause(measurement: Measurement, result: ContenderResult, *, rival: str = "") -> str:
    """Return what follows a contender's name, such as "is 1.36x faster than plain on …".

    Args:
        measurement: A valid one.
        result: Result of a contender that was compared.
        rival: The baseline in words; by default its name.
    """
    against = result.against
    assert against is not None, "a baseline is compared with nothing"
    where = f"{rival or against.baseline} on {measured_on(measurement, result)}"
    if against.verdict in ("faster", "slower"):
        return f"is {against.words()} than {where}"
    return f"shows no difference in speed to {where}"


def speed_sentence(measurement: Measurement) -> str:
    """Return what a measurement shows of every contender, or that it shows nothing."""
    if not measurement.valid:
        return "Its speed is not known: this measurement is not valid."
    compared = [one for one in measurement.contenders if one.against is not None]
    said = [f"{one.name} {speed_clause(measurement, one)}" for one in compared]
    if not said:
        (alone,) = measurement.contenders
        p50 = alone.latency.p50_ns / 1e6
        said = [f"{alone.name} takes {p50:.2f} ms on {measured_on(measurement, alone)}"]
    return f"{'; '.join(said)} (batch {measurement.batch})."
