"""Which device a contender ran on: a GPU or the CPU, and its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.conditions.environment import Environment
    from benchmarks.conditions.gpu_state import GpuUse


def runs_on_gpu(runtime: Mapping[str, str]) -> bool:
    """Say whether an engine runs on a GPU, from what it says of itself."""
    return (
        "compute_capability" in runtime
        or runtime.get("provider") in ("cuda", "tensorrt")
        or runtime.get("device", "").startswith("cuda")
    )


def gpu_name(environment: Environment, use: GpuUse | None, otherwise: str) -> str:
    """Return the name of the GPU that engines ran on.

    A board's name stands for its GPU, which the driver may not name there. Where it is not certain
    which of several GPUs it was, all are named.

    Args:
        environment: Where they ran.
        use: The GPU that was watched while they ran; None where none was.
        otherwise: What the engine itself calls its device.
    """
    if environment.board:
        return environment.board
    if use is not None:
        return use.gpu.name
    names = list(dict.fromkeys(gpu.name for gpu in environment.gpus))
    return f"one of {' and '.join(names)}" if len(names) > 1 else (*names, otherwise)[0]
