"""Which device a contender ran on: a GPU or the CPU, and its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement


def runs_on_gpu(runtime: Mapping[str, str]) -> bool:
    """Say whether an engine runs on a GPU, from what it says of itself."""
    return (
        "compute_capability" in runtime
        or runtime.get("provider") in ("cuda", "tensorrt")
        or runtime.get("device", "").startswith("cuda")
    )


def gpu_name(measurement: Measurement, otherwise: str) -> str:
    """Return the name of the GPU that engines ran on.

    A board's name stands for its GPU, which the driver may not name there. Where it is not certain
    which of several GPUs it was, all are named.

    Args:
        measurement: It.
        otherwise: What the engine itself calls its device.
    """
    where = measurement.environment
    if where.board:
        return where.board
    if measurement.gpu is not None:
        return measurement.gpu.gpu.name
    names = list(dict.fromkeys(gpu.name for gpu in where.gpus))
    return f"one of {' and '.join(names)}" if len(names) > 1 else (*names, otherwise)[0]
