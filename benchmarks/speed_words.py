"""How fast, beside what and on what, as a reader would say it."""

from __future__ import annotations

from benchmarks.measurement import ContenderResult, Measurement
from engines.plurals import counted


def measured_on(measurement: Measurement, result: ContenderResult) -> str:
    """Return the processor of one contender, such as "AMD EPYC (CPU, 2 threads)".

    A board's name stands for its GPU, which the driver may not name there.
    """
    where = measurement.environment
    runtime = result.runtime
    if "compute_capability" in runtime or runtime.get("provider") == "cuda":
        names = [gpu.name for gpu in where.gpus]
        name = where.board or (names[0] if names else runtime.get("device", "an unnamed one"))
        return f"{name} (GPU)"
    threads = runtime.get("threads", "")
    detail = f", {counted(int(threads), 'thread')}" if threads.isdecimal() else ""
    board = f"{where.board}, " if where.board else ""
    return f"{board}{where.cpu} (CPU{detail})"


def speed_clause(measurement: Measurement, result: ContenderResult, *, rival: str = "") -> str:
    """Return what follows a contender's name, such as "is 1.36x faster than plain on …".

    Args:
        measurement: A valid one.
        result: Of a contender that was compared.
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
        return "How fast it is, is not known: this measurement does not count."
    compared = [one for one in measurement.contenders if one.against is not None]
    said = [f"{one.name} {speed_clause(measurement, one)}" for one in compared]
    if not said:
        (alone,) = measurement.contenders
        p50 = alone.latency.p50_ns / 1e6
        said = [f"{alone.name} takes {p50:.2f} ms on {measured_on(measurement, alone)}"]
    return f"{'; '.join(said)} (batch {measurement.batch})."
